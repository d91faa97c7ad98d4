"""Theta kept at some of a run's saves, where it is too large to be kept at all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from gflow.errors import ProblemError

STATES = ("theta", "velocity")
"""Variables with the dimension of theta."""

Choice = str | Sequence[float]


def check_choice(choice: Any) -> Choice:
    """``all``, ``ends`` or times, else a :class:`ProblemError`."""
    if isinstance(choice, str) and choice in ("all", "ends"):
        return choice
    try:
        times = [float(one) for one in choice] if isinstance(choice, Iterable) else []
    except (TypeError, ValueError):
        times = []
    if not times or not all(map(math.isfinite, times)):
        raise ProblemError(
            f'store_theta is {choice!r}; it must be "all", "ends" or a list of times, whose '
            "nearest saves are then kept with the first and the last."
        )
    return times


def keep_theta(group: xr.Dataset, choice: Choice) -> xr.Dataset:
    """The group with theta at the chosen saves of each row alone, and NaN, packed, at the others.

    Parameters
    ----------
    group : xarray.Dataset
        ``/flow`` or ``/descent``.
    choice : str or sequence of float
        From :func:`check_choice`.
    """
    if choice == "all":
        return group
    times = [] if isinstance(choice, str) else list(choice)
    kept = group.copy()
    for name in STATES:
        if name not in group:
            continue
        state = group[name]
        clock = group["time"].broadcast_like(state.isel(parameter=0)).transpose(*state.dims[:-1])
        values = state.values.reshape(-1, *state.shape[-2:])
        rows = zip(values, clock.values.reshape(values.shape[:2]), strict=True)
        thinned = np.stack([_thinned(row, at, times) for row, at in rows])
        kept[name] = state.copy(data=thinned.reshape(state.shape))
        kept[name].encoding["zlib"] = True
    return kept


def _thinned(values: np.ndarray, at: np.ndarray, times: Sequence[float]) -> np.ndarray:
    """Values (T, P) at the ends of what is stored and next to the times."""
    stored = np.flatnonzero(~np.isnan(values).any(-1))
    found = np.full_like(values, np.nan)
    if len(stored):
        near = [stored[np.argmin(np.abs(at[stored] - time))] for time in times]
        chosen = [stored[0], stored[-1], *near]
        found[chosen] = values[chosen]
    return found
