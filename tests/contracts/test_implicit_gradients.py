"""Rule R4: implicit gradients agree with closed form, differences and unrolled autograd."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as torch_functions

from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.models.activations import ACTIVATIONS
from gflow.problem import Problem

# torch's own functions, none of gflow's code.
FUNCTIONS = {
    "identity": lambda s: s,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "leaky-relu": lambda s: torch_functions.leaky_relu(s, 0.01),
    "gelu": torch_functions.gelu,
    "softplus": lambda s: torch_functions.softplus(s, threshold=100.0),
    "weak-tanh:0.25": lambda s: s + 0.25 * torch.tanh(s),
}
KINKED = ("relu", "leaky-relu")
BACKWARDS = ["exact", "jfb", "neumann:2", "neumann:6", "damped:1:0.3", "damped:5:0.5"]
FEATURES, SAMPLES, ITERATIONS = 3, 7, 250
# Sixth-order central differences.
OFFSETS = [-3, -2, -1, 1, 2, 3]
WEIGHTS = torch.tensor([-1 / 60, 3 / 20, -3 / 4, 3 / 4, -3 / 20, 1 / 60], dtype=torch.float64)


def _case(name, seed, share):
    """A problem and a theta with theta2 in the region of uniqueness, by `share` of it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, FEATURES, generator=generator, dtype=torch.float64)
    y = torch.randn(SAMPLES, generator=generator, dtype=torch.float64)
    theta1 = torch.randn(FEATURES, generator=generator, dtype=torch.float64)
    problem = Problem(SingleIndexDEQ(FEATURES, name), x, y)
    theta2 = -3.0 + share * (0.85 / problem.model.activation.slope_max + 3.0)
    return problem, torch.cat([theta1, torch.tensor([theta2], dtype=torch.float64)])


def _away_from_kinks(problem, theta, margin=0.02):
    s = problem.evaluate(theta).equilibrium.preactivation
    kinks = problem.model.activation.kinks
    return all(float((s - kink).abs().min()) > margin for kink in kinks)


def _map(problem, theta, y):
    """The fixed-point map, y -> sigma(theta1 . x + theta2 y)."""
    name = problem.model.activation.name
    return FUNCTIONS[name](problem.x @ theta[:-1] + theta[-1] * y)


def _iterate(problem, theta, y, count, damping):
    for _ in range(count):
        y = (1 - damping) * y + damping * _map(problem, theta, y)
    return y


def _unrolled_loss(problem, theta):
    """Loss of the damped iteration from y = 0, run to convergence with the best damping."""
    activation, theta2 = problem.model.activation, float(theta[-1].detach())
    damping = 2 / (2 - theta2 * (activation.slope_min + activation.slope_max))
    y = _iterate(problem, theta, torch.zeros_like(problem.y), ITERATIONS, damping)
    return ((y - problem.y) ** 2).mean()


def _gradient(loss, theta):
    point = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(point), point)
    return gradient


def _differences(function, theta, step):
    """Sixth-order central differences along every axis, the last dimension theta's."""
    axes = step * torch.eye(len(theta), dtype=theta.dtype)
    columns = [
        sum(w * function(theta + k * axis) for k, w in zip(OFFSETS, WEIGHTS, strict=True)) / step
        for axis in axes
    ]
    return torch.stack(columns, dim=-1)


def _agree(found, expected, rounding):
    return float((found - expected).abs().max()) <= rounding * (1 + float(expected.abs().max()))


cases = st.builds(_case, st.sampled_from(list(FUNCTIONS)), st.integers(0, 10**6), st.floats(0, 0.9))


def test_every_activation_of_the_registry_is_covered():
    assert set(ACTIVATIONS) == {name for name in FUNCTIONS if ":" not in name}


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_and_hessian_are_those_of_the_unrolled_loss(name, share):
    problem, theta = _case(name, seed=11, share=share)
    assert name not in KINKED or _away_from_kinks(problem, theta, 1e-3)
    point = theta.clone().requires_grad_()
    loss = _unrolled_loss(problem, point)
    (gradient,) = torch.autograd.grad(loss, point, create_graph=True)
    rows = [torch.autograd.grad(entry, point, retain_graph=True)[0] for entry in gradient]
    assert float(problem.loss(theta)) == pytest.approx(float(loss.detach()), rel=1e-12)
    assert _agree(problem.gradient(theta), gradient.detach(), 1e-11)
    assert _agree(problem.hessian(theta), torch.stack(rows), 1e-10)


@given(case=cases)
def test_the_gradient_is_the_central_difference_of_the_loss(case):
    problem, theta = case
    assume(_away_from_kinks(problem, theta))
    assert _agree(problem.gradient(theta), _differences(problem.loss, theta, 1e-3), 1e-9)


@given(case=cases, backward=st.sampled_from(BACKWARDS))
def test_the_jacobian_is_the_central_difference_of_the_gradient(case, backward):
    """For the approximate backwards too: it is not minus the Hessian then."""
    problem, theta = case
    assume(_away_from_kinks(problem, theta))
    expected = _differences(lambda point: problem.gradient(point, backward), theta, 1e-3)
    assert _agree(problem.jacobian(theta, backward), expected, 1e-8)
    if backward == "exact":
        assert _agree(problem.hessian(theta), expected, 1e-8)


@given(case=cases)
def test_gradient_and_hessian_are_the_closed_forms(case):
    """(2/n) sum e w W and (2/n) sum (w^2 + e sigma'' r^3) W W' + e w^2 (W e_P' + e_P W')."""
    problem, theta = case
    assume(_away_from_kinks(problem, theta))
    sigma, output = FUNCTIONS[problem.model.activation.name], problem.predict(theta)
    gradient, hessian = torch.zeros_like(theta), theta.new_zeros(len(theta), len(theta))
    for x, y, target in zip(problem.x, output, problem.y, strict=True):
        s = (theta[:-1] @ x + theta[-1] * y).requires_grad_()
        (slope,) = torch.autograd.grad(sigma(s) + 0 * s**2, s, create_graph=True)
        curvature = torch.autograd.grad(slope + 0 * s**2, s)[0]
        slope, e = slope.detach(), y - target
        r = 1 / (1 - theta[-1] * slope)
        features, last = torch.cat([x, y[None]]), torch.eye(len(theta)).to(theta)[-1]
        w = slope * r
        gradient += 2 / SAMPLES * e * w * features
        mixed = torch.outer(features, last)
        curved = (w**2 + e * curvature * r**3) * torch.outer(features, features)
        hessian += 2 / SAMPLES * (curved + e * w**2 * (mixed + mixed.T))
    assert _agree(problem.gradient(theta), gradient, 1e-12)
    assert _agree(problem.hessian(theta), hessian, 1e-11)


@given(case=cases, terms=st.integers(1, 8), damping=st.sampled_from([1.0, 0.7, 0.25]))
def test_approximate_backwards_are_steps_from_the_detached_fixed_point(case, terms, damping):
    """Autograd through K damped steps that start at y*, the phantom gradient, is B exactly."""
    problem, theta = case
    assume(_away_from_kinks(problem, theta, 1e-9))
    fixed = problem.predict(theta)

    def loss(point):
        y = _iterate(problem, point, fixed, terms, damping)
        return ((y - problem.y) ** 2).mean()

    expected = _gradient(loss, theta)
    names = [f"damped:{terms}:{damping!r}"]
    names += [f"neumann:{terms}"] if damping == 1 else []
    names += ["jfb"] if damping == 1 and terms == 1 else []
    size = float(expected.abs().max()) + (1 + 3 * damping) ** terms
    for name in names:
        apart = (problem.gradient(theta, name) - expected).abs().max()
        assert float(apart) <= 1e-12 * size


@given(case=cases, terms=st.integers(1, 5))
def test_many_damped_steps_become_the_exact_gradient(case, terms):
    problem, theta = case
    bounds = problem.model.activation
    damping = 1 / (1 - min(float(theta[-1]) * bounds.slope_max, 0.0))
    approximate = problem.gradient(theta, f"damped:{400 * terms}:{damping!r}")
    rate = 1 - damping * float(problem.model.conditioning(problem.evaluate(theta).equilibrium))
    exact = problem.gradient(theta)
    left = max(rate, 0.0) ** (400 * terms) + 1e-12
    assert float((approximate - exact).abs().max()) <= 10 * left * (1 + float(exact.abs().max()))


@pytest.mark.parametrize("theta2", [-4.0, 0.9, 1.1, 6.0])
def test_the_linear_deq_agrees_with_autograd_of_its_closed_form_on_both_branches(theta2):
    problem, theta = _case("identity", seed=5, share=0.5)
    problem = Problem(LinearDEQ(FEATURES), problem.x, problem.y)
    theta[-1] = theta2

    def loss(point):
        return ((problem.x @ point[:-1] / (1 - point[-1]) - problem.y) ** 2).mean()

    assert _agree(problem.gradient(theta), _gradient(loss, theta), 1e-13)
    hessian = torch.autograd.functional.hessian(loss, theta)
    assert _agree(problem.hessian(theta), hessian, 1e-12)


@pytest.mark.parametrize("name", KINKED)
def test_at_a_kink_the_gradient_is_the_right_hand_one(name):
    """theta1 . x = 0 puts the fixed point onto the kink."""
    problem = Problem(SingleIndexDEQ(1, name), [[1.0]], [-1.0])
    gradient = problem.gradient([0.0, 0.5])
    assert gradient.tolist() == [2 * 1 / (1 - 0.5), 0.0]
    right, left = (float(problem.loss([h, 0.5]) - 1.0) / h for h in (1e-7, -1e-7))
    assert right == pytest.approx(float(gradient[0]), rel=1e-6)
    assert not math.isclose(left, float(gradient[0]), rel_tol=0.5)
