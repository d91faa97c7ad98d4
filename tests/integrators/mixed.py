"""Fields with eigenvalues of both signs in mixed coordinates, with their solutions."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
import torch

from gflow.integrators.base import Field

SIZE = 6
SIGNS = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)


def mix(symmetric):
    """A matrix M, a rotation if symmetric Jacobians are wanted, and its inverse."""
    rng = np.random.default_rng(6)
    turn = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    found = turn if symmetric else turn + 0.3 * np.triu(rng.normal(size=(SIZE, SIZE)))
    return torch.tensor(found), torch.tensor(np.linalg.inv(found))


class Mixed:
    """z_i' = +-cosh(wt) z_i (1 + bend z_i) with z_i(0) = start, and theta = M z: both signs."""

    def __init__(self, symmetric, frequency, bend=-0.1, start=1.0):
        self.mix, self.back = mix(symmetric)
        self.frequency, self.bend, self.start = frequency, bend, start
        self.theta0 = start * self.mix.sum(-1)
        self.field = Field(
            self.function,
            jacobian=self.jacobian,
            jvp=lambda t, y, v: self.jacobian(t, y) @ v,
            time_derivative=self.change if frequency else None,
            symmetric=symmetric,
            autonomous=frequency == 0,
        )

    def _rate(self, y):
        z = self.back @ y
        return SIGNS * z * (1 + self.bend * z)

    def function(self, t, y):
        return self.mix @ (math.cosh(self.frequency * t) * self._rate(y))

    def jacobian(self, t, y):
        slope = math.cosh(self.frequency * t) * SIGNS * (1 + 2 * self.bend * (self.back @ y))
        return self.mix @ torch.diag(slope) @ self.back

    def change(self, t, y):
        return self.mix @ (self.frequency * math.sinh(self.frequency * t) * self._rate(y))

    def exact(self, t):
        clock = math.sinh(self.frequency * t) / self.frequency if self.frequency else t
        growth = self.start * torch.exp(SIGNS * clock)
        return self.mix @ (growth / (1 + self.bend * self.start - self.bend * growth))


def linear_with_a_drifting_source(symmetric, scale):
    """A linear field whose source is linear in time, its start, and theta(t) by an exponential."""
    turned, back = mix(symmetric)
    matrix = turned @ torch.diag(torch.tensor([0.7, 0.0, -1.0, -0.1, -scale, 0.3]).double()) @ back
    drift, shift = torch.linspace(-1, 1, SIZE).double(), torch.linspace(1, 2, SIZE).double()
    field = Field(
        lambda t, y: matrix @ y + shift + t * drift,
        jacobian=lambda t, y: matrix,
        jvp=lambda t, y, v: matrix @ v,
        time_derivative=lambda t, y: drift,
        symmetric=symmetric,
    )
    theta0 = torch.ones(SIZE, dtype=torch.float64)
    block = np.zeros((SIZE + 2,) * 2)  # the state with t and 1 appended
    block[:SIZE, :SIZE], block[:SIZE, SIZE], block[:SIZE, SIZE + 1] = matrix, drift, shift
    block[SIZE, SIZE + 1] = 1.0
    start = np.concatenate([theta0, [0.0, 1.0]])
    return field, theta0, lambda t: (scipy.linalg.expm(t * block) @ start)[:SIZE]
