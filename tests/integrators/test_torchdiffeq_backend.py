"""torchdiffeq's methods behind the contract: its own numbers, one attempt at a time."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torchdiffeq import odeint

from gflow.errors import MethodError
from gflow.integrators.base import Breakdown, Field, Settings
from gflow.integrators.registry import METHODS
from gflow.integrators.testbed import Case, cubic, tracking
from gflow.integrators.torchdiffeq_backend import TORCHDIFFEQ_METHODS
from gflow.status import Status

ADAPTIVE = [m.info.name.partition(":")[2] for m in TORCHDIFFEQ_METHODS if m.info.adaptive]
FIXED = [m.info.name.partition(":")[2] for m in TORCHDIFFEQ_METHODS if not m.info.adaptive]
each_adaptive = pytest.mark.parametrize("name", ADAPTIVE)
each_fixed = pytest.mark.parametrize("name", FIXED)
each = pytest.mark.parametrize("name", ADAPTIVE + FIXED)


def _method(name):
    return METHODS[f"torchdiffeq:{name}"]


def _steps(name, field, theta0, settings, most=20_000):
    state, steps = _method(name).init(field, 0.0, theta0, settings), []
    while not steps or (steps[-1].t1 < settings.t_end and len(steps) < most):
        state, step = _method(name).step(field, state)
        steps.append(step)
    return steps


def _bell():
    """theta'' = -2 t theta' - 2 theta: exp(-t^2), neither linear in t nor stiff."""
    return Case(
        "bell",
        Field(lambda t, y: torch.stack([y[1], -2 * t * y[1] - 2 * y[0]])),
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        1.0,
        lambda t: torch.stack([torch.exp(-t * t), -2 * t * torch.exp(-t * t)], -1),
    )


def _by_torchdiffeq(name, case, times, **options):
    def function(t, y):
        return case.field(float(t), y)

    return odeint(function, case.theta0, times, method=name, **options)


@each_fixed
def test_a_fixed_step_method_gives_what_torchdiffeq_gives(name):
    case = tracking(rate=0.02)
    grid = torch.linspace(0, 2, 41, dtype=torch.float64)
    steps = _steps(name, case.field, case.theta0, Settings(2.0, 1e-9, 1e-9, step_size=0.05))
    assert [step.t1 for step in steps] == pytest.approx(grid[1:].tolist(), rel=1e-15)
    reference = _by_torchdiffeq(name, case, grid, rtol=1e-9, atol=1e-9)[1:]
    theta = torch.stack([step.theta1 for step in steps])
    assert torch.allclose(theta, reference, rtol=1e-12, atol=1e-14)


@each_adaptive
def test_an_adaptive_method_gives_what_torchdiffeq_gives(name):
    """Up to the last step, which gflow ends at t_end and torchdiffeq beyond it."""
    case, settings = cubic(), Settings(2.0, 1e-4, 1e-7)
    steps = _steps(name, case.field, case.theta0, settings)[:-1]
    ends = torch.tensor([0.0, *(step.t1 for step in steps)], dtype=torch.float64)
    within = (ends[1:] + ends[:-1]) / 2
    times = torch.cat([ends, within]).sort().values
    reference = _by_torchdiffeq(name, case, times, rtol=1e-4, atol=1e-7)
    theta = torch.stack([step.theta1 for step in steps])
    assert torch.allclose(theta, reference[2::2], rtol=1e-11, atol=1e-14)
    dense = torch.cat([s.interpolate(t[None]) for s, t in zip(steps, within, strict=True)])
    assert torch.allclose(dense, reference[1::2], rtol=1e-9, atol=1e-11)


@each
def test_the_steps_follow_each_other_to_the_end_exactly(name):
    case = tracking(rate=2.0, t_end=1.7)
    steps = _steps(name, case.field, case.theta0, Settings(1.7, 1e-3, 1e-6, step_size=0.1))
    assert steps[0].t0 == 0.0
    assert steps[-1].t1 == 1.7
    assert all(following.t0 == step.t1 > step.t0 for step, following in pairwise(steps))
    assert all(following.theta0 is step.theta1 for step, following in pairwise(steps))


@each_adaptive
def test_every_attempt_is_logged_with_its_error_ratio(name):
    case, settings = tracking(), Settings(1.0, 1e-3, 1e-6, first_step=0.5)
    steps = _steps(name, case.field, case.theta0, settings)
    assert steps[0].attempts[0].dt == 0.5
    assert len(steps[0].attempts) > 1
    for step in steps:
        *failed, last = step.attempts
        assert last.accepted
        assert last.error_ratio <= 1
        assert last.dt == pytest.approx(step.t1 - step.t0, rel=1e-9)
        for attempt in failed:
            assert attempt.t == step.t0
            assert not attempt.accepted
            assert not attempt.error_ratio <= 1


@each_adaptive
@given(times=st.lists(st.floats(1e-3, 2.0), max_size=8, unique=True).map(sorted))
@example(times=[2.0 - 2.0**-52])
@example(times=[1.0, 1.0 + 2.0**-52])
def test_landings_are_met_exactly(name, times):
    case = tracking(rate=1.0, t_end=2.0)
    settings = Settings(2.0, 1e-2, 1e-3, landings=(0.0, *times))
    ends = [step.t1 for step in _steps(name, case.field, case.theta0, settings)]
    for wanted in times:
        assert min(abs(end - wanted) for end in ends) <= 16 * math.ulp(wanted)
    assert ends[-1] == 2.0


@each_adaptive
def test_a_landing_does_not_shorten_the_steps_after_it(name):
    case = tracking(rate=1.0, t_end=2.0)
    alone, landing = Settings(2.0, 1e-3, 1e-6), Settings(2.0, 1e-3, 1e-6, landings=(0.9, 0.9001))
    without = len(_steps(name, case.field, case.theta0, alone))
    assert len(_steps(name, case.field, case.theta0, landing)) <= without + 4


@each_adaptive
def test_the_order_holds_over_many_steps(name):
    """torchdiffeq begins a step with the last stage of the one before, even where that is not the
    field at its end."""
    case, order = _bell(), _method(name).info.order
    exact = case.exact(torch.tensor([1.0], dtype=torch.float64))[0]
    errors, counts = [], [4, 8] if order == 8 else [16, 32, 64]
    for count in counts:
        grid = tuple(k / count for k in range(count))
        settings = Settings(1.0, 1e6, 1e6, first_step=1 / count, landings=grid)
        steps = _steps(name, case.field, case.theta0, settings)
        assert len(steps) == count
        errors.append(float((steps[-1].theta1 - exact).norm()))
    orders = -np.diff(np.log2(errors)) / np.diff(np.log2(counts))
    assert orders[-1] == pytest.approx(order, abs=0.6 if order == 8 else 0.25)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept_and_so_is_the_clock(name, dtype):
    """The field sees times in double precision whatever theta is."""
    seen = []

    def field(t, y):
        seen.append(t)
        return -y

    settings = Settings(101.0, 1e-3, 1e-5, step_size=0.1, landings=(100.1, 100.3))
    start = torch.tensor([1.0, 2.0], dtype=dtype)
    state = _method(name).init(Field(field), 100.0, start, settings)
    for _ in range(2):
        state, step = _method(name).step(Field(field), state)
    assert step.theta1.dtype == dtype
    assert step.interpolate(torch.tensor([step.t1], dtype=torch.float64)).dtype == dtype
    decayed = start.double() * math.exp(100 - step.t1)
    assert torch.allclose(step.theta1.double(), decayed, rtol=0.02, atol=0)
    if name in FIXED:
        assert min(abs(t - 100.2) for t in seen) <= 1e-12


@each_fixed
def test_a_fixed_step_evaluates_no_more_than_torchdiffeq(name):
    """The field at the end of a step, which dense output needs, is where the next one begins."""
    calls = []

    def field(t, y):
        calls.append(t)
        return -y

    settings = Settings(2.0, 1e-3, 1e-6, step_size=0.1)
    steps = _steps(name, Field(field), torch.ones(2).double(), settings)
    ours = len(calls)
    calls.clear()
    grid = torch.linspace(0, 2, 21, dtype=torch.float64)
    odeint(field, torch.ones(2).double(), grid, method=name, rtol=1e-3, atol=1e-6)
    assert ours == len(calls) + 1
    calls.clear()
    for step in steps:
        step.interpolate(torch.tensor([(step.t0 + step.t1) / 2], dtype=torch.float64))
    assert not calls, "dense output evaluates the field"


def test_an_iteration_that_does_not_converge_is_a_breakdown():
    field = Field(lambda t, y: -100 * (y - math.cos(t)))
    with pytest.raises(Breakdown) as breakdown:
        _steps("implicit_adams", field, torch.ones(2).double(), Settings(1.0, step_size=0.05))
    assert breakdown.value.status is Status.METHOD_FAILED
    assert breakdown.value.reason.startswith("torchdiffeq says: Functional iteration did not conv")
    assert not breakdown.value.retry


@each
def test_a_warning_of_the_field_is_not_taken_for_one_of_the_back_end(name):
    def field(t, y):
        warnings.warn("of the user's own", UserWarning, stacklevel=1)
        return -y

    settings = Settings(1.0, 1e-3, 1e-6, step_size=0.25)
    with pytest.warns(UserWarning, match="of the user's own"):
        steps = _steps(name, Field(field), torch.ones(2).double(), settings)
    assert steps[-1].t1 == 1.0


@each
@pytest.mark.parametrize("error", [KeyError, RuntimeError, AssertionError])
def test_what_the_field_raises_passes_unharmed(name, error):
    raised = error("of the user's own")

    def field(t, y):
        if t > 0.3:
            raise raised
        return -y

    with pytest.raises(error) as caught:
        _steps(name, Field(field), torch.ones(2).double(), Settings(1.0, 1e-3, step_size=0.1))
    assert caught.value is raised


@each_fixed
def test_a_missing_step_size_is_asked_for(name):
    with pytest.raises(MethodError) as refusal:
        _method(name).init(Field(lambda t, y: -y), 0.0, torch.ones(2), Settings(1.0))
    assert str(refusal.value) == (
        f"torchdiffeq:{name} is a fixed-step method and needs step_size, e.g. half of "
        "1/sharpness; or take an adaptive method such as auto."
    )


@each_adaptive
def test_a_step_below_rounding_is_a_breakdown(name):
    """The field jumps by more and more: no step meets the tolerance."""
    field = Field(lambda t, y: torch.full_like(y, 1e18 * math.sin(1e18 * t)))
    state = _method(name).init(field, 1.0, torch.ones(2).double(), Settings(2.0, 1e-3, 1e-6))
    with pytest.raises(Breakdown) as breakdown:
        _continue(name, field, state)
    assert breakdown.value.status is Status.STEP_UNDERFLOW
    assert breakdown.value.reason.endswith("is below rounding")


def _continue(name, field, state):
    for _ in range(1000):
        state, _ = _method(name).step(field, state)
