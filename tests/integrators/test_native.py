"""What native methods share: rows, states that can be kept, and steps judged row by row."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gflow.integrators.base import Breakdown, Field, Memory, Settings
from gflow.integrators.explicit import TSIT5_METHOD
from gflow.integrators.native import NativeMethod
from gflow.integrators.registry import METHODS
from gflow.integrators.system import System
from gflow.status import Status

NATIVE = [method for method in METHODS.values() if isinstance(method, NativeMethod)]
each_method = pytest.mark.parametrize("method", NATIVE, ids=lambda method: method.info.name)
DRIFT = torch.tensor([[0.0, 1.0, 0.3], [-1.0, 0.2, 0.0], [0.5, 0.0, -2.0]], dtype=torch.float64)


def _value(t, y):
    return math.cos(t) * (DRIFT @ y) - y**3


def _jacobian(t, y):
    return math.cos(t) * DRIFT - torch.diag(3 * y * y)


LONE = Field(
    _value,
    jacobian=_jacobian,
    jvp=lambda t, y, v: _jacobian(t, y) @ v,
    time_derivative=lambda t, y: -math.sin(t) * (DRIFT @ y),
)


def _batched(function):
    def rows(t, *points):
        triples = zip(t.tolist(), *points, strict=True)
        return torch.stack([function(time, *row) for time, *row in triples])

    return None if function is None else rows


BATCHED = Field(
    _batched(_value),
    jacobian=_batched(_jacobian),
    jvp=_batched(LONE.jvp),
    time_derivative=_batched(LONE.time_derivative),
    batched=True,
)
TIMES = np.array([0.0, 0.7, 1.9])
THETA = torch.tensor(np.random.default_rng(7).normal(size=(3, 3)))
VECTOR = torch.tensor(np.random.default_rng(8).normal(size=(3, 3)))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_field_of_one_point_is_lifted_to_rows(rows):
    t, theta, vector = TIMES[:rows], THETA[:rows], VECTOR[:rows]
    lone, batch = System(LONE), System(BATCHED)
    value = batch.value(t, theta)
    assert torch.equal(lone.value(t, theta), value)
    assert torch.equal(lone.jacobian(t, theta), batch.jacobian(t, theta))
    assert torch.equal(lone.jvp(t, theta, vector), batch.jvp(t, theta, vector))
    change = lone.time_derivative(t, theta, value)
    assert torch.equal(change, batch.time_derivative(t, theta, value))
    assert change.shape == theta.shape


def test_a_field_of_one_point_is_given_the_same_tensor_again():
    """By it a field knows that it has solved for this point already."""
    given = []
    field = replace(LONE, function=lambda t, y: (given.append(y), _value(t, y))[1])
    field = replace(field, jacobian=lambda t, y: (given.append(y), _jacobian(t, y))[1])
    system, rows = System(field), THETA[:1]
    system.value(TIMES[:1], rows)
    system.jacobian(TIMES[:1], rows)
    system.value(TIMES[:1], rows.clone())
    assert given[0] is given[1]
    assert given[2] is not given[1]


@pytest.mark.parametrize("field", [LONE, BATCHED], ids=["lone", "batched"])
def test_what_a_field_does_not_offer_is_taken_by_differences(field):
    bare = System(replace(field, jacobian=None, jvp=None, time_derivative=None))
    full = System(field)
    value = full.value(TIMES, THETA)
    pairs = [
        (bare.jacobian(TIMES, THETA), full.jacobian(TIMES, THETA)),
        (bare.jvp(TIMES, THETA, VECTOR), full.jvp(TIMES, THETA, VECTOR)),
        (bare.time_derivative(TIMES, THETA, value), full.time_derivative(TIMES, THETA, value)),
    ]
    for found, exact in pairs:
        assert torch.allclose(found, exact, rtol=1e-6, atol=3e-7)
    assert not bare.jvp(TIMES, THETA, torch.zeros_like(VECTOR)).any()
    autonomous = System(replace(field, time_derivative=None, autonomous=True))
    assert autonomous.time_derivative(TIMES, THETA, value) is None


def test_differences_fit_single_precision():
    field = Field(lambda t, y: math.cos(t) * (DRIFT.float() @ y) - y**3)
    found, theta = System(field), THETA.float()
    value = found.value(TIMES, theta)
    exact = System(LONE)
    for ours, theirs in (
        (found.jacobian(TIMES, theta), exact.jacobian(TIMES, THETA)),
        (found.time_derivative(TIMES, theta, value), exact.time_derivative(TIMES, THETA, value)),
        (found.jvp(TIMES, theta, VECTOR.float()), exact.jvp(TIMES, THETA, VECTOR)),
        (found.jvp(TIMES, theta, 0 * theta), 0 * THETA),
    ):
        assert ours.dtype == torch.float32
        assert torch.allclose(ours.double(), theirs, rtol=1e-2, atol=1e-2)


def test_no_difference_in_time_looks_beyond_the_point():
    """t = 0 is the only time from where it looks ahead."""
    seen = []

    def clock(t, y):
        seen.append(t)
        return y * t

    System(Field(clock)).time_derivative(TIMES, THETA, 0 * THETA)
    near, far = np.array(seen).reshape(2, -1)
    assert 0 < near[0] < far[0] < 2e-5
    assert (far[1:] < near[1:]).all()
    assert (near[1:] < TIMES[1:]).all()


@each_method
def test_some_rows_of_a_state_go_on_as_they_would_have(method):
    settings = Settings(3.0, 1e-4, 1e-6)
    state = method.start(BATCHED, TIMES, THETA, settings)
    state, _ = method.advance(BATCHED, state)
    part = state.select(np.array([2, 0]))
    assert part.t.tolist() == state.t[[2, 0]].tolist()
    for name, value in state.cache.items():
        assert len(part.cache[name]) == 2, name
        assert torch.equal(torch.as_tensor(part.cache[name]), torch.as_tensor(value)[[2, 0]])
    later, step = method.advance(BATCHED, state)
    later_part, step_part = method.advance(BATCHED, part)
    assert torch.allclose(step_part.theta1, step.theta1[[2, 0]], rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(later_part.dt, later.dt[[2, 0]], rtol=1e-10)


def test_a_row_is_as_a_lone_run():
    """First steps, error ratios and the times reached."""
    settings = Settings(3.0, 1e-5, 1e-8)
    for method in NATIVE:
        state = method.start(BATCHED, np.zeros(3), THETA, settings)
        lone = method.init(LONE, 0.0, THETA[1], settings)
        assert state.dt[1] == pytest.approx(lone.dt[0], rel=1e-12)
        for _ in range(3):
            state, step = method.advance(BATCHED, state)
            lone, alone = method.advance(LONE, lone)
            assert step.ratio[1] == pytest.approx(alone.ratio[0], rel=1e-6)
            # The ratios' rounding moves the steps, and so the times that theta belongs to.
            assert torch.allclose(step.theta1[1], alone.theta1[0], rtol=1e-9, atol=1e-14)


@each_method
def test_a_last_step_goes_to_the_end_and_leaves_no_splinter(method):
    state = method.start(BATCHED, TIMES, THETA, Settings(2.0, 1.0, 1.0), np.full(3, 0.0995))
    _, step = method.advance(BATCHED, state)
    assert step.t1[-1] == 2.0
    np.testing.assert_allclose(step.t1, [0.0995, 0.7995, 2.0], rtol=1e-15)


@each_method
def test_a_row_without_a_value_is_rejected_alone(method):
    def broken(t, y):
        return torch.where((y[:, :1] > 5) & (torch.as_tensor(t) > 0)[:, None], torch.nan, -y)

    def jacobian(t, y):
        return -torch.eye(3, dtype=y.dtype).expand(len(y), 3, 3)

    field = Field(broken, jacobian, lambda t, y, v: -v, batched=True, symmetric=True)
    theta = torch.tensor([[1.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
    settings = Settings(1.0, 1e-3, 1e-6)
    state = method.start(field, np.zeros(2), theta, settings, np.full(2, 0.01))
    state, step = method.advance(field, state)
    assert step.accepted.tolist() == [True, False]
    assert np.isnan(step.ratio[1])
    assert state.dt[1] == pytest.approx(0.0025)
    assert torch.equal(state.theta[1], theta[1])
    assert torch.isfinite(state.theta).all()


@each_method
def test_a_step_that_jumps_to_another_branch_is_rejected(method):
    field = Field(
        lambda t, y: -y,
        jacobian=lambda t, y: -torch.eye(3, dtype=y.dtype).expand(len(y), 3, 3),
        jvp=lambda t, y, v: -v,
        symmetric=True,
        batched=True,
        branch=lambda y: (y[..., 0] > 0.9).long(),
    )
    theta = torch.tensor([[1.0, 1, 1], [0.5, 1, 1]], dtype=torch.float64)
    state = method.start(field, np.zeros(2), theta, Settings(3.0, 0.1, 0.1), np.full(2, 0.2))
    _, step = method.advance(field, state)
    assert step.accepted.tolist() == [False, True]
    assert np.isnan(step.ratio).tolist() == [True, False]


@each_method
def test_an_error_test_that_fails_at_the_smallest_step_is_said_so(method):
    field = Field(lambda t, y: torch.sin(1e9 * y / 1e-9) * 1e12, jacobian=lambda t, y: 0 * DRIFT)
    state = method.init(field, 1.0, THETA[0], Settings(2.0, 1e-12, 1e-12, first_step=1e-9))
    with pytest.raises(Breakdown, match="fails at the smallest step") as breakdown:
        method.step(field, state)
    assert breakdown.value.status is Status.STEP_UNDERFLOW


def test_the_memory_is_put_back_before_every_step():
    memory = Memory()

    def remembering(t, y):
        memory.value = y.clone()
        return -y

    field = Field(remembering, memory=memory)
    state = TSIT5_METHOD.init(field, 0.0, THETA[0], Settings(1.0))
    kept = state.memory.clone()
    memory.value, memory.last = torch.full((3,), math.nan), object()
    seen = []
    spying = replace(field, function=lambda t, y: seen.append(memory.value) or remembering(t, y))
    TSIT5_METHOD.step(spying, state)
    assert torch.equal(seen[0], kept)
    assert memory.last is None
