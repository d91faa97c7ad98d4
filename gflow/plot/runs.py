"""What a figure draws lines of: flows, and gradient descents at one step size each."""

from __future__ import annotations

from collections.abc import Mapping
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

MANY = 30
"""Flows from which on their lines are pale and their median and middle half stand out."""


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
    data : mapping from str to ndarray
        Its variables along time, each (K,) or (K, P), without padding.
    status : str
    step_size : float, optional
        None for a flow.
    """

    label: str
    colour: str
    width: float
    time: Array
    data: Mapping[str, Array]
    status: str
    step_size: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it ended where it was asked to."""
        return any(status.ok and status == self.status for status in Status)

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than it was asked to."""
        return not self.ok and not self.is_open

    @property
    def is_open(self) -> bool:
        """Whether it is running, or was stopped."""
        return self.status in (Status.RUNNING, Status.INTERRUPTED)

    def values(self, name: str) -> Array:
        """A variable, shape (K,) or (K, P); NaN if the dataset lacks it."""
        return self.data[name] if name in self.data else np.full_like(self.time, np.nan)

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


def stacked(tree: xr.DataTree, group: str) -> xr.Dataset | None:
    """A group with a row per trajectory, one unless it is an ensemble; None if it is missing."""
    if group not in tree.children:
        return None
    data = tree[group].to_dataset()
    return data if "trajectory" in data.dims else data.expand_dims("trajectory")


def flows(tree: xr.DataTree) -> list[Run]:
    """The flows of a dataset, in the order of the file."""
    data = stacked(tree, "flow")
    if data is None:
        return []
    tables, time = _along(data, "trajectory", "time"), data["time"].values
    final = {name: data[f"{name}_final"].values for name in tables if f"{name}_final" in data}
    count = data.sizes["trajectory"]
    ends = data["t_final"].values if "t_final" in data else np.full(count, -np.inf)
    label, width = ("flow", 1.8) if count == 1 else (f"{count} flows", 0.7)
    result: list[Run] = []
    for i, status in enumerate(data["status"].values):
        saved = np.isfinite(tables["theta"][i]).any(-1)
        times, values = time[saved], {name: table[i, saved] for name, table in tables.items()}
        if times.size and ends[i] > times[-1]:
            times = np.append(times, ends[i])
            last = {name: table[i] for name, table in final.items()}
            values = {name: _extended(value, last.get(name)) for name, value in values.items()}
        shown = "_" + label if result else label
        result.append(Run(shown, FLOW_COLOUR, width, times, values, str(status)))
    return result


def _along(data: xr.Dataset, *dims: str) -> dict[str, Array]:
    """The variables that run along these dimensions first."""
    return {
        str(name): np.asarray(array.values, dtype=np.float64)
        for name, array in data.data_vars.items()
        if array.dims[: len(dims)] == dims
    }


def _extended(values: Array, last: Array | None) -> Array:
    """Values with that of the point where a flow ended between saves; NaN if it is not known."""
    added = np.full_like(values[:1], np.nan) if last is None else np.asarray(last)[None]
    return np.concatenate([values, added])


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
        values = _along(one.isel(record=one["update"].values >= 0), "record")
        label, status = f"η = {eta:g}", str(one["status"].values)
        result.append(Run(label, colour, 1.2, values["time"], values, status, eta))
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
    """Whether it is the gradient flow of a linear DEQ, which keeps to a sphere ([DR] Thm 3.1)."""
    attributes = tree["problem"].attrs if "problem" in tree.children else {}
    kinds = {node.attrs.get("kind", "gradient") for node in tree.children.values()}
    decays = any(node.attrs.get("weight_decay", 0.0) for node in tree.children.values())
    return bool(attributes.get("conserves_sphere", False)) and kinds == {"gradient"} and not decays


def has_samples(tree: xr.DataTree) -> bool:
    """Whether the loss is one of data, not an objective."""
    return "problem" in tree.children and "samples" in tree["problem"].attrs
