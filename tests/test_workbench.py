"""From a problem to a labelled dataset, through the public functions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import gflow
from gflow.errors import GflowError, MethodError, ProblemError
from gflow.recording import DIAGNOSTICS

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


OTHERS = ("reference", "eigenvalues", "error_estimate")


@pytest.mark.parametrize("name", [n for n in DIAGNOSTICS if n not in OTHERS])
def test_every_diagnostic_can_be_switched_off(linear: gflow.Problem, name: str) -> None:
    extras, start = {"evaluation": (X[:5], X[:5] @ [1.0, -0.5]), "times": 3}, [0.1, 0.2, 0.0]
    if name == "accuracy":
        classes = (X[:, 0] > 0).astype(float)
        linear = gflow.Problem(linear.model, X, classes, loss="logistic")
        extras["evaluation"] = (X[:5], classes[:5])
    if name in ("invariant_drift", "adjoint_residual"):
        linear = gflow.Problem(gflow.VectorDEQ(2, 3, activation="identity"), X, np.zeros(40))
        start = linear.model.initial(0)
    on = gflow.integrate(linear, start, 1.0, **extras)
    off = gflow.integrate(linear, start, 1.0, diagnostics={name: False}, **extras)
    assert name in on["flow"]
    assert np.isfinite(on["flow"][name]).all()
    assert name not in off["flow"]


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
    assert tree["descent"]["both"].dims == ("step_size", "record", "both_component")


@pytest.mark.parametrize(
    ("observables", "sentence"),
    [
        ({"loss": lambda theta: 1.0}, "needs a name of its own"),
        ({"bad name": lambda theta: 1.0}, "needs a name of its own"),
        ({"broken": lambda theta: 1 / 0}, "failed: ZeroDivisionError"),
        ({"matrix": lambda theta: torch.eye(2)}, "is no vector"),
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
    np.testing.assert_allclose(flow.theta[2], alone.theta, rtol=1e-5)
    assert np.isnan(flow.theta[1, 1:]).all()
    assert (tree["flow_steps"].accepted[1] == -1).all()
    gflow.validate(tree)


def test_an_ensemble_of_problems(tanh: gflow.Problem) -> None:
    other = tanh.on(X, np.zeros(40))
    tree = gflow.integrate([tanh, other], [0.1, 0.2, 0.0], 1.0, times=3)
    alone = gflow.integrate(other, [0.1, 0.2, 0.0], 1.0, times=3)
    np.testing.assert_allclose(tree["flow"].loss[1], alone["flow"].loss, rtol=1e-5)


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
        ({"t_end": -1.0}, "t_end is -1.0; it must be a positive number"),
        ({"t_end": math.nan}, "it must be a positive number"),
        ({"t_end": "abc"}, "t_end is 'abc'"),
        ({"atol": 0.0}, "atol is 0.0"),
        ({"rtol": "1e-6"}, "rtol is '1e-6'"),
        ({"step_size": 0.1}, "chooses its own steps"),
        ({"step_size": -0.1, "method": "rk4"}, "step_size is -0.1"),
        ({"diagnostics": {"sharpness": "none"}}, "must be True or False"),
        ({"t_end": math.inf}, "t_end is infinite; give a stopping rule"),
        ({"method": "dopri"}, "did you mean"),
        ({"rtol": 1e-16}, "rtol is 1e-16"),
        ({"method": "rk4"}, "needs step_size"),
        ({"times": [0.0, 5.0]}, "beyond t_end"),
        ({"spacing": "cubic"}, "must be linear or log"),
        ({"stop": {"los": 1}}, 'did you mean "loss"'),
        ({"flow": "nesterow"}, 'flow "nesterow" is unknown'),
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


def test_a_run_without_stored_data_is_saved(linear: gflow.Problem, tmp_path: Path) -> None:
    tree = gflow.integrate(linear, [0.1, 0.2, 0.0], 1.0, times=2, store_data=False)
    assert gflow.open(gflow.save(tree, tmp_path / "run.nc")).identical(tree)


def test_what_fails_late_is_kept(linear: gflow.Problem) -> None:
    """An observable that works at the start only gives NaN and says so."""

    def fragile(theta: torch.Tensor) -> float:
        if theta[0] > 0.3:
            raise ValueError("too large")
        return 1.0

    flow = gflow.integrate(linear, [0.1, 0.2, 0.0], 5.0, observables={"f": fragile})["flow"]
    assert float(flow["f"][0]) == 1.0
    assert np.isnan(flow["f"][-1])
    assert "ValueError at theta" in flow["f"].attrs["failure"]


@pytest.mark.parametrize("method", ["auto", "Radau", "dopri5"])
def test_an_endless_flow_that_never_meets_its_rule_stalls(tanh: gflow.Problem, method: str) -> None:
    tree = gflow.integrate(
        tanh, [0.1, 0.2, 0.0], math.inf, method=method, stop={"loss": 1e-300, "max_steps": 3000}
    )
    assert str(tree["flow"].status.values) in ("stalled", "step_limit")
    assert np.isfinite(tree["flow"].time).all()
    assert tree["flow"].time.size == 200


@pytest.mark.parametrize("method", ["euler", "rk4", "heun3", "explicit_adams"])
def test_a_wall_limit_keeps_a_fixed_step_run(tanh: gflow.Problem, method: str) -> None:
    tree = gflow.compare(
        tanh,
        [0.1, 0.2, 0.0],
        [0.1],
        50.0,
        method=method,
        step_size=1e-5,
        stop={"wall_seconds": 0.3},
    )
    assert str(tree["flow"].status.values) == "wall_limit"
    gflow.validate(tree)


def test_a_step_that_does_not_divide_is_told(tanh: gflow.Problem) -> None:
    flow = gflow.integrate(tanh, [0.1, 0.2, 0.0], 5.0, method="euler", step_size=0.3)["flow"]
    assert "step_size 0.3 shortened to 0.294118, 17 of which" in str(flow.method_reason.values)
    assert int(flow.nfe) == 18


def test_an_interrupted_ensemble_keeps_what_is_done(
    tanh: gflow.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def once(progress: object) -> None:
        calls.append(progress)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("gflow.flow_run.Ticker.INTERVAL", 0.0)
    tree = gflow.integrate(tanh, np.zeros((4, 3)), 1.0, method="dopri5", progress=once)
    assert list(tree["flow"].status.values) == ["interrupted"] * 4
    assert float(tree["flow"].t_final[0]) > 0
    assert (tree["flow"].t_final[1:] == 0).all()
    gflow.validate(tree)


def test_a_list_of_problems_is_described_as_one(tanh: gflow.Problem) -> None:
    other = tanh.on(X[:7], np.zeros(7))
    tree = gflow.integrate([tanh, other], [0.1, 0.2, 0.0], 1.0, times=3)
    described = tree["problem"]
    assert described.samples.values.tolist() == [40, 7]
    assert described.attrs["data_source"].startswith("2 problems")
    assert "inputs" not in described
    assert (
        tree.attrs["data_sha256"]
        != gflow.integrate(tanh, [0.1, 0.2, 0.0], 1.0, times=2).attrs["data_sha256"]
    )
    assert tree["flow"].method_reason.dims == ("trajectory",)


def test_an_endless_flow_steps_onto_explicit_saves(tanh: gflow.Problem) -> None:
    arguments = {"times": [0.5, 1.0], "rtol": 1e-8, "atol": 1e-10, "stop": {"gradient_norm": 1e-3}}
    flow = gflow.integrate(tanh, [0.1, 0.2, 0.0], math.inf, method="dopri8", **arguments)["flow"]
    best = gflow.integrate(tanh, [0.1, 0.2, 0.0], 1.0, times=[0.5], rtol=1e-11, atol=1e-13)["flow"]
    np.testing.assert_allclose(flow.theta[1:3], best.theta[1:3], rtol=1e-7)


def test_a_flow_does_not_creep_towards_the_edge_where_its_equilibrium_is_lost() -> None:
    x = np.random.default_rng(42).uniform(0, 1, 100)
    problem = gflow.Problem(gflow.SingleIndexDEQ(1, "tanh"), x, np.tanh(2 * x))
    flow = gflow.integrate(problem, [0.01, 0.95], 10.0, times=3)["flow"]
    assert str(flow.status.values) == "equilibrium_lost"
    assert 0 <= 1 - float(flow.theta[-1, 1]) < 1e-9
    assert int(flow.nfe) < 1500


@pytest.mark.parametrize("t_end", [1.0, 1e308])
def test_fixed_steps_without_end_are_refused(t_end):
    problem = gflow.Problem(gflow.LinearDEQ(dim=1), [[0.5], [1.0]], [1.0, 2.0])
    with pytest.raises(MethodError, match="take a larger one, or give a stop"):
        gflow.integrate(problem, [0.1, 0.0], t_end, method="rk4", step_size=1e-300)
    tree = gflow.integrate(
        problem, [0.1, 0.0], t_end, method="rk4", step_size=1e-300, stop={"max_steps": 3}
    )
    assert tree["flow"].status == "step_limit"
