"""Problems to draw, and what a figure holds."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import gflow

ETAS = [0.02, 0.05]
X = np.linspace(0.1, 1.0, 12)[:, None]
X3 = np.random.default_rng(5).normal(size=(20, 3))
Y3 = np.tanh(X3 @ [0.5, -0.2, 0.1])


def line_problem(backward: str = "exact") -> gflow.Problem:
    model = gflow.LinearDEQ(dim=1)
    return gflow.Problem(model, X, 2 * X[:, 0], backward=backward, theta_target=[2.0, 0.0])


def tanh_problem(dim: int = 3) -> gflow.Problem:
    """One that stays well, or with one input one that runs into theta2 = 1."""
    x, y = (X3, Y3) if dim == 3 else (X - 0.5, 0.9 * np.sign(X[:, 0] - 0.5))
    return gflow.Problem(gflow.SingleIndexDEQ(dim=dim, activation="tanh"), x, y)


def axes_of(figure: Figure) -> dict[str, Axes]:
    return {str(ax.get_label()): ax for ax in figure.axes}


def lines_of(ax: Axes, colour: str, style: str = "-") -> list[Line2D]:
    return [
        line
        for line in ax.lines
        if to_hex(line.get_color()) == to_hex(colour)
        and line.get_linestyle() == style
        and len(np.atleast_1d(line.get_xdata())) > 1
    ]


def pale_of(ax: Axes) -> list[np.ndarray]:
    """The lines (K, 2) of many flows: one artist."""
    found = [one for one in ax.collections if isinstance(one, LineCollection)]
    assert len(found) == 1
    return [np.asarray(path.vertices) for path in found[0].get_paths()]


def same(line: Line2D, x: xr.DataArray | np.ndarray, y: xr.DataArray | np.ndarray) -> bool:
    return np.array_equal(line.get_xdata(), x) and np.array_equal(line.get_ydata(), y)


def notes_of(figure: Figure) -> dict[str, str]:
    """Colour of each note below the title."""
    return {
        text.get_text(): text.get_color()
        for text in figure.findobj(lambda artist: hasattr(artist, "xycoords"))
    }
