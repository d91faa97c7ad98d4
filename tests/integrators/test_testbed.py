"""The named problems: their solutions solve them, and they are as tame as they say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.functional import jacobian

from gflow.integrators.base import Field
from gflow.integrators.testbed import CASES, Case, cubic, decay, tracking

NAMES = ["decay", "cubic", "tracking"]
SIZE = {"decay": 7, "cubic": 4, "tracking": 2}
each_case = pytest.mark.parametrize("make", CASES, ids=NAMES)
times = st.floats(0, 10)


def _points(size):
    return st.lists(st.floats(-20, 20), min_size=size, max_size=size).map(
        lambda values: torch.tensor(values, dtype=torch.float64)
    )


def test_the_names_are_those_of_the_functions():
    assert [make().name for make in CASES] == NAMES == [make.__name__ for make in CASES]
    assert {make.__name__: make().theta0.numel() for make in CASES} == SIZE


@each_case
def test_the_solution_starts_at_the_start_and_solves_the_problem(make):
    case = make()
    sampled = torch.linspace(0, case.t_end, 9, dtype=torch.float64)
    theta = case.exact(sampled)
    slopes = jacobian(case.exact, sampled).diagonal(dim1=0, dim2=2).T
    assert torch.allclose(theta[0], case.theta0, rtol=1e-15, atol=0)
    for t, point, slope in zip(sampled.tolist(), theta, slopes, strict=True):
        assert torch.allclose(case.field(t, point), slope, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [decay, cubic, tracking])
@given(data=st.data(), t=times)
def test_the_derivatives_are_those_of_the_field(make, data, t):
    field = make().field
    theta = data.draw(_points(SIZE[make.__name__]))
    matrix = field.jacobian(t, theta)
    assert torch.allclose(matrix, jacobian(lambda y: field(t, y), theta), rtol=1e-12, atol=1e-12)
    assert field.symmetric
    assert torch.equal(matrix, matrix.T)
    change = (field(t + 1e-5, theta) - field(t - 1e-5, theta)) / 2e-5
    claimed = torch.zeros_like(theta)
    if field.time_derivative is not None:
        claimed = field.time_derivative(t, theta)
    assert torch.allclose(change, claimed, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("make", [decay, cubic, tracking])
@given(data=st.data(), t=times)
def test_two_trajectories_never_move_apart(make, data, t):
    """(f(a) - f(b)) . (a - b) <= 0."""
    field, points = make().field, _points(SIZE[make.__name__])
    a, b = data.draw(points), data.draw(points)
    product = (field(t, a) - field(t, b)) * (a - b)
    assert float(product.sum()) <= 1e-12 * float(product.abs().sum() + 1)


def test_the_rates_and_lengths_can_be_chosen():
    case = decay(0.5, 8.0, 3.0)
    assert case.t_end == 3.0
    assert torch.allclose(
        -case.field(0.0, case.theta0)[[0, 3, 6]], torch.tensor([0.5, 2.0, 8.0]).double()
    )
    assert cubic(2.5).t_end == 2.5
    slow = tracking(rate=2.0, t_end=4.0)
    assert slow.t_end == 4.0
    assert float(slow.field.jacobian(0.0, slow.theta0)[0, 0]) == -2.0


def test_the_ratio_is_the_rms_of_the_scaled_error():
    case = Case(
        "by hand",
        Field(lambda t, y: y),
        torch.zeros(2, dtype=torch.float64),
        1.0,
        lambda t: torch.tensor([[1.0, 0.0], [-2.0, 4.0]], dtype=torch.float64),
    )
    theta = torch.tensor([[1.3, 0.0], [-2.0, 3.4]], dtype=torch.float64)
    ratio = case.ratio(torch.tensor([0.0, 1.0]), theta, rtol=0.1, atol=0.2)
    # Scales: 0.1 |theta| + 0.2 is (0.3, 0.2) and (0.4, 0.6).
    expected = torch.tensor([1.0, 1.0], dtype=torch.float64) / math.sqrt(2)
    assert torch.allclose(ratio, expected, rtol=1e-14, atol=0)
