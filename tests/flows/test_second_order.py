"""Flows of second order in a run: what sees theta sees theta alone, whatever the state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gflow
from gflow.flow_run import FlowOptions, run_flow
from gflow.flows import HeavyBall
from gflow.plot.runs import is_linear
from gflow.plot.wording import description
from gflow.show import summary

START = [0.3, -0.4, 0.2]
SECOND = ["heavy_ball:0.8", "nesterov"]
FEW = {"sharpness": False, "singular_distance": False}

each_flow = pytest.mark.parametrize("name", SECOND)


def _problem(**how):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(12, 2))
    target = np.tanh(x @ [0.8, -0.5]) + 0.1 * rng.normal(size=12)
    return gflow.Problem(gflow.SingleIndexDEQ(2, "tanh"), x, target, **how)


def _lost():
    """Targets out of tanh's reach push theta2 to 1."""
    x = np.array([[1.0, 0.2], [2.0, -0.1], [-1.0, 0.3]])
    return gflow.Problem(gflow.SingleIndexDEQ(2, "tanh"), x, [5.0, 6.0, -5.0])


def _same_shape():
    x = np.array([[1.0, 0.2], [2.0, -0.1], [-1.0, 0.3]])
    return gflow.Problem(gflow.SingleIndexDEQ(2, "tanh"), x, np.tanh(x @ [0.8, -0.5]))


@each_flow
@pytest.mark.parametrize(("rule", "value"), [("loss", 0.02), ("gradient_norm", 0.05)])
def test_a_stopping_rule_sees_theta(name, rule, value):
    problem = _problem()
    lone = gflow.integrate(
        problem, START, 50.0, flow=name, stop={rule: value}, rtol=1e-8, diagnostics=FEW
    )
    assert str(lone["flow"].status.values) == rule
    assert float(lone["flow"][rule][-1]) == pytest.approx(value, rel=1e-6)
    end = float(lone["flow"].time[-1])
    assert 0 < end < 50
    several = gflow.integrate(
        problem, [START, START], 50.0, flow=name, stop={rule: value}, rtol=1e-8, diagnostics=FEW
    )
    assert several["flow"].t_final.values == pytest.approx([end, end], rel=1e-6)
    assert several["flow"][f"{rule}_final"].values == pytest.approx([value, value], rel=1e-6)


def test_a_steady_state_is_one_of_theta_and_velocity():
    """A heavy ball turns around at zero velocity, where it is not at rest."""
    tree = gflow.integrate(
        _problem(),
        START,
        np.inf,
        flow="heavy_ball:3",
        stop={"steady_state": True},
        times=40,
        spacing="log",
        diagnostics=FEW,
    )
    flow = tree["flow"]
    assert str(flow.status.values) == "steady_state"
    assert float(flow.gradient_norm[-1]) < 1e-5
    assert float(abs(flow.velocity[-1]).max()) < 1e-5
    assert float(abs(flow.velocity).max()) > 0.05
    assert len(flow.time) == 40


@each_flow
def test_an_endless_ensemble_is_saved_to_its_last_end(name):
    stop = {"gradient_norm": 1e-2}
    tree = gflow.integrate(
        [_problem(), _problem()],
        [START, [0.1, 0.1, 0.1]],
        np.inf,
        flow=name,
        stop=stop,
        times=20,
        rtol=1e-7,
        diagnostics=FEW,
    )
    gflow.validate(tree)
    flow = tree["flow"]
    assert flow.theta.shape == flow.velocity.shape == (2, 20, 3)
    assert flow.gradient_norm_final.values == pytest.approx([1e-2] * 2, rel=1e-5)


@each_flow
def test_a_lost_equilibrium_ends_its_trajectory_alone(name):
    start = [0.5, 0.0, 0.0]
    alone = gflow.integrate(_lost(), start, 60.0, flow=name, rtol=1e-6, diagnostics=FEW)
    both = gflow.integrate(
        [_lost(), _same_shape()], [start, start], 60.0, flow=name, rtol=1e-6, diagnostics=FEW
    )
    assert str(alone["flow"].status.values) == "equilibrium_lost"
    assert both["flow"].status.values.tolist() == ["equilibrium_lost", "t_end"]
    end = float(alone["flow"].time[-1])
    assert both["flow"].t_final.values == pytest.approx([end, 60.0], rel=1e-4)
    assert float(alone["flow"].theta[-1, 2]) == pytest.approx(1.0, abs=1e-3)
    assert "no unique fixed point" in str(both["flow"].status_message[0].values)


@each_flow
def test_a_descent_that_loses_its_equilibrium_keeps_its_last_iterate(name):
    start, options = [0.5, 0.0, 0.0], {"flow": name, "records": 5}
    both = gflow.descend(_lost(), start, [0.3, 1e-3], 6.0, **options)["descent"]
    alone = gflow.descend(_lost(), start, [1e-3], 6.0, **options)["descent"]
    assert both.status.values.tolist() == ["equilibrium_lost"] * 2
    last = both["update"].max("record").values
    assert 0 < last[0] < last[1] == alone["update"].max("record").values[0]
    final = both.theta.values[1][both["update"].values[1] == last[1]][0]
    assert abs(final - alone.theta.values[0][alone["update"].values[0] == last[1]][0]).max() < 1e-10
    assert f"It ended at update {last[0]}: at theta2 = " in str(both.status_message[0].values)


@each_flow
def test_the_comparison_is_one_of_thetas(name):
    tree = gflow.compare(_problem(), START, [4e-4], 1.0, flow=name, rtol=1e-9, records=5)
    gflow.validate(tree)
    comparison = tree["comparison"]
    assert float(comparison.distance.max()) < 0.1
    assert float(abs(comparison.lag).max()) < 0.1
    assert (comparison.path_distance <= comparison.distance + 1e-12).all()


def test_nothing_is_said_of_the_sphere_that_only_the_gradient_flow_keeps():
    x = np.linspace(-1, 1, 9)
    problem = gflow.Problem(gflow.LinearDEQ(1), x, 0.5 * x)
    for options in ({"flow": "heavy_ball:1"}, {"weight_decay": 0.1}, {"flow": "scaled:theta1=2"}):
        tree = gflow.compare(problem, [0.1, 0.2], [0.1], 2.0, **options)
        assert "reference" not in tree.children
        assert "drift_identity_residual" not in tree["descent"]
    plain = gflow.compare(problem, [0.1, 0.2], [0.1], 2.0, schedule="cosine")
    assert float(abs(plain["descent"].drift_identity_residual).max()) < 1e-14
    modified = gflow.compare(problem, [0.1, 0.2], [0.1], 2.0, flow="modified:0.1")
    assert "reference" not in modified.children
    assert float(abs(modified["descent"].drift_identity_residual).max()) < 1e-14


def test_progress_tells_of_theta(monkeypatch):
    monkeypatch.setattr("gflow.flow_run.Ticker.INTERVAL", 0.0)
    told = []
    for starts in (START, [START, START]):
        gflow.integrate(
            _problem(), starts, 1.0, flow="nesterov", progress=told.append, diagnostics=FEW
        )
    assert len(told) > 4
    assert all(np.isfinite([one.loss, one.gradient_norm]).all() for one in told)


def test_a_run_of_ones_own_has_the_states():
    options = FlowOptions(1.0, "auto", 1e-6, 1e-9, 3, "linear", None, None, HeavyBall(0.5))
    problem = _problem()
    trajectory, _ = run_flow(problem, problem.theta(START), options)
    assert trajectory.theta.shape == (3, 6)
    assert torch.equal(trajectory.theta[0, 3:], torch.zeros(3, dtype=torch.float64))


def test_summary_and_figure_say_which_flow_it_was():
    problem = gflow.Problem(gflow.LinearDEQ(1), [1.0, 0.5, -1.0], [0.5, 0.25, -0.5])
    options = {"weight_decay": 0.01, "schedule": "cosine", "diagnostics": FEW}
    tree = gflow.compare(problem, [0.1, 0.2], [0.1], 1.0, flow="heavy_ball:0.5", **options)
    sections = dict(summary(tree))
    assert ("flow", "heavy_ball:0.5, weight decay 0.01") in sections["Flow"]
    name = "Updates of the flow heavy_ball:0.5, weight decay 0.01, step sizes cosine"
    assert len(sections[name]) == 2
    assert "  ·  heavy_ball:0.5  ·  " in description(tree)
    assert not is_linear(tree)
    several = gflow.integrate(problem, [[0.1, 0.2]] * 2, 1.0, flow="nesterov", diagnostics=FEW)
    assert ("flow", "nesterov") in summary(several)[2][1]
    plain = gflow.compare(problem, [0.1, 0.2], [0.1], 1.0, diagnostics=FEW)
    assert "Gradient descent" in dict(summary(plain))
    assert is_linear(plain)


def test_float32_flows_keep_their_dtype():
    problem = _problem(dtype="float32")
    options = FlowOptions(1.0, "auto", 1e-4, 1e-6, 3, "linear", None, None, "nesterov", 0.1)
    trajectory, _ = run_flow(problem, problem.theta(START), options)
    assert trajectory.theta.dtype == torch.float32
    assert trajectory.status == "t_end"
