"""How stiffness is measured, when it is looked for and what comes of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import gflow.integrators.stiffness as stiffness
from gflow.integrators.base import Field, Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.explicit import TSIT5_METHOD
from gflow.integrators.exponential import EXPRB43
from gflow.integrators.stiffness import (
    DENSE_LIMIT,
    FIRST_LOOK,
    LIMITED,
    StiffnessWatch,
    Switching,
    fastest_rates,
)

ROWS = 4


def _matrices(symmetric, size=6):
    matrix = np.random.default_rng(11).normal(size=(ROWS, size, size))
    return torch.tensor(matrix + matrix.swapaxes(1, 2) if symmetric else matrix)


def _products(matrices):
    return lambda t, y, v: (matrices @ v[..., None])[..., 0]


def _theta(size, rows=ROWS):
    return torch.ones(rows, size, dtype=torch.float64)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_rate_is_the_largest_eigenvalue_in_size(symmetric):
    matrices = _matrices(symmetric)
    field = Field(lambda t, y: y, lambda t, y: matrices, batched=True, symmetric=symmetric)
    found = fastest_rates(field, np.zeros(ROWS), _theta(6))
    exact = np.abs(np.linalg.eigvals(matrices.numpy())).max(-1)
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-12)


def test_a_field_of_one_point_is_asked_row_by_row():
    def jacobian(t, y):
        return torch.diag(torch.stack([-y[0] * (1 + t), 0.1 * y[1]]))

    theta = torch.tensor([[1.0, 1.0], [3.0, 1.0]], dtype=torch.float64)
    bare = Field(lambda t, y: y, jvp=lambda t, y, v: jacobian(t, y) @ v, symmetric=True)
    for field in (replace(bare, jacobian=jacobian), bare):
        found = fastest_rates(field, np.array([0.0, 1.0]), theta)
        np.testing.assert_allclose(found.numpy(), [1.0, 6.0], rtol=1e-3)


@pytest.mark.parametrize("dense", [True, False])
def test_products_alone_come_close(dense):
    """The dense Jacobian is not asked for beyond DENSE_LIMIT."""

    def forbidden(t, y):
        raise AssertionError("a dense Jacobian was asked for")

    size = DENSE_LIMIT + 1 if dense else 6
    rates = -(torch.linspace(0.1, 1, size, dtype=torch.float64) ** 6) * 900
    field = Field(
        lambda t, y: y,
        jacobian=forbidden if dense else None,
        jvp=lambda t, y, v: rates * v,
        batched=True,
    )
    found = fastest_rates(field, np.zeros(ROWS), _theta(size))
    assert ((found > 800) & (found < 900.0001)).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_row_without_a_jacobian_has_no_rate(symmetric):
    matrices = _matrices(symmetric)
    exact = fastest_rates(
        Field(lambda t, y: y, lambda t, y: matrices.clone(), batched=True, symmetric=symmetric),
        np.zeros(ROWS),
        _theta(6),
    )
    matrices[2, 0, 1] = torch.nan
    dense = Field(lambda t, y: y, lambda t, y: matrices, batched=True, symmetric=symmetric)
    found = fastest_rates(dense, np.zeros(ROWS), _theta(6))
    assert found.isnan().tolist() == [False, False, True, False]
    others = torch.tensor([0, 1, 3])
    assert torch.allclose(found[others], exact[others], rtol=1e-12)
    products = replace(dense, jacobian=None, jvp=_products(matrices))
    found = fastest_rates(products, np.zeros(ROWS), _theta(6))
    assert found.isnan().tolist() == [False, False, True, False]


def test_a_field_that_offers_neither_has_no_rate():
    assert fastest_rates(Field(lambda t, y: -y), np.zeros(1), _theta(2, 1)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_field_at_rest_has_the_rate_zero(dtype):
    zero = Field(lambda t, y: 0 * y, jvp=lambda t, y, v: 0 * v, batched=True)
    assert fastest_rates(zero, np.zeros(1), _theta(2, 1).to(dtype)).tolist() == [0.0]


def _state(field, dt, t_end=100.0):
    dt = np.asarray(dt, dtype=float)
    theta = _theta(2, len(dt))
    return TSIT5_METHOD.start(field, np.zeros(len(dt)), theta, Settings(t_end), dt)


def _counted(rate=50.0):
    looks = []

    def jacobian(t, y):
        looks.append(len(y))
        return -rate * torch.eye(2, dtype=y.dtype).expand(len(y), 2, 2)

    return Field(lambda t, y: -rate * y, jacobian, batched=True, symmetric=True), looks


def test_the_watch_looks_at_powers_of_two_only():
    field, looks = _counted()
    watch, state = StiffnessWatch(10.0), _state(field, [0.06])
    seen = [k for k in range(1, 1200) if watch(field, state, k)[0]]
    assert seen == [64, 128, 256, 512, 1024]
    assert seen[0] == FIRST_LOOK
    assert len(looks) == len(seen)


def test_only_rows_that_stability_holds_back_for_long_are_handed_over():
    """Step times rate beyond LIMITED, and more than `patience` such steps to go."""
    field, looks = _counted(rate=50.0)
    limit = LIMITED / 50.0
    state = _state(field, [0.9 * limit, 1.1 * limit, 3.0])
    assert StiffnessWatch(100.0)(field, state, 64).tolist() == [False, True, False]
    assert not StiffnessWatch(5000.0)(field, state, 64).any()
    assert looks == [3], "where no row has far to go, nothing is measured"
    endless = _state(field, [0.9 * limit, 1.1 * limit, 3.0], t_end=math.inf)
    assert StiffnessWatch(5000.0)(field, endless, 64).tolist() == [False, True, True]


def test_what_cannot_be_measured_is_not_handed_over():
    bare = Field(lambda t, y: -y, batched=True)
    assert not StiffnessWatch(1.0)(bare, _state(bare, [5.0]), 64).any()
    broken, _ = _counted(math.nan)
    calm, _ = _counted(1.0)
    assert not StiffnessWatch(1.0)(broken, _state(calm, [5.0]), 64).any()


@pytest.mark.parametrize("value", [math.nan, 1e308])
def test_a_jacobian_of_no_use_does_not_disturb_a_method_that_needs_none(value):
    """The look at it fails, or finds no eigenvalues; the run goes on as without a watch."""

    def jacobian(t, y):
        return torch.full((2, 2), value, dtype=torch.float64)

    field = Field(lambda t, y: -y * math.cos(9 * t), jacobian=jacobian, symmetric=False)
    found, times, settings = _switched(field, 20.0, 0.0)
    start = torch.tensor([2.0, 0.0], dtype=torch.float64)
    alone = integrate_field(field, start, TSIT5_METHOD, settings, times)
    assert found.status.ok
    assert len(found.log) > 2 * FIRST_LOOK
    if math.isnan(value):
        assert torch.equal(found.theta, alone.theta)


def _stiffening():
    """theta' = -rate(t) (theta - cos t) - sin t, the rate rising from 1 to 2001 about t = 5."""

    def rate(t):
        return 1.0 + 1000.0 * (1 + math.tanh(4 * (t - 5)))

    return Field(
        lambda t, y: -rate(t) * (y - math.cos(t)) - math.sin(t),
        jacobian=lambda t, y: -rate(t) * torch.eye(2, dtype=y.dtype),
        symmetric=True,
    )


def _switched(field, t_end, patience):
    method = Switching(TSIT5_METHOD, EXPRB43, StiffnessWatch(patience))
    times = torch.linspace(0, t_end, 41, dtype=torch.float64)
    theta0 = torch.tensor([2.0, 0.0], dtype=torch.float64)
    settings = Settings(t_end, 1e-6, 1e-8)
    return integrate_field(field, theta0, method, settings, times), times, settings


def test_a_flow_that_becomes_stiff_on_the_way_is_handed_over_once():
    found, times, settings = _switched(_stiffening(), 12.0, 100.0)
    assert found.status.ok
    assert found.method == "native:tsit5 then native:exprb43"
    late = times > 7  # the start is forgotten by then
    exact = torch.cos(times)[late, None]
    scale = settings.atol + settings.rtol * exact.abs()
    ratio = (((found.theta[late] - exact) / scale) ** 2).mean(-1).sqrt()
    assert float(ratio.max()) < 10
    accepted = found.log.table[found.log.table[:, 3] == 1]
    assert np.allclose(accepted[1:, 0], np.cumsum(accepted[:, 1])[:-1], rtol=1e-12)
    alone = integrate_field(
        _stiffening(), torch.tensor([2.0, 0.0]).double(), TSIT5_METHOD, settings, times
    )
    assert found.nfe < 0.5 * alone.nfe
    begins = alone.log.table[: FIRST_LOOK // 2]
    np.testing.assert_array_equal(found.log.table[: FIRST_LOOK // 2, :4], begins[:, :4])


def test_a_flow_that_stays_mild_is_never_handed_over():
    field = Field(lambda t, y: -y * math.cos(9 * t), jacobian=lambda t, y: torch.eye(2) * 0)
    found, *_ = _switched(field, 20.0, 0.0)
    assert found.method == "native:tsit5"
    assert len(found.log) > 2 * FIRST_LOOK


def test_the_method_that_takes_over_goes_on_with_the_step_that_was_due(monkeypatch):
    """Handing over to itself, but for the controller's memory, a method makes the same step."""
    monkeypatch.setattr(stiffness, "FIRST_LOOK", 8)
    monkeypatch.setattr(stiffness, "LIMITED", 0.0)
    method = Switching(TSIT5_METHOD, TSIT5_METHOD, StiffnessWatch(0.0))
    start, settings = torch.tensor([2.0, 0.0], dtype=torch.float64), Settings(12.0, 1e-6, 1e-8)
    state = method.init(_stiffening(), 0.0, start, settings)
    plain = TSIT5_METHOD.init(_stiffening(), 0.0, start, settings)
    while "then" not in method.label(state):
        state, step = method.step(_stiffening(), state)
        plain, expected = TSIT5_METHOD.step(_stiffening(), plain)
    state, step = method.step(_stiffening(), state)
    plain, expected = TSIT5_METHOD.step(_stiffening(), plain)
    assert step.attempts == expected.attempts
    assert torch.equal(step.theta1, expected.theta1)


def test_the_method_that_takes_over_begins_where_the_other_ended():
    method = Switching(TSIT5_METHOD, EXPRB43, StiffnessWatch(1.0))
    settings = Settings(12.0, 1e-6, 1e-8)
    theta0 = torch.tensor([2.0, 0.0], dtype=torch.float64)
    state = method.init(_stiffening(), 0.0, theta0, settings)
    assert method.label(state) == "native:tsit5"
    while method.label(state) == "native:tsit5":
        before = state
        state, step = method.step(_stiffening(), state)
    assert method.label(before) == "native:tsit5"
    assert state.inner.t.tolist() == [step.t1]
    assert torch.equal(state.inner.theta[0], step.theta1)
    assert method.label(method.step(_stiffening(), state)[0]) == "native:tsit5 then native:exprb43"
