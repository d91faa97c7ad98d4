"""What methods share: the uniform grid and the cubic Hermite interpolant."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gflow.integrators.base import Field, hermite, uniform_grid


@given(step_size=st.floats(1e-6, 10.0), length=st.floats(1e-3, 100.0))
def test_the_grid_fills_the_interval_with_the_largest_step_that_is_not_too_long(step_size, length):
    step, count = uniform_grid(step_size, length)
    assert count >= 1
    assert step * count == pytest.approx(length, rel=1e-9)
    assert step <= step_size * (1 + 1e-9)
    assert length / step_size > count - 1 - 1e-6


@pytest.mark.parametrize(("count", "step_size"), [(3, 0.1), (7, 0.01), (10**6, 1e-6), (1, 0.3)])
def test_a_step_that_divides_the_interval_is_kept_as_it_is(count, step_size):
    assert uniform_grid(step_size, count * step_size) == (step_size, count)


def test_an_infinite_interval_has_a_grid_without_end():
    assert uniform_grid(0.1, math.inf) == (0.1, math.inf)


@given(
    coefficients=st.lists(st.floats(-5, 5), min_size=4, max_size=4),
    t0=st.floats(-3, 3),
    dt=st.floats(0.1, 3),
)
def test_the_interpolant_is_exact_for_cubics(coefficients, t0, dt):
    a, b, c, d = coefficients

    def theta(t):
        return torch.tensor([a + b * t + c * t**2 + d * t**3, 1.0], dtype=torch.float64)

    def slope(t):
        return torch.tensor([b + 2 * c * t + 3 * d * t**2, 0.0], dtype=torch.float64)

    t1 = t0 + dt
    interpolate = hermite(t0, t1, theta(t0), theta(t1), slope(t0), slope(t1))
    times = torch.linspace(t0, t1, 7, dtype=torch.float64)
    expected = torch.stack([theta(float(t)) for t in times])
    assert torch.allclose(interpolate(times), expected, rtol=1e-10, atol=1e-10)


def test_a_field_is_called_as_its_function():
    field = Field(lambda t, y: t * y)
    assert torch.equal(field(2.0, torch.ones(3)), torch.full((3,), 2.0))
    assert field.jacobian is None
    assert not field.symmetric
