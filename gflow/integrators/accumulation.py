"""How often an error counts that every step repeats.

Where the fast eigenvectors turn along the way, as in a narrow valley that bends, an exponential
method loses order: what a step misses is of the order of its estimate, no less, and it lies along
the valley, where nothing damps it. Steps of length h then add up to as many such errors as there
are steps in the time in which theta changes by its own size, or since the flow began.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.system import column, plain

NOISE = 100.0
"""Rounding errors of the field in units of eps |J| |theta|: a change below says nothing."""


@np.errstate(all="ignore")  # rows that have come to their end make steps of length zero
def times_repeated(
    least: float,
    share: float,
    t: np.ndarray,
    theta: Tensor,
    width: Tensor,
    cache: Mapping[str, Any],
    change: Tensor,
) -> Tensor:
    """(least + share N), shape (B, 1), with N = min(t, |theta| / |f|) / h; 0 for mere rounding.

    Parameters
    ----------
    least, share : float
        How often the error counts by itself, and for each of N steps.
    t : array, shape (B,)
        Times at the steps' ends.
    theta : Tensor, shape (B, P)
        Where the steps begin.
    width : Tensor, shape (B, 1)
        The steps h.
    cache : mapping
        The field there, f, and its Jacobian, as :func:`gflow.integrators.propagators.linearised`
        gives them; without a matrix, rounding is not told.
    change : Tensor, shape (B, P)
        What the error is made of: how far the field is from what it was taken to be.
    """
    size, speed, seen = (_length(plain(each)) for each in (theta, cache["value"], change))
    alike = (size / speed.clip(1e-30)).clip(max=plain(column(t, theta))) / plain(width)
    noise = NOISE * torch.finfo(theta.dtype).eps * _steepness(cache) * size
    told = (1.0 - noise / seen.clip(1e-30)).clip(0.0)
    return torch.as_tensor(told * (least + share * alike))


def _length(vector: Any) -> Any:
    return (vector * vector).sum(-1)[..., None] ** 0.5


def _steepness(cache: Mapping[str, Any]) -> Any:
    """Size (B, 1) of the Jacobian."""
    if "eigenvalues" in cache:
        return plain(cache["eigenvalues"].abs().amax(-1, keepdim=True))
    return _length(plain(cache["jacobian"].flatten(1))) if "jacobian" in cache else 0.0
