"""Panels show the values of the dataset, whatever they are."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from drawn import ETAS, axes_of, line_problem, lines_of, same, tanh_problem
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import gflow
from gflow.plot import PANELS, plot_run
from gflow.plot.decor import HUGE, SLACK
from gflow.plot.runs import step_colours


@pytest.mark.parametrize(
    ("kind", "absent"),
    [
        ("flow", {"distance"}),
        ("descent", {"distance", "steps"}),
        ("tanh descent", {"distance", "steps", "conservation"}),
        ("bare", {"conservation", "sharpness"}),
    ],
)
def test_panels_without_data_are_left_out(kind: str, absent: set[str]) -> None:
    if kind == "flow":
        tree = gflow.integrate(line_problem(), [0.02, 0.07], 1.0, times=5)
    elif kind == "descent":
        tree = gflow.descend(line_problem(), [0.02, 0.07], ETAS, 1.0, records=5)
    elif kind == "tanh descent":
        tree = gflow.descend(tanh_problem(), [0.1, 0.2, 0.0, 0.1], ETAS, 1.0, records=5)
    else:
        off = dict.fromkeys(
            ["sphere_radius", "sharpness", "reference", "singular_distance", "energy_residual"],
            False,
        )
        tree = gflow.compare(line_problem(), [0.02, 0.07], ETAS, 1.0, times=5, diagnostics=off)
    assert set(PANELS) - set(axes_of(plot_run(tree))) == absent


@pytest.mark.parametrize("name", PANELS)
def test_each_panel_draws_on_any_axes(name: str, linear: xr.DataTree) -> None:
    ax = Figure().add_subplot()
    assert PANELS[name](ax, linear) is None
    assert ax.has_data()


def test_loss_lines_hold_the_values_of_the_file(tanh: xr.DataTree) -> None:
    ax = axes_of(plot_run(tanh))["loss"]
    flow, descent = tanh["flow"], tanh["descent"]
    assert same(lines_of(ax, "black")[0], flow.time, flow.loss)
    assert same(lines_of(ax, "black", "--")[0], flow.time, flow.evaluation_loss)
    for eta, colour in step_colours([0.1, 0.4]).items():
        one = descent.to_dataset().sel(step_size=eta)
        one = one.isel(record=one["update"].values >= 0)
        assert same(lines_of(ax, colour)[0], one.time, one.loss)
        assert same(lines_of(ax, colour, "--")[0], one.time, one.evaluation_loss)
    assert ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "evaluation"]


def test_the_bound_of_the_loss_is_dotted(linear: xr.DataTree) -> None:
    ax = axes_of(plot_run(linear))["loss"]
    dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert len(dotted) == 1
    assert same(dotted[0], linear["reference"].time, linear["reference"].loss_bound)


@pytest.mark.parametrize("name", ["loss", "conservation", "distance", "sharpness", "steps"])
def test_time_is_logarithmic_with_zero_if_the_saves_are(
    name: str, linear: xr.DataTree, tanh: xr.DataTree
) -> None:
    assert axes_of(plot_run(linear))[name].get_xscale() == "linear"
    ax = axes_of(plot_run(tanh))[name]
    assert ax.get_xscale() == "symlog"
    assert ax.get_xlim()[0] < 0 < 50 < ax.get_xlim()[1]


def test_conservation_shows_the_drift_of_the_radius(linear: xr.DataTree) -> None:
    ax = axes_of(plot_run(linear))["conservation"]
    radius = linear["flow"].sphere_radius.values
    np.testing.assert_array_equal(
        lines_of(ax, "black")[0].get_ydata(), np.abs(radius / radius[0] - 1)
    )
    colours = step_colours(ETAS)
    radius = linear["descent"].sphere_radius.sel(step_size=0.05).dropna("record").values
    np.testing.assert_array_equal(
        lines_of(ax, colours[0.05])[0].get_ydata(), np.abs(radius / radius[0] - 1)
    )
    assert ax.get_yscale() == "log"


def test_conservation_of_other_models_is_that_of_energy(tanh: xr.DataTree) -> None:
    ax = axes_of(plot_run(tanh))["conservation"]
    flow = tanh["flow"]
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_ydata(), abs(flow.energy_residual) / flow.loss[0])


def test_distance_is_solid_and_path_distance_dashed(linear: xr.DataTree) -> None:
    ax = axes_of(plot_run(linear))["distance"]
    for eta, colour in step_colours(ETAS).items():
        one = linear["comparison"].to_dataset().sel(step_size=eta).dropna("record", subset=["time"])
        assert same(lines_of(ax, colour)[0], one.time, one.distance)
        assert same(lines_of(ax, colour, "--")[0], one.time, one.path_distance)


def test_sharpness_has_the_edge_of_each_step_size_and_the_limit(linear: xr.DataTree) -> None:
    ax = axes_of(plot_run(linear))["sharpness"]
    assert same(lines_of(ax, "black")[0], linear["flow"].time, linear["flow"].sharpness)
    for eta, colour in step_colours(ETAS).items():
        assert list(lines_of(ax, colour, "--")[0].get_ydata()) == [2 / eta, 2 / eta]
    (limit,) = (line for line in ax.lines if line.get_linestyle() == ":")
    assert limit.get_ydata()[0] == float(linear["reference"].sharpness_limit)


def test_sharpness_skips_saves_where_it_was_not_computed(linear: xr.DataTree) -> None:
    tree = linear.copy(deep=True)
    tree["flow"]["sharpness"].values[1:-1:2] = np.nan
    line = lines_of(axes_of(plot_run(tree))["sharpness"], "black")[0]
    np.testing.assert_array_equal(line.get_xdata(), tree["flow"].time[::2])


def test_steps_are_dots_and_crosses_without_padding(
    linear: xr.DataTree, ensemble: xr.DataTree
) -> None:
    for tree in (linear, ensemble):
        steps = tree["flow_steps"]
        lines = axes_of(plot_run(tree))["steps"].lines
        for flag, marker in ((1, "."), (0, "x")):
            drawn = [line for line in lines if line.get_marker() == marker]
            found = sorted(np.concatenate([line.get_ydata() for line in drawn]))
            assert found == sorted(steps.dt.values[steps.accepted.values == flag])
            assert found


def test_a_diverging_descent_does_not_set_the_view(diverging: xr.DataTree) -> None:
    axes = axes_of(plot_run(diverging))
    assert np.nanmax(diverging["descent"].theta.values) > 1e9
    assert max(np.abs(axes["theta_plane"].get_xlim())) < 50
    calm = diverging["comparison"].distance.sel(step_size=0.02).max()
    assert axes["distance"].get_ylim()[1] <= calm * SLACK * 1.001


VALUES = st.one_of(st.floats(), st.just(0.0))


@settings(max_examples=12, phases=[Phase.explicit, Phase.generate])
@given(values=st.lists(VALUES, min_size=21, max_size=21))
def test_no_value_breaks_a_panel(linear: xr.DataTree, values: list[float]) -> None:
    tree = linear.copy(deep=True)
    for name in ("loss", "sphere_radius", "sharpness"):
        tree["flow"][name].values[:] = values
    for name in ("distance", "loss_difference"):
        tree["comparison"][name].values[:, :21] = values
    figure = plot_run(tree)
    figure.canvas.draw()
    kept = [value for value in values if abs(value) < HUGE]
    lines = lines_of(axes_of(figure)["sharpness"], "black") if len(kept) > 1 else []
    assert [list(line.get_ydata()) for line in lines] == [kept] * (len(kept) > 1)


@pytest.mark.parametrize(("zeros", "scale"), [([0.02], "log"), (ETAS, "linear")])
def test_a_line_of_zeros_does_not_break_the_axis(
    zeros: list[float], scale: str, linear: xr.DataTree
) -> None:
    tree = linear.copy(deep=True)
    for name in ("distance", "path_distance"):
        tree["comparison"][name].loc[{"step_size": zeros}] *= 0
    figure = plot_run(tree)
    figure.canvas.draw()
    assert axes_of(figure)["distance"].get_yscale() == scale
