"""The phi-functions of exponential integrators, for real arguments of both signs.

phi_0(z) = exp(z) and phi_k(z) = (phi_{k-1}(z) - 1/(k-1)!) / z, with phi_k(0) = 1/k! (Hochbruck &
Ostermann, Acta Numerica 19 (2010) 209-286, equation 2.10). The recurrence loses a factor 1/|z| of
accuracy at each order, so small arguments take the Taylor series sum_j z^j / (j + k)!.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HIGHEST = 4
NEAR = 1.5
"""Arguments below this size take the series."""
TERMS = 18
"""The first term left out is below 1e-16 of phi_4."""

_SERIES = [1 / math.factorial(j + HIGHEST) for j in range(TERMS)]


def phi_functions(z: Tensor) -> Tensor:
    """phi_1 to phi_4 at z (...), shape (4, ...); infinite where exp(z) overflows."""
    if z.device.type == "cpu":  # numpy costs a third per operation, and there are dozens
        return torch.from_numpy(phi_arrays(z.numpy()))
    values: Tensor = _phi(z, torch)
    return values


def phi_arrays(z: NDArray[Any]) -> NDArray[Any]:
    """The same of an array."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(_phi(z, np))


def _phi(z: Any, xp: Any) -> Any:
    near = abs(z) <= NEAR
    small, large = xp.where(near, z, 0.0), xp.where(near, NEAR, z)
    last = xp.full_like(z, _SERIES[-1])
    for coefficient in reversed(_SERIES[:-1]):
        last = last * small + coefficient
    series = [last]
    for k in range(HIGHEST - 1, 0, -1):
        series.insert(0, series[0] * small + 1.0 / math.factorial(k))
    orders = [xp.expm1(large) / large]
    for k in range(1, HIGHEST):
        orders.append((orders[-1] - 1.0 / math.factorial(k)) / large)
    return xp.where(near, xp.stack(series), xp.stack(orders))


def phi_products(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Sum_k phi_k(A) w_k for a square matrix A (..., P, P) and vectors w_1.. (..., K, P).

    One exponential of the matrix augmented by a nilpotent block (Al-Mohy & Higham, SIAM J. Sci.
    Comput. 33 (2011) 488-511, theorem 2.1); for unsymmetric A, where no eigenvectors are trusted.
    """
    size, count = matrix.shape[-1], vectors.shape[-2]
    augmented = matrix.new_zeros(*matrix.shape[:-2], size + count, size + count)
    augmented[..., :size, :size] = matrix
    augmented[..., :size, size:] = vectors.flip(-2).transpose(-1, -2)
    for index in range(size, size + count - 1):
        augmented[..., index, index + 1] = 1.0
    exponential: Tensor = torch.linalg.matrix_exp(augmented)
    return exponential[..., :size, -1]
