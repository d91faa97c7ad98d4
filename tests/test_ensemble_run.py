"""Rule R8 through the public function: a trajectory of an ensemble is its lone run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import gflow
from gflow.errors import GflowError
from gflow.flow_run import Progress
from gflow.plot import plot_run
from gflow.show import summary

RNG = np.random.default_rng(3)
X = RNG.normal(size=(30, 2))
STARTS = np.column_stack([RNG.normal(size=(6, 2)), RNG.uniform(-0.8, 0.3, size=6)])
NATIVE = ["tsit5", "exprb43"]
RTOL = 1e-6
SETTINGS: dict[str, Any] = {"rtol": RTOL, "atol": 1e-9, "times": 9}
LOST = [0.5, 0.1, 1.5]


def tanh(activation: str = "tanh", samples: int = 30, seed: int = 0) -> gflow.Problem:
    x = X[:samples] + 0.1 * np.random.default_rng(seed).normal(size=(samples, 2))
    model = gflow.SingleIndexDEQ(2, activation)
    target = gflow.Problem(model, x, np.zeros(samples)).predict([1.0, -0.5, -0.4])
    return gflow.Problem(model, x, target)


def drifting() -> gflow.Problem:
    """Targets out of reach for small inputs drive theta2 to 1, where the equilibrium is lost."""
    return gflow.Problem(gflow.SingleIndexDEQ(1, "tanh"), [[0.1], [-0.1]], [0.9, -0.9])


def alone(
    problems: Sequence[gflow.Problem], starts: np.ndarray, t_end: float, **arguments: Any
) -> list[xr.Dataset]:
    pairs = zip(problems, starts, strict=True)
    return [gflow.integrate(p, s, t_end, **arguments)["flow"].to_dataset() for p, s in pairs]


def assert_same_path(flow: xr.Dataset, one: xr.Dataset) -> None:
    """The saves that both hold agree to the tolerance, and so do the ends."""
    shared = np.isin(one.time, flow.time)
    rows = np.isfinite(flow.theta.values).all(-1)
    np.testing.assert_array_equal(flow.time[rows], one.time[shared])
    theta = flow.theta.values[rows]
    np.testing.assert_allclose(theta, one.theta.values[shared], rtol=0, atol=RTOL)
    assert float(flow.t_final) == pytest.approx(float(one.time[-1]), rel=1e-6)
    np.testing.assert_allclose(flow.theta_final, one.theta[-1], rtol=0, atol=RTOL)
    assert float(flow.loss_final) == pytest.approx(float(one.loss[-1]), rel=1e-5)


@pytest.mark.parametrize("method", NATIVE)
def test_one_problem_from_many_starts(method: str) -> None:
    problem = tanh()
    tree = gflow.integrate(problem, STARTS, 5.0, method=method, **SETTINGS)
    for index, one in enumerate(alone([problem] * 6, STARTS, 5.0, method=method, **SETTINGS)):
        flow = tree["flow"].isel(trajectory=index).to_dataset()
        assert_same_path(flow, one)
        assert str(flow.method.values) == str(one.method.values)
        for name in ("loss", "gradient_norm", "sharpness", "conditioning"):
            np.testing.assert_allclose(flow[name], one[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", NATIVE)
def test_problems_with_their_own_data_and_epsilon(method: str) -> None:
    problems = [tanh(f"weak-tanh:{0.1 * (i + 1):g}", seed=i) for i in range(6)]
    evaluation = (X[:4], np.ones(4))
    arguments = SETTINGS | {"method": method, "evaluation": evaluation}
    tree = gflow.integrate(problems, STARTS, 5.0, **arguments)
    for index, one in enumerate(alone(problems, STARTS, 5.0, **arguments)):
        flow = tree["flow"].isel(trajectory=index).to_dataset()
        assert_same_path(flow, one)
        for name in ("loss", "evaluation_loss", "sharpness", "equilibrium_residual"):
            np.testing.assert_allclose(flow[name], one[name], rtol=1e-5, atol=1e-7)


def test_trajectories_that_auto_hands_over_are_audited_and_stopped() -> None:
    """Stiffness differs: those that are stiff go on with another method, the others do not."""
    x = X * [0.3, 2.5]
    model = gflow.LinearDEQ(2)
    problems = [gflow.Problem(model, x, x @ [0.1 + k, -k]) for k in range(5)]
    starts = np.tile([0.1, 0.2, 0.0], (5, 1))
    arguments: dict[str, Any] = {"stop": {"gradient_norm": 1e-3}, "times": 9}
    flow = gflow.integrate(problems, starts, 5.0, **arguments)["flow"].to_dataset()
    methods = [str(method) for method in flow.method.values]
    assert any(" then " in method for method in methods)
    assert "native:tsit5" in methods
    assert float((abs(flow.energy_residual).max("time") / flow.loss[:, 0]).max()) < 1e-5
    tight = arguments | {"rtol": 1e-10, "atol": 1e-13, "method": "LSODA"}
    for index, one in enumerate(alone(problems, starts, 5.0, **tight)):
        member = flow.isel(trajectory=index)
        assert str(member.status.values) == str(one.status.values)
        assert float(member.t_final) == pytest.approx(float(one.time[-1]), rel=1e-3)
        saves = np.isfinite(member.loss.values)
        np.testing.assert_allclose(member.theta[saves], one.theta[: saves.sum()], atol=1e-5)


def test_problems_of_several_shapes_keep_their_order() -> None:
    problems = [tanh(samples=30 - 10 * (i % 2), seed=i) for i in range(6)]
    tree = gflow.integrate(problems, STARTS, 2.0, method="tsit5", **SETTINGS)
    for index, one in enumerate(alone(problems, STARTS, 2.0, method="tsit5", **SETTINGS)):
        assert_same_path(tree["flow"].isel(trajectory=index).to_dataset(), one)


@pytest.mark.parametrize("method", NATIVE)
def test_a_failure_stops_no_other(method: str) -> None:
    starts = np.array([[0.5, 0.0], [0.2, -0.5], [0.5, 1.5], [0.3, -3.0]])
    arguments = {"method": method, "times": 8}
    tree = gflow.integrate(drifting(), starts, 4.0, **arguments)
    flow = tree["flow"].to_dataset()
    for index, one in enumerate(alone([drifting()] * 4, starts, 4.0, **arguments)):
        member = flow.isel(trajectory=index)
        assert str(member.status.values) == str(one.status.values)
        assert float(member.t_final) == pytest.approx(float(one.time[-1]), abs=1e-3)
        told, expected = (str(data.status_message.values) for data in (member, one))
        assert told.partition(" It ended at t = ")[0] == expected.partition(" It ended at t = ")[0]
        assert told.rpartition(": ")[2][:25] == expected.rpartition(": ")[2][:25]
    assert [str(status) for status in flow.status.values] == [
        "equilibrium_lost",
        "t_end",
        "equilibrium_lost",
        "t_end",
    ]
    assert 3.0 < float(flow.t_final[0]) < 3.3
    assert np.isnan(flow.theta[0].sel(time=slice(3.3, None))).all()
    assert np.isfinite(flow.theta[[1, 3]]).all()


def test_a_lost_start_makes_no_step() -> None:
    tree = gflow.integrate(tanh(), [STARTS[0], LOST], 1.0, method="tsit5", times=3)
    flow = tree["flow"].isel(trajectory=1)
    one = gflow.integrate(tanh(), LOST, 1.0, method="tsit5", times=3)["flow"]
    assert str(flow.status_message.values) == str(one.status_message.values)
    assert int(flow.nfe) == int(one.nfe)
    assert (tree["flow_steps"].accepted[1] == -1).all()
    np.testing.assert_array_equal(flow.theta_final, LOST)


RULES = [
    {"loss": 1e-3},
    {"gradient_norm": 1e-2},
    {"steady_state": 1e5},
    {"loss": 1e-3, "gradient_norm": 2e-2},
]


@pytest.mark.parametrize("method", NATIVE)
@pytest.mark.parametrize("stop", RULES, ids=lambda rule: "+".join(rule))
def test_each_trajectory_meets_its_own_rule(stop: dict[str, float], method: str) -> None:
    problems = [tanh(f"weak-tanh:{0.1 * (i + 1):g}", seed=i) for i in range(6)]
    starts = STARTS.copy()
    starts[3] = [1.0, -0.5, -0.4]  # meets every rule where it begins
    arguments = SETTINGS | {"method": method, "stop": stop}
    tree = gflow.integrate(problems, starts, 50.0, **arguments)
    lone = alone(problems, starts, 50.0, **arguments)
    for index, one in enumerate(lone):
        flow = tree["flow"].isel(trajectory=index).to_dataset()
        assert str(flow.status.values) == str(one.status.values)
        assert_same_path(flow, one)
    assert float(tree["flow"].t_final[3]) == 0.0
    assert len({float(t) for t in tree["flow"].t_final}) > 3


@pytest.mark.parametrize("method", NATIVE)
def test_a_rule_met_only_within_a_step_ends_the_flow_there(method: str) -> None:
    """The gradient is small for a while beside a saddle, which an exponential step passes whole."""
    saddle = gflow.Objective(lambda w: 12.5 * w[0] ** 2 - w[1] ** 2 / 2 + w[1] ** 4 / 4, 2)
    given: dict[str, Any] = {"method": method, "stop": {"gradient_norm": 3e-5}, "rtol": 1e-5}
    one = gflow.integrate(saddle, [1.0, 1e-5], 40.0, **given)["flow"]
    two = gflow.integrate(saddle, [[1.0, 1e-5], [2.0, 1e-5]], 40.0, **given)["flow"]
    # x = x0 exp(-25 t) and y = 1e-5 exp(t) up to 1e-9 of it: |(25 x, y)| falls to 3e-5 first there
    expected = [0.5535217, 0.5818468]
    assert set(two.status.values) == {"gradient_norm"}
    assert float(one.time[-1]) == pytest.approx(expected[0], rel=1e-3)
    assert two.t_final.values == pytest.approx(expected, rel=1e-3)


def test_a_rule_met_only_within_an_oscillation_ends_the_flow_there() -> None:
    bowl = gflow.Objective(lambda w: (25 * w[0] ** 2 + w[1] ** 2) / 2, 2)
    given: dict[str, Any] = {"method": "tsit5", "stop": {"loss": 0.03}, "flow": "heavy_ball:5"}
    tree = gflow.integrate(bowl, [[1.0, 0.5], [0.5, 0.2]], 30.0, rtol=1e-4, **given)
    assert tree["flow"].t_final.values == pytest.approx([3.50722, 0.693755], rel=1e-4)


def test_a_ridge_is_no_failure_of_a_lone_flow() -> None:
    """On it an unstable mode rests at 0, and long exponential steps overflow again and again."""
    ridge = gflow.Objective(lambda w: w[0] ** 2 / 2 - 5 * w[1] ** 2 + w[1] ** 4, 2)
    flow = gflow.integrate(ridge, [1.0, 0.0], 1e4, method="expcol8", times=[1.0])["flow"]
    assert str(flow.status.values) == "t_end"
    assert flow.theta.values[1] == pytest.approx([np.exp(-1.0), 0.0], rel=1e-6)


def test_steps_that_overflow_are_rejected_without_a_warning() -> None:
    x = np.random.default_rng(5).normal(size=(25, 2))
    problem = gflow.Problem(gflow.LinearDEQ(dim=2), x, x @ [1.0, -2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = gflow.integrate(problem, [0.1, 0.2, 0.0], 1e308, method="expcol8", times=[1.0])
    assert str(tree["flow"].status.values) == "stalled"


def test_the_step_limit_is_each_trajectory_s_own() -> None:
    tree = gflow.integrate(tanh(), STARTS, 50.0, method="tsit5", stop={"max_steps": 7})
    steps = tree["flow_steps"]
    assert set(tree["flow"].status.values) == {"step_limit"}
    assert ((steps.accepted >= 0).sum("step") == 7).all()
    one = gflow.integrate(tanh(), STARTS[2], 50.0, method="tsit5", stop={"max_steps": 7})
    assert float(tree["flow"].t_final[2]) == pytest.approx(float(one["flow"].time[-1]), rel=1e-6)


@pytest.mark.parametrize("method", ["tsit5", "dopri5"])
def test_the_wall_limit_is_the_whole_ensemble_s(method: str) -> None:
    stop = {"wall_seconds": 0.2}
    tree = gflow.integrate(tanh(), STARTS, 1e5, method=method, stop=stop, rtol=1e-10)
    assert str(tree["flow"].status.values[-1]) == "wall_limit"
    assert 0.2 <= float(tree["flow"].wall_seconds) < 3.0
    gflow.validate(tree)


@pytest.mark.parametrize("method", ["auto", "LSODA", *NATIVE])
def test_endless_flows_share_one_grid(method: str) -> None:
    arguments: dict[str, Any] = {"stop": {"gradient_norm": 1e-3}, "rtol": 1e-8, "atol": 1e-11}
    arguments["method"] = method
    tree = gflow.integrate(tanh(), [*STARTS[:3], LOST], math.inf, times=7, **arguments)
    flow = tree["flow"].to_dataset()
    assert flow.time.size == 7
    assert float(flow.t_final.max()) == float(flow.time[-1])
    for index, one in enumerate(alone([tanh()] * 3, STARTS[:3], math.inf, times=3, **arguments)):
        member = flow.isel(trajectory=index)
        np.testing.assert_allclose(member.theta_final, one.theta[-1], atol=1e-6)
        inside = member.time.values <= float(member.t_final)
        np.testing.assert_array_equal(np.isfinite(member.loss), inside)
        assert (np.diff(member.loss[inside]) < 0).all()
        assert float(abs(member.energy_residual[inside]).max()) < 1e-7
    assert str(flow.status.values[3]) == "equilibrium_lost"
    gflow.validate(tree)


def test_endless_flows_of_several_shapes_and_ways_share_one_grid() -> None:
    """Those of one shape go together, and one meets its rule where it begins."""
    problems = [tanh(samples=30 - 10 * (i % 2), seed=i) for i in range(5)]
    starts = np.array([*STARTS[:4], [1.0, -0.5, -0.4]])
    problems[4] = tanh()
    arguments: dict[str, Any] = {"stop": {"gradient_norm": 1e-2}, "method": "tsit5", "times": 9}
    flow = gflow.integrate(problems, starts, math.inf, **arguments)["flow"].to_dataset()
    saves = flow.time.values
    assert len(saves) == 9
    assert float(flow.t_final[4]) == 0.0
    for index in range(4):
        member, end = flow.isel(trajectory=index), float(flow.t_final[index])
        times = [*saves[saves < end], end]
        arguments["times"] = times[1:]
        one = gflow.integrate(problems[index], starts[index], math.inf, **arguments)["flow"]
        assert str(member.status.values) == str(one.status.values) == "gradient_norm"
        np.testing.assert_allclose(member.t_final, one.time[-1], rtol=1e-5)
        kept = member.theta.values[saves < end]
        np.testing.assert_allclose(kept, one.theta[: len(kept)], rtol=0, atol=RTOL)
        np.testing.assert_array_equal(np.isfinite(member.loss), saves <= end)


def _check_that_six_kept_their_part(flow: Any) -> None:
    assert (flow.t_final[:6] > 0).all()
    assert (flow.loss_final[:6] < flow.loss[:6, 0]).all()
    inside = flow.time.values <= flow.t_final.values[:, None]
    np.testing.assert_array_equal(np.isfinite(flow.theta).all("parameter"), inside)


@pytest.mark.parametrize("t_end", [1e9, math.inf])
def test_an_interruption_keeps_what_every_row_has_done(
    monkeypatch: pytest.MonkeyPatch, t_end: float
) -> None:
    seen: list[Progress] = []

    def report(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 30:
            raise KeyboardInterrupt

    monkeypatch.setattr("gflow.flow_run.Ticker.INTERVAL", 0.0)
    arguments: dict[str, Any] = {"stop": {"loss": 1e-300}, "method": "tsit5", "times": 9}
    starts = np.array([*STARTS, [1.0, -0.5, -0.4]])  # the last is where the loss is zero
    tree = gflow.integrate(tanh(), starts, t_end, progress=report, **arguments)
    flow = tree["flow"].to_dataset()
    assert flow.status.values.tolist() == ["interrupted"] * 6 + ["loss"]
    _check_that_six_kept_their_part(flow)
    assert math.isnan(seen[0].fraction) == math.isinf(t_end)
    gflow.validate(tree)


@pytest.mark.parametrize("t_end", [1e9, math.inf])
def test_the_wall_limit_keeps_what_every_row_has_done(t_end: float) -> None:
    stop = {"wall_seconds": 0.3, "loss": 1e-300}
    starts = np.array([*STARTS, [1.0, -0.5, -0.4]])
    tree = gflow.integrate(tanh(), starts, t_end, method="tsit5", stop=stop, times=9, rtol=1e-10)
    flow = tree["flow"].to_dataset()
    assert flow.status.values.tolist() == ["wall_limit"] * 6 + ["loss"]
    _check_that_six_kept_their_part(flow)
    gflow.validate(tree)


def test_endless_flows_with_saves_of_their_own() -> None:
    arguments: dict[str, Any] = {"stop": {"gradient_norm": 1e-2}, "method": "tsit5"}
    arguments["times"] = [0.5, 1.0, 200.0]
    tree = gflow.integrate(tanh(), STARTS, math.inf, **arguments)
    np.testing.assert_array_equal(tree["flow"].time, [0.0, 0.5, 1.0, 200.0])
    for index, one in enumerate(alone([tanh()] * 6, STARTS, math.inf, **arguments)):
        assert_same_path(tree["flow"].isel(trajectory=index).to_dataset(), one)


@pytest.mark.parametrize("method", ["auto", *NATIVE[1:]])
def test_one_at_rest_leaves_the_saves_to_the_others(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The loss of noisy targets does not fall to the rule."""
    for module in ("trouble", "run"):
        monkeypatch.setattr(f"gflow.integrators.{module}.FOREVER", 1e6)
    x, noise = X[:, :2], np.random.default_rng(5).normal(size=30)
    targets = [x @ [1.0, -1.0], x @ [1.0, -1.0] + 0.1 * noise]
    problems = [gflow.Problem(gflow.LinearDEQ(2), x, y) for y in targets]
    arguments: dict[str, Any] = {"method": method, "stop": {"loss": 1e-4}, "times": 5}
    tree = gflow.integrate(problems, [[0.1, 0.1, 0.0]] * 2, math.inf, **arguments)
    flow = tree["flow"].to_dataset()
    assert flow.status.values.tolist() == ["loss", "stalled"]
    assert float(flow.time[-1]) == float(flow.t_final[0]) < 100 < float(flow.t_final[1])
    assert np.isfinite(flow.theta).all()
    least = problems[1].loss(np.append(np.linalg.lstsq(x, targets[1], rcond=None)[0], 0.0))
    assert float(flow.loss_final[1]) == pytest.approx(float(least), rel=1e-6)
    gflow.validate(tree)


def test_endless_flows_that_all_fail_at_once() -> None:
    tree = gflow.integrate(tanh(), [LOST, LOST], math.inf, stop={"loss": 1e-3})
    assert list(tree["flow"].time) == [0.0]
    assert list(tree["flow"].status.values) == ["equilibrium_lost"] * 2


@pytest.mark.parametrize("method", ["tsit5", "LSODA"])
def test_explicit_saves_are_joined_by_the_start_and_the_end(method: str) -> None:
    tree = gflow.integrate(tanh(), STARTS, 2.0, method=method, times=[0.5, 1.0])
    np.testing.assert_array_equal(tree["flow"].time, [0.0, 0.5, 1.0, 2.0])
    assert np.isfinite(tree["flow"].loss).all()


@pytest.mark.parametrize("method", NATIVE)
def test_the_energy_audit_of_a_batch_is_that_of_its_members(method: str) -> None:
    problems = [tanh(f"weak-tanh:{0.1 * (i + 1):g}", seed=i) for i in range(6)]
    arguments = SETTINGS | {"method": method, "stop": {"loss": 1e-6}}
    flow = gflow.integrate(problems, STARTS, 20.0, **arguments)["flow"].to_dataset()
    largest = abs(flow.energy_residual).max("time") / flow.loss[:, 0]
    assert float(largest.max()) < RTOL
    for index, one in enumerate(alone(problems, STARTS, 20.0, **arguments)):
        shared = np.isin(flow.time, one.time)
        residual = flow.energy_residual.values[index]
        np.testing.assert_array_equal(np.isfinite(residual), shared)
        saved = one.energy_residual.values[np.isin(one.time, flow.time)]
        np.testing.assert_allclose(residual[shared], saved, atol=1e-7 * float(one.loss[0]))


def test_the_step_log_of_an_ensemble_is_padded() -> None:
    tree = gflow.integrate(tanh(), STARTS, 5.0, method="tsit5", times=3)
    steps = tree["flow_steps"].to_dataset()
    one = gflow.integrate(tanh(), STARTS[1], 5.0, method="tsit5", times=3)["flow_steps"]
    count = one.sizes["step"]
    np.testing.assert_allclose(steps.dt[1, :count], one.dt, rtol=1e-6)
    np.testing.assert_array_equal(steps.accepted[1, :count], one.accepted)
    assert (steps.nfe[1, count:] == -1).all()
    assert steps.dt[1, count:].isnull().all()
    assert (one.jvps == 0).all()


@pytest.mark.parametrize("method", ["tsit5", "LSODA"])
def test_an_ensemble_file_is_read_shown_and_drawn(tmp_path: Path, method: str) -> None:
    problems = [tanh(), tanh(seed=1), tanh(seed=2)]
    starts = np.array([STARTS[0], LOST, STARTS[1]])
    arguments: dict[str, Any] = {"method": method, "stop": {"loss": 1e-3}, "times": 6}
    arguments["observables"] = {"first": lambda theta: theta[:2]}
    tree = gflow.integrate(problems, starts, 30.0, **arguments)
    again = gflow.open(gflow.save(tree, tmp_path / "run.nc"))
    assert again.identical(tree)
    assert again["flow"]["first"].dims == ("trajectory", "time", "first_component")
    header, first, second, _ = dict(summary(again))["Flows"]
    assert header[:4] == ("trajectory", "status", "t reached", "loss")
    assert first[1:4] == ("loss", f"{float(again['flow'].t_final[0]):.6g}", "0.001")
    assert second[1:4] == ("equilibrium_lost", "0", "-")
    assert len(plot_run(again).axes) > 2


def test_closed_forms_have_a_row_a_trajectory() -> None:
    problems = [gflow.Problem(gflow.LinearDEQ(2), X, X @ [1.0, k]) for k in range(3)]
    starts = np.array([[0.1, 0.2, 0.0], [0.1, 0.2, 1.0], [0.3, 0.0, 0.5]])
    tree = gflow.integrate(problems, starts, 30.0, method="exprb43", times=4)
    known, flow = tree["reference"].to_dataset(), tree["flow"].to_dataset()
    assert known.loss_bound.dims == ("trajectory", "time")
    assert known.loss_bound[1].isnull().all()
    for index in (0, 2):
        radius = flow.sphere_radius[index]
        np.testing.assert_allclose(radius, known.sphere_radius[index], rtol=1e-5)
        np.testing.assert_allclose(flow.theta_final[index], known.theta_limit[index], atol=1e-4)
        np.testing.assert_allclose(
            flow.sharpness_final[index], known.sharpness_limit[index], rtol=1e-3
        )
    gflow.validate(tree)
    assert len(plot_run(tree).axes) > 2


@pytest.mark.parametrize("method", ["tsit5", "dopri5"])
def test_progress_rises_to_the_whole(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    seen: list[Progress] = []
    monkeypatch.setattr("gflow.flow_run.Ticker.INTERVAL", 0.0)
    problems = [tanh(samples=30 - 10 * (i % 2)) for i in range(6)]
    gflow.integrate(problems, STARTS, 5.0, method=method, progress=seen.append)
    fractions = [one.fraction for one in seen]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 0.2
    assert fractions[-1] == pytest.approx(1.0)
    assert all(one.nfe > 0 and math.isfinite(one.loss) for one in seen)


def test_an_interruption_keeps_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def report(progress: Progress) -> None:
        calls.append(progress)
        if len(calls) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("gflow.flow_run.Ticker.INTERVAL", 0.0)
    problems = [tanh(samples=30 - 10 * (i % 2)) for i in range(6)]
    tree = gflow.integrate(problems, STARTS, 5.0, method="tsit5", progress=report, times=50)
    flow = tree["flow"].to_dataset()
    assert set(flow.status.values) == {"interrupted"}
    assert (flow.t_final[::2] > 0).all()
    assert (flow.t_final[1::2] == 0).all()
    assert "before it began" in str(flow.method_reason.values[1])
    np.testing.assert_array_equal(flow.theta_final[1::2], STARTS[1::2])
    gflow.validate(tree)


def test_problems_of_several_dtypes_are_refused() -> None:
    single = gflow.Problem(gflow.SingleIndexDEQ(2), X, X[:, 0], dtype="float32")
    with pytest.raises(GflowError, match="same parameters, dtype and device"):
        gflow.integrate([tanh(), single], STARTS[:2], 1.0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "nothing"}, 'method "nothing" is unknown'),
        ({"method": "tsit5", "step_size": 0.1}, "chooses its own steps"),
        ({"stop": {"los": 1}}, "stop.los is unknown"),
        ({"flow": "newton"}, 'flow "newton" is unknown'),
        ({"rtol": 1e-16}, "rtol is 1e-16"),
    ],
)
def test_a_wrong_argument_is_told(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GflowError, match=sentence):
        gflow.integrate(tanh(), STARTS, 1.0, **arguments)


def test_linear_problems_with_inputs_of_their_own() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(3, 8, 2))
    problems = [gflow.Problem(gflow.LinearDEQ(2), x, x @ rng.normal(size=2)) for x in inputs]
    tree = gflow.integrate(problems, [[0.3, 0.1, 0.0]] * 3, 3.0, method="tsit5", times=5)
    alone = gflow.integrate(problems[1], [0.3, 0.1, 0.0], 3.0, method="tsit5", times=5)
    apart = np.abs(tree["flow"].theta.values[1] - alone["flow"].theta.values)
    assert apart.max() < 1e-9


def test_the_file_says_which_problem_each_trajectory_is_of() -> None:
    x = np.linspace(-1, 1, 6)[:, None]
    models = [gflow.SingleIndexDEQ(1, f"weak-tanh:{e}") for e in (0.25, 0.5)]
    problems = [gflow.Problem(model, x, x[:, 0]) for model in models]
    problems[1] = gflow.Problem(models[1], x[:4], x[:4, 0], backward="jfb")
    tree = gflow.integrate(problems, [[0.3, 0.1]] * 2, 1.0, times=3)
    gflow.validate(tree)
    described = tree["problem"]
    assert described.model.values.tolist() == [repr(model) for model in models]
    assert described.backward.values.tolist() == ["exact", "jfb"]
    assert described.samples.values.tolist() == [6, 4]
    assert described.attrs["model"] == "2 of them"
