"""The spectral radius of a field's Jacobian, followed along a trajectory: what stabilised methods
choose their stage count by.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.native import System

CLOSE = 0.02
"""Relative change at which the power iteration ends."""
MOST = 50
"""Iterations at most."""


def first_direction(value: Tensor) -> Tensor:
    """Where the power iteration starts: along the field, and a little along a generic vector.

    A gradient is rich in the stiff directions; the rest serves a field that misses them.
    """
    index = torch.arange(1, value.shape[-1] + 1, dtype=value.dtype, device=value.device)
    generic = torch.cos(index).expand_as(value)
    return _unit(_unit(torch.nan_to_num(value, 0.0, 0.0, 0.0)) + 0.1 * _unit(generic))


def estimate(
    system: System,
    t: np.ndarray,
    theta: Tensor,
    value: Tensor,
    direction: Tensor,
    radius: np.ndarray,
) -> tuple[np.ndarray, Tensor]:
    """Power iteration on differences of the field, one evaluation each.

    A difference beside the known value costs half a Jacobian-vector product and is exact enough
    (Sommeijer, Shampine & Verwer 1998, section 2.3, after Verwer's and Lindberg's).
    """
    eps: float = torch.finfo(theta.dtype).eps
    size = eps**0.5 * (1.0 + torch.linalg.vector_norm(theta, dim=-1, keepdim=True))
    for _ in range(MOST):
        change = (system.value(t, theta + size * direction) - value) / size
        length = torch.linalg.vector_norm(change, dim=-1)
        fine = torch.isfinite(length) & (length > 0)
        direction = torch.where(fine[:, None], change / length[:, None], direction)
        found = np.where(fine.cpu(), length.cpu(), radius)
        close = np.abs(found - radius) <= CLOSE * found
        radius = found
        if close.all():
            break
    return radius, direction


def _unit(vector: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return vector / norm.clamp(min=1e-300)
