"""The located events of flows as rows of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

Rows = list[tuple[str, ...]]

SHOWN = 20
"""Events of one flow that are listed."""


def event_rows(flow: xr.Dataset) -> Rows:
    """Of one flow each event with its time; of an ensemble each kind with how its times spread.

    Parameters
    ----------
    flow : Dataset
        Group ``/flow``.

    Returns
    -------
    list of tuple of str
        The first row is the header; [] if no events were asked for.
    """
    if "event_kind" not in flow:
        return []
    if "trajectory" in flow.dims:
        return _spread(flow)
    names = ("kind", "value", "direction", "time", "loss")
    events = list(zip(*(flow[f"event_{name}"].values for name in names), strict=True))
    rows: Rows = [("event", "time", "loss")]
    for kind, value, direction, time, loss in events[:SHOWN]:
        rows.append((_told(kind, value, direction), f"{time:.6g}", f"{loss:.6g}"))
    total = int(flow.event_count.item())
    if total > len(rows) - 1:
        rows.append((f"{total - len(rows) + 1} more", "", ""))
    return rows if total else [*rows, (_none(flow), "", "")]


def _spread(flow: xr.Dataset) -> Rows:
    """For every event which trajectories meet it, and when they first do."""
    kinds, values = flow.event_kind.values, flow.event_value.values
    directions, times = flow.event_direction.values, flow.event_time.values
    rows: Rows = [("event", "trajectories", "first", "median", "last")]
    found = {
        (str(kinds[i]), float(values[i]), float(directions[i]))
        for i in zip(*np.nonzero(kinds != ""), strict=True)
    }
    for kind, value, direction in sorted(found):
        here = (kinds == kind) & (values == value) & (directions == direction)
        first = np.where(here, times, np.inf).min(axis=1)
        met = first[np.isfinite(first)]
        share = f"{len(met)} of {len(first)}"
        told = (met.min(), np.median(met), met.max())
        rows.append((_told(kind, value, direction), share, *(f"{time:.6g}" for time in told)))
    return rows if found else [*rows, (_none(flow), "", "", "", "")]


def _none(flow: xr.Dataset) -> str:
    """That nothing was crossed, and what was asked for, which older files do not tell."""
    asked = str(flow.attrs.get("events", ""))
    told = asked.replace("; ", ", ")
    return f"none was crossed (asked for: {told})" if told else "none was crossed"


def _told(kind: Any, value: float, direction: float) -> str:
    way = "rises" if direction > 0 else "falls"
    return f"{str(kind).replace('_', ' ')} {way} through {value:.6g}"
