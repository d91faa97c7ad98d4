"""The panels of a figure: each a function of an Axes and a tree that draws what there is.

A panel that finds no data draws nothing, and is then left out of the figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from gflow.plot.decor import GREY, HUGE, RED, Style, draw, finish, mark_failures, quartiles
from gflow.plot.plane import plot_theta_plane
from gflow.plot.runs import (
    FLOW_COLOUR,
    MANY,
    Array,
    Run,
    descents,
    flows,
    has_samples,
    is_linear,
    runs,
    stacked,
)
from gflow.stability import stable_sharpness

if TYPE_CHECKING:
    import xarray as xr

SOLID: Style = {"linestyle": "-"}
DASHED: Style = {"linestyle": "--"}
DOTTED: Style = {"linestyle": ":"}
MARKED: Style = {"color": GREY, "linestyle": "-."}
ACCEPTED: Style = {"color": FLOW_COLOUR, "marker": ".", "linestyle": "None"}
REJECTED: Style = {"color": RED, "marker": "x", "linestyle": "None"}


_LOSSES = {
    "mse": "mean squared error",
    "cross_entropy": "cross-entropy",
    "logistic": "logistic",
}


def plot_loss(ax: Axes, tree: xr.DataTree) -> None:
    """Loss against time: on the evaluation set dashed, its upper bound dotted."""
    every = runs(tree)
    draw(ax, every, [run.values("loss") for run in every])
    mark_failures(ax, _last_losses([run for run in every if run.failed]))
    key = {"training": SOLID}
    if any("evaluation_loss" in run.data for run in every):
        draw(ax, every, [run.values("evaluation_loss") for run in every], beside=True)
        key["evaluation"] = DASHED
    bounds = _bounds(tree)
    many = len(bounds) >= MANY
    for bound in [quartiles(bounds)[:, [0, 2]]] if many else bounds:
        ax.plot(*bound.T, color=GREY, linewidth=1.2, **DOTTED)
        key["median bound" if many else "bound"] = DOTTED
    if _mark_events(ax, tree):
        key["event"] = MARKED
    known = _LOSSES.get(tree["problem"].attrs.get("loss", "mse") if has_samples(tree) else "")
    label = f"loss L ({known})" if known else "loss L"
    finish(ax, every, "Loss", label, key if len(key) > 1 else None)


def _mark_events(ax: Axes, tree: xr.DataTree) -> bool:
    """Thin vertical lines at the events of one flow; whether there are some."""
    data = stacked(tree, "flow")
    if data is None or "event_time" not in data or data.sizes["trajectory"] > 1:
        return False
    times = data["event_time"].values[0]
    for time in times[times > 0]:
        ax.axvline(float(time), **MARKED, linewidth=0.7, zorder=1.5)
    return bool((times > 0).any())


def _last_losses(failed: list[Run]) -> Array:
    """Time and loss (K, 2) where runs were last finite."""
    points = []
    for run in failed:
        finite = np.isfinite(run.values("loss"))
        if finite.any():
            points.append((run.time[finite][-1], run.values("loss")[finite][-1]))
    return np.array(points).reshape(-1, 2)


def _bounds(tree: xr.DataTree) -> list[Array]:
    """Upper bounds of the loss as lines (K, 2), each as far as its flow went."""
    data = stacked(tree, "reference")
    if data is None or "loss_bound" not in data:
        return []
    times, lines = data["time"].values, []
    for run, row in zip(flows(tree), data["loss_bound"].values, strict=True):
        kept = (np.abs(row) < HUGE) & (times <= run.time.max(initial=0.0))
        lines += [np.column_stack([times[kept], row[kept]])] if kept.any() else []
    return lines


def plot_conservation(ax: Axes, tree: xr.DataTree) -> None:
    """Drift off the sphere (linear DEQ), or else the energy residual relative to L(0)."""
    every, linear = runs(tree), is_linear(tree)
    if linear:
        radii = [run.values("sphere_radius") for run in every]
        drifts = [_relative(radius, radius) - 1.0 for radius in radii]
        title, label = "Drift off the sphere", "relative drift |R / R(0) − 1|"
    else:
        drifts = [_relative(run.values("energy_residual"), run.values("loss")) for run in every]
        title, label = "Energy balance of the flow", "|energy residual| / L(0)"
    thin = [replace(run, width=min(run.width, 1.0)) for run in every]
    draw(ax, thin, [np.abs(drift) for drift in drifts])
    finish(ax, every, title, label)


def _relative(values: Array, to: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(values / to[:1])


def plot_distance(ax: Axes, tree: xr.DataTree) -> None:
    """Distance of descent to the flow: at equal time solid, to the flow's path dashed."""
    every = descents(tree)
    draw(ax, every, [run.values("distance") for run in every])
    draw(ax, every, [run.values("path_distance") for run in every], beside=True)
    label, key = "distance of GD to the flow", {"at equal time": SOLID, "to its path": DASHED}
    finish(ax, flows(tree) + every, "Distance", label, key)


def plot_sharpness(ax: Axes, tree: xr.DataTree) -> None:
    """Sharpness against time, with 2/eta of each step size and the sharpness at the limit."""
    every = runs(tree)
    draw(ax, every, [run.values("sharpness") for run in every])
    if not ax.has_data():
        return
    key: dict[str, Style] = {}
    for run in every:
        if run.step_size is None:
            continue
        limit = stable_sharpness(tree["descent"].attrs, run.step_size)
        if limit is not None:
            ax.axhline(limit, color=run.colour, linewidth=0.8, **DASHED)
            key["2/η"] = DASHED
    limits = _limits(tree)
    many = len(limits) >= MANY
    for limit in [np.median(limits)] if many else limits:
        ax.axhline(float(limit), color=GREY, linewidth=1.2, **DOTTED)
        key["median at limit" if many else "at limit"] = DOTTED
    finish(ax, every, "Sharpness", r"sharpness $\lambda_{\max}(\nabla^2 L)$", key)


def _limits(tree: xr.DataTree) -> Array:
    """Sharpness at the limit of each flow, where an axis can hold it."""
    data = stacked(tree, "reference")
    if data is None or "sharpness_limit" not in data:
        return np.empty(0)
    limits = np.asarray(data["sharpness_limit"].values, dtype=np.float64)
    return limits[np.abs(limits) < HUGE]


def plot_steps(ax: Axes, tree: xr.DataTree) -> None:
    """Attempted steps of the flow: accepted ones as dots, of many flows lines; crosses rejected."""
    data, every = stacked(tree, "flow_steps"), runs(tree)
    if data is None:
        return
    start, step, flag = (data[name].values for name in ("t", "dt", "accepted"))
    size, many = 4.0 if len(flag) == 1 else 2.5, len(flag) >= MANY
    accepted: Style = ACCEPTED
    if many:
        accepted = SOLID
        taken = [replace(run, time=start[i, flag[i] == 1]) for i, run in enumerate(every)]
        draw(ax, taken, [step[i, flag[i] == 1] for i in range(len(flag))])
    elif (flag == 1).any():
        ax.plot(start[flag == 1], step[flag == 1], **ACCEPTED, markersize=size)
    if (flag == 0).any():
        ax.plot(start[flag == 0], step[flag == 0], **REJECTED, markersize=size, rasterized=many)
    key = {"accepted": accepted, "rejected": REJECTED}
    finish(ax, every, "Flow steps", "attempted step Δt", key)


PANELS: dict[str, Callable[[Axes, xr.DataTree], None]] = {
    "loss": plot_loss,
    "theta_plane": plot_theta_plane,
    "conservation": plot_conservation,
    "distance": plot_distance,
    "sharpness": plot_sharpness,
    "steps": plot_steps,
}
"""The panels of :func:`gflow.plot.plot_run`, in order."""
