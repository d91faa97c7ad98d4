"""The operators B(J) against explicit sums, autograd and their limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gflow.equilibrium.adjoint import Backward, parse_backward
from gflow.errors import ProblemError

NAMES = [
    "exact",
    "jfb",
    "neumann:1",
    "neumann:2",
    "neumann:7",
    "damped:1:0.3",
    "damped:5:0.5",
    "phantom:3:0.7",
]
jacobians = st.lists(st.floats(-3.0, 0.95), min_size=1, max_size=5).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@given(jacobian=jacobians, terms=st.integers(1, 9), damping=st.floats(0.01, 1.0))
def test_the_factor_is_the_sum_in_the_table(jacobian, terms, damping):
    ratio = damping * jacobian + (1 - damping)
    expected = damping * sum(ratio**k for k in range(terms))
    found = parse_backward(f"damped:{terms}:{damping!r}").factor(jacobian)
    size = damping * sum(ratio.abs() ** k for k in range(terms))
    assert ((found - expected).abs() <= 1e-14 * terms * size).all()


@given(jacobian=jacobians, name=st.sampled_from(NAMES))
def test_the_derivative_is_that_of_autograd(jacobian, name):
    backward = parse_backward(name)
    point = jacobian.clone().requires_grad_()
    total = backward.factor(point).sum() + 0.0 * point.sum()
    (expected,) = torch.autograd.grad(total, point)
    assert torch.allclose(backward.derivative(jacobian), expected, rtol=1e-12, atol=1e-12)


@given(jacobian=jacobians)
def test_names_of_the_same_operator_agree(jacobian):
    one, plain, series = (parse_backward(n) for n in ("jfb", "neumann:1", "damped:1:1"))
    assert torch.equal(one.factor(jacobian), torch.ones_like(jacobian))
    assert torch.equal(one.derivative(jacobian), torch.zeros_like(jacobian))
    assert torch.equal(plain.factor(jacobian), one.factor(jacobian))
    assert torch.equal(series.factor(jacobian), one.factor(jacobian))
    unrolled, damped = parse_backward("phantom:4:0.3"), parse_backward("damped:4:0.3")
    assert torch.equal(unrolled.factor(jacobian), damped.factor(jacobian))
    neumann, damped = parse_backward("neumann:4"), parse_backward("damped:4:1.0")
    assert torch.equal(neumann.factor(jacobian), damped.factor(jacobian))
    assert torch.equal(neumann.derivative(jacobian), damped.derivative(jacobian))


@given(jacobian=st.floats(-0.8, 0.8))
def test_the_neumann_series_converges_to_the_exact_inverse(jacobian):
    point = torch.tensor(jacobian, dtype=torch.float64)
    exact, series = parse_backward("exact"), parse_backward("neumann:300")
    assert series.factor(point) == pytest.approx(float(exact.factor(point)), rel=1e-13)
    assert series.derivative(point) == pytest.approx(float(exact.derivative(point)), rel=1e-13)


@given(jacobian=st.floats(-2.9, 0.8))
def test_damping_widens_the_region_of_convergence(jacobian):
    """|L J + 1 - L| < 1 holds down to J = 1 - 2/L, here -3."""
    point = torch.tensor(jacobian, dtype=torch.float64)
    exact = float(parse_backward("exact").factor(point))
    assert float(parse_backward("damped:800:0.5").factor(point)) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_dtype_and_shape_are_kept(name):
    backward = parse_backward(name)
    jacobian = torch.full((2, 1, 3), 0.5)
    for value in (backward.factor(jacobian), backward.derivative(jacobian)):
        assert (value.shape, value.dtype) == (jacobian.shape, torch.float32)


def test_what_is_read():
    assert parse_backward("exact") == Backward("exact", terms=0, damping=1.0)
    assert parse_backward("jfb") == Backward("jfb", terms=1, damping=1.0)
    assert parse_backward("neumann:3") == Backward("neumann:3", terms=3, damping=1.0)
    assert parse_backward("damped:2:0.5") == Backward("damped:2:0.5", terms=2, damping=0.5)
    chosen = Backward("own", terms=4)
    assert parse_backward(chosen) is chosen
    assert [parse_backward(name).exact for name in NAMES] == [True] + (len(NAMES) - 1) * [False]


@pytest.mark.parametrize(
    "text",
    ["", "Exact", "exact:1", "jfb:1", "neumann", "neumann:", "neumann:0", "neumann:-1"]
    + ["neumann:1.5", "neumann:a", "neumann:2:0.5", "damped", "damped:2", "damped:0:0.5"]
    + ["damped:2:0", "damped:2:1.01", "damped:2:-1", "damped:2:nan", "damped:2:a", "damped:a:1"]
    + [None, 3],
)
def test_what_is_no_backward_is_refused_in_a_sentence(text):
    with pytest.raises(ProblemError) as refusal:
        parse_backward(text)
    assert str(refusal.value) == (
        f'backward is "{text}"; it must be exact, jfb, neumann:K (K a positive integer, as in '
        "neumann:3), or damped:K:L or phantom:K:L (0 < L <= 1, as in damped:2:0.5)."
    )
