"""exprb43 on all its ways: by eigenvectors, by exponentials and by Krylov spaces."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mixed import Mixed, linear_with_a_drifting_source

import gflow
import gflow.integrators.exponential as exponential
from gflow.integrators.base import Field, Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.exponential import EXPRB43
from gflow.integrators.krylov import LARGEST, KrylovPropagator

STEPS = 2.0 ** -np.arange(1.0, 5.0, 0.5)


@pytest.fixture(params=["dense", "krylov"])
def path(request, monkeypatch):
    if request.param == "krylov":
        monkeypatch.setattr(exponential, "DENSE_LIMIT", 0)
    return request.param


def _one_step(field, theta0, h, t=0.0, tolerance=1e-13):
    settings = Settings(t + h, tolerance, tolerance, first_step=h)
    state = EXPRB43.init(field, t, theta0, settings)
    return EXPRB43.advance(replace(field, batched=False), state)[1]


def _order(problem, field):
    start, errors = 0.25, []
    for h in STEPS:
        step = _one_step(field, problem.exact(start), float(h), start)
        ends = step.theta1[0] - problem.exact(start + h)
        x = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
        dense = step.dense(torch.zeros(5, dtype=torch.long), x)
        within = dense - torch.stack([problem.exact(start + h * float(f)) for f in x])
        errors.append([float(ends.norm()), float(within.norm(dim=-1).max())])
    logs = np.log(np.array(errors))
    return np.diff(logs[[-3, -1]], axis=0)[0] / np.diff(np.log(STEPS[[-3, -1]])) - 1


OFFERS = {
    "everything": {},
    "no time derivative": {"time_derivative": None},
    "no Jacobian": {"jacobian": None, "time_derivative": None},
}


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "unsymmetric"])
@pytest.mark.parametrize("frequency", [0.0, 1.5], ids=["autonomous", "moving"])
@pytest.mark.parametrize("offers", OFFERS)
def test_the_order_is_four_at_the_end_and_within(symmetric, frequency, offers, path):
    """By differences too; where no Jacobian is offered, Krylov spaces use its products."""
    problem = Mixed(symmetric, frequency)
    found = _order(problem, replace(problem.field, **OFFERS[offers]))
    assert (found > 3.75).all(), found


@pytest.mark.parametrize("symmetric", [True, False])
def test_without_the_time_derivative_the_order_would_be_two(symmetric):
    """What the term is for: a field that claims to be autonomous and is not."""
    problem = Mixed(symmetric, 1.5)
    field = replace(problem.field, time_derivative=None, autonomous=True)
    assert (_order(problem, field) < 2.5).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_a_linear_field_is_exact_in_one_step_of_any_length(symmetric, scale, path):
    """With a source that is linear in time; the eigenvalues have both signs."""
    field, theta0, solution = linear_with_a_drifting_source(symmetric, scale)
    h = 3.0
    step = _one_step(field, theta0, h)
    for x in (0.2, 0.5, 1.0):
        exact = solution(x * h)
        found = step.dense(torch.tensor([0]), torch.tensor([x], dtype=torch.float64))[0]
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-10 * np.abs(exact).max())
    np.testing.assert_allclose(step.theta1[0], exact, rtol=0, atol=1e-10 * np.abs(exact).max())


def test_a_symmetric_jacobian_is_taken_by_its_eigenvectors_once_a_step():
    problem = Mixed(True, 0.0)
    state = EXPRB43.init(problem.field, 0.0, problem.theta0, Settings(1.0))
    assert set(state.cache) == {"value", "eigenvalues", "eigenvectors"}
    general = replace(problem.field, symmetric=False)
    cache = EXPRB43.init(general, 0.0, problem.theta0, Settings(1.0)).cache
    assert set(cache) == {"value", "jacobian"}
    moving = Mixed(True, 1.5)
    assert "change" in EXPRB43.init(moving.field, 0.0, moving.theta0, Settings(1.0)).cache


def _diffusion(size):
    """A chain with a cubic sink; larger than a Krylov space may be."""
    stencil = 400.0 * (torch.diag(torch.ones(size - 1), 1) + torch.diag(torch.ones(size - 1), -1))
    matrix = (stencil - torch.diag(torch.full((size,), 800.0))).double()
    return Field(
        lambda t, y: matrix @ y - y**3,
        jacobian=lambda t, y: matrix - torch.diag(3 * y * y),
        jvp=lambda t, y, v: matrix @ v - 3 * y * y * v,
        symmetric=True,
        autonomous=True,
    ), torch.sin(torch.linspace(0, 9, size, dtype=torch.float64)).sign()


@pytest.mark.parametrize("symmetric", [True, False])
def test_krylov_spaces_lead_to_the_same_trajectory(symmetric, monkeypatch):
    field, theta0 = _diffusion(LARGEST + 24)
    field = replace(field, symmetric=symmetric)
    times, settings = torch.linspace(0, 0.5, 6, dtype=torch.float64), Settings(0.5, 1e-5, 1e-8)
    dense = integrate_field(field, theta0, EXPRB43, settings, times)
    monkeypatch.setattr(exponential, "DENSE_LIMIT", 0)
    krylov = integrate_field(replace(field, jacobian=None), theta0, EXPRB43, settings, times)
    assert dense.status.ok
    assert krylov.status.ok
    assert (dense.jvps, krylov.hessians) == (0, 0)
    assert krylov.linear_solves >= 3 * krylov.accepted
    scale = settings.atol + settings.rtol * dense.theta.abs()
    assert float((((krylov.theta - dense.theta) / scale) ** 2).mean(-1).sqrt().max()) < 1.0


def test_a_space_that_does_not_suffice_makes_the_step_shorter(monkeypatch):
    monkeypatch.setattr(exponential, "DENSE_LIMIT", 0)
    field, theta0 = _diffusion(LARGEST + 24)
    settings = Settings(50.0, 1e-9, 1e-12, first_step=20.0)
    state = EXPRB43.init(field, 0.0, theta0, settings)
    _, step = EXPRB43.step(field, state)
    assert not step.attempts[0].accepted
    assert step.attempts[0].error_ratio == pytest.approx(100.0)
    assert step.attempts[-1].accepted
    assert step.t1 < 20.0


def test_a_row_without_a_jacobian_leaves_the_others_alone(path):
    """The trial of such a row has no value, whatever way its phi-functions are taken."""
    for symmetric in (True, False):
        problem = Mixed(symmetric, 0.0)
        poison = torch.tensor([[0.0], [math.nan], [0.0]], dtype=torch.float64)

        def function(t, y, problem=problem):
            return torch.stack([problem.function(0.0, row) for row in y])

        def jacobian(t, y, problem=problem, poison=poison):
            return torch.stack([problem.jacobian(0.0, row) for row in y]) + poison[..., None]

        def jvp(t, y, v, jacobian=jacobian):
            return (jacobian(t, y) @ v[..., None])[..., 0]

        field = Field(function, jacobian, jvp, symmetric=symmetric, autonomous=True, batched=True)
        theta = problem.theta0 * torch.tensor([[1.0], [1.1], [0.9]]).double()
        dt, settings = np.full(3, 0.1), Settings(1.0, 1e-4, 1e-6)
        state = EXPRB43.start(field, np.zeros(3), theta, settings, dt)
        state, step = EXPRB43.advance(field, state)
        assert step.accepted.tolist() == [True, False, True]
        assert np.isnan(step.ratio).tolist() == [False, True, False]
        lone = _one_step(replace(problem.field, batched=False), theta[2], 0.1, tolerance=1e-6)
        assert torch.allclose(step.theta1[2], lone.theta1[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_single_precision_stays_single(symmetric, path):
    problem = Mixed(symmetric, 0.0)
    field = Field(
        lambda t, y: problem.function(t, y.double()).float(),
        jacobian=lambda t, y: problem.jacobian(t, y.double()).float(),
        jvp=lambda t, y, v: (problem.jacobian(t, y.double()) @ v.double()).float(),
        symmetric=symmetric,
        autonomous=True,
    )
    start = problem.theta0.float()
    found = integrate_field(field, start, EXPRB43, Settings(1.0, 1e-4, 1e-6))
    assert found.status.ok, found.message
    assert found.theta.dtype == torch.float32
    assert torch.allclose(found.theta[-1].double(), problem.exact(1.0), rtol=1e-3, atol=1e-4)


def test_the_krylov_propagator_is_what_many_parameters_get():
    field, theta0 = _diffusion(exponential.DENSE_LIMIT + 1)
    state = EXPRB43.init(field, 0.0, theta0, Settings(1.0))
    assert set(state.cache) == {"value"}
    width = torch.ones(1, 1, dtype=torch.float64)
    system = exponential.System(field)
    by = exponential._propagator(system, state.t, state.theta, width, state)
    assert isinstance(by, KrylovPropagator)


@pytest.mark.parametrize("seed", [4, 5])
def test_rounding_in_single_precision_is_not_taken_for_an_error_that_steps_repeat(seed):
    """Which would take thousands of evaluations."""
    rng = np.random.default_rng(seed)
    x, y, theta0 = rng.normal(size=(200, 4)), 0.5 * rng.normal(size=200), 0.3 * rng.normal(size=5)
    problem = gflow.Problem(gflow.SingleIndexDEQ(4, "tanh"), x, y, dtype="float32")
    tree = gflow.integrate(problem, theta0, 1000.0, method="exprb43", rtol=1e-4, times=5)
    assert str(tree["flow"].status.values) == "t_end"
    assert int(tree["flow"].nfe) < 250
