"""SciPy's solvers behind the contract: the same steps as SciPy's own, and no word of theirs."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from gflow.integrators.base import Breakdown, Field, Settings
from gflow.integrators.registry import METHODS
from gflow.integrators.scipy_backend import SCIPY_METHODS
from gflow.integrators.testbed import cubic, tracking
from gflow.status import Status

NAMES = [method.info.name.partition(":")[2] for method in SCIPY_METHODS]
EXPLICIT = ["RK23", "RK45", "DOP853"]
IMPLICIT = ["Radau", "BDF", "LSODA"]
each = pytest.mark.parametrize("name", NAMES)


def _method(name):
    return METHODS[f"scipy:{name}"]


def _steps(name, field, theta0, settings, most=10_000):
    """All steps to t_end, or the first `most` of them."""
    state, steps = _method(name).init(field, 0.0, theta0, settings), []
    while not steps or (steps[-1].t1 < settings.t_end and len(steps) < most):
        state, step = _method(name).step(field, state)
        steps.append(step)
    return steps


def _counted(case):
    """The case's field, its evaluations and those of its Jacobian."""
    calls, jacobians = [], []

    def function(t, y):
        calls.append(t)
        return case.field(t, y)

    def jacobian(t, y):
        jacobians.append(t)
        return case.field.jacobian(t, y)

    return Field(function, jacobian=jacobian), calls, jacobians


def _by_scipy(name, case, settings):
    return solve_ivp(
        lambda t, y: case.field(t, torch.from_numpy(y)).numpy(),
        (0, settings.t_end),
        case.theta0.numpy(),
        method=name,
        rtol=settings.rtol,
        atol=settings.atol,
        dense_output=True,
        **(
            {"jac": lambda t, y: case.field.jacobian(t, torch.from_numpy(y)).numpy()}
            if name in IMPLICIT
            else {}
        ),
    )


@pytest.mark.parametrize("make", [cubic, tracking])
@each
def test_steps_evaluations_and_dense_output_are_those_of_scipy(name, make):
    case, settings = make(), Settings(2.0, 1e-5, 1e-8)
    field, calls, jacobians = _counted(case)
    steps = _steps(name, field, case.theta0, settings)
    reference = _by_scipy(name, case, settings)
    assert [0.0, *(step.t1 for step in steps)] == reference.t.tolist()
    thetas = torch.stack([case.theta0, *(step.theta1 for step in steps)])
    assert np.array_equal(thetas.numpy().T, reference.y)
    assert len(calls) == reference.nfev
    if name in IMPLICIT:
        assert len(jacobians) == reference.njev
        assert sum(step.linear_solves for step in steps) == pytest.approx(reference.nlu, abs=2)
    else:
        assert not jacobians
    within = torch.linspace(0, 1, 5, dtype=torch.float64)
    for step in steps:
        times = step.t0 + (step.t1 - step.t0) * within
        expected = reference.sol(times.numpy()).T
        assert np.allclose(step.interpolate(times).numpy(), expected, rtol=1e-13, atol=1e-13)


@each
def test_the_steps_follow_each_other_to_the_end_exactly(name):
    case = tracking(t_end=1.7)
    steps = _steps(name, case.field, case.theta0, Settings(case.t_end, 1e-4, 1e-7))
    assert steps[0].t0 == 0.0
    assert torch.equal(steps[0].theta0, case.theta0)
    assert steps[-1].t1 == case.t_end
    for step, following in pairwise(steps):
        assert following.t0 == step.t1 > step.t0
        assert torch.equal(following.theta0, step.theta1)


@each
def test_every_attempt_is_logged_and_the_last_one_was_accepted(name):
    """The first trial step is far too long, so some attempts fail."""
    case, settings = cubic(), Settings(1.0, 1e-6, 1e-9, first_step=0.3)
    steps = _steps(name, case.field, case.theta0, settings)
    for step in steps:
        *failed, last = step.attempts
        assert last.accepted
        assert last.dt == pytest.approx(step.t1 - step.t0, rel=1e-12)
        assert not any(attempt.accepted for attempt in failed)
        assert all(attempt.t == step.t0 for attempt in step.attempts)
        assert all(attempt.dt > last.dt for attempt in failed)
    first = steps[0].attempts
    assert first[0].dt == pytest.approx(0.3, rel=1e-12)
    assert len(first) > 1


@pytest.mark.parametrize("name", EXPLICIT)
def test_an_explicit_method_tells_its_error_ratios(name):
    case, settings = cubic(), Settings(1.0, 1e-6, 1e-9, first_step=0.3)
    for step in _steps(name, case.field, case.theta0, settings):
        *failed, last = step.attempts
        assert 0 <= last.error_ratio < 1
        assert not any(attempt.error_ratio < 1 for attempt in failed)


@pytest.mark.parametrize("name", IMPLICIT)
def test_an_implicit_method_does_not(name):
    case = cubic()
    steps = _steps(name, case.field, case.theta0, Settings(1.0, 1e-6, 1e-9))
    assert all(math.isnan(a.error_ratio) for step in steps for a in step.attempts)


@each
def test_dense_output_stays_valid_after_later_steps(name):
    case, settings = tracking(), Settings(3.0, 1e-5, 1e-8)
    state, steps, early = _method(name).init(case.field, 0.0, case.theta0, settings), [], []
    for _ in range(12):
        state, step = _method(name).step(case.field, state)
        steps.append(step)
        early.append(step.interpolate(torch.tensor([(step.t0 + step.t1) / 2])))
    for step, value in zip(steps, early, strict=True):
        assert torch.equal(step.interpolate(torch.tensor([(step.t0 + step.t1) / 2])), value)
        assert value.shape == (1, 2)


@each
def test_the_dtype_is_kept(name):
    field = Field(lambda t, y: -y, jacobian=lambda t, y: -torch.eye(2))
    step = _steps(name, field, torch.tensor([1.0, 2.0]), Settings(1.0, 1e-4, 1e-6), most=1)[0]
    assert step.theta1.dtype == torch.float32
    assert step.interpolate(torch.tensor([step.t1 / 2])).dtype == torch.float32


@each
def test_a_tolerance_below_rounding_is_raised_without_a_word(name):
    """SciPy warns there; a warning would fail this test."""
    case = tracking()
    assert _steps(name, case.field, case.theta0, Settings(1.0, 1e-17, 1e-9), most=3)


@pytest.mark.parametrize("name", IMPLICIT)
def test_without_a_jacobian_scipy_takes_differences(name):
    case = tracking(rate=500.0)
    field = Field(case.field.function)
    steps = _steps(name, field, case.theta0, Settings(1.0, 1e-5, 1e-8))
    exact = case.exact(torch.tensor([1.0], dtype=torch.float64))[0]
    assert torch.allclose(steps[-1].theta1, exact, rtol=1e-3, atol=0)


def _raised_by(name, field, switch):
    """What comes out of init, and out of up to 2000 steps once the switch is on."""
    try:
        state = _method(name).init(field, 0.0, torch.ones(2).double(), Settings(5.0))
        switch["armed"] = True
        for _ in range(2000):
            state, _ = _method(name).step(field, state)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("error", [KeyError, RuntimeError, ValueError, ZeroDivisionError])
@each
def test_what_the_field_raises_passes_unharmed(name, error):
    raised = error("of the user's own")
    armed = {"armed": True}

    def function(t, y):
        if armed["armed"]:
            raise raised
        return -y

    assert _raised_by(name, Field(function), armed) is raised
    armed = {"armed": False}
    assert _raised_by(name, Field(function), armed) is raised


@pytest.mark.parametrize("error", [KeyError, RuntimeError, ValueError, ZeroDivisionError])
@pytest.mark.parametrize("name", IMPLICIT)
def test_what_the_jacobian_raises_passes_unharmed(name, error):
    raised = error("of the user's own")

    def jacobian(t, y):
        raise raised

    field = Field(lambda t, y: -1e4 * (y - math.cos(t)), jacobian=jacobian)
    assert _raised_by(name, field, {}) is raised


def _state_of(name, solver):
    """A state whose live solver is replaced."""
    case = tracking()
    state = _method(name).init(case.field, 0.0, case.theta0, Settings(1.0))
    for key, value in solver.items():
        setattr(state.solver, key, value)
    return case.field, state


@each
@pytest.mark.parametrize(
    ("found", "status", "reason"),
    [
        ("stuck", Status.STEP_UNDERFLOW, "the back-end's step does not advance t"),
        ("nan", Status.NONFINITE, "the back-end returned a state that is not finite"),
        ("failed", Status.STEP_UNDERFLOW, "SciPy says: Required step size is less"),
        ("error", Status.METHOD_FAILED, "SciPy says: array must not contain infs"),
    ],
)
def test_the_back_end_s_word_is_not_repeated(name, found, status, reason):
    """Each of these SciPy either calls a success or ends with an exception."""

    def step():
        solver = state.solver
        if found == "error":
            raise ValueError("array must not contain infs or NaNs")
        if found == "failed":
            solver.status = "failed"
            return "Required step size is less than spacing between numbers."
        if found == "nan":
            solver.t, solver.y = 0.1, np.array([1.0, np.nan])
        return None

    field, state = _state_of(name, {"dense_output": lambda: SimpleNamespace()})
    state.solver.step = step
    with pytest.raises(Breakdown) as breakdown:
        _method(name).step(field, state)
    assert breakdown.value.status is status
    assert breakdown.value.reason.startswith(reason)
    assert breakdown.value.retry
