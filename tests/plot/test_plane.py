"""The path in the plane of theta1 and theta2."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from drawn import ETAS, X3, Y3, axes_of, lines_of, same
from hypothesis import given
from hypothesis import strategies as st

import gflow
from gflow.plot import plot_run
from gflow.plot.plane import plane


def test_the_path_of_one_input_runs_on_its_circle(linear: xr.DataTree) -> None:
    ax = axes_of(plot_run(linear))["theta_plane"]
    theta, radius = linear["flow"].theta.values, float(linear["reference"].sphere_radius)
    assert same(lines_of(ax, "black")[0], theta[:, 0], theta[:, 1])
    circles = [line for line in ax.lines if len(line.get_xdata()) == 361]
    assert len(circles) == 1
    x, y = circles[0].get_data()
    np.testing.assert_allclose(np.hypot(x, y - 1), radius, rtol=1e-14)
    assert x.min() == pytest.approx(-radius, rel=1e-3)
    points = {tuple(np.ravel(line.get_data())) for line in ax.lines if len(line.get_xdata()) == 1}
    limit, target = linear["reference"].theta_limit.values, linear["problem"].theta_target.values
    assert {(0.0, 1.0), tuple(limit), tuple(target), tuple(theta[0]), tuple(theta[-1])} <= points
    assert ax.get_aspect() == 1.0


def test_the_path_of_several_inputs_runs_on_half_a_circle() -> None:
    problem = gflow.Problem(gflow.LinearDEQ(dim=3), X3, Y3)
    tree = gflow.compare(problem, [0.1, 0.2, 0.0, 0.1], ETAS, 5.0, times=21)
    ax = axes_of(plot_run(tree))["theta_plane"]
    theta = tree["flow"].theta.values
    path = lines_of(ax, "black")[0]
    np.testing.assert_allclose(path.get_xdata(), np.linalg.norm(theta[:, :3], axis=1))
    np.testing.assert_array_equal(path.get_ydata(), theta[:, 3])
    (half,) = (line for line in ax.lines if len(line.get_xdata()) == 361)
    assert np.min(half.get_xdata()) >= 0
    assert "sphere (half circle)" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert r"|\theta_1|" in ax.get_xlabel()


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4), min_size=1, max_size=5))
def test_the_plane_keeps_the_distance_to_the_singular_point(rows: list[list[float]]) -> None:
    theta = np.array(rows)
    centre = np.array([0.0, 0.0, 0.0, 1.0])
    expected = np.linalg.norm(theta - centre, axis=1)
    np.testing.assert_allclose(np.linalg.norm(plane(theta) - [0, 1], axis=1), expected, atol=1e-12)


def test_the_region_without_a_unique_equilibrium_is_shaded_in_view(
    lost: xr.DataTree, tanh: xr.DataTree
) -> None:
    ax = axes_of(plot_run(lost))["theta_plane"]
    (patch,) = ax.patches
    low, high = patch.get_extents().transformed(ax.transData.inverted()).intervaly
    assert low == pytest.approx(1.0)
    assert high >= ax.get_ylim()[1] - 1e-9
    assert not axes_of(plot_run(tanh))["theta_plane"].patches
    assert not [line for line in ax.lines if len(line.get_xdata()) == 361]


def test_no_region_is_shaded_where_the_models_have_edges_of_their_own() -> None:
    names = ("weak-tanh:0.5", "weak-tanh:2")
    problems = [gflow.Problem(gflow.SingleIndexDEQ(3, activation=one), X3, Y3) for one in names]
    starts = [[0.1, 0.0, 0.0, 0.3], [0.1, 0.0, 0.0, 1.4]]
    figure = plot_run(gflow.integrate(problems, starts, t_end=1.0, times=5))
    assert not axes_of(figure)["theta_plane"].patches
    assert "several models" in figure.get_suptitle()
