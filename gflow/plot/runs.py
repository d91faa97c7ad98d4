"""What a figure draws lines of: flows, and gradient descents at one step size each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from gflow.status import Status

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]

FLOW_COLOUR = "black"

FEW = 12
"""Saves up to which a flow's saves are shown one by one."""


@dataclass(frozen=True)
class Run:
    """One flow, or gradient descent at one step size.

    Attributes
    ----------
    label : str
        For legends; it starts with "_" if another run stands for this one there.
    colour : str
    width : float
        Of its lines, in points.
    time : ndarray, shape (K,)
    data : xarray.Dataset
        Its variables along one dimension of length K, without padding.
    status : str
    step_size : float, optional
        None for a flow.
    """

    label: str
    colour: str
    width: float
    time: Array
    data: xr.Dataset
    status: str
    step_size: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it ended where it was asked to."""
        return any(status.ok and status == self.status for status in Status)

    def values(self, name: str) -> Array:
        """A variable, shape (K,) or (K, P); NaN if the dataset lacks it."""
        if name not in self.data:
            return np.full_like(self.time, np.nan)
        return np.asarray(self.data[name].values, dtype=np.float64)

    @property
    def style(self) -> dict[str, Any]:
        """How its lines are drawn; dots tell a descent, or a few saves, from a continuous flow."""
        few = self.time.size <= FEW
        return {
            "label": self.label,
            "color": self.colour,
            "linewidth": self.width,
            "marker": "." if few or self.step_size is not None else "None",
            "markersize": 3.5,
            # A number here spaces the dots evenly along the drawn line, always on data.
            "markevery": None if few else 0.04,
            "zorder": 2 if self.step_size is None else 3,
        }


def members(tree: xr.DataTree, group: str) -> list[xr.Dataset]:
    """The group of each trajectory: one unless it is an ensemble, none if there is no group."""
    if group not in tree.children:
        return []
    data = tree[group].to_dataset()
    if "trajectory" not in data.dims:
        return [data]
    return [data.isel(trajectory=i) for i in range(data.sizes["trajectory"])]


def flows(tree: xr.DataTree) -> list[Run]:
    """The flows of a dataset, in the order of the file."""
    found = members(tree, "flow")
    label, width = ("flow", 1.8) if len(found) == 1 else (f"{len(found)} flows", 0.7)
    result: list[Run] = []
    for data in found:
        saved = np.isfinite(data["theta"].values).any(-1)
        data = _to_the_end(data.isel(time=saved))
        time, status = data["time"].values, str(data["status"].values)
        shown = "_" + label if result else label
        result.append(Run(shown, FLOW_COLOUR, width, time, data, status))
    return result


def _to_the_end(data: xr.Dataset) -> xr.Dataset:
    """A member of an ensemble with the point where it ended, if that is not a save."""
    saved = data["time"].values
    if "t_final" not in data or not saved.size or not float(data["t_final"]) > saved[-1]:
        return data
    times = np.append(saved, float(data["t_final"]))
    data = data.pad(time=(0, 1)).assign_coords(time=times)
    for name in ("theta", "loss"):
        if name in data:
            data[name].loc[{"time": times[-1]}] = data[f"{name}_final"]
    return data


def descents(tree: xr.DataTree) -> list[Run]:
    """The gradient descents of a dataset by rising step size, with their comparison to the flow."""
    if "descent" not in tree.children:
        return []
    data = tree["descent"].to_dataset()
    if "comparison" in tree.children:
        compared = tree["comparison"].to_dataset().drop_vars("time")
        data = data.assign(compared.data_vars)
    result = []
    for eta, colour in step_colours(data["step_size"].values).items():
        one = data.sel(step_size=eta)
        one = one.isel(record=one["update"].values >= 0)
        label, status = f"η = {eta:g}", str(one["status"].values)
        result.append(Run(label, colour, 1.2, one["time"].values, one, status, eta))
    return result


def runs(tree: xr.DataTree) -> list[Run]:
    """The flows and then the descents."""
    return flows(tree) + descents(tree)


def step_colours(step_sizes: Array) -> dict[float, str]:
    """One colour per step size, rising: the part of viridis that is neither black nor pale."""
    places = np.linspace(0.2, 0.8, len(step_sizes)) if len(step_sizes) > 1 else [0.5]
    colours = [to_hex(colormaps["viridis"](place)) for place in places]
    return dict(zip(sorted(float(eta) for eta in step_sizes), colours, strict=True))


def is_linear(tree: xr.DataTree) -> bool:
    """Whether the model is the linear DEQ, whose flow keeps to a sphere ([DR] Thm 3.1)."""
    attributes = tree["problem"].attrs if "problem" in tree.children else {}
    return bool(attributes.get("conserves_sphere", False))
