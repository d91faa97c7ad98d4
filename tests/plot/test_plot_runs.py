"""Lines of flows and descents: colours, padding, few saves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import xarray as xr
from drawn import axes_of, line_problem, lines_of, notes_of, tanh_problem
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

import gflow
from gflow.plot import plot_run
from gflow.plot.runs import step_colours


@given(st.sets(st.floats(1e-6, 1e3), min_size=1, max_size=12))
def test_colours_differ_rise_in_lightness_and_stand_out(step_sizes: set[float]) -> None:
    colours = step_colours(list(step_sizes))
    assert list(colours) == sorted(step_sizes)
    light = [float(np.dot(to_rgb(c), [0.2126, 0.7152, 0.0722])) for c in colours.values()]
    assert all(a < b for a, b in pairwise(light))
    assert light[0] > 0.15
    assert light[-1] < 0.75


def test_ensembles_are_thin_lines_with_one_entry_in_the_key(ensemble: xr.DataTree) -> None:
    figure = plot_run(ensemble)
    ax = axes_of(figure)["loss"]
    lines = lines_of(ax, "black")
    assert len(lines) == 3
    assert all(line.get_linewidth() < 1 for line in lines)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["3 flows"]
    circles = [
        line for line in axes_of(figure)["theta_plane"].lines if len(line.get_xdata()) == 361
    ]
    assert len(circles) == 3


def test_padding_of_a_shorter_trajectory_is_not_drawn() -> None:
    tree = gflow.integrate(tanh_problem(dim=1), [[0.5, 0.9], [0.5, -0.5]], 2.0, times=41)
    assert list(tree["flow"].status.values) == ["equilibrium_lost", "t_end"]
    figure = plot_run(tree)
    for line, member in zip(lines_of(axes_of(figure)["loss"], "black"), (0, 1), strict=True):
        flow = tree["flow"].to_dataset().isel(trajectory=member)
        kept = flow.loss.dropna("time")
        x, y = (np.asarray(values, dtype=float) for values in line.get_data())
        assert np.array_equal(x[: kept.size], kept.time)
        assert np.array_equal(y[: kept.size], kept)
        assert (x[-1], y[-1]) == (float(flow.t_final), float(flow.loss_final))
        assert len(x) == kept.size + (member == 0)
    assert "failed: 1 of 2 flows (equilibrium_lost)" in notes_of(figure)


def test_few_saves_are_dots_and_one_save_is_enough(linear: xr.DataTree) -> None:
    single = linear.copy(deep=True)
    for group in ("flow", "reference"):
        single[group] = xr.DataTree(single[group].to_dataset().isel(time=slice(1)))
    ax = axes_of(plot_run(single))["loss"]
    assert [line for line in ax.lines if line.get_marker() == "." and len(line.get_xdata()) == 1]
    alone = xr.DataTree.from_dict(
        {name: single[name].to_dataset() for name in ("problem", "flow", "flow_steps", "reference")}
    )
    alone.attrs = single.attrs
    panels = {"loss", "theta_plane", "conservation", "sharpness", "steps"}
    assert set(axes_of(plot_run(alone))) == panels


def test_a_start_that_is_not_finite_gives_a_figure() -> None:
    off = {"reference": False, "energy_residual": False}
    tree = gflow.integrate(line_problem(), [1e200, 0.0], 1.0, diagnostics=off)
    assert str(tree["flow"].status.values) == "nonfinite_start"
    figure = plot_run(tree)
    assert "theta_plane" in axes_of(figure)
    assert "failed: flow at t = 0 (nonfinite_start)" in notes_of(figure)
