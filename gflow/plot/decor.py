"""Axes, keys and marks that panels share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gflow.plot.runs import Array, Run, descents, flows, runs

if TYPE_CHECKING:
    import xarray as xr

Style = dict[str, Any]

GREY = "0.45"
RED = "#c00000"
TIME_LABEL = "time t = ηk"
HUGE = 1e150
"""Magnitude from which on the arithmetic of axes may overflow."""
SLACK = 1e3
"""Factor by which failed descents may widen a logarithmic axis."""


def draw(ax: Axes, run: Run, values: Array, **style: Any) -> None:
    """Draw values (K,) of a run against time, where an axis can hold them; nothing if nowhere."""
    kept = np.abs(values) < HUGE
    if kept.any():
        ax.plot(run.time[kept], values[kept], **(run.style | style))


def mark_failure(ax: Axes, x: float, y: float) -> None:
    """A red cross where a run failed."""
    ax.plot([x], [y], "X", color=RED, markersize=7, markeredgecolor="white", zorder=6)


def finish(
    ax: Axes, tree: xr.DataTree, title: str, label: str, key: Mapping[str, Style] | None = None
) -> None:
    """Axes and heading of a panel over time; nothing if nothing is drawn."""
    if ax.lines:
        _value_axis(ax, tree, label)
        _time_axis(ax, tree)
        heading(ax, title, key)


def _time_axis(ax: Axes, tree: xr.DataTree) -> None:
    """Label the time axis, the same in all panels; logarithmic (0 included) if the saves are."""
    ax.set_xlabel(TIME_LABEL)
    every = runs(tree)
    end = max((float(run.time.max()) for run in every if run.time.size), default=0.0)
    times = np.concatenate([run.time for run in flows(tree) or every])
    positive = np.unique(times[times > 0])
    if positive.size > 2 and np.median(positive) < 0.1 * positive[-1]:
        decade = 10.0 ** math.floor(math.log10(positive[0]))
        ax.set_xscale("symlog", linthresh=decade, linscale=0.6, subs=range(2, 10))
        ax.set_xlim(-0.2 * decade, 1.3 * end)
    elif end > 0:
        ax.set_xlim(-0.02 * end, 1.02 * end)


def _value_axis(ax: Axes, tree: xr.DataTree, label: str) -> None:
    """Label the value axis; logarithmic, zeros left out, unless a value is negative or all are 0.

    Descents that failed may leave it: they widen it no more than by :data:`SLACK`.
    """
    ax.set_ylabel(label)
    failed = {run.colour for run in descents(tree) if not run.ok}
    every = _values(ax.lines)
    core = _values(line for line in ax.lines if line.get_color() not in failed)
    if (every < 0).any() or not (every > 0).any():
        return
    ax.set_yscale("log", nonpositive="mask")
    for line in ax.lines:
        if not (_values([line]) > 0).any():
            line.set_markevery(None)  # which cannot be spaced along a line that is not there
    low, high = ax.get_ylim()
    if (core > 0).any() and core.size < every.size:
        low, high = max(low, core[core > 0].min() / SLACK), min(high, core.max() * SLACK)
        ax.set_ylim(low, high)
    if low > 1e-3 and high < min(1e4, 50 * low):
        for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
            which(_plain)


def _values(lines: Iterable[Line2D]) -> Array:
    values = [np.asarray(line.get_ydata(), dtype=np.float64) for line in lines]
    return np.concatenate([np.empty(0), *values])


def _plain(value: float, _: float | None = None) -> str:
    """The value without powers of ten; nothing at the crowded 4, 6, 7, 8 and 9."""
    digit = value / 10.0 ** math.floor(math.log10(value))
    crowded = any(math.isclose(digit, n) for n in (4, 6, 7, 8, 9))
    return "" if crowded else f"{value:g}"


def heading(ax: Axes, title: str, key: Mapping[str, Style] | None = None) -> None:
    """Title above the axes on the left and, on the right, a key of styles: label to style."""
    plain: Style = {"color": GREY, "linewidth": 1.2}
    handles = [
        Line2D([], [], **(plain | style), label=label) for label, style in (key or {}).items()
    ]
    ax.set_title(title, loc="left")
    if handles:
        ax.legend(
            handles=handles,
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            ncols=len(handles) if len(handles) <= 3 else math.ceil(len(handles) / 2),
            frameon=False,
            borderpad=0.2,
            borderaxespad=0.1,
            labelspacing=0.3,
            handlelength=1.3,
            handletextpad=0.4,
            columnspacing=0.7,
        )
