"""The located events of flows, as variables of the group ``/flow``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from gflow.assemble import labelled
from gflow.diagnostics.crossings import Crossing, Crossings
from gflow.diagnostics.thresholds import Threshold

NUMBERS = ("value", "direction", "time", "loss")


def with_events(
    flow: xr.Dataset,
    found: Sequence[Sequence[Crossing]],
    counts: np.ndarray,
    thresholds: Sequence[Threshold],
) -> xr.Dataset:
    """The ``/flow`` group with the events of its trajectories; as it is if none were asked for.

    Parameters
    ----------
    flow : Dataset
        Of one flow, or of an ensemble.
    found : sequence of sequences of Crossing
        Of each trajectory.
    counts : array of int, shape (B,)
        How many there were, kept or not.
    thresholds : sequence of Threshold
        What was asked for, told in the attribute ``events``.
    """
    if not thresholds:
        return flow
    size = max(map(len, found))
    kinds = np.full((len(found), size), "", dtype=object)
    numbers = np.full((len(NUMBERS), len(found), size), np.nan)
    for row, crossings in enumerate(found):
        for place, one in enumerate(sorted(crossings, key=lambda crossing: crossing.time)):
            kinds[row, place] = one.kind
            numbers[:, row, place] = one.level, one.direction, one.time, one.loss
    tables: dict[str, Any] = {"kind": kinds.astype(str), **dict(zip(NUMBERS, numbers, strict=True))}
    dims: tuple[str, ...] = ("trajectory",) if "trajectory" in flow.dims else ()
    first = slice(None) if dims else 0
    data = {f"event_{name}": ((*dims, "event"), table[first]) for name, table in tables.items()}
    data["event_count"] = (dims, counts[first])
    located = labelled("flow", data, {"event": np.arange(size)})
    asked = "; ".join(f"{one.kind} {one.level:.6g}" for one in thresholds)
    return flow.assign_coords(located.coords).assign(located.data_vars).assign_attrs(events=asked)


def lone_events(
    flow: xr.Dataset, crossings: Crossings | None, thresholds: Sequence[Threshold]
) -> xr.Dataset:
    """The same for one flow and its observer."""
    if crossings is None:
        return flow
    return with_events(flow, crossings.found, crossings.counts.sum(-1), thresholds)
