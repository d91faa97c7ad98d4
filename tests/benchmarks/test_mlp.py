"""The hand-written derivatives of the benchmark's MLP against automatic ones."""

from __future__ import annotations

import pytest
import torch
from mlp import MLP, SAMPLES, Exhausted, mlp
from torch import Tensor


def perturbed(problem: MLP) -> Tensor:
    """A theta with biases that are not zero."""
    noise = torch.Generator().manual_seed(1)
    kind = problem.theta0.dtype
    return problem.theta0 + 0.3 * torch.randn(problem.theta0.shape, generator=noise, dtype=kind)


def plain_loss(problem: MLP, theta: Tensor) -> Tensor:
    """The loss from the issue's words, on its own reading of theta."""
    (w1, b1), (w2, b2), (w3, b3) = (
        (weight.reshape(out, fan_in), bias)
        for weight, bias, out, fan_in in (
            (theta[:768], theta[768:864], 96, 8),
            (theta[864:10080], theta[10080:10176], 96, 96),
            (theta[10176:10272], theta[10272:], 1, 96),
        )
    )
    hidden = torch.tanh(torch.tanh(problem.x @ w1.T + b1) @ w2.T + b2)
    target = torch.sin(2 * problem.x[:, 0]) * problem.x[:, 1] + problem.x[:, 2] / 2
    return (((hidden @ w3.T + b3)[:, 0] - target) ** 2).mean()


def relative(value: Tensor, exact: Tensor) -> float:
    """|value - exact| / |exact|."""
    return float((value - exact).norm() / exact.norm())


@pytest.mark.parametrize("seed", [0, 2])
def test_gradient_is_that_of_autograd(seed: int) -> None:
    problem = mlp(seed)
    theta = perturbed(problem)
    exact = torch.func.grad(lambda p: plain_loss(problem, p))(theta)
    assert relative(problem.loss(theta), plain_loss(problem, theta)) < 1e-13
    assert relative(problem.gradient(theta), exact) < 1e-12
    assert torch.equal(problem.field()(0.0, theta), -problem.gradient(theta))


@pytest.mark.parametrize("warm", [False, True])
def test_product_is_the_derivative_of_the_gradient(warm: bool) -> None:
    problem = mlp(1)
    theta, vector = perturbed(problem), torch.cos(torch.arange(10273, dtype=torch.float64))
    gradient = torch.func.grad(lambda p: plain_loss(problem, p))
    exact = torch.func.grad(lambda p: gradient(p) @ vector)(theta)
    problem.gradient(theta if warm else problem.theta0)
    jvp = problem.field().jvp
    assert jvp is not None
    assert relative(jvp(0.0, theta, vector), -exact) < 1e-12


def test_kept_passes_survive_a_change_of_theta_in_place() -> None:
    problem = mlp(0)
    theta, vector = perturbed(problem), torch.ones(10273, dtype=torch.float64)
    problem.gradient(theta)
    theta.mul_(0.5)
    expected = mlp(0).product(theta.clone(), vector)
    assert torch.equal(problem.product(theta, vector), expected)


def test_problem_is_the_one_of_the_issue_and_counts() -> None:
    problem = mlp(0)
    assert problem.theta0.shape == (10273,)
    assert problem.x.shape == (SAMPLES, 8)
    assert float(problem.theta0[768:864].abs().max()) == 0.0
    assert float(problem.theta0[:768].var()) == pytest.approx(1 / 8, rel=0.2)
    assert float(problem.theta0[864:10080].var()) == pytest.approx(1 / 96, rel=0.1)
    problem.gradient(problem.theta0)
    problem.product(problem.theta0, problem.theta0)
    assert (problem.gradients, problem.products, problem.equivalents) == (1, 1, 3)
    problem.reset()
    assert problem.equivalents == 0


def test_budget_ends_a_run() -> None:
    problem = mlp(0)
    problem.budget = 2
    problem.product(problem.theta0, problem.theta0)
    with pytest.raises(Exhausted, match="2 gradient equivalents"):
        problem.gradient(problem.theta0)
