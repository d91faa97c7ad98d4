"""The path in the (theta1, theta2) plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from gflow.plot.decor import GREY, Style, draw_pale, heading, mark_failures
from gflow.plot.runs import MANY, Array, Run, is_linear, runs, stacked

if TYPE_CHECKING:
    import xarray as xr

REACH = 3.0
"""Times the size of the rest that the target and failed descents may widen the view."""

ONE_EDGE = 1e-6
"""Mean deviation up to which all points tell of the same edge."""

CENTRE = np.array([0.0, 1.0])
"""The singular point of the linear DEQ, centre of its spheres."""

_SPHERE: Style = {"color": "0.6", "linewidth": 0.8, "zorder": 1}
_MINIMISERS: Style = {"color": GREY, "linewidth": 1.0, "linestyle": ":", "zorder": 1}
_SINGULAR: Style = {"marker": "x", "color": GREY, "markersize": 6, "linestyle": "None"}
_LOST: Style = {"marker": "s", "color": "0.85", "markersize": 8, "linestyle": "None"}
_POINT: Style = {
    "linestyle": "None",
    "markeredgecolor": "black",
    "markeredgewidth": 0.7,
    "zorder": 4,
}
_MARKS: dict[str, Style] = {
    "start": {"marker": "o", "color": "white", "markersize": 5, **_POINT},
    "limit": {"marker": "*", "color": "#f0a500", "markersize": 11, **_POINT},
    "target": {"marker": "D", "color": "#cc79a7", "markersize": 5, **_POINT},
}


def plane(theta: Array) -> Array:
    """Points (K, 2) of thetas (K, P): (theta1, theta2) if d = 1, else (|theta1|, theta2).

    The sphere |theta1|^2 + (1 - theta2)^2 = R^2 becomes a circle, or for d > 1 half of one.
    """
    first = theta[:, 0] if theta.shape[1] == 2 else np.hypot.reduce(theta[:, :-1], axis=1)
    return np.stack([first, theta[:, -1]], axis=1)


def plot_theta_plane(ax: Axes, tree: xr.DataTree) -> None:
    """Paths of the flow and of gradient descent, from start to end.

    For the linear DEQ with the conserved sphere about the singular point (0, 1); for others the
    region where the equilibrium is not unique is shaded, if it is in view.
    """
    drawn = [run for run in runs(tree) if run.time.size]
    names = _parameters(tree)
    if not drawn or names[-1] != "theta2":
        return
    paths = [plane(run.values("theta")) for run in drawn]
    starts = np.unique([path[0] for path in paths], axis=0)
    limits = _points(tree, "reference", "theta_limit")
    targets = _points(tree, "problem", "theta_target")
    linear, one_input = is_linear(tree), len(names) == 2
    few = len(starts) < MANY
    spheres = [_sphere(start, one_input) for start in starts] if linear and few else []
    followed = [p for run, p in zip(drawn, paths, strict=True) if run.ok or run.step_size is None]

    _draw_paths(ax, drawn, paths)
    key = _draw_spheres(ax, spheres, one_input) if spheres else {}
    if linear and one_input and limits.size:
        key |= _draw_minimisers(ax, limits)
    _set_view(ax, np.concatenate([starts, limits, *spheres, *followed]), [targets, *paths])
    key |= {} if linear else _shade(ax, drawn)
    key |= _draw_marks(ax, {"start": starts, "limit": limits, "target": targets})
    if linear:
        ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel(
        r"input weight $\theta_1$" if one_input else r"norm of input weights $|\theta_1|$"
    )
    ax.set_ylabel(r"feedback weight $\theta_2$")
    heading(ax, "Path", key)


def _parameters(tree: xr.DataTree) -> list[str]:
    group = "flow" if "flow" in tree.children else "descent"
    return [str(name) for name in tree[group].to_dataset()["parameter"].values]


def _points(tree: xr.DataTree, group: str, name: str) -> Array:
    """Parameters of a group as different finite points (K, 2); K = 0 if it has none."""
    data = stacked(tree, group)
    if data is None or name not in data:
        return np.empty((0, 2))
    points = plane(np.atleast_2d(data[name].values))
    return np.unique(points[np.isfinite(points).all(1)], axis=0)


def _sphere(start: Array, one_input: bool) -> Array:
    """Points of the sphere about the centre through a start."""
    angle = np.linspace(-np.pi if one_input else 0.0, np.pi, 361)
    radius = float(np.hypot(*(start - CENTRE)))
    circle = np.stack([np.sin(angle), -np.cos(angle)], axis=1)
    return np.asarray(CENTRE + radius * circle)


def _draw_paths(ax: Axes, drawn: list[Run], paths: list[Array]) -> None:
    together = [path for run, path in zip(drawn, paths, strict=True) if run.step_size is None]
    many = len(together) >= MANY
    if many:
        draw_pale(ax, together, drawn[0].label)
    for run, path in zip(drawn, paths, strict=True):
        if not many or run.step_size is not None:
            ax.plot(*path.T, **run.style)
            if run.ok:
                size = 1.3 * (1 + run.width)
                ax.plot(*path[-1], "o", color=run.colour, markersize=size, zorder=5)
    failed = [path[-1] for run, path in zip(drawn, paths, strict=True) if run.failed]
    mark_failures(ax, np.array(failed))


def _draw_spheres(ax: Axes, spheres: list[Array], one_input: bool) -> dict[str, Style]:
    for sphere in spheres:
        ax.plot(*sphere.T, **_SPHERE)
    ax.plot(*CENTRE, **_SINGULAR)
    return {"sphere" if one_input else "sphere (half circle)": _SPHERE, "(0, 1)": _SINGULAR}


def _draw_minimisers(ax: Axes, limits: Array) -> dict[str, Style]:
    """The line on which theta1 / (1 - theta2) is that of the limit, for one input."""
    slopes = np.unique(np.round(limits[:, 0] / (1.0 - limits[:, 1]), 9))
    if len(slopes) >= MANY:
        return {}
    for xi in slopes:
        ax.axline((0.0, 1.0), (xi, 0.0), **_MINIMISERS)
    return {"minimisers": _MINIMISERS}


def _draw_marks(ax: Axes, marks: dict[str, Array]) -> dict[str, Style]:
    """Draw the points that are in view, smaller if they are many."""
    low, high = np.transpose([ax.get_xlim(), ax.get_ylim()])
    key = {}
    for name, points in marks.items():
        points = points[((points >= low) & (points <= high)).all(1)]
        if points.size:
            key[name] = _MARKS[name]
            share = 1.0 if len(points) == 1 else 0.7 if len(points) < MANY else 0.35
            style = _MARKS[name] | {
                "markersize": share * _MARKS[name]["markersize"],
                "markeredgewidth": min(0.7, share),
            }
            ax.plot(*points.T, **style, scalex=False, scaley=False)
    return key


def _set_view(ax: Axes, core: Array, others: list[Array]) -> None:
    """Show all of the core, and of the others what is not far away."""
    low, high = core.min(0), core.max(0)
    half = (high - low).max() / 2
    rest = np.concatenate(others)
    away = np.abs(rest - (low + high) / 2).max(1)
    near = np.concatenate([core, rest[away <= REACH * half if half > 0 else np.isfinite(away)]])
    low, high = near.min(0), near.max(0)
    margin = 0.06 * np.maximum(high - low, 0.05 * (high - low).max()) + 1e-12
    # auto: an equal aspect may still widen them.
    ax.set_xlim(low[0] - margin[0], high[0] + margin[0], auto=True)
    ax.set_ylim(low[1] - margin[1], high[1] + margin[1], auto=True)


def _shade(ax: Axes, drawn: list[Run]) -> dict[str, Style]:
    """Shade theta2 beyond the edge that singular_distance is the distance to, if in view."""
    theta2 = np.concatenate([run.values("theta")[:, -1] for run in drawn])
    distance = np.concatenate([run.values("singular_distance") for run in drawn])
    known = np.isfinite(distance) & np.isfinite(theta2)
    if not known.any():
        return {}
    # Along a run either theta2 + distance stays the same, an upper edge, or theta2 - distance.
    sides = [(theta2 + sign * distance)[known] for sign in (1, -1)]
    edges = [float(np.median(side)) for side in sides]
    spreads = [np.abs(side - edge).mean() for side, edge in zip(sides, edges, strict=True)]
    below, above = ax.get_ylim()
    edge, end = (edges[0], above) if spreads[0] <= spreads[1] else (edges[1], below)
    if min(spreads) > ONE_EDGE or not below < edge < above:  # or else the models differ
        return {}
    ax.axhspan(edge, end, color=_LOST["color"], linewidth=0, zorder=0)
    ax.set_ylim(below, above, auto=True)
    return {"not unique": _LOST}
