"""Axes, keys and marks that panels share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from gflow.plot.runs import FLOW_COLOUR, MANY, Array, Run

Style = dict[str, Any]

GREY = "0.45"
PALE = "0.8"
RED = "#c00000"
TIME_LABEL = "time t = ηk"
HUGE = 1e150
"""Magnitude from which on the arithmetic of axes may overflow."""
SLACK = 1e3
"""Factor by which failed descents may widen a logarithmic axis."""
GRID = 400
"""Times at which the quartiles of many flows are taken."""
ROW_OF_KEY = 30
"""Letters that fit beside a panel's title."""
BESIDE: Style = {"linewidth": 0.8, "linestyle": "--", "marker": "None", "label": "_"}


def draw(ax: Axes, every: Sequence[Run], values: Sequence[Array], beside: bool = False) -> None:
    """Draw values (K,) of each run against time, where an axis can hold them.

    The lines of :data:`MANY` flows are pale, and their median and middle half stand out. What is
    drawn `beside` something else is thin and dashed, and of many flows the median alone.
    """
    many = sum(run.step_size is None for run in every) >= MANY
    together: list[Array] = []
    for run, value in zip(every, values, strict=True):
        kept = np.abs(value) < HUGE
        if many and run.step_size is None:
            together += [np.column_stack([run.time[kept], value[kept]])] if kept.any() else []
        elif kept.any():
            ax.plot(run.time[kept], value[kept], **(run.style | (BESIDE if beside else {})))
    if together:
        _draw_many(ax, together, every[0].label, beside)


def _draw_many(ax: Axes, lines: list[Array], label: str, beside: bool) -> None:
    times, low, middle, high = quartiles(lines).T
    strong: Style = {"color": FLOW_COLOUR, "linewidth": 1.8, "label": "median"}
    if not beside:
        draw_pale(ax, lines, label)
        band: Style = {"color": "0.6", "linewidth": 0, "zorder": 1.7, "label": "middle half"}
        ax.fill_between(times, low, high, **band)
    ax.plot(times, middle, **(strong | (BESIDE if beside else {})))


def draw_pale(ax: Axes, lines: Sequence[Array], label: str) -> None:
    """Draw many lines (K, 2), as pixels even in a PDF."""
    style: Style = {"colors": PALE, "linewidths": 0.6, "zorder": 1.5}
    ax.add_collection(LineCollection(lines, label=label, rasterized=True, **style))
    ax.autoscale_view()


def quartiles(lines: Sequence[Array]) -> Array:
    """Times and quartiles (T, 4) of lines (K, 2) where at least half of them still are."""
    times = np.unique(np.concatenate([line[:, 0] for line in lines]))
    places = np.linspace(0, len(times) - 1, min(len(times), GRID)).round().astype(int)
    times = times[places]
    columns = [np.interp(times, t, value, np.nan, np.nan) for t, value in (one.T for one in lines)]
    table = np.array(columns)
    common = 2 * np.isfinite(table).sum(axis=0) >= len(lines)
    found = np.nanquantile(table[:, common], [0.25, 0.5, 0.75], axis=0)
    return np.column_stack([times[common], *found])


def mark_failures(ax: Axes, points: Array) -> None:
    """A red cross at each point (K, 2) where a run failed."""
    if points.size:
        size = 7 if len(points) < MANY else 4
        style: Style = {"color": RED, "markeredgecolor": "white", "zorder": 6}
        ax.plot(*points.T, "X", markersize=size, markeredgewidth=size / 7, **style)


def finish(
    ax: Axes,
    every: Sequence[Run],
    title: str,
    label: str,
    key: Mapping[str, Style] | None = None,
) -> None:
    """Axes and heading of a panel over time; nothing if nothing is drawn."""
    if ax.has_data():
        _value_axis(ax, every, label)
        _time_axis(ax, every)
        heading(ax, title, key)


def _time_axis(ax: Axes, every: Sequence[Run]) -> None:
    """Label the time axis, the same in all panels; logarithmic (0 included) if the saves are."""
    ax.set_xlabel(TIME_LABEL)
    end = max((float(run.time.max()) for run in every if run.time.size), default=0.0)
    flows = [run for run in every if run.step_size is None]
    times = np.concatenate([run.time for run in flows or every])
    positive = np.unique(times[times > 0])
    if positive.size > 2 and np.median(positive) < 0.1 * positive[-1]:
        decade = 10.0 ** math.floor(math.log10(positive[0]))
        ax.set_xscale("symlog", linthresh=decade, linscale=0.6, subs=range(2, 10))
        ax.set_xlim(-0.2 * decade, 1.3 * end)
    elif end > 0:
        ax.set_xlim(-0.02 * end, 1.02 * end)


def _value_axis(ax: Axes, every: Sequence[Run], label: str) -> None:
    """Label the value axis; logarithmic, zeros left out, unless a value is negative or all are 0.

    Descents that failed may leave it: they widen it no more than by :data:`SLACK`.
    """
    ax.set_ylabel(label)
    failed = {run.colour for run in every if run.step_size is not None and run.failed}
    pale = [found for found in ax.collections if isinstance(found, LineCollection)]
    drawn = _values([*ax.lines, *pale])
    core = _values([*(line for line in ax.lines if line.get_color() not in failed), *pale])
    if (drawn < 0).any() or not (drawn > 0).any():
        return
    ax.set_yscale("log", nonpositive="mask")
    for line in ax.lines:
        if not (_values([line]) > 0).any():
            line.set_markevery(None)  # which cannot be spaced along a line that is not there
    low, high = ax.get_ylim()
    if (core > 0).any() and core.size < drawn.size:
        low, high = max(low, core[core > 0].min() / SLACK), min(high, core.max() * SLACK)
        ax.set_ylim(low, high)
    if low > 1e-3 and high < min(1e4, 50 * low):
        for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
            which(_plain)


def _values(drawn: Iterable[Line2D | LineCollection]) -> Array:
    values = [np.empty(0)]
    for one in drawn:
        if isinstance(one, Line2D):
            values.append(np.asarray(one.get_ydata(), dtype=np.float64))
        else:
            values += [np.asarray(path.vertices)[:, 1] for path in one.get_paths()]
    return np.concatenate(values)


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
        in_a_row = len(handles) <= 3 and sum(map(len, key or ())) < ROW_OF_KEY
        ax.legend(
            handles=handles,
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            ncols=len(handles) if in_a_row else math.ceil(len(handles) / 2),
            frameon=False,
            borderpad=0.2,
            borderaxespad=0.1,
            labelspacing=0.3,
            handlelength=1.3,
            handletextpad=0.4,
            columnspacing=0.7,
        )
