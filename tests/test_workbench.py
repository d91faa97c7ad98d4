"""From a problem to a labelled dataset, through the public functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr

import gflow
from gflow.errors import GflowError, ProblemError
from gflow.workbench import DIAGNOSTICS

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 2))


@pytest.fixture(scope="module")
def linear() -> gflow.Problem:
    return gflow.Problem(gflow.LinearDEQ(2), X, X @ [1.0, -0.5], theta_target=[1.0, -0.5, 0.0])


@pytest.fixture(scope="module")
def tanh() -> gflow.Problem:
    model = gflow.SingleIndexDEQ(2, "tanh")
    y = gflow.Problem(model, X, np.zeros(40)).predict([1.0, -0.5, 0.2])
    return gflow.Problem(model, X, y)


def test_the_groups_of_each_function(linear: gflow.Problem, tanh: gflow.Problem) -> None:
    start = [0.1, 0.2, 0.0]
    assert set(gflow.integrate(linear, start, 1.0, times=3).children) == {
        "problem",
        "flow",
        "flow_steps",
        "reference",
    }
    assert set(gflow.integrate(tanh, start, 1.0, times=3).children) == {
        "problem",
        "flow",
        "flow_steps",
    }
    assert set(gflow.descend(tanh, start, [0.1], 1.0).children) == {"problem", "descent"}
    compared = gflow.compare(tanh, start, [0.1], 1.0, times=3)
    assert set(compared.children) == {"problem", "flow", "flow_steps", "descent", "comparison"}


@pytest.mark.parametrize("name", [n for n in DIAGNOSTICS if n != "reference"])
def test_every_diagnostic_can_be_switched_off(linear: gflow.Problem, name: str) -> None:
    extras = {"evaluation": (X[:5], X[:5] @ [1.0, -0.5]), "times": 3}
    on = gflow.integrate(linear, [0.1, 0.2, 0.0], 1.0, **extras)
    off = gflow.integrate(linear, [0.1, 0.2, 0.0], 1.0, diagnostics={name: False}, **extras)
    assert name in on["flow"]
    assert np.isfinite(on["flow"][name]).all()
    assert (name in off["flow"]) == (name == "loss")


def test_the_reference_can_be_switched_off(linear: gflow.Problem) -> None:
    off = {"reference": False}
    assert "reference" not in gflow.integrate(linear, [0.1, 0, 0], 1, diagnostics=off).children
    tree = gflow.compare(linear, [0.1, 0, 0], [0.1], 1, diagnostics=off)
    assert "reference" not in tree.children


def test_diagnostics_agree_with_the_problem(tanh: gflow.Problem) -> None:
    flow = gflow.integrate(tanh, [0.1, 0.2, 0.0], 2.0, times=5)["flow"]
    theta = torch.from_numpy(flow.theta.values)
    np.testing.assert_allclose(flow.loss, tanh.loss(theta), rtol=1e-12)
    np.testing.assert_allclose(flow.gradient_norm, tanh.gradient(theta).norm(dim=-1), rtol=1e-10)
    largest = torch.linalg.eigvalsh(tanh.hessian(theta))[:, -1]
    np.testing.assert_allclose(flow.sharpness, largest, rtol=1e-10)


def test_the_sharpness_is_thinned_where_it_would_dominate() -> None:
    d = 120
    x = RNG.normal(size=(30, d)) / np.sqrt(d)
    problem = gflow.Problem(gflow.SingleIndexDEQ(d, "tanh"), x, np.tanh(x[:, 0]))
    start = np.zeros(d + 1)
    thin = gflow.integrate(problem, start, 1.0, times=100)["flow"].sharpness
    full = gflow.integrate(problem, start, 1.0, times=100, diagnostics={"sharpness": "all"})
    assert 5 <= int(np.isfinite(thin).sum()) < 100
    assert np.isfinite(thin.values[[0, -1]]).all()
    assert np.isfinite(full["flow"].sharpness).all()


def test_observables_are_stored(linear: gflow.Problem) -> None:
    tree = gflow.compare(
        linear,
        [0.1, 0.2, 0.0],
        [0.1],
        1.0,
        times=4,
        observables={"norm": lambda theta: theta.norm(), "both": lambda theta: theta[:2]},
    )
    expected = np.linalg.norm(tree["flow"].theta, axis=-1)
    np.testing.assert_allclose(tree["flow"]["norm"], expected, rtol=1e-14)
    assert tree["descent"]["both"].dims == ("step_size", "record", "component")


@pytest.mark.parametrize(
    ("observables", "sentence"),
    [
        ({"loss": lambda theta: 1.0}, "needs a name of its own"),
        ({"bad name": lambda theta: 1.0}, "needs a name of its own"),
        ({"broken": lambda theta: 1 / 0}, "failed: ZeroDivisionError"),
        ({"matrix": lambda theta: torch.eye(2)}, "not a vector"),
    ],
)
def test_a_wrong_observable_is_told(
    linear: gflow.Problem, observables: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ProblemError, match=sentence):
        gflow.integrate(linear, [0.1, 0.2, 0.0], 1.0, times=3, observables=observables)


def test_saves_may_be_explicit(tanh: gflow.Problem) -> None:
    flow = gflow.integrate(tanh, [0.1, 0.2, 0.0], 2.0, times=[0.5, 1.0])["flow"]
    np.testing.assert_array_equal(flow.time, [0.0, 0.5, 1.0, 2.0])


def test_an_infinite_flow_stops_where_asked(tanh: gflow.Problem) -> None:
    flow = gflow.integrate(
        tanh, [0.1, 0.2, 0.0], math.inf, stop={"gradient_norm": 1e-6}, times=7, spacing="log"
    )["flow"]
    assert str(flow.status.values) == "gradient_norm"
    assert flow.time.size == 7
    assert float(flow.gradient_norm[-1]) == pytest.approx(1e-6, rel=1e-2)
    assert (flow.gradient_norm[:-1] > 1e-6).all()


def test_an_ensemble_is_its_members(tanh: gflow.Problem) -> None:
    starts = np.array([[0.1, 0.2, 0.0], [0.5, 0.0, 2.0], [1.0, -1.0, -0.5]])
    tree = gflow.integrate(tanh, starts, 2.0, times=5)
    flow = tree["flow"]
    assert flow.theta.dims == ("trajectory", "time", "parameter")
    assert list(flow.status.values) == ["t_end", "equilibrium_lost", "t_end"]
    alone = gflow.integrate(tanh, starts[2], 2.0, times=5)["flow"]
    np.testing.assert_array_equal(flow.theta[2], alone.theta)
    assert np.isnan(flow.theta[1, 1:]).all()
    assert (tree["flow_steps"].accepted[1] == -1).all()
    gflow.validate(tree)


def test_an_ensemble_of_problems(tanh: gflow.Problem) -> None:
    other = tanh.on(X, np.zeros(40))
    tree = gflow.integrate([tanh, other], [0.1, 0.2, 0.0], 1.0, times=3)
    alone = gflow.integrate(other, [0.1, 0.2, 0.0], 1.0, times=3)
    np.testing.assert_array_equal(tree["flow"].loss[1], alone["flow"].loss)


def test_the_comparison_is_at_equal_times(tanh: gflow.Problem) -> None:
    tree = gflow.compare(tanh, [0.1, 0.2, 0.0], [0.3, 0.01], 2.0, times=3, rtol=1e-9, atol=1e-12)
    comparison, descent = tree["comparison"].to_dataset(), tree["descent"].to_dataset()
    np.testing.assert_array_equal(comparison.time, descent.time)
    place = 5
    t = float(descent.time[0, place])
    theta = gflow.integrate(tanh, [0.1, 0.2, 0.0], t, times=2, rtol=1e-9, atol=1e-12)["flow"].theta
    gap = np.linalg.norm(descent.theta[0, place] - theta[-1])
    assert float(comparison.distance[0, place]) == pytest.approx(gap, abs=1e-8)
    largest = comparison.distance.max("record")
    assert float(largest[1]) < float(largest[0])
    short = comparison.path_distance <= comparison.distance + 1e-12
    assert bool(short.where(comparison.time.notnull(), True).all())


@pytest.mark.parametrize("method", ["dopri8", "bosh3", "dopri5", "LSODA"])
def test_the_comparison_holds_the_flow_s_tolerance(tanh: gflow.Problem, method: str) -> None:
    """Also for methods whose dense output does not: they step onto the records."""
    start, rtol = [0.1, 0.2, 0.0], 1e-7
    arguments = {"times": 3, "records": 30, "rtol": rtol, "atol": rtol, "method": method}
    tree = gflow.compare(tanh, start, [0.1], 2.0, **arguments)
    best = gflow.compare(tanh, start, [0.1], 2.0, records=30, times=3, rtol=1e-11, atol=1e-11)
    error = tree["comparison"].distance - best["comparison"].distance
    assert float(abs(error).max()) <= 10 * rtol


def test_a_comparison_with_a_flow_that_ends_early_keeps_both(tanh: gflow.Problem) -> None:
    tree = gflow.compare(tanh, [0.1, 0.2, 0.0], [0.1], 2.0, stop={"max_steps": 3})
    assert str(tree["flow"].status.values) == "step_limit"
    comparison = tree["comparison"]
    late = comparison.time > float(tree["flow"].time[-1])
    assert np.isnan(comparison.distance.values[late.values]).all()
    assert bool(late.any())
    gflow.validate(tree)


def test_a_flow_that_cannot_start_is_a_dataset(linear: gflow.Problem) -> None:
    tree = gflow.compare(linear, [0.1, 0.2, 1.0], [0.1], 2.0)
    assert str(tree["flow"].status.values) == "equilibrium_lost"
    assert list(tree["descent"].status.values) == ["equilibrium_lost"]
    assert tree["flow"].time.size == 1
    gflow.validate(tree)


@pytest.mark.parametrize("d", [2, 520])
@pytest.mark.parametrize("rule", ["loss", "gradient_norm", "steady_state"])
def test_a_lost_start_is_a_dataset_under_every_stopping_rule(d: int, rule: str) -> None:
    x = RNG.normal(size=(5, d))
    problem = gflow.Problem(gflow.SingleIndexDEQ(d, "tanh"), x, np.zeros(5))
    tree = gflow.integrate(problem, np.append(np.zeros(d), 1.5), 1.0, stop={rule: 1e-3})
    assert str(tree["flow"].status.values) == "equilibrium_lost"
    gflow.validate(tree)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"theta0": [0.1, 0.2]}, r"theta has shape \(2,\)"),
        ({"theta0": [0.1, 0.2, math.nan]}, "theta0 is not finite"),
        ({"theta0": "abc"}, "cannot be read as an array"),
        ({"t_end": -1.0}, "t_end is -1.0; it must be positive"),
        ({"t_end": math.nan}, "it must be positive"),
        ({"t_end": math.inf}, "t_end is infinite; give a stopping rule"),
        ({"method": "dopri"}, "did you mean"),
        ({"rtol": 1e-16}, "rtol is 1e-16"),
        ({"method": "rk4"}, "needs step_size"),
        ({"times": [0.0, 5.0]}, "beyond t_end"),
        ({"spacing": "cubic"}, "must be linear or log"),
        ({"stop": {"los": 1}}, 'did you mean "loss"'),
        ({"flow": "nesterov"}, 'flow "nesterov" is unknown'),
        ({"diagnostics": {"sharpnes": False}}, "diagnostics.sharpnes is unknown"),
    ],
)
def test_a_wrong_argument_is_told(
    linear: gflow.Problem, arguments: dict[str, object], sentence: str
) -> None:
    given = {"theta0": [0.1, 0.2, 0.0], "t_end": 1.0} | arguments
    with pytest.raises(GflowError, match=sentence):
        gflow.integrate(linear, **given)


def test_an_unknown_keyword_is_a_type_error(linear: gflow.Problem) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'observable'"):
        gflow.integrate(linear, [0.1, 0.2, 0.0], 1.0, observable={})


def test_data_is_stored_by_choice(linear: gflow.Problem) -> None:
    kept = gflow.integrate(linear, [0.1, 0.2, 0.0], 1.0, times=2)
    np.testing.assert_array_equal(kept["problem"].inputs, X)
    left: xr.DataTree = gflow.integrate(linear, [0.1, 0.2, 0.0], 1.0, times=2, store_data=False)
    assert "inputs" not in left["problem"]
    np.testing.assert_array_equal(left["problem"].theta_target, [1.0, -0.5, 0.0])
    assert left.attrs["data_sha256"] == kept.attrs["data_sha256"]
