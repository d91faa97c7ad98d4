"""The panels of a figure: each a function of an Axes and a tree that draws what there is.

A panel that finds no data draws nothing, and is then left out of the figure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from gflow.plot.decor import GREY, HUGE, RED, Style, draw, finish, mark_failure
from gflow.plot.plane import plot_theta_plane
from gflow.plot.runs import FLOW_COLOUR, Array, descents, is_linear, members, runs

if TYPE_CHECKING:
    import xarray as xr

SOLID: Style = {"linestyle": "-"}
DASHED: Style = {"linestyle": "--"}
DOTTED: Style = {"linestyle": ":"}
THIN: Style = {"linewidth": 0.8, "marker": "None", "label": "_"}
ACCEPTED: Style = {"color": FLOW_COLOUR, "marker": ".", "linestyle": "None"}
REJECTED: Style = {"color": RED, "marker": "x", "linestyle": "None"}


def plot_loss(ax: Axes, tree: xr.DataTree) -> None:
    """Loss against time: on the evaluation set dashed, its upper bound dotted."""
    key = {"training": SOLID}
    for run in runs(tree):
        draw(ax, run, run.values("loss"))
        finite = np.isfinite(run.values("loss"))
        if not run.ok and finite.any():
            mark_failure(ax, run.time[finite][-1], run.values("loss")[finite][-1])
        if "evaluation_loss" in run.data:
            draw(ax, run, run.values("evaluation_loss"), **(THIN | DASHED))
            key["evaluation"] = DASHED
    for bound in _references(tree, "loss_bound"):
        ax.plot(bound["time"], bound, color=GREY, linewidth=1.2, **DOTTED)
        key["bound"] = DOTTED
    finish(ax, tree, "Loss", "loss L (mean squared error)", key if len(key) > 1 else None)


def plot_conservation(ax: Axes, tree: xr.DataTree) -> None:
    """Drift off the sphere (linear DEQ), or else the energy residual relative to L(0)."""
    linear = is_linear(tree)
    for run in runs(tree):
        if linear:
            drift = _relative(run.values("sphere_radius"), run.values("sphere_radius")) - 1.0
        else:
            drift = _relative(run.values("energy_residual"), run.values("loss"))
        draw(ax, run, np.abs(drift), linewidth=min(run.width, 1.0))
    if linear:
        finish(ax, tree, "Drift off the sphere", "relative drift |R / R(0) − 1|")
    else:
        finish(ax, tree, "Energy balance of the flow", "|energy residual| / L(0)")


def _relative(values: Array, to: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(values / to[:1])


def plot_distance(ax: Axes, tree: xr.DataTree) -> None:
    """Distance of descent to the flow: at equal time solid, to the flow's path dashed."""
    for run in descents(tree):
        draw(ax, run, run.values("distance"))
        draw(ax, run, run.values("path_distance"), **(THIN | DASHED))
    finish(
        ax,
        tree,
        "Distance",
        "distance of GD to the flow",
        {"at equal time": SOLID, "to its path": DASHED},
    )


def plot_sharpness(ax: Axes, tree: xr.DataTree) -> None:
    """Sharpness against time, with 2/eta of each step size and the sharpness at the limit."""
    for run in runs(tree):
        draw(ax, run, run.values("sharpness"))
    if not ax.lines:
        return
    key: dict[str, Style] = {}
    for run in descents(tree):
        assert run.step_size is not None
        ax.axhline(2.0 / run.step_size, color=run.colour, linewidth=0.8, **DASHED)
        key["2/η"] = DASHED
    for limit in _references(tree, "sharpness_limit"):
        ax.axhline(float(limit), color=GREY, linewidth=1.2, **DOTTED)
        key["at limit"] = DOTTED
    finish(ax, tree, "Sharpness", r"sharpness $\lambda_{\max}(\nabla^2 L)$", key)


def plot_steps(ax: Axes, tree: xr.DataTree) -> None:
    """Attempted steps of the flow: accepted ones as dots, rejected ones as crosses."""
    found = members(tree, "flow_steps")
    size = 4.0 if len(found) == 1 else 2.5
    for data in found:
        for flag, style in ((1, ACCEPTED), (0, REJECTED)):
            steps = data.isel(step=data["accepted"].values == flag)
            if steps.sizes["step"]:
                ax.plot(steps["t"], steps["dt"], **style, markersize=size)
    finish(
        ax, tree, "Flow steps", "attempted step Δt", {"accepted": ACCEPTED, "rejected": REJECTED}
    )


def _references(tree: xr.DataTree, name: str) -> list[xr.DataArray]:
    """A closed form of each trajectory, where an axis can hold it."""
    found = [data[name] for data in members(tree, "reference") if name in data]
    kept = [array.where(abs(array) < HUGE, drop=array.ndim > 0) for array in found]
    return [array for array in kept if array.size and bool(array.notnull().all())]


PANELS: dict[str, Callable[[Axes, xr.DataTree], None]] = {
    "loss": plot_loss,
    "theta_plane": plot_theta_plane,
    "conservation": plot_conservation,
    "distance": plot_distance,
    "sharpness": plot_sharpness,
    "steps": plot_steps,
}
"""The panels of :func:`gflow.plot.plot_run`, in order."""
