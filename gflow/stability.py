"""The sharpness up to which descents are stable, from what a file says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLAIN = ("gradient", "modified")
"""Flows whose discrete counterpart is gradient descent."""


def stable_sharpness(attributes: Mapping[Any, Any], step_size: float) -> float | None:
    """2 / eta - lambda for gradient descent of a step size eta with weight decay lambda.

    None where the updates are others, or their step size varies: their limit is not known from the
    Hessian's largest eigenvalue and eta alone.

    Parameters
    ----------
    attributes : mapping
        Of the group ``/descent``.
    step_size : float
    """
    kind = str(attributes.get("kind", "gradient")).partition(":")[0]
    if kind not in PLAIN or attributes.get("schedule", "constant") != "constant":
        return None
    return 2.0 / step_size - float(attributes.get("weight_decay", 0.0))
