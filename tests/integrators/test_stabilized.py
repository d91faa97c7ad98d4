"""Runge-Kutta-Chebyshev: its polynomials, its tolerance, its stages and its state."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from numpy.polynomial.chebyshev import Chebyshev

from gflow.integrators.base import Field, Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.stabilized import (
    DAMPING,
    FEWEST,
    MOST,
    RKC2_METHOD,
    rkc2_coefficients,
    rkc2_reaches,
)
from gflow.integrators.system import System
from gflow.integrators.testbed import CASES, cubic, decay

REACHES = rkc2_reaches()


def _ones(size, dtype=torch.float64):
    return torch.ones(size, dtype=dtype)


def _stability(stages, z):
    """One step of theta' = lambda theta with lambda h = z, by the recursion alone."""
    before, now = np.zeros_like(z), rkc2_coefficients(stages)[0][2] * z
    for mu, nu, weight, rest, _ in rkc2_coefficients(stages)[1:]:
        before, now = now, mu * now + nu * before + weight * z * (1 + now) + rest * z
    return 1 + now


@pytest.mark.parametrize("stages", [2, 3, 5, 17, 100, 500])
def test_the_polynomial_is_the_damped_one_of_order_two(stages):
    w0 = 1 + DAMPING / stages**2
    polynomial = Chebyshev.basis(stages)
    slope, bend = polynomial.deriv()(w0), polynomial.deriv(2)(w0)
    z = -np.linspace(0, 1, 1001) * (w0 + 1) * bend / slope
    b = bend / slope**2
    closed = 1 - b * polynomial(w0) + b * polynomial(w0 + slope / bend * z)
    np.testing.assert_allclose(_stability(stages, z), closed, rtol=0, atol=1e-13 * stages**2)
    small = np.array([-1e-2, 1e-2])
    remainder = _stability(stages, small) - (1 + small + small**2 / 2)
    assert np.abs(remainder).max() < small.max() ** 3 / 6


@pytest.mark.parametrize("stages", [2, 3, 5, 17, 100, 500])
def test_it_is_stable_and_damps_as_far_as_it_says(stages):
    reach = REACHES[stages - FEWEST]
    inside = _stability(stages, -np.linspace(1, reach, 20_001))
    assert np.abs(inside).max() < 1 - DAMPING / 5
    beyond = _stability(stages, -np.linspace(reach, 1.4 * reach, 101))
    assert np.abs(beyond).max() > 1


def test_the_reaches():
    s = np.arange(FEWEST, MOST + 1)
    for stages in (2, 3, 10, 60):
        w0, polynomial = 1 + DAMPING / stages**2, Chebyshev.basis(stages)
        exact = (w0 + 1) * polynomial.deriv(2)(w0) / polynomial.deriv()(w0)
        assert REACHES[stages - FEWEST] == pytest.approx(exact, rel=1e-11)
    estimate = 2 / 3 * (s**2 - 1) * (1 - 2 / 15 * DAMPING)
    assert np.abs(REACHES / estimate - 1)[8:].max() < 0.01


@pytest.mark.parametrize("stages", [2, 9, 500])
def test_the_nodes_rise_to_the_end(stages):
    nodes = np.array([row[-1] for row in rkc2_coefficients(stages)])
    assert (np.diff(nodes) > 0).all()
    assert nodes[0] > 0
    assert nodes[-1] == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("make", CASES)
def test_the_tolerance_is_met_between_steps_too(make, rtol):
    case = make()
    times = torch.linspace(0, case.t_end, 101, dtype=torch.float64)
    settings = Settings(case.t_end, rtol, 1e-3 * rtol)
    trajectory = integrate_field(case.field, case.theta0, RKC2_METHOD, settings, times)
    ratio = case.ratio(times, trajectory.theta, rtol, 1e-3 * rtol)
    assert float(ratio.max()) < 4
    assert float(ratio[-1]) < 1.2


@pytest.mark.parametrize(("scale", "atol"), [(1.0, 1e-3), (1e-3, 1e-6)])
def test_an_absolute_tolerance_alone_is_met_whatever_the_unit(scale, atol):
    """theta -> scale theta and t -> t / scale^2 keep the cubic flow what it is."""
    case = cubic()
    times = torch.linspace(0, case.t_end, 11, dtype=torch.float64)
    settings = Settings(case.t_end / scale**2, 0.0, atol)
    trajectory = integrate_field(
        case.field, scale * case.theta0, RKC2_METHOD, settings, times / scale**2
    )
    error = (trajectory.theta / scale - case.exact(times)).pow(2).mean(-1).sqrt()
    assert float(error.max()) < 3 * atol / scale
    assert 300 < trajectory.nfe < 900


def _heat(points):
    """theta' = theta'' on a grid, with its stiffest and its smoothest mode at the start."""
    grid = torch.arange(1, points + 1, dtype=torch.float64) / (points + 1)
    width = (points + 1) ** 2

    def function(t, theta):
        padded = torch.nn.functional.pad(theta, (1, 1))
        return width * (padded[2:] - 2 * theta + padded[:-2])

    rate = 4 * width * math.sin(math.pi / 2 / (points + 1)) ** 2
    return Field(function), torch.sin(math.pi * grid), rate


def test_evaluations_grow_as_the_root_of_the_stiffness():
    nfe = []
    for points in (49, 199):
        field, start, rate = _heat(points)
        trajectory = integrate_field(field, start, RKC2_METHOD, Settings(1.0, 1e-3, 1e-6))
        error = trajectory.theta[-1] - math.exp(-rate) * start
        assert float(error.abs().max()) < 3 * (1e-6 + 1e-3 * math.exp(-rate))
        nfe.append(trajectory.nfe)
    assert nfe[1] < 6 * nfe[0]
    assert nfe[1] < 6000, "Euler's method needs 80,000"


def test_more_stages_than_there_are_shorten_the_steps():
    rates = torch.tensor([1e-2, 1e7], dtype=torch.float64)
    field, start = Field(lambda t, theta: -rates * theta), _ones(2) * torch.tensor([1.0, 0.0])
    trajectory = integrate_field(field, start, RKC2_METHOD, Settings(0.3, 1e-3, 1e-6))
    longest = max(entry.attempt.dt for entry in trajectory.log)
    assert 0.5 * REACHES[-1] < longest * 1e7 <= REACHES[-1]
    assert float(trajectory.theta[-1, 0]) == pytest.approx(math.exp(-3e-3), rel=1e-6)


def test_a_stiffness_that_comes_suddenly_is_found():
    def function(t, theta):
        return -(1.0 if t < 5 else 1e3) * (theta - math.cos(t)) - math.sin(t)

    trajectory = integrate_field(Field(function), _ones(2), RKC2_METHOD, Settings(10.0, 1e-3, 1e-6))
    assert trajectory.status.ok
    assert trajectory.theta[-1].tolist() == pytest.approx([math.cos(10)] * 2, rel=1e-3)
    assert trajectory.nfe < 3000


def test_complex_eigenvalues_are_no_accident():
    matrix = torch.tensor([[-1.0, 40.0], [-40.0, -1.0]], dtype=torch.float64)
    field = Field(lambda t, theta: matrix @ theta)
    trajectory = integrate_field(field, _ones(2), RKC2_METHOD, Settings(1.0, 1e-3, 1e-6))
    exact = torch.matrix_exp(matrix) @ _ones(2)
    assert trajectory.status.ok
    assert float((trajectory.theta[-1] - exact).abs().max()) < 2e-2


@pytest.mark.parametrize("speed", [0.0, 1.0])
def test_a_constant_field_takes_two_stages(speed):
    field = Field(lambda t, theta: torch.full_like(theta, speed))
    trajectory = integrate_field(field, 0 * _ones(3), RKC2_METHOD, Settings(1.0, 1e-4, 1e-7))
    assert trajectory.theta[-1].tolist() == pytest.approx([speed] * 3, abs=1e-12)
    assert trajectory.nfe <= 2 * trajectory.accepted + 4


def test_single_precision_is_used_with_fewer_stages():
    rates = torch.logspace(-3, 3, 7)
    field = Field(lambda t, theta: -rates * theta)
    trajectory = integrate_field(
        field, _ones(7, torch.float32), RKC2_METHOD, Settings(10.0, 1e-3, 1e-6)
    )
    exact = torch.exp(-10 * rates)
    assert trajectory.theta.dtype == torch.float32
    assert float(((trajectory.theta[-1] - exact) / (1e-6 + 1e-3 * exact)).abs().max()) < 3


def _saved(state):
    """The state after a trip to a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_a_saved_state_goes_on_bit_for_bit():
    case = decay()
    state = RKC2_METHOD.init(case.field, 0.0, case.theta0, Settings(10.0, 1e-3, 1e-6))
    for _ in range(40):
        state, _ = RKC2_METHOD.step(case.field, state)
    other = _saved(state)
    for _ in range(40):
        state, _ = RKC2_METHOD.step(case.field, state)
        other, _ = RKC2_METHOD.step(case.field, other)
    assert torch.equal(state.theta, other.theta)
    assert state.t == other.t


def test_rows_share_stages_and_keep_their_tolerance():
    """One mild row and one stiff one, each with its own steps and its own radius."""
    rates = torch.tensor([[0.1, 1.0], [1.0, 1e3]], dtype=torch.float64)
    field = Field(lambda t, theta: -rates * theta, batched=True)
    settings = Settings(2.0, 1e-3, 1e-6)
    state = RKC2_METHOD.start(field, np.zeros(2), torch.ones_like(rates), settings)
    assert state.cache["radius"] == pytest.approx([1.0, 1e3], rel=0.1)
    attempts = 0
    while (state.t < 2).any() and attempts < 500:
        state, _ = RKC2_METHOD.advance(field, state)
        attempts += 1
    exact = torch.exp(-2 * rates)
    assert state.t.tolist() == [2.0, 2.0]
    assert float(((state.theta - exact) / (1e-6 + 1e-3 * exact)).abs().max()) < 3


def test_a_row_without_values_is_rejected_alone():
    def function(t, theta):
        return torch.where(theta > 1.5, torch.nan, -theta)

    field = Field(function, batched=True)
    start = torch.tensor([[1.0, 0.5], [2.0, 0.5]], dtype=torch.float64)
    state = RKC2_METHOD.start(field, np.zeros(2), start, Settings(1.0, 1e-3, 1e-6, first_step=0.1))
    state, step = RKC2_METHOD.advance(field, state)
    assert step.accepted.tolist() == [True, False]
    assert state.cache["value"][0].tolist() == System(field).value(state.t, state.theta)[0].tolist()
