"""What a sweep came to, as titled tables of text; read from its dataset alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from gflow.status import Status

if TYPE_CHECKING:
    import xarray as xr

Rows = list[tuple[str, ...]]

_LISTED = 6
"""Values of a dimension that are told one by one."""


def sections(groups: Mapping[str, xr.Dataset]) -> list[tuple[str, Rows]]:
    """Summarise a sweep: its dimensions, how its cells ended, and how their ends spread.

    Parameters
    ----------
    groups : mapping
        Name to group, ``sweep`` among them.

    Returns
    -------
    list of (title, rows)
        As :func:`gflow.show.summary` has them.
    """
    sweep = groups["sweep"]
    statuses = [Status(str(one)) for one in sweep["status"].values.ravel()]
    counted = Counter(statuses).most_common()
    rows: Rows = [
        ("kind", str(sweep.attrs.get("kind", "-"))),
        *((str(dim), _values(sweep[dim])) for dim in sweep.dims),
        ("cells", f"{len(statuses)}: {', '.join(f'{count} {one}' for one, count in counted)}"),
        ("time of all cells", f"{float(np.nansum(sweep['wall_seconds'].values)):.3g} s"),
    ]
    found: list[tuple[str, Rows]] = [("Sweep", rows)]
    spread = list(_spread(groups))
    if spread:
        found.append(("Over the cells", [("quantity", "least", "median", "largest"), *spread]))
    first = _first_failures(sweep, statuses)
    return found + ([("Cells that did not end as asked", first)] if first else [])


def _values(axis: xr.DataArray) -> str:
    values = [str(value) for value in axis.values]
    if len(values) <= _LISTED:
        return ", ".join(values)
    return f"{', '.join(values[:2])}, ..., {values[-1]} ({len(values)} values)"


def _spread(groups: Mapping[str, xr.Dataset]) -> Iterator[tuple[str, ...]]:
    """Least, median and largest of what is known of the cells' ends."""
    wanted = {
        "flow": ("t_final", "loss_final", "gradient_norm_final", "sharpness_final", "nfe"),
        "comparison": ("distance",),
    }
    for group, names in wanted.items():
        for name in names:
            if group in groups and name in groups[group]:
                told = "largest distance to the flow" if group == "comparison" else _told(name)
                yield told, *_three(groups[group][name], group == "comparison")
    if "descent" in groups:
        yield "last loss of a descent", *_three(_last(groups["descent"]))


def _told(name: str) -> str:
    if name == "nfe":
        return "field evaluations"
    return name.removesuffix("_final").replace("_", " ") + (" reached" if name[0] == "t" else "")


def _last(descent: xr.Dataset) -> xr.DataArray:
    """The loss at the last record that is no padding."""
    last = (descent["update"] >= 0).sum("record") - 1
    return descent["loss"].isel(record=last.clip(min=0))


def _three(values: xr.DataArray, largest: bool = False) -> tuple[str, ...]:
    known = (values.max("record") if largest else values).values.astype(float)
    known = known[~np.isnan(known) & ((values.dtype.kind != "i") | (known >= 0))]
    found = (known.min(), np.median(known), known.max()) if known.size else (math.nan,) * 3
    return tuple("-" if math.isnan(one) else f"{one:.6g}" for one in found)


def _first_failures(sweep: xr.Dataset, statuses: list[Status]) -> Rows:
    """The first cell of each status that is no success, with its values and its sentence."""
    messages = sweep["status_message"].values.ravel()
    rows: Rows = []
    for status, count in Counter(one for one in statuses if not one.ok).most_common():
        cell = statuses.index(status)
        place = np.unravel_index(cell, sweep["status"].shape)
        pairs = zip(sweep["status"].dims, place, strict=True)
        values = ", ".join(f"{dim} = {sweep[dim].values[k]}" for dim, k in pairs)
        rows.append((str(status), f"{count}, the first of them {values}: {messages[cell]}"))
    return rows
