"""The spectral radius of a field's Jacobian, by which stabilised methods choose their stages.

A few steps of Arnoldi's method, each one difference of the field beside its known value: half the
price of a Jacobian-vector product and as good here. A power iteration begun at the last eigenvector
stays with it when another eigenvalue overtakes, and a radius a tenth too small lets a mode creep up
until the error estimate holds the step; the Krylov space finds the newcomer in three steps if its
first vector holds a little of it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.system import System

CLOSE = 0.03
"""Residual of the largest Ritz value, as a part of it, that ends the iteration."""
FEWEST, MOST = 3, 12
"""Evaluations of an estimate."""
EXHAUSTED = 1e-5
"""Part of a vector that is new to the Krylov space, below which it is the rounding's."""


def unit(vector: Tensor) -> Tensor:
    """Rows (B, P) of length one; zero stays zero."""
    norm: Tensor = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return vector / norm.clamp(min=torch.finfo(vector.dtype).tiny)


def first_direction(value: Tensor) -> Tensor:
    """Where a first estimate starts: along the field, where gradients are rich in stiff modes.

    A little of a generic vector serves fields that vanish or miss those modes.
    """
    index = torch.arange(1, value.shape[-1] + 1, dtype=value.dtype, device=value.device)
    along = unit(torch.nan_to_num(value, 0.0, 0.0, 0.0))
    return along + 0.1 * unit(torch.cos(index).expand_as(value))


def spectral_radius(
    system: System, t: np.ndarray, theta: Tensor, value: Tensor, direction: Tensor
) -> tuple[np.ndarray, Tensor]:
    """An estimate of the Jacobian's spectral radius, from above where it can.

    The largest Ritz value plus its residual: close to it there is an eigenvalue (symmetric
    Jacobians; Parlett 1998, section 4.5), and what the Krylov space has not yet seen is seldom
    beyond (Zhou & Li, Linear Algebra Appl. 435 (2011) 480-493).

    Parameters
    ----------
    system : System
    t : array, shape (B,)
    theta, value : Tensor, shape (B, P)
        Where, and the field there.
    direction : Tensor, shape (B, P)
        Where to start, of any length.

    Returns
    -------
    radius : array, shape (B,)
        Zero where the field has no finite values.
    direction : Tensor, shape (B, P)
        The Ritz vector (its real part).
    """
    rows, most = len(theta), min(MOST, theta.shape[-1])
    basis = [unit(direction)]
    matrix = np.zeros((rows, most + 1, most))
    for k in range(1, most + 1):
        column, new = _expand(basis, _product(system, t, theta, value, basis[-1]))
        matrix[:, : k + 1, k - 1] = column
        radius, ritz = _largest(matrix[:, :k, :k])
        residual = column[:, -1] * np.abs(ritz[:, -1])
        enough = CLOSE * radius if k >= FEWEST else 0.0
        if (residual <= enough).all():
            break
        basis.append(new)
    mix = torch.as_tensor(ritz.real, dtype=theta.dtype, device=theta.device)
    vector = sum(mix[:, i, None] * basis[i] for i in range(k))
    assert isinstance(vector, Tensor)
    return radius + residual, vector


def _product(system: System, t: np.ndarray, theta: Tensor, value: Tensor, vector: Tensor) -> Tensor:
    """The Jacobian times a unit vector, by a forward difference."""
    eps: float = torch.finfo(theta.dtype).eps
    size = eps**0.5 * (1.0 + torch.linalg.vector_norm(theta, dim=-1, keepdim=True))
    change = (system.value(t, theta + size * vector) - value) / size
    return torch.nan_to_num(change, 0.0, 0.0, 0.0)


def _expand(basis: list[Tensor], image: Tensor) -> tuple[np.ndarray, Tensor]:
    """A column (B, k + 1) of the Hessenberg matrix, and the next vector; zero if nothing is new."""
    before = torch.linalg.vector_norm(image, dim=-1)
    weights = []
    for vector in basis:
        weights.append((vector * image).sum(-1))
        image = torch.addcmul(image, weights[-1][:, None], vector, value=-1)
    left = torch.linalg.vector_norm(image, dim=-1)
    left = torch.where(left > EXHAUSTED * before, left, 0.0)
    column = torch.stack([*weights, left], dim=-1).cpu().numpy().astype(np.float64)
    new = torch.where(left[:, None] > 0, unit(image), 0.0)
    return np.where(np.isfinite(column), column, 0.0), new


def _largest(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest modulus (B,) of an eigenvalue, and its eigenvector (B, k)."""
    values, vectors = np.linalg.eig(matrix)
    top = np.abs(values).argmax(-1)[:, None]
    size = np.abs(np.take_along_axis(values, top, -1))[:, 0]
    return size, np.take_along_axis(vectors, top[:, None], -1)[..., 0]
