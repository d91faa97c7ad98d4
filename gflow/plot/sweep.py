"""A sweep's flows as those of an ensemble, which the panels draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gflow.errors import StoreError
from gflow.validation import sweep_dimensions

if TYPE_CHECKING:
    import xarray as xr

MOST = 20
"""Cells that are drawn."""

DRAWN = "drawn"
"""Attribute that tells which cells are drawn, where not all are."""


def as_ensemble(tree: xr.DataTree) -> xr.DataTree:
    """The first flows of a sweep as an ensemble; any other dataset as it is.

    Raises
    ------
    StoreError
        If the cells of the sweep have no flow, or saves of their own.
    """
    import xarray as xr

    dims = sweep_dimensions(tree)
    if not dims:
        return tree
    flow = tree.children["flow"].to_dataset(inherit=False) if "flow" in tree.children else None
    if flow is None or "time" not in flow.dims:
        lacking, shown = "it has no flow", 'tree["descent"].loss'
        if flow is not None:
            lacking, shown = "the saves differ from cell to cell", 'tree["flow"].loss_final'
        raise StoreError(
            f"gflow plot draws the flows of a sweep on their common saves, and {lacking}; draw "
            f"from the dataset itself, such as {shown}."
        )
    chosen = _chosen(flow["t_final"])
    groups = {
        name: _rows(tree.children[name].to_dataset(inherit=False), dims, chosen)
        for name in ("problem", "flow", "flow_steps")
    }
    # Models of different sizes have only some parameters in common.
    common = np.isfinite(groups["flow"]["theta"].values[:, 0]).all(0)
    groups["flow"] = groups["flow"].isel(parameter=common)
    drawn = xr.DataTree.from_dict(groups)
    drawn.attrs = {**tree.attrs, DRAWN: _told(len(chosen), flow["t_final"])}
    return drawn


def _chosen(end: xr.DataArray) -> np.ndarray:
    """Places of the cells that are drawn, of those that have a result."""
    ran = np.flatnonzero(np.isfinite(end.values.ravel()))
    if not len(ran):
        raise StoreError("No cell of this sweep has a result; gflow show tells why.")
    return ran[:MOST]


def _told(count: int, end: xr.DataArray) -> str:
    """Which cells are drawn, in words; "" if all are."""
    ran, cells = int(np.isfinite(end.values).sum()), end.size
    if count == cells:
        return ""
    if count == ran:
        return f"those of {cells:,} cells that ran"
    return f"the first {count} of {ran:,} {'flows' if ran == cells else 'cells that ran'}"


def _rows(data: xr.Dataset, dims: tuple[str, ...], chosen: np.ndarray) -> xr.Dataset:
    """The group with one dimension for the cells."""
    swept = [dim for dim in dims if dim in data.dims]
    if not swept:
        return data
    flat = data.stack(trajectory=swept, create_index=False).drop_vars(swept)
    rows = flat.isel(trajectory=chosen).assign_coords(trajectory=np.arange(len(chosen)))
    return rows.transpose("trajectory", ...)
