"""Rule R7: no hang, no lie. Every registered method ends what goes wrong with a verdict."""

from __future__ import annotations

import math
import re
import signal
import time

import pytest
import torch

from gflow.flows import gradient_flow
from gflow.integrators.base import Field, Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.registry import METHODS
from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.problem import Problem
from gflow.status import Status

SECONDS = 5
SAVES = 41
ITERATING = ("torchdiffeq:implicit_adams",)
"""Fixed-step methods whose inner iteration may fail before what is to be found."""
WHERE = re.compile(
    r" It ended at t = (\S+) after (\d+) steps \((\d+) rejected(?:, last dt = (\S+))?\)"
    r" and (\d+) field evaluations(?:: (.+))?\.$"
)


@pytest.fixture(autouse=True)
def watchdog():
    """A method that does not end fails its test instead of stopping all of them."""

    def bark(*_):
        raise TimeoutError(f"the run did not end within {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture(params=METHODS, ids=lambda name: name.replace(":", "-"))
def method(request):
    return METHODS[request.param]


def _vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def _run(method, field, theta0, t_end, **budgets):
    """Integrate at a loose tolerance, and check what holds for every ending."""
    settings = Settings(t_end, 1e-3, 1e-6, step_size=t_end / 203)
    times = torch.linspace(0, t_end, SAVES, dtype=torch.float64)
    trajectory = integrate_field(field, theta0, method, settings, times, **budgets)
    _check_kept(trajectory, times, theta0)
    _check_sentence(trajectory)
    return trajectory


def _verdicts(method, status):
    return {status, Status.METHOD_FAILED} if method.info.name in ITERATING else {status}


def _check_kept(trajectory, times, theta0):
    t, theta = trajectory.t, trajectory.theta
    assert t.shape == theta.shape[:1]
    assert bool(torch.isfinite(theta).all())
    assert bool((t.diff() > 0).all())
    assert torch.equal(theta[0], theta0)
    passed = times[times <= t[-1]]
    assert torch.equal(t[: len(passed)], passed), "saves up to the end are missing"
    assert len(t) <= len(passed) + 1


def _check_sentence(trajectory):
    assert trajectory.message.startswith(trajectory.status.sentence)
    found = WHERE.match(trajectory.message.removeprefix(trajectory.status.sentence))
    assert found, trajectory.message
    t, accepted, rejected, dt, nfe, _ = found.groups()
    assert float(t) == pytest.approx(float(trajectory.t[-1]), rel=1e-5)
    counts = (trajectory.accepted, trajectory.rejected, trajectory.nfe)
    assert (int(accepted), int(rejected), int(nfe)) == counts
    assert (dt is not None) == bool(trajectory.log)


def test_a_field_that_is_nan_at_the_start(method):
    field = Field(
        lambda t, y: _vector(1.0, math.nan), jacobian=lambda t, y: torch.eye(2) * math.nan
    )
    trajectory = _run(method, field, _vector(1.0, 2.0), 1.0)
    assert trajectory.status is Status.NONFINITE_START
    assert "component 1 of the field is nan at t = 0" in trajectory.message
    assert trajectory.nfe <= 3
    assert trajectory.t.tolist() == [0.0]


def test_a_field_that_is_nan_later(method):
    """Adaptive methods find the place; the others end at the last step before it."""
    field = Field(lambda t, y: _vector(-float(y[0]), math.nan if t > 0.5 else 0.3))
    trajectory = _run(method, field, _vector(1.0, 2.0), 1.0)
    assert trajectory.status is Status.NONFINITE
    assert "component 1 of the field is nan at t = 0.5" in trajectory.message
    end = float(trajectory.t[-1])
    assert end == pytest.approx(0.5, abs=1e-4 if method.info.adaptive else 5e-3)
    assert float(trajectory.theta[-1, 1]) == pytest.approx(2 + 0.3 * end, rel=1e-9)


def test_a_trajectory_that_leaves_the_domain_of_the_field(method):
    """theta' = -sqrt(theta - 1) - 0.1 ends where theta falls from 2 to 1, at t = 1.520421."""
    field = Field(lambda t, y: -torch.sqrt(y - 1) - 0.1)
    trajectory = _run(method, field, _vector(3.0, 2.0), 4.0)
    assert trajectory.status in _verdicts(method, Status.NONFINITE)
    if trajectory.status is Status.NONFINITE:
        assert "component 1 of the field is nan at t = 1." in trajectory.message
    end = float(trajectory.t[-1])
    assert end == pytest.approx(1.520421, abs=0.01 if method.info.adaptive else 0.3)


def test_a_blow_up_in_finite_time(method):
    """theta' = theta^2 is 1 / (1 - t); a fixed step diverges where it becomes unstable."""
    field = Field(lambda t, y: y * y, jacobian=lambda t, y: torch.diag(2 * y), symmetric=True)
    trajectory = _run(method, field, _vector(1.0, 0.5), 2.0)
    assert trajectory.status in _verdicts(method, Status.DIVERGED)
    if trajectory.status is Status.DIVERGED:
        assert "|theta| grew by a factor of" in trajectory.message
    assert float(trajectory.t[-1]) == pytest.approx(1.0, abs=0.01 if method.info.adaptive else 0.3)


def _tanh_problem():
    return Problem(SingleIndexDEQ(1, "tanh"), [[0.1], [-0.1]], [0.9, -0.9])


def test_an_equilibrium_lost_on_the_way(method):
    """Targets out of reach for small inputs drive theta2 to 1, at t = 3.2115."""
    problem = _tanh_problem()
    trajectory = _run(method, gradient_flow(problem), problem.theta([0.5, 0.0]), 50.0)
    assert trajectory.status in _verdicts(method, Status.EQUILIBRIUM_LOST)
    if trajectory.status is Status.EQUILIBRIUM_LOST:
        assert re.search("tanh DEQ has no unique|left the branch of solutions", trajectory.message)
        end = float(trajectory.t[-1])
        assert end == pytest.approx(3.2115, abs=0.02 if method.info.adaptive else 0.3)
    assert bool((trajectory.theta[:, 1] < 1).all())


@pytest.mark.parametrize(
    ("model", "theta2"), [(SingleIndexDEQ(1, "tanh"), 1.5), (LinearDEQ(1), 1.0)], ids=repr
)
def test_an_equilibrium_lost_at_the_start(method, model, theta2):
    problem = Problem(model, [[0.1], [-0.1]], [0.9, -0.9])
    trajectory = _run(method, gradient_flow(problem), problem.theta([0.5, theta2]), 50.0)
    assert trajectory.status is Status.EQUILIBRIUM_LOST
    assert f"theta2 = {theta2:g}" in trajectory.message
    assert trajectory.t.tolist() == [0.0]


def _decay_with(jacobian):
    return Field(lambda t, y: -y, jacobian=jacobian, jvp=lambda t, y, v: jacobian(t, y) @ v)


@pytest.mark.parametrize("value", [0.0, 1e300])
def test_a_jacobian_of_no_use_costs_the_run_but_never_the_truth(method, value):
    """All entries equal: singular, and for the large value the Newton matrix cannot be solved."""
    field = _decay_with(lambda t, y: torch.full((2, 2), value, dtype=torch.float64))
    trajectory = _run(method, field, _vector(1.0, 2.0), 1.0)
    assert trajectory.status is Status.T_END or (value and method.info.implicit)
    exact = _vector(1.0, 2.0) * math.exp(-float(trajectory.t[-1]))
    assert float((trajectory.theta[-1] - exact).abs().max()) < 3e-3


def test_a_jacobian_that_is_nan_is_named_or_not_needed(method):
    field = _decay_with(lambda t, y: torch.full((2, 2), math.nan, dtype=torch.float64))
    trajectory = _run(method, field, _vector(1.0, 2.0), 1.0)
    if trajectory.status is Status.T_END:
        assert not math.isnan(float(trajectory.theta[-1].sum()))
        return
    assert method.info.implicit
    assert trajectory.status in (Status.NONFINITE, Status.NONFINITE_START)
    assert "of the Jacobian is nan" in trajectory.message


def test_the_step_limit(method):
    field = Field(lambda t, y: -y * (1 + t))
    trajectory = _run(method, field, _vector(1.0, 2.0), 50.0, max_steps=5)
    assert trajectory.status is Status.STEP_LIMIT
    assert trajectory.accepted <= 5 <= len(trajectory.log) <= 15
    assert 0 < float(trajectory.t[-1]) < 50


def test_the_wall_limit(method):
    def slow(t, y):
        time.sleep(0.002)
        return torch.full_like(y, math.cos(t))

    began = time.perf_counter()
    trajectory = _run(method, Field(slow), _vector(1.0, 2.0), 200.0, wall_seconds=0.1)
    assert time.perf_counter() - began < 1.0
    assert trajectory.status is Status.WALL_LIMIT
    assert trajectory.wall_seconds >= 0.1
    assert float(trajectory.t[-1]) > 0


def test_an_interruption_within_the_field(method):
    """Wherever it strikes, what was accepted before is kept."""
    for evaluation in range(1, 36):
        calls = 0

        def interrupted(t, y, last=evaluation):
            nonlocal calls
            calls += 1
            if calls >= last:
                raise KeyboardInterrupt
            return -y * (1 + t)

        trajectory = _run(method, Field(interrupted), _vector(1.0, 2.0), 4.0)
        assert trajectory.status is Status.INTERRUPTED
        assert calls == trajectory.nfe == evaluation
        accepted = sum(x.attempt.dt for x in trajectory.log if x.attempt.accepted)
        assert float(trajectory.t[-1]) == pytest.approx(accepted, rel=1e-12)
