"""Rules of thumb that set the step by the Hessian's largest eigenvalues, written for this page.

* Exponential Euler (Lowell & Kastner 2024, arXiv 2406.00127, as in Stable-Solvers): with the k
  largest eigenpairs (lambda, v) of the Hessian, exact for the quadratic model along each v and
  Euler's step across them, h = min(cap, 1/lambda_{k+1}).
* The classic Runge-Kutta method (Kutta 1901) at h = c / sharpness.

The eigenpairs are followed by subspace iteration from those of the step before, in the library's
way but with Rayleigh-Ritz, which needs fewer products. Both rules step onto the saves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

RESIDUAL = 1e-2
"""Of the Ritz pairs, relative to the largest eigenvalue."""
ITERATIONS = 50
REFRESH = 10
"""Steps of Runge-Kutta between two measurements of the sharpness."""


class Problem(Protocol):
    """A loss's derivatives and a start."""

    theta0: Tensor

    def gradient(self, theta: Tensor) -> Tensor: ...

    def product(self, theta: Tensor, vector: Tensor) -> Tensor: ...


@dataclass
class Leading:
    """The `count` largest eigenpairs of the Hessian, followed along a trajectory."""

    problem: Problem
    count: int
    basis: Tensor = field(init=False)

    def __post_init__(self) -> None:
        noise = torch.Generator().manual_seed(0)
        start = torch.randn(len(self.problem.theta0), self.count, generator=noise)
        self.basis = torch.linalg.qr(start.to(self.problem.theta0)).Q

    def at(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues (count,), falling, and eigenvectors (P, count)."""
        for _ in range(ITERATIONS):
            columns = [self.problem.product(theta, v) for v in self.basis.T.contiguous()]
            image = torch.stack(columns, 1)
            values, turn = torch.linalg.eigh(self.basis.T @ image)
            vectors, image = self.basis @ turn, image @ turn
            self.basis = torch.linalg.qr(image).Q
            residual = (image - vectors * values).norm(dim=0)
            if bool((residual <= RESIDUAL * values.abs().max()).all()):
                break
        return values.flip(0), vectors.flip(1)


def exponential_euler(problem: Problem, times: Tensor, cap: float, stiff: int) -> Tensor:
    """Theta (T, P) at `times`, steps of at most `cap`, `stiff` eigenpairs taken exactly."""
    leading = Leading(problem, stiff + 1)

    def step(theta: Tensor, left: float) -> tuple[Tensor, float]:
        values, vectors = leading.at(theta)
        h = min(cap, 1.0 / abs(float(values[-1])), left)
        gradient = problem.gradient(theta)
        values, vectors = values[:-1], vectors[:, :-1]
        along = vectors.T @ gradient
        gain = torch.where(values == 0, h, -torch.expm1(-h * values) / values)
        return theta - h * gradient + vectors @ ((h - gain) * along), h

    return _walk(problem, times, step)


def runge_kutta(problem: Problem, times: Tensor, courant: float) -> Tensor:
    """Theta (T, P) at `times` by the classic method at h = courant / sharpness."""
    leading = Leading(problem, 2)
    steps, sharpness = 0, 1.0

    def step(theta: Tensor, left: float) -> tuple[Tensor, float]:
        nonlocal steps, sharpness
        if steps % REFRESH == 0:
            sharpness = float(leading.at(theta)[0][0])
        steps += 1
        h = min(courant / sharpness, left)
        k1 = problem.gradient(theta)
        k2 = problem.gradient(theta - h / 2 * k1)
        k3 = problem.gradient(theta - h / 2 * k2)
        k4 = problem.gradient(theta - h * k3)
        return theta - h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), h

    return _walk(problem, times, step)


def _walk(
    problem: Problem, times: Tensor, step: Callable[[Tensor, float], tuple[Tensor, float]]
) -> Tensor:
    theta = problem.theta0
    saved = [theta]
    for length in torch.diff(times).tolist():
        left = length
        while left > 0:
            theta, h = step(theta, left)
            left -= h
        saved.append(theta)
    return torch.stack(saved)
