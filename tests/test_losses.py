"""Losses against hand-written sums, autograd, and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gflow
from gflow.errors import ProblemError
from gflow.losses import LOSSES, GivenLoss, parse_loss

N, OUTPUTS = 7, 3


def squares(output, target):
    return ((output - target) ** 2).sum(-1).mean()


def quartic(output, target):
    return (output**4).mean() + target.sum()


def cases():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(N, OUTPUTS, generator=generator, dtype=torch.float64)
    classes = torch.arange(N) % OUTPUTS
    signs = (torch.arange(N) % 2).to(torch.float64)
    return [
        (parse_loss("mse", (OUTPUTS,)), numbers),
        (parse_loss("mse", ()), numbers[:, 0]),
        (parse_loss("cross_entropy", (OUTPUTS,)), classes),
        (parse_loss("logistic", ()), signs),
        (parse_loss("logistic", (1,)), signs[:, None]),
        (parse_loss(squares, (OUTPUTS,)), numbers),
        (parse_loss(quartic, (OUTPUTS,)), numbers),
    ]


def outputs(loss, *lead, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, N, *loss.shape, generator=generator, dtype=torch.float64)


CASES = pytest.mark.parametrize(
    ("loss", "target"), cases(), ids=lambda case: getattr(case, "name", "")
)


@CASES
def test_slope_and_curvature_are_autograds(loss, target):
    output = outputs(loss).requires_grad_()
    (slope,) = torch.autograd.grad(loss.value(output, target), output, create_graph=True)
    direction = outputs(loss, seed=2)
    (bent,) = torch.autograd.grad(slope, output, direction)
    at = output.detach()
    assert torch.allclose(loss.slope(at, target), slope, rtol=1e-13, atol=1e-15)
    assert torch.allclose(loss.curvature(at, target)(direction), bent, rtol=1e-12, atol=1e-15)


@CASES
def test_rows_are_evaluated_as_one_by_one(loss, target):
    rows, along = outputs(loss, 4), outputs(loss, 4, seed=3)
    bend = loss.curvature(rows, target)(along)
    for index, row in enumerate(rows):
        assert torch.allclose(loss.value(rows, target)[index], loss.value(row, target))
        assert torch.allclose(loss.slope(rows, target)[index], loss.slope(row, target))
        assert torch.allclose(bend[index], loss.curvature(row, target)(along[index]))


def test_the_mean_squared_error_sums_over_the_outputs():
    loss, output = parse_loss("mse", (2,)), torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert float(loss.value(output, torch.zeros(2, 2))) == 2.5


def test_the_cross_entropy_of_equal_outputs_is_the_log_of_their_number():
    loss = parse_loss("cross_entropy", (4,))
    assert float(loss.value(torch.zeros(5, 4), torch.arange(5) % 4)) == pytest.approx(math.log(4))


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=2))
def test_two_classes_have_one_loss_in_two_forms(values):
    """softmax over (0, u) is the logistic function of u."""
    u = torch.tensor(values, dtype=torch.float64)
    classes = torch.tensor([1, 0])
    both = torch.stack([torch.zeros(2, dtype=torch.float64), u], -1)
    one = parse_loss("logistic", ()).value(u, classes.to(torch.float64))
    two = parse_loss("cross_entropy", (2,)).value(both, classes)
    assert float(one) == pytest.approx(float(two), rel=1e-12, abs=1e-14)


def test_accuracy_counts_what_is_right():
    entropy, logistic = parse_loss("cross_entropy", (3,)), parse_loss("logistic", ())
    assert float(entropy.accuracy(torch.eye(3), torch.tensor([0, 1, 0]))) == pytest.approx(2 / 3)
    assert float(logistic.accuracy(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0]))) == 0.5


@pytest.mark.parametrize(
    ("name", "shape", "target", "sentence"),
    [
        ("mse", (3,), [1.0, 2.0], r"y must be of shape \(2, 3\)"),
        ("mse", (), [[1.0, 2.0], [0.0, 1.0]], "one target per row"),
        ("cross_entropy", (3,), [0.0, 3.0], "y\\[1\\] is 3; classes are the integers from 0 to 2"),
        ("cross_entropy", (3,), [0.5, 1.0], "y\\[0\\] is 0.5; classes are"),
        ("cross_entropy", (3,), [0.0], "one class per row"),
        ("logistic", (), [0.0, -1.0], "y\\[1\\] is -1; classes are the integers from 0 to 1"),
        (squares, (3,), [0.0], "one row for each"),
    ],
)
def test_targets_that_do_not_fit_are_told(name, shape, target, sentence):
    with pytest.raises(ProblemError, match=sentence):
        parse_loss(name, shape).read_targets(torch.tensor(target, dtype=torch.float64), 2)


@pytest.mark.parametrize(
    ("loss", "shape", "sentence"),
    [
        ("mse2", (), 'did you mean "mse"'),
        (3, (), "a name or a function"),
        ("cross_entropy", (), "take the loss logistic"),
        ("cross_entropy", (1,), "take the loss logistic"),
        ("logistic", (3,), "take the loss cross_entropy"),
    ],
)
def test_losses_that_do_not_exist_or_fit_are_told(loss, shape, sentence):
    with pytest.raises(ProblemError, match=sentence):
        parse_loss(loss, shape)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda output, target: output, "must return a real tensor of shape"),
        (lambda output, target: 1.0, "returned a float"),
        (lambda output, target: output.detach().mean(), "without detach"),
    ],
)
def test_a_function_that_is_no_loss_is_told(function, sentence):
    loss = GivenLoss(function, ())
    with pytest.raises(ProblemError, match=sentence):
        loss.slope(torch.ones(3), torch.ones(3))


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "cross_entropy"])
def test_a_scalar_model_flows_down_any_loss(name):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2))
    y = (x[:, 0] > 0).astype(float)
    problem = gflow.Problem(gflow.SingleIndexDEQ(2, "tanh"), x, y, loss=name)
    tree = gflow.integrate(problem, [0.1, 0.1, 0.0], t_end=5, rtol=1e-8)
    assert float(tree["flow"].loss[-1]) < 0.9 * float(tree["flow"].loss[0])
    assert abs(float(tree["flow"].energy_residual[-1])) < 1e-7
    assert tree["problem"].attrs["loss"] == name
    assert "reference" not in tree.children


def test_closed_forms_are_those_of_the_mean_squared_error_alone():
    x, y = [[1.0], [2.0]], [1.0, 0.0]
    linear = gflow.LinearDEQ(1)
    for loss, known in (("mse", True), ("logistic", False)):
        problem = gflow.Problem(linear, x, y, loss=loss)
        tree = gflow.integrate(problem, [0.5, 0.0], t_end=1)
        assert ("reference" in tree.children) is known
        rows = gflow.integrate(problem, [[0.5, 0.0], [0.1, 0.2]], t_end=1, rtol=1e-9)
        lone = gflow.integrate(problem, [0.1, 0.2], t_end=1, rtol=1e-9)
        assert np.allclose(rows["flow"].theta_final[1], lone["flow"].theta[-1], atol=1e-7)


def test_a_users_loss_is_the_named_one():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 1)), rng.normal(size=20)

    def square(output, target):
        return ((output - target) ** 2).mean()

    model, theta = gflow.SingleIndexDEQ(1), [0.4, -0.3]
    ours, given = (gflow.Problem(model, x, y, loss=loss) for loss in ("mse", square))
    for quantity in ("loss", "gradient", "hessian"):
        a, b = (getattr(problem, quantity)(theta) for problem in (ours, given))
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)
