"""expcol8: its order sweep by sweep, its nodes, what is exact, and the field at many points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from mixed import Mixed, linear_with_a_drifting_source

import gflow
import gflow.integrators.collocation as collocation
from gflow.flows import gradient_flow
from gflow.integrators.base import Breakdown, Field, Settings
from gflow.integrators.collocation import EXPCOL8, NODES, SWEEPS
from gflow.integrators.driver import integrate_field
from gflow.integrators.system import System

STEPS = 2.0 ** -np.arange(0.0, 2.1, 0.5)


def _one_step(field, theta0, h, t=0.0):
    state = EXPCOL8.init(field, t, theta0, Settings(t + h, 1e-13, 1e-13, first_step=h))
    return EXPCOL8.advance(replace(field, batched=False), state)[1]


def _orders(symmetric, frequency, **offered):
    problem, errors = Mixed(symmetric, frequency, bend=-0.4, start=0.5), []
    field = replace(problem.field, **offered)
    for h in STEPS:
        step = _one_step(field, problem.exact(0.1), float(h), 0.1)
        x = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
        dense = step.dense(torch.zeros(5, dtype=torch.long), x)
        within = dense - torch.stack([problem.exact(0.1 + h * float(f)) for f in x])
        ends = step.theta1[0] - problem.exact(0.1 + h)
        errors.append([float(ends.norm()), float(within.norm(dim=-1).max())])
    return np.polyfit(np.log(STEPS), np.log(errors), 1)[0] - 1


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "unsymmetric"])
@pytest.mark.parametrize("frequency", [0.0, 1.0], ids=["autonomous", "moving"])
def test_the_order_is_eight_at_the_end_and_within(symmetric, frequency):
    found = _orders(symmetric, frequency)
    assert (found > 7.6).all(), found


@pytest.mark.parametrize(("sweeps", "order"), [(2, 6), (3, 8)])
def test_each_sweep_adds_two_orders(sweeps, order, monkeypatch):
    monkeypatch.setattr(collocation, "SWEEPS", SWEEPS[:sweeps])
    found = _orders(True, 0.0)
    assert (found > order - 0.4).all(), found
    assert found[1] < order + 0.7, "no more than that: the next sweep is needed"


def test_the_order_needs_no_derivatives_of_the_user_s():
    """By differences, whose error 1e-8 acts as a small remainder."""
    found = _orders(True, 1.0, jacobian=None, time_derivative=None)
    assert (found > 6.5).all(), found


@pytest.mark.parametrize("degree", range(14))
def test_the_nodes_integrate_polynomials_of_degree_twelve(degree):
    """Six nodes for the weight x^2, one of them at the end: what is quadrature alone is exact."""
    field = Field(
        lambda t, y: torch.full_like(y, t**degree),
        jacobian=lambda t, y: torch.zeros(1, 1, dtype=y.dtype),
        time_derivative=lambda t, y: torch.full_like(
            y, degree * t ** (degree - 1) if degree else 0
        ),
        symmetric=True,
    )
    step = _one_step(field, torch.zeros(1, dtype=torch.float64), 1.0)
    error = abs(float(step.theta1) - 1 / (degree + 1))
    assert (error < 1e-12) == (degree <= 12), error


def test_the_nodes_are_in_order_and_end_with_the_step():
    assert (np.diff([0.0, *NODES.at]) > 0).all()
    assert NODES.at[-1] == 1.0
    assert [len(sweep.places) for sweep in SWEEPS] == [2, 4, 6]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_a_linear_field_is_exact_in_one_step_of_any_length(symmetric, scale):
    """With a source that is linear in time; the eigenvalues have both signs."""
    field, theta0, solution = linear_with_a_drifting_source(symmetric, scale)
    h = 3.0
    step = _one_step(field, theta0, h)
    for x in (0.2, 0.5, 1.0):
        exact = solution(x * h)
        found = step.dense(torch.tensor([0]), torch.tensor([x], dtype=torch.float64))[0]
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-10 * np.abs(exact).max())


def _flow():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 3))
    y = np.tanh(x @ [1.0, -0.5, 0.3]) + 0.05 * rng.normal(size=40)
    problem = gflow.Problem(gflow.SingleIndexDEQ(3, "tanh"), x, y)
    return gradient_flow(problem), problem.theta([0.1, 0.2, 0.3, -0.5])


def _integrate(field, theta0, rtol=1e-9):
    times = torch.linspace(0, 20, 11, dtype=torch.float64)
    return integrate_field(field, theta0, EXPCOL8, Settings(20.0, rtol, 1e-3 * rtol), times)


def test_many_points_at_once_are_what_one_after_the_other_is():
    """Also in what is counted."""
    field, theta0 = _flow()
    at_once = _integrate(field, theta0)
    one_by_one = _integrate(replace(_flow()[0], many=None), theta0)
    assert torch.allclose(at_once.theta, one_by_one.theta, rtol=1e-12, atol=1e-13)
    assert at_once.nfe == one_by_one.nfe
    assert at_once.nfe == 1 + 13 * len(at_once.log)
    assert at_once.hessians == 1 + at_once.accepted


def test_the_sweeps_come_back_to_a_node_with_its_own_warm_start():
    """So the Newton iteration has almost nothing left to do there."""
    field, theta0 = _flow()
    starts = []

    def many(t, theta):
        starts.append(field.memory.value.clone())
        return field.many(t, theta)

    state = EXPCOL8.init(field, 0.0, theta0, Settings(20.0, 1e-9, 1e-12, first_step=0.5))
    EXPCOL8.advance(replace(field, batched=False, many=many), state)
    first, second, third = starts
    assert torch.equal(first[0], first[1]), "all nodes begin at the step's start"
    assert torch.equal(second[0], first[0]), "a node that has no warm start yet"
    assert not torch.equal(second[1], first[0])
    assert not torch.equal(third[0], first[0])


def test_where_a_lone_field_has_no_value_it_says_why():
    field, theta0 = _flow()
    lost = theta0.new_tensor([0.0, 0.0, 0.0, 1.5])
    system = System(replace(field, batched=False))
    stages = collocation._Stages(system, np.zeros(1), np.ones(1))
    with pytest.raises(Breakdown, match=r"at theta2 = 1\.5 the slope"):
        stages.values([0, 5], torch.stack([theta0, lost])[:, None])


@pytest.mark.parametrize("rows", [1, 3])
def test_a_batch_is_what_its_rows_are_alone(rows):
    field, theta0 = _flow()
    starts = theta0 + 0.1 * torch.arange(rows, dtype=torch.float64)[:, None]
    settings = Settings(20.0, 1e-9, 1e-12, first_step=0.1)
    batch = EXPCOL8.advance(field, EXPCOL8.start(field, np.zeros(rows), starts, settings))[1]
    for row in range(rows):
        alone = _flow()[0]
        step = EXPCOL8.advance(
            replace(alone, batched=False), EXPCOL8.init(alone, 0.0, starts[row], settings)
        )[1]
        assert torch.allclose(batch.theta1[row], step.theta1[0], rtol=1e-12, atol=1e-14)
        assert batch.ratio[row] == pytest.approx(step.ratio[0], rel=1e-5)
