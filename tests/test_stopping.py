"""Stopping rules: what they measure, where they end a flow, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gflow.errors import ProblemError
from gflow.flows import gradient_flow
from gflow.integrators.base import Field, Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.registry import resolve
from gflow.models import SingleIndexDEQ
from gflow.problem import Problem
from gflow.stacking import ProblemStack
from gflow.status import Status
from gflow.stopping import KEYS, MAX_STEPS, RowRules, read_stop

RTOL, ATOL = 1e-8, 1e-12


@pytest.fixture
def problem():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(30, 2))
    model = SingleIndexDEQ(2, "tanh")
    target = Problem(model, x, np.zeros(30)).predict([0.8, -0.5, -0.7])
    return Problem(model, x, target)


def _read(problem, stop, t_end=1.0, field=None):
    return read_stop(stop, problem, field or gradient_flow(problem), RTOL, ATOL, t_end)


def _flow(problem, stop, theta0=(0.1, 0.2, 0.3), t_end=1e4, method="dopri5"):
    field = gradient_flow(problem)
    rules = _read(problem, stop, t_end, field)
    return integrate_field(
        field,
        problem.theta(theta0),
        resolve(method),
        Settings(t_end, RTOL, ATOL),
        targets=rules.targets,
        max_steps=rules.max_steps,
        wall_seconds=rules.wall_seconds,
    )


@pytest.mark.parametrize("nothing", [None, {}, dict.fromkeys(KEYS), dict.fromkeys(KEYS, False)])
def test_without_rules_only_the_step_budget_is_left(problem, nothing):
    stop = _read(problem, nothing)
    assert (stop.targets, stop.max_steps, stop.wall_seconds) == ((), MAX_STEPS, math.inf)


def test_budgets_are_read(problem):
    stop = _read(problem, {"max_steps": 7, "wall_seconds": 0.5})
    assert (stop.targets, stop.max_steps, stop.wall_seconds) == ((), 7, 0.5)
    assert _read(problem, {"max_steps": 7.0}).max_steps == 7
    assert _read(problem, {"wall_seconds": math.inf}).wall_seconds == math.inf


def test_targets_measure_what_they_say(problem):
    field = Field(lambda t, theta: t * problem.theta([3e-8, 0.0, -4e-9]))
    stop = _read(problem, {"steady_state": 2, "gradient_norm": 0.3, "loss": 0.1}, field=field)
    theta = problem.theta([0.1, -2.0, 0.3])
    loss, norm, speed = (target.excess(2.0, theta) for target in stop.targets)
    assert [t.status for t in stop.targets] == list(Status)[1:4]
    assert loss == pytest.approx(float(problem.loss(theta)) - 0.1, rel=1e-14)
    gradient = problem.gradient(theta).numpy()
    assert norm == pytest.approx(np.linalg.norm(gradient) - 0.3, rel=1e-12)
    scaled = np.array([6e-8, 0.0, -8e-9]) / (ATOL + RTOL * np.abs(theta.numpy()))
    assert speed == pytest.approx(np.sqrt(np.mean(scaled**2)) - 2.0, rel=1e-12)
    (standard,) = _read(problem, {"steady_state": True}, field=field).targets
    assert standard.excess(2.0, theta) == pytest.approx(speed + 1.0, rel=1e-12)


def test_the_gradient_norm_is_that_of_the_field(problem):
    jfb = Problem(problem.model, problem.x, problem.y, backward="jfb")
    (target,) = _read(jfb, {"gradient_norm": 1e-3}).targets
    theta = problem.theta([0.1, -2.0, 0.3])
    expected = float(jfb.gradient(theta).norm()) - 1e-3
    assert target.excess(0.0, theta) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("key", ["loss", "gradient_norm"])
@pytest.mark.parametrize("method", ["dopri5", "scipy:LSODA"])
def test_a_flow_ends_where_the_value_is_met_on_the_dense_output(problem, key, method):
    trajectory = _flow(problem, {key: 1e-3}, t_end=math.inf, method=method)
    theta = trajectory.theta[-1]
    values = {"loss": problem.loss(theta), "gradient_norm": problem.gradient(theta).norm()}
    assert trajectory.status == key
    assert float(values[key]) == pytest.approx(1e-3, rel=1e-6)
    assert float(values[key]) <= 1e-3 * (1 + 1e-12)


def test_a_flow_ends_at_its_steady_state(problem):
    trajectory = _flow(problem, {"steady_state": 1e4}, t_end=math.inf, method="scipy:LSODA")
    theta = trajectory.theta[-1]
    speed = problem.gradient(theta) / (ATOL + RTOL * theta.abs())
    assert trajectory.status == Status.STEADY_STATE
    assert float(speed.pow(2).mean().sqrt()) == pytest.approx(1e4, rel=1e-6)


def test_the_first_of_several_rules_ends_the_flow(problem):
    both = _flow(problem, {"loss": 1e-3, "gradient_norm": 1e-9})
    assert both.status == Status.LOSS
    assert both.t[-1] == pytest.approx(float(_flow(problem, {"loss": 1e-3}).t[-1]), rel=1e-6)
    assert _flow(problem, {"loss": 1e-30, "gradient_norm": 1e-2}).status == Status.GRADIENT_NORM


def test_a_rule_that_holds_at_the_start_ends_there(problem):
    trajectory = _flow(problem, {"loss": 1e3})
    assert (trajectory.status, trajectory.t.tolist()) == (Status.LOSS, [0.0])


@pytest.mark.parametrize("key", ["loss", "gradient_norm", "steady_state"])
def test_a_lost_equilibrium_meets_no_rule_and_is_the_verdict(problem, key):
    trajectory = _flow(problem, {key: 1e9}, theta0=[0.1, 0.2, 1.5])
    assert trajectory.status == Status.EQUILIBRIUM_LOST
    assert "theta2 = 1.5" in trajectory.message


@pytest.mark.parametrize("rule", [{"max_steps": 3}, {"wall_seconds": 1e-9}])
def test_a_used_up_budget_is_a_failure(problem, rule):
    trajectory = _flow(problem, rule)
    expected = Status.STEP_LIMIT if "max_steps" in rule else Status.WALL_LIMIT
    assert trajectory.status == expected
    assert not trajectory.status.ok
    assert len(trajectory.log) <= 3


@pytest.mark.parametrize("stop", [None, {"loss": None}, {"steady_state": False}])
def test_an_infinite_flow_needs_a_rule(problem, stop):
    with pytest.raises(ProblemError) as refusal:
        _read(problem, stop, t_end=math.inf)
    assert str(refusal.value) == (
        "t_end is infinite; give a stopping rule, one of loss, gradient_norm, steady_state, "
        "max_steps, wall_seconds, or a finite t_end."
    )
    assert _read(problem, {"max_steps": 5}, t_end=math.inf).max_steps == 5


@pytest.mark.parametrize("value", [1e-3, None, False, 0])
def test_an_unknown_rule_is_refused_even_if_switched_off(problem, value):
    with pytest.raises(ProblemError) as refusal:
        _read(problem, {"gradientnorm": value})
    assert str(refusal.value) == (
        'stop.gradientnorm is unknown; did you mean "gradient_norm"? Choose from "loss", '
        '"gradient_norm", "steady_state", "max_steps", "wall_seconds".'
    )


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [0, 0.0, -1, math.nan, -math.inf, "1e-3", [1e-3], True])
def test_a_value_that_is_not_positive_is_refused(problem, key, value):
    if key == "steady_state" and value is True:
        return
    kind = "a positive integer" if key == "max_steps" else "a positive number"
    with pytest.raises(ProblemError) as refusal:
        _read(problem, {key: value})
    assert str(refusal.value) == f"stop.{key} is {value!r}; it must be {kind}."


@pytest.mark.parametrize("value", [2.5, math.inf])
def test_a_step_budget_is_an_integer(problem, value):
    with pytest.raises(ProblemError) as refusal:
        _read(problem, {"max_steps": value})
    assert str(refusal.value) == f"stop.max_steps is {value!r}; it must be a positive integer."


@pytest.mark.parametrize("stop", [{"loss": 0.05}, {"gradient_norm": 0.1}, {"steady_state": 1e7}])
def test_the_rules_of_rows_are_those_of_lone_thetas(problem, stop):
    rng = np.random.default_rng(8)
    problems = [problem.on(problem.x, problem.y * scale) for scale in np.linspace(0.5, 1.5, 12)]
    theta = problem.theta(np.array([0.8, -0.5, -0.7]) + 0.3 * rng.normal(size=(12, 3)))
    theta[4, -1] = 1.5
    stack = ProblemStack(problems)
    rules = RowRules(stop, stack, gradient_flow(stack), RTOL, ATOL)
    targets = [_read(one, stop, field=gradient_flow(one)).targets[0] for one in problems]
    expected = np.array([x.is_met(0.0, row) for x, row in zip(targets, theta, strict=True)])
    assert 2 <= expected.sum() <= 9
    assert not expected[4]
    for chosen in (np.arange(12), np.array([1, 4, 7, 11]), np.arange(12)):
        found = rules(chosen, np.zeros(len(chosen)), theta[chosen])
        np.testing.assert_array_equal(found, expected[chosen])


def test_numbers_of_numpy_are_numbers(problem):
    stop = _read(problem, {"max_steps": np.int64(7), "loss": np.float32(0.5)})
    assert stop.max_steps == 7
    assert stop.targets[0].excess(0.0, problem.theta([0.0] * 3)) == pytest.approx(
        float(problem.loss([0.0] * 3)) - 0.5
    )
