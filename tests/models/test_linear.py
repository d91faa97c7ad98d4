"""The linear DEQ against its closed form, its sphere and the general solver."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gflow.equilibrium.adjoint import parse_backward
from gflow.errors import ProblemError
from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.problem import Problem

BACKWARDS = ["exact", "jfb", "neumann:2", "neumann:5", "damped:3:0.4"]
generators = st.integers(0, 2**31).map(lambda seed: torch.Generator().manual_seed(seed))
theta2s = st.one_of(st.floats(-20.0, 0.999), st.floats(1.001, 20.0))
backwards = st.sampled_from(BACKWARDS)


def _normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _problem(generator, n=6, d=3):
    return Problem(LinearDEQ(d), _normal(generator, n, d), _normal(generator, n))


def _theta(generator, theta2, d=3):
    return torch.cat([_normal(generator, d), torch.tensor([theta2], dtype=torch.float64)])


@given(generator=generators, theta2=theta2s)
def test_loss_gradient_and_hessian_are_those_of_the_closed_form(generator, theta2):
    problem, theta = _problem(generator), _theta(generator, theta2)

    def loss(point):
        return ((problem.x @ point[:-1] / (1 - point[-1]) - problem.y) ** 2).mean()

    point = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(point), point)
    hessian = torch.autograd.functional.hessian(loss, theta)
    assert torch.allclose(problem.loss(theta), loss(theta), rtol=1e-13)
    scale = float(gradient.abs().max())
    assert torch.allclose(problem.gradient(theta), gradient, rtol=1e-12, atol=1e-12 * scale)
    scale = float(hessian.abs().max())
    assert torch.allclose(problem.hessian(theta), hessian, rtol=1e-12, atol=1e-12 * scale)


@given(generator=generators, theta2=theta2s, backward=backwards)
def test_it_is_the_identity_single_index_deq(generator, theta2, backward):
    problem, theta = _problem(generator), _theta(generator, theta2)
    general = Problem(SingleIndexDEQ(3, "identity"), problem.x, problem.y)
    pairs = [
        (problem.predict(theta), general.predict(theta)),
        (problem.gradient(theta, backward), general.gradient(theta, backward)),
        (problem.jacobian(theta, backward), general.jacobian(theta, backward)),
        (problem.jvp(theta, theta, backward), general.jvp(theta, theta, backward)),
    ]
    for own, other in pairs:
        scale = float(other.abs().max())
        assert torch.allclose(own, other, rtol=1e-9, atol=1e-9 * scale)


@given(generator=generators, theta2=theta2s, backward=backwards, n=st.integers(1, 9))
def test_every_backward_is_tangent_to_the_sphere(generator, theta2, backward, n):
    """[DR] Thm 3.1: (theta - c) . g = 0 with c = (0, 1), whatever the data."""
    problem, theta = _problem(generator, n=n), _theta(generator, theta2)
    gradient = problem.gradient(theta, backward)
    offset = theta - torch.tensor([0.0, 0.0, 0.0, 1.0])
    # The terms that cancel, per sample, are as large as the features times theta.
    weights = (problem.predict(theta) - problem.y).abs() * (2 / n)
    factor = parse_backward(backward).factor(theta[-1]).abs()
    features = problem.x.abs() @ theta[:-1].abs() + (problem.predict(theta) * offset[-1]).abs()
    assert abs(float(gradient @ offset)) <= 1e-14 * float(factor * (weights @ features)) * (4 + n)


@given(generator=generators, theta2=st.floats(-20.0, 0.999), factor=st.floats(0.1, 3.0))
def test_the_two_term_series_multiplies_by_its_polynomial(generator, theta2, factor):
    """B(theta2) / B_exact(theta2) = (1 + theta2)(1 - theta2): negative below theta2 = -1."""
    problem, theta = _problem(generator), _theta(generator, theta2)
    exact, two = problem.gradient(theta), problem.gradient(theta, "neumann:2")
    expected = exact * (1 + theta2) * (1 - theta2)
    assert torch.allclose(two, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))
    damped = problem.gradient(theta * factor, "damped:1:0.5")
    assert torch.allclose(damped, 0.5 * problem.gradient(theta * factor, "jfb"), rtol=1e-14)


@pytest.mark.parametrize("gap", [1e-3, 1e-9, -1e-9, 1e9, -1e9])
def test_the_original_equation_holds_relative_to_the_output(gap):
    model, x = LinearDEQ(2), _normal(torch.Generator().manual_seed(0), 20, 2)
    theta = torch.tensor([0.3, -2.0, 1 - gap], dtype=torch.float64)
    equilibrium = model.equilibrium(theta, x)
    terms = equilibrium.output.abs() * (1 + theta[-1].abs())
    assert float(model.residual(equilibrium, x)) <= 1e-15 * float(terms.max())
    assert float(model.conditioning(equilibrium)) == pytest.approx(abs(gap), rel=1e-6)
    assert int(model.branch(theta)) == math.copysign(1, gap)


def test_only_the_singular_point_and_what_is_not_finite_are_lost():
    model, x = LinearDEQ(1), torch.ones(3, 1, dtype=torch.float64)
    theta = torch.tensor([[2, 0.5], [2, 1], [2, 3], [math.nan, 0], [0, math.inf]]).double()
    equilibrium = model.equilibrium(theta, x)
    assert equilibrium.valid.tolist() == [True, False, True, False, False]
    assert equilibrium.output[0].tolist() == [4.0] * 3
    assert equilibrium.output[2].tolist() == [-1.0] * 3
    assert equilibrium.output[[1, 3, 4]].isnan().all()
    assert model.branch(theta[:3]).tolist() == [1, 0, -1]


def test_the_singular_point_is_the_centre_of_the_sphere():
    model = LinearDEQ(2)
    theta = torch.tensor([[2.0, -1.0, 3.0], [0.0, 0.0, 0.0]])
    assert model.singular_distance(theta).tolist() == [3.0, 1.0]
    assert torch.equal(model.singular_distance(theta), model.sphere_radius(theta))


def test_only_the_identity_conserves_the_sphere():
    models = LinearDEQ(2), SingleIndexDEQ(2, "identity"), SingleIndexDEQ(2, "tanh")
    assert [model.conserves_sphere for model in models] == [True, True, False]


def test_a_warm_start_changes_nothing():
    model, x = LinearDEQ(1), torch.ones(3, 1, dtype=torch.float64)
    theta = torch.tensor([2.0, 0.3], dtype=torch.float64)
    cold, warm = model.equilibrium(theta, x), model.equilibrium(theta, x, x[:, 0] * math.nan)
    assert torch.equal(cold.output, warm.output)


def test_name_and_dimension():
    assert repr(LinearDEQ(dim=4)) == "LinearDEQ(dim=4)"
    assert (LinearDEQ(4).name, LinearDEQ(4).n_parameters) == ("linear", 5)
    with pytest.raises(ProblemError, match="dim is 0; it must be a positive integer"):
        LinearDEQ(0)


def test_each_theta_may_have_inputs_of_its_own():
    model = LinearDEQ(2)
    x = torch.tensor([[[1.0, 2.0], [0.5, -1.0]], [[0.0, 1.0], [3.0, 1.0]]], dtype=torch.float64)
    theta = torch.tensor([[0.3, 0.4, 0.5], [1.0, -1.0, -0.5]], dtype=torch.float64)
    apart = torch.stack([model.equilibrium(t, xs).output for t, xs in zip(theta, x, strict=True)])
    assert torch.allclose(model.equilibrium(theta, x).output, apart, rtol=1e-14)
