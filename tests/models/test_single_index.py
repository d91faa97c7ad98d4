"""The equilibrium of a single-index DEQ: where it exists, how exactly, and what is said of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from gflow.equilibrium.adjoint import parse_backward
from gflow.errors import ProblemError
from gflow.models.activations import ACTIVATIONS, parse_activation
from gflow.models.single_index import SingleIndexDEQ

EPS = torch.finfo(torch.float64).eps
NAMES = [*ACTIVATIONS, "weak-tanh:0.25", "weak-tanh:3"]
X = torch.tensor(np.random.default_rng(0).normal(size=(40, 2)))
# theta2 on the second branch, where 1 - theta2 sigma' is negative everywhere.
SECOND = {"identity": 1.5, "leaky-relu": 150.0, "weak-tanh:0.25": 1.7, "weak-tanh:3": 1.01}

names = st.sampled_from(NAMES)
scales = st.floats(-8.0, 8.0).map(lambda exponent: 10.0**exponent)
gaps = st.one_of(st.floats(1e-6, 0.99), st.floats(0.0, 8.0).map(lambda exponent: 10.0**exponent))


def _edges(name):
    """The interval of theta2 in which the fixed point is unique and 1 - theta2 sigma' > 0."""
    activation = parse_activation(name)
    lower = 1 / activation.slope_min if activation.slope_min < 0 else -math.inf
    return lower, 1 / activation.slope_max


def _theta(name, gap, scale=1.0):
    """An admissible theta whose theta2 is `gap` edges below the upper edge, or at the lower one."""
    lower, upper = _edges(name)
    theta2 = max(upper * (1 - gap), lower * (1 - 1e-6))
    return torch.tensor([scale, -0.5 * scale, theta2], dtype=torch.float64)


def _is_exact(model, theta, equilibrium):
    """Whether y = sigma(theta1 . x + theta2 y) to rounding of the terms in it."""
    assert bool(equilibrium.valid)
    linear = theta[:-1] @ X.T
    terms = 1 + linear.abs() + equilibrium.preactivation.abs()
    s = linear + theta[-1] * equilibrium.output
    steepest = max(1.0, model.activation.slope_max)
    return ((equilibrium.output - model.activation(s)).abs() <= 100 * EPS * steepest * terms).all()


@settings(max_examples=100)
@given(name=names, gap=gaps, scale=scales)
def test_the_original_equation_holds_to_rounding(name, gap, scale):
    model, theta = SingleIndexDEQ(2, name), _theta(name, gap, scale)
    equilibrium = model.equilibrium(theta, X)
    assert _is_exact(model, theta, equilibrium)
    assert torch.equal(equilibrium.slope, model.activation.jet(equilibrium.preactivation, 1)[1])
    s = theta[:-1] @ X.T + theta[-1] * equilibrium.output
    largest = (equilibrium.output - model.activation(s)).abs().max()
    assert model.residual(equilibrium, X) == largest


@settings(max_examples=100)
@given(name=names, gap=gaps, scale=scales, warm=st.floats(-1e250, 1e250))
@example(name="relu", gap=1e-6, scale=1.0, warm=1e250)
@example(name="relu", gap=1e-6, scale=1.0, warm=1e9)
def test_any_warm_start_finds_the_same_equilibrium(name, gap, scale, warm):
    model, theta = SingleIndexDEQ(2, name), _theta(name, gap, scale)
    cold = model.equilibrium(theta, X)
    far = model.equilibrium(theta, X, torch.full((40,), warm, dtype=torch.float64))
    assert _is_exact(model, theta, far)
    slopes = 1 - theta[-1] * torch.tensor([model.activation.slope_min, model.activation.slope_max])
    spread = 64 * EPS * (1 + (theta[:-1] @ X.T).abs() + cold.preactivation.abs()) / slopes.min()
    assert ((far.preactivation - cold.preactivation).abs() <= spread).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_warm_start_that_is_not_finite_is_not_used(bad):
    model, theta = SingleIndexDEQ(2, "tanh"), _theta("tanh", 0.4)
    cold = model.equilibrium(theta, X)
    warm = cold.preactivation.clone()
    warm[::2] = bad
    again = model.equilibrium(theta, X, warm)
    assert torch.allclose(again.output, cold.output, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gap", [1e-6, 0.6, 3.0])
def test_the_equilibrium_is_the_root_that_bisection_finds(name, gap):
    model, theta = SingleIndexDEQ(2, name), _theta(name, gap)
    equilibrium = model.equilibrium(theta, X)

    def excess(s, linear):
        point = torch.tensor(s, dtype=torch.float64)
        return float(point - linear - theta[-1] * model.activation(point))

    steepness = float((1 - theta[-1] * equilibrium.slope).abs().min())
    for i, linear in enumerate((theta[:-1] @ X.T).tolist()):
        root = brentq(excess, -1e7, 1e7, args=(linear,), xtol=1e-14, rtol=4 * EPS)
        error = 1e-14 * (1 + abs(root)) / steepness
        assert float(equilibrium.preactivation[i]) == pytest.approx(root, abs=error)


@pytest.mark.parametrize("name", SECOND)
def test_the_second_branch_is_solved_too(name):
    model, theta = SingleIndexDEQ(2, name), torch.tensor([0.7, -1.1, SECOND[name]]).double()
    equilibrium = model.equilibrium(theta, X)
    assert _is_exact(model, theta, equilibrium)
    assert int(model.branch(theta)) == -1
    far = model.equilibrium(theta, X, torch.full((40,), 1e9, dtype=torch.float64))
    assert torch.allclose(far.output, equilibrium.output, rtol=1e-12, atol=1e-12)
    if name == "identity":
        assert torch.allclose(equilibrium.output, theta[:-1] @ X.T / -0.5, rtol=1e-14)


def test_beyond_its_edge_gelu_has_three_roots_and_is_refused():
    model, s = SingleIndexDEQ(1, "gelu"), torch.linspace(-20, 20, 4001, dtype=torch.float64)
    sigma = model.activation(s)
    most = [max(_roots(s - theta2 * sigma - c) for c in s[::7] + 0.001) for theta2 in (-8.5, -7.7)]
    assert most == [3, 1]
    theta = torch.tensor([[0.3, -8.5], [0.3, -7.7]]).double()
    assert model.equilibrium(theta, X[:, :1]).valid.tolist() == [False, True]


def _roots(values):
    return int((values[1:].sign() != values[:-1].sign()).sum())


@pytest.mark.parametrize("name", NAMES)
def test_uniqueness_ends_at_the_edges_and_a_lost_row_is_nan(name):
    model = SingleIndexDEQ(2, name)
    lower, upper = _edges(name)
    lost = [upper, *([lower, lower * 1.1] if math.isfinite(lower) else [])]
    lost += [] if name == "identity" else [math.nextafter(upper, math.inf)]
    inside = [upper * (1 - 1e-6), 0.0, *([lower * (1 - 1e-6)] if math.isfinite(lower) else [])]
    theta = torch.tensor([[0.4, 0.1, theta2] for theta2 in (*inside, *lost)], dtype=torch.float64)
    equilibrium = model.equilibrium(theta, X)
    expected = [True] * len(inside) + [False] * len(lost)
    assert equilibrium.valid.tolist() == model.admissible(theta).tolist() == expected
    assert equilibrium.output.isfinite().all(-1).tolist() == expected
    assert equilibrium.output.isnan().all(-1).tolist() == [not row for row in expected]
    for value in (model.conditioning(equilibrium), model.residual(equilibrium, X)):
        assert value.isfinite().tolist() == expected
    assert model.branch(theta).tolist() == expected
    for row, alone in enumerate(theta[: len(inside)]):
        apart = model.equilibrium(alone, X).output - equilibrium.output[row]
        assert apart.abs().max() <= 1e-12 / model.conditioning(equilibrium)[row]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e308])
@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("name", ["identity", "gelu", "softplus"])
def test_no_value_of_theta_raises(name, place, bad):
    """At 1e308 the preactivation may overflow; what is then called valid must be finite."""
    theta = torch.tensor([[0.3, -0.2, 0.1]] * 2, dtype=torch.float64)
    theta[1, place] = bad
    equilibrium = SingleIndexDEQ(2, name).equilibrium(theta, 10 * X)
    assert bool(equilibrium.valid[0])
    assert bool(equilibrium.valid[1]) == bool(equilibrium.output[1].isfinite().all())
    assert not (bool(equilibrium.valid[1]) and math.isnan(bad))


@given(name=names, theta2=st.floats(-200.0, 200.0), fraction=st.floats(0.01, 0.99))
@example(name="weak-tanh:0.25", theta2=1.7, fraction=0.5)
@example(name="leaky-relu", theta2=150.0, fraction=0.5)
def test_within_the_singular_distance_uniqueness_is_never_lost(name, theta2, fraction):
    model = SingleIndexDEQ(1, name)
    theta = torch.tensor([0.3, theta2], dtype=torch.float64)
    distance = model.singular_distance(theta)
    label = int(model.branch(theta))
    assume(label != 0 and distance > 1e-3)

    def labels_at(share):
        ways = theta[-1] + share * distance, theta[-1] - share * distance
        return [int(model.branch(torch.stack([theta[0], theta2]))) for theta2 in ways]

    assert labels_at(fraction) == [label, label]
    assert labels_at(1 + 1e-9) != [label, label]


@given(name=names, gap=gaps)
def test_conditioning_is_the_smallest_slope_of_the_equation(name, gap):
    model, theta = SingleIndexDEQ(2, name), _theta(name, gap)
    equilibrium = model.equilibrium(theta, X)
    expected = (1 - theta[-1] * model.activation.jet(equilibrium.preactivation, 1)[1]).abs().min()
    assert model.conditioning(equilibrium) == expected


@pytest.mark.parametrize("backward", ["exact", "jfb", "neumann:3", "damped:2:0.5"])
def test_the_pullback_is_linear_in_the_cotangent(backward):
    model, theta = SingleIndexDEQ(2, "sigmoid"), _theta("sigmoid", 0.7)
    equilibrium, operator = model.equilibrium(theta, X), parse_backward(backward)
    first, second = torch.randn(2, 40, dtype=torch.float64, generator=torch.manual_seed(1))
    parts = [model.pullback(equilibrium, X, c, operator) for c in (first, second)]
    joint = model.pullback(equilibrium, X, 2 * first - 3 * second, operator)
    assert torch.allclose(joint, 2 * parts[0] - 3 * parts[1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64(name):
    model, theta = SingleIndexDEQ(2, name), _theta(name, 0.3)
    single, double = model.equilibrium(theta.float(), X.float()), model.equilibrium(theta, X)
    assert single.output.dtype == torch.float32
    assert bool(single.valid)
    assert torch.allclose(single.output.double(), double.output, rtol=1e-5, atol=1e-5)


def test_labels_radius_and_representation():
    model = SingleIndexDEQ(dim=3, activation="weak-tanh:0.5")
    assert model.parameter_names == ("theta1[0]", "theta1[1]", "theta1[2]", "theta2")
    assert (model.n_parameters, model.name) == (4, "single_index")
    assert repr(model) == 'SingleIndexDEQ(dim=3, activation="weak-tanh:0.5")'
    assert SingleIndexDEQ(2).activation.name == "tanh"
    theta = torch.tensor([[2.0, 1.0, 2.0, -3.0], [0.0, 0.0, 0.0, 1.0]])
    assert model.sphere_radius(theta).tolist() == [5.0, 0.0]
    assert theta[0, -1] == -3.0


def test_the_loss_of_an_equilibrium_is_explained():
    model = SingleIndexDEQ(1, "gelu")
    explain = model.explain_loss_of_equilibrium
    assert explain(torch.tensor([0.0, -8.5], dtype=torch.float64)) == (
        "at theta2 = -8.5 the slope 1 - theta2 sigma' of the fixed-point equation runs from "
        "-0.0957 to 10.6, so the gelu DEQ has no unique fixed point"
    )
    assert explain(torch.tensor([math.nan, 0.0])) == "theta is not finite"
    assert explain(torch.tensor([1.0, 0.25])) == (
        "Newton's iteration did not reach the fixed point at theta2 = 0.25"
    )


@pytest.mark.parametrize("dim", [0, -1, 2.0, True, "3", None])
def test_what_is_no_dimension_is_refused(dim):
    with pytest.raises(ProblemError) as refusal:
        SingleIndexDEQ(dim)
    sentence = f"dim is {dim!r}; it must be a positive integer, the input's length."
    assert str(refusal.value) == sentence
