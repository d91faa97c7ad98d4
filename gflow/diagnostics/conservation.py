"""Drift of what the model's gradient flow conserves."""

from __future__ import annotations

import torch
from torch import Tensor

from gflow.models.base import Model


def invariant_drift(model: Model, theta: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """Relative change of each invariant along runs.

    Parameters
    ----------
    model : Model
    theta : Tensor, shape (..., T, P)
        NaN pads.

    Returns
    -------
    names : tuple of str, length K
        Of the model's invariants; none for most models.
    drift : Tensor, shape (..., T, K)
        |Q(theta_k) - Q(theta_0)| / |Q(theta_0)| in the Frobenius norm.
    """
    found = model.invariants(theta)
    drifts = []
    for values in found.values():
        first = values[..., :1, :]
        size = torch.linalg.vector_norm(first, dim=-1)
        drifts.append(torch.linalg.vector_norm(values - first, dim=-1) / size)
    return tuple(found), torch.stack(drifts, -1) if drifts else theta.new_empty(0)
