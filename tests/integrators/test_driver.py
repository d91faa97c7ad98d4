"""The loop around a method: rules, budgets, retries, counts and the verdict."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from leap import CONSTANT, START, Leap, leap_info

from gflow.integrators.base import Breakdown, Field, Halt, Settings
from gflow.integrators.driver import BLOW_UP, FOREVER, MAX_RETRIES, SHRINK, Target, integrate_field
from gflow.integrators.registry import METHODS
from gflow.integrators.testbed import tracking
from gflow.status import Status


class Watching:
    """Keeps what an observer is told."""

    def __init__(self):
        self.steps, self.nfe = [], []

    def observe(self, step, nfe):
        self.steps.append(step)
        self.nfe.append(nfe)


def test_the_field_is_evaluated_without_a_graph():
    def field(t, y):
        assert not torch.is_grad_enabled()
        return -y

    assert integrate_field(Field(field), START, Leap(), Settings(1.0)).status.ok


def test_the_tolerances_are_tightened_and_landings_only_given_to_who_needs_them():
    seen = []

    class Spy(Leap):
        def init(self, field, t, theta, settings):
            seen.append(settings)
            return super().init(field, t, theta, settings)

    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    settings = Settings(1.0, 1e-3, 1e-6, step_size=0.2)
    integrate_field(CONSTANT, START, Spy(leap_info(tightening=0.1)), settings, times)
    integrate_field(CONSTANT, START, Spy(leap_info(lands=True)), settings, times)
    assert seen[0] == Settings(1.0, 1e-3 * 0.1, 1e-6 * 0.1, step_size=0.2)
    assert seen[1] == Settings(1.0, 1e-3, 1e-6, step_size=0.2, landings=(0.0, 0.3, 1.0))


def _reaches(index, value):
    return lambda t, theta: float(theta[index]) - value


@given(value=st.floats(-1.9, 1.9), dt=st.floats(0.01, 5.0))
def test_a_target_is_located_on_the_dense_output(value, dt):
    """theta[1] = 2 - 2 t meets the value at t = 1 - value / 2, never before it."""
    target = Target(Status.LOSS, _reaches(1, value))
    times = torch.linspace(0, 2, 9, dtype=torch.float64)
    settings = Settings(2.0, first_step=dt)
    trajectory = integrate_field(CONSTANT, START, Leap(), settings, times, targets=[target])
    assert trajectory.status is Status.LOSS
    end = float(trajectory.t[-1])
    assert end == pytest.approx(1 - value / 2, abs=5e-9 * dt)
    assert target.excess(end, trajectory.theta[-1]) <= 0
    assert trajectory.t[:-1].tolist() == times[times < end].tolist()


@pytest.mark.parametrize("order", [1, -1])
def test_the_first_of_two_targets_within_one_step_ends_the_run(order):
    early = Target(Status.GRADIENT_NORM, _reaches(1, 1.0))
    late = Target(Status.LOSS, _reaches(1, 0.5))
    settings = Settings(5.0, first_step=4.0)
    targets = [early, late][::order]
    trajectory = integrate_field(CONSTANT, START, Leap(), settings, targets=targets)
    assert trajectory.status is Status.GRADIENT_NORM
    assert float(trajectory.t[-1]) == pytest.approx(0.5, abs=1e-7)


def test_a_target_met_at_the_start_ends_the_run_before_it_begins():
    target = Target(Status.STEADY_STATE, lambda t, theta: -t)
    trajectory = integrate_field(CONSTANT, START, Leap(), Settings(1.0), targets=[target])
    assert trajectory.status is Status.STEADY_STATE
    assert trajectory.t.tolist() == [0.0]
    assert trajectory.nfe == 0
    assert "at t = 0 after 0 steps (0 rejected) and 0 field evaluations." in trajectory.message


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e-300])
def test_a_target_without_a_value_is_not_met(value):
    target = Target(Status.LOSS, lambda t, theta: value)
    trajectory = integrate_field(CONSTANT, START, Leap(), Settings(1.0), targets=[target])
    assert trajectory.status is Status.T_END


def test_a_target_that_breaks_down_is_not_met():
    def excess(t, theta):
        if t > 0:
            raise Breakdown(Status.EQUILIBRIUM_LOST, "no loss here")
        return 1.0

    target = Target(Status.LOSS, excess)
    trajectory = integrate_field(CONSTANT, START, Leap(), Settings(1.0), targets=[target])
    assert trajectory.status is Status.T_END


def test_an_infinite_run_ends_at_its_target():
    case = tracking(rate=1.0)
    target = Target(Status.LOSS, lambda t, theta: 50 - t)
    method = METHODS["scipy:RK45"]
    trajectory = integrate_field(
        case.field, case.theta0, method, Settings(math.inf), targets=[target], dense=True
    )
    assert trajectory.status is Status.LOSS
    assert float(trajectory.t[-1]) == pytest.approx(50, abs=1e-7)
    saved = trajectory.resaved(lambda end: torch.linspace(0, end, 5, dtype=torch.float64))
    assert torch.allclose(saved.theta, case.exact(saved.t), rtol=0, atol=1e-5)
    assert saved.nfe == trajectory.nfe


@pytest.mark.parametrize("limit", [1, 2, 7, 8])
def test_the_step_limit_counts_every_attempt(limit):
    trajectory = integrate_field(CONSTANT, START, Leap(), Settings(9.0), max_steps=limit)
    assert trajectory.status is Status.STEP_LIMIT
    assert len(trajectory.log) == limit + limit % 2
    assert trajectory.accepted == trajectory.rejected == (limit + 1) // 2


def test_the_wall_limit_ends_a_run_within_a_step():
    def slow(t, y):
        time.sleep(0.01)
        return -y

    trajectory = integrate_field(
        Field(slow), START, Leap(), Settings(1e9, first_step=0.5), wall_seconds=0.05
    )
    assert trajectory.status is Status.WALL_LIMIT
    assert 0.05 <= trajectory.wall_seconds < 0.5
    assert trajectory.nfe <= 6


def test_a_halt_of_the_method_is_its_status():
    class Halting(Leap):
        def step(self, field, state):
            raise Halt(Status.WALL_LIMIT)

    trajectory = integrate_field(CONSTANT, START, Halting(), Settings(1.0))
    assert trajectory.status is Status.WALL_LIMIT


def test_a_failed_attempt_is_repeated_with_a_shorter_step_and_logged():
    """The field has no value beyond theta[0] = 1.5, unless the step is short."""

    def field(t, y):
        if y[0] > 1.5:
            return y * math.nan
        return torch.tensor([0.8 * (1.5 - float(y[0])) / 0.5, 0.0], dtype=torch.float64)

    trajectory = integrate_field(Field(field), START, Leap(), Settings(3.0, first_step=2.0))
    assert trajectory.status is Status.T_END
    first, second = trajectory.log[0].attempt, trajectory.log[2].attempt
    assert (first.t, first.dt, first.accepted) == (0.0, 2.0, False)
    assert math.isnan(first.error_ratio)
    assert (second.dt, second.accepted) == (2.0 * SHRINK, True)


@pytest.mark.parametrize("changes", [{"adaptive": False}, {}])
def test_what_a_shorter_step_cannot_mend_is_not_tried_again(changes):
    class Broken(Leap):
        def step(self, field, state):
            if state[0] >= 0.5:
                raise Breakdown(Status.METHOD_FAILED, "as told", retry=bool(changes))
            return super().step(field, state)

    trajectory = integrate_field(CONSTANT, START, Broken(leap_info(**changes)), Settings(1.0))
    assert trajectory.status is Status.METHOD_FAILED
    assert trajectory.message.endswith(": as told.")
    assert trajectory.accepted == 5
    assert trajectory.rejected == 5, "Leap logs one rejected attempt a step"


def test_retries_are_bounded_even_where_steps_never_shrink_to_nothing():
    class Stubborn(Leap):
        def step(self, field, state):
            field(state[0] + 1e-3, state[1])
            raise Breakdown(Status.METHOD_FAILED, "as always")

    trajectory = integrate_field(CONSTANT, START, Stubborn(), Settings(1.0))
    assert trajectory.status is Status.METHOD_FAILED
    assert len(trajectory.log) == MAX_RETRIES


def test_leaving_the_branch_is_a_lost_equilibrium():
    field = Field(CONSTANT.function, branch=lambda theta: int(theta[1] > 0.9))
    settings = Settings(2.0, first_step=0.2)
    trajectory = integrate_field(
        field, START, Leap(), settings, torch.tensor([0.5, 1.0], dtype=torch.float64)
    )
    assert trajectory.status is Status.EQUILIBRIUM_LOST
    assert float(trajectory.t[-1]) == pytest.approx(0.55, abs=1e-12)
    assert "left the branch of solutions it started on" in trajectory.message
    assert bool((trajectory.theta[:, 1] > 0.9).all())


@pytest.mark.parametrize("growth", [0.99, 1.01])
def test_growth_beyond_bounds_is_divergence(growth):
    size = growth * BLOW_UP * 3
    field = Field(lambda t, y: torch.tensor([0.0, size], dtype=torch.float64))
    trajectory = integrate_field(field, START, Leap(), Settings(1.0, first_step=1.0))
    expected = Status.T_END if growth < 1 else Status.DIVERGED
    assert trajectory.status is expected


def test_a_still_trajectory_without_an_end_has_stalled():
    """Steps grow without limit while nothing moves; the run says so instead of overflowing."""
    still = Field(lambda t, y: torch.zeros_like(y))
    never = Target(Status.LOSS, lambda t, theta: 1.0)
    settings = Settings(math.inf, first_step=1.0)
    trajectory = integrate_field(still, START, Leap(growth=1e6), settings, targets=[never])
    assert trajectory.status is Status.STALLED
    assert 1e20 < float(trajectory.t[-1]) < FOREVER
    assert torch.equal(trajectory.theta[-1], START)


@pytest.mark.parametrize("error", [RuntimeError, ValueError, AssertionError])
def test_an_error_that_is_no_breakdown_is_the_caller_s(error):
    def field(t, y):
        raise error("a mistake")

    with pytest.raises(error, match="a mistake"):
        integrate_field(Field(field), START, Leap(), Settings(1.0))


@pytest.mark.parametrize("name", METHODS)
def test_the_counts_are_those_of_the_calls(name):
    case, calls, matrices = tracking(rate=2.0, t_end=1.0), [], []

    def function(t, y):
        calls.append(t)
        return case.field(t, y)

    def jacobian(t, y):
        matrices.append(t)
        return case.field.jacobian(t, y)

    trajectory = integrate_field(
        Field(function, jacobian=jacobian),
        case.theta0,
        METHODS[name],
        Settings(1.0, 1e-4, 1e-7, step_size=0.01),
        torch.linspace(0, 1, 7, dtype=torch.float64),
    )
    assert trajectory.status.ok
    assert trajectory.method == name
    assert (trajectory.nfe, trajectory.hessians) == (len(calls), len(matrices))
    last = trajectory.log[-1]
    assert (last.nfe, last.hessians) == (trajectory.nfe, trajectory.hessians)
    assert last.linear_solves == trajectory.linear_solves
    assert max(calls) <= 1.0 + 1e-12, "the field was evaluated beyond the end"


def test_an_observer_sees_every_accepted_step_in_order():
    watching = Watching()
    settings = Settings(2.0, first_step=0.3)
    trajectory = integrate_field(
        CONSTANT, START, Leap(growth=1.5, solves=2), settings, observers=[watching]
    )
    assert len(watching.steps) == trajectory.accepted
    assert watching.steps[0].t0 == 0.0
    assert watching.steps[-1].t1 == 2.0
    assert all(one.t1 == two.t0 for one, two in pairwise(watching.steps))
    assert watching.nfe == [2 * (k + 1) for k in range(trajectory.accepted)]
    assert trajectory.linear_solves == 2 * trajectory.accepted
