"""The gradient flow as a field: value, Jacobian, products, branch, warm start and breakdown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gflow.flows import gradient_flow
from gflow.integrators.base import Breakdown
from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.problem import Problem
from gflow.stacking import group_problems
from gflow.status import Status

BACKWARDS = ["exact", "jfb", "neumann:3", "damped:2:0.5"]


def _problem(backward="exact", activation="tanh"):
    rng = np.random.default_rng(8)
    model = SingleIndexDEQ(2, activation)
    return Problem(model, rng.normal(size=(9, 2)), rng.normal(size=9), backward=backward)


thetas = st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-2, 0.9)).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@given(theta=thetas, backward=st.sampled_from(BACKWARDS))
def test_the_field_is_minus_the_gradient_and_its_jacobian_that_of_the_field(theta, backward):
    problem = _problem(backward)
    field = gradient_flow(problem)
    scale = 1 + float(problem.jacobian(theta).abs().max())
    assert torch.allclose(field(0.0, theta), -problem.gradient(theta), rtol=1e-13, atol=1e-13)
    jacobian = field.jacobian(0.0, theta)
    assert torch.allclose(jacobian, -problem.jacobian(theta), rtol=0, atol=1e-12 * scale)
    vector = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    product = field.jvp(0.0, theta, vector)
    assert torch.allclose(product, jacobian @ vector, rtol=0, atol=1e-11 * scale)
    if field.symmetric:
        assert torch.allclose(jacobian, jacobian.mT, rtol=0, atol=1e-12 * scale)


def test_only_the_exact_backward_promises_symmetry():
    assert [gradient_flow(_problem(name)).symmetric for name in BACKWARDS] == [True] + [False] * 3
    assert gradient_flow(_problem()).time_derivative is None


@given(path=st.lists(thetas, min_size=2, max_size=6))
def test_the_warm_start_leaves_no_trace(path):
    """Whatever was evaluated before, value and Jacobian are those of a fresh field."""
    problem = _problem(activation="softplus")
    field = gradient_flow(problem)
    for theta in path:
        fresh = gradient_flow(problem)
        scale = 1 + float(problem.jacobian(theta).abs().max())
        apart = field.jacobian(0.0, theta) - fresh.jacobian(0.0, theta)
        assert float(apart.abs().max()) <= 1e-11 * scale
        apart = field(0.0, theta) - fresh(0.0, theta)
        assert float(apart.abs().max()) <= 1e-11 * scale


def test_two_fields_of_one_problem_share_no_state(monkeypatch):
    problem, warm = _problem(), []
    solve = problem.model.equilibrium
    spied = lambda t, x, w: warm.append(w) or solve(t, x, w)  # noqa: E731
    monkeypatch.setattr(problem.model, "equilibrium", spied)
    theta = torch.tensor([0.3, 0.4, 0.5], dtype=torch.float64)
    first, second = gradient_flow(problem), gradient_flow(problem)
    first(0.0, theta)
    first(0.0, theta + 0.01)
    second(0.0, theta)
    assert warm[0] is warm[2] is None
    assert torch.equal(warm[1].preactivation, solve(theta, problem.x).preactivation)


def test_what_is_known_of_the_warm_start_changes_no_bit():
    """After a restore of the same values, as from a file, only the preactivations are known."""
    problem = _problem(activation="tanh")
    theta = torch.tensor([0.3, 0.4, 0.5], dtype=torch.float64)
    known, restored = gradient_flow(problem), gradient_flow(problem)
    for field in (known, restored):
        field(0.0, theta)
    restored.memory.restore(restored.memory.value.clone())
    assert restored.memory.last is None
    assert known.memory.last is not None
    assert torch.equal(known(0.0, theta + 0.01), restored(0.0, theta + 0.01))
    assert torch.equal(known.memory.value, restored.memory.value)


def test_all_that_is_asked_at_one_point_takes_one_solve(monkeypatch):
    problem, solves = _problem(), []
    solve = problem.model.equilibrium
    monkeypatch.setattr(problem.model, "equilibrium", lambda *a: solves.append(a) or solve(*a))
    theta = torch.tensor([0.3, 0.4, 0.5], dtype=torch.float64)
    field = gradient_flow(problem)
    field(0.0, theta)
    field.jacobian(0.0, theta)
    field.jvp(0.0, theta, theta)
    assert len(solves) == 1
    field(0.0, theta.clone())
    assert len(solves) == 2


def test_a_batch_holds_nan_where_one_point_breaks_down():
    problem = _problem()
    theta = torch.tensor([[0.3, 0.4, 0.5], [0.3, 0.4, 1.25]], dtype=torch.float64)
    field = gradient_flow(problem)
    value = field(np.zeros(2), theta)
    assert torch.allclose(value[0], gradient_flow(problem)(0.0, theta[0]), rtol=1e-13)
    assert bool(value[1].isnan().all())


def test_a_lost_equilibrium_breaks_down_with_a_reason_and_the_field_goes_on():
    field = gradient_flow(_problem())
    inside = torch.tensor([0.3, 0.4, 0.5], dtype=torch.float64)
    lost = torch.tensor([0.3, 0.4, 1.25], dtype=torch.float64)
    before = field(0.0, inside)
    with pytest.raises(Breakdown) as breakdown:
        field(0.125, lost)
    assert breakdown.value.status is Status.EQUILIBRIUM_LOST
    assert breakdown.value.reason == (
        "at theta2 = 1.25 the slope 1 - theta2 sigma' of the fixed-point equation runs from "
        "-0.25 to 1, so the tanh DEQ has no unique fixed point, at t = 0.125"
    )
    assert torch.allclose(field(0.0, inside), before, rtol=1e-13)


def test_jacobian_and_product_are_nan_where_the_equilibrium_is_lost():
    field = gradient_flow(_problem())
    lost = torch.tensor([0.3, 0.4, 1.25], dtype=torch.float64)
    assert field.jacobian(0.0, lost).isnan().all()
    assert field.jvp(0.0, lost, lost).isnan().all()


def test_a_theta_that_is_not_finite_breaks_down():
    with pytest.raises(Breakdown) as breakdown:
        gradient_flow(_problem())(2.0, torch.tensor([0.0, np.nan, 0.0], dtype=torch.float64))
    assert breakdown.value.reason == "theta is not finite, at t = 2"


def test_the_branch_is_the_models():
    field = gradient_flow(Problem(LinearDEQ(1), [1.0, 2.0], [0.0, 1.0]))
    assert [field.branch(torch.tensor([1.0, theta2])) for theta2 in (0.5, 1.0, 1.5)] == [1, 0, -1]
    rows = torch.tensor([[1.0, 0.5], [1.0, 1.5]])
    assert field.branch(rows).tolist() == [1, -1]


@pytest.mark.parametrize("shared", [True, False])
def test_a_linear_batch_needs_the_moments_of_the_data_alone(shared):
    rng = np.random.default_rng(5)
    inputs = [rng.normal(size=(7, 2))] * 3 if shared else list(rng.normal(size=(3, 7, 2)))
    problems = [Problem(LinearDEQ(2), x, rng.normal(size=7)) for x in inputs]
    theta = torch.from_numpy(rng.normal(size=(3, 3)))
    [(_, stack)] = group_problems(problems)
    rows = torch.stack([-p.gradient(row) for p, row in zip(problems, theta, strict=True)])
    field = gradient_flow(stack)
    assert torch.allclose(field(np.zeros(3), theta), rows, rtol=1e-12, atol=1e-13)
    part = field.select(torch.tensor([2, 0]))
    assert torch.allclose(part(np.zeros(2), theta[[2, 0]]), rows[[2, 0]], rtol=1e-12, atol=1e-13)
    alone = gradient_flow(problems[1])(np.zeros(1), theta[1:2])
    assert torch.allclose(alone[0], rows[1], rtol=1e-12, atol=1e-13)
