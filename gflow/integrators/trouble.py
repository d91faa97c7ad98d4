"""When a trajectory leaves its batch to go on alone: no value, no step, growth without bound."""

from __future__ import annotations

import numpy as np

from gflow.integrators.native import State
from gflow.integrators.run import BLOW_UP, FOREVER

PATIENCE = 6
"""Trials in a row without a value after which a trajectory goes on alone."""
MAX_FAILURES = 60
"""Trials without a value in all: to where there is none, bisection takes 53 of them."""
SIZE_CHECK = 16
"""Attempts between two looks at the size of theta."""


def in_trouble(
    state: State, failures: np.ndarray, all_failures: np.ndarray, attempts: int, size: np.ndarray
) -> np.ndarray:
    """Rows (B,) in trouble after so many attempts.

    Parameters
    ----------
    state : State
    failures, all_failures : array of int, shape (B,)
        Trials without a value, in a row and in all.
    attempts : int
    size : array, shape (B,)
        The largest |theta| where each row's way began.
    """
    smallest = 4 * np.spacing(np.maximum(state.t, 1e-300))
    stuck = (failures >= PATIENCE) | (all_failures >= MAX_FAILURES)
    troubled = stuck | (state.dt <= smallest) | (state.t > FOREVER)
    if attempts % SIZE_CHECK == 0:
        largest = state.theta.abs().amax(-1).cpu().numpy()
        troubled = troubled | (largest > BLOW_UP * (1 + size))
    return np.asarray(troubled)
