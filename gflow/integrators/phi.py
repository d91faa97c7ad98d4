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
from torch import Tensor

NEAR = {4: 1.5, 8: 3.0}
"""Arguments below this size take the series, by the highest order that is asked for."""
TERMS = {4: 18, 8: 24}
"""The first term left out is below 1e-16 of the highest order."""


def phi_functions(z: Any, highest: int = 4) -> Any:
    """phi_1 to phi_highest (4 or 8) at z (...), shape (highest, ...); infinite where exp(z) is.

    Of an array an array, and of a tensor a tensor; on the host by numpy, since there are dozens of
    small operations.
    """
    if isinstance(z, Tensor):
        if z.device.type != "cpu":
            return _phi(z, highest, torch)
        return torch.from_numpy(phi_functions(z.numpy(), highest))
    with np.errstate(over="ignore", invalid="ignore"):
        return _phi(z, highest, np)


def _phi(z: Any, highest: int, xp: Any) -> Any:
    limit, terms = NEAR[highest], range(highest, highest + TERMS[highest])
    near = abs(z) <= limit
    small, large = xp.where(near, z, 0.0), xp.where(near, limit, z)
    series = xp.full_like(z, 1 / math.factorial(terms[-1]))
    for j in reversed(terms[:-1]):
        series *= small
        series += 1 / math.factorial(j)
    found = xp.empty_like(xp.broadcast_to(z, (highest, *z.shape)))
    found[-1] = series
    for k in range(highest - 1, 0, -1):
        series *= small
        series += 1 / math.factorial(k)
        found[k - 1] = series
    order = xp.expm1(large)
    order /= large
    found[0] = xp.where(near, found[0], order)
    for k in range(1, highest):
        order -= 1.0 / math.factorial(k)
        order /= large
        found[k] = xp.where(near, found[k], order)
    return found


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
