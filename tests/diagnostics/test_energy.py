"""The energy audit on real flows: it closes to 1e-7, and does not where the field is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gflow.diagnostics.energy import NODES, BatchAudit, EnergyAudit
from gflow.flows import GradientFlow, gradient_flow
from gflow.integrators.base import Settings
from gflow.integrators.driver import Target, integrate_field
from gflow.integrators.ensemble import Plan, integrate_ensemble
from gflow.integrators.registry import resolve
from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.objective import Objective
from gflow.problem import Problem
from gflow.stacking import ProblemStack
from gflow.status import Status
from gflow.theory import LinearReference

METHODS = ["dopri5", "dopri8", "DOP853", "RK45", "LSODA", "Radau", "BDF"]
# Between its long steps dopri8 interpolates to fourth order only, and the audit sees it.
LARGEST_RESIDUAL = dict.fromkeys(METHODS, 2e-8) | {"dopri8": 5e-7}


def _problem(name="tanh", backward="exact", dtype="float64"):
    rng = np.random.default_rng(21)
    x = rng.normal(size=(20, 2))
    model = LinearDEQ(2) if name == "linear" else SingleIndexDEQ(2, name)
    target = Problem(model, x, np.zeros(20)).predict([0.9, -0.5, -0.6]).numpy()
    noisy = target + 0.1 * rng.normal(size=20)
    return Problem(model, x, noisy, backward=backward, dtype=dtype)


def _audited(problem, method="dopri5", t_end=20.0, rtol=1e-8, times=33, speed=1.0, targets=()):
    saves = torch.linspace(0, t_end, times, dtype=torch.float64)
    field, audit = gradient_flow(problem), EnergyAudit(problem)
    if speed != 1.0:
        right = field.function
        field = replace(field, function=lambda t, theta: speed * right(t, theta), jacobian=None)
    trajectory = integrate_field(
        field,
        problem.theta([-0.4, 0.3, 0.2]),
        resolve(method),
        Settings(t_end, rtol, 1e-12),
        saves,
        targets=targets,
        observers=[audit],
        dense=True,
    )
    return trajectory, audit


def _residual(problem, trajectory, audit):
    """L(0) - L(t) - integral at all saves, relative to L(0)."""
    loss = problem.loss(trajectory.theta).double()
    return (loss[0] - loss - audit.integral(trajectory.t)) / loss[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["linear", "tanh"])
def test_the_audit_closes_on_a_real_flow(name, method):
    problem = _problem(name)
    trajectory, audit = _audited(problem, method)
    residual = _residual(problem, trajectory, audit)
    assert trajectory.status is Status.T_END
    assert float(residual[0]) == 0.0
    assert float(residual.abs().max()) <= LARGEST_RESIDUAL[method]
    assert float(problem.loss(trajectory.theta[0]) / problem.loss(trajectory.theta[-1])) > 10


@pytest.mark.parametrize("method", ["exprb43", "expcol8"])
def test_the_audit_resolves_the_giant_steps_of_exponential_methods(method):
    rates = torch.logspace(0, 3, 6, dtype=torch.float64)
    problem = Objective(lambda theta: (rates * theta * theta).sum() / 2, 6)
    saves = torch.logspace(-5, 2, 50, dtype=torch.float64)
    field, audit = gradient_flow(problem), EnergyAudit(problem)
    trajectory = integrate_field(
        field,
        torch.ones(6, dtype=torch.float64),
        resolve(method),
        Settings(100.0, 1e-6, 1e-9),
        saves,
        observers=[audit],
    )
    assert len(trajectory.log) < 20
    assert float(_residual(problem, trajectory, audit).abs().max()) <= 1e-9


def test_the_audit_of_a_flow_at_rest_stays_small():
    calls = []
    problem = _problem("linear")
    solve = problem.model.equilibrium
    audit = EnergyAudit(problem)
    x, y = problem.x.numpy(), problem.y.numpy()
    rest = LinearReference.from_data(x, y, [0.3, 0.2, 0.1]).limit
    integrate_field(
        gradient_flow(problem),
        torch.from_numpy(rest),
        resolve("expcol8"),
        Settings(1e6, 1e-6, 1e-9),
        torch.tensor([0.0, 1e6]),
        observers=[audit],
    )
    problem.model.equilibrium = lambda theta, *rest: calls.append(len(theta)) or solve(theta, *rest)
    assert float(audit.integral(torch.tensor([1e6]))) == pytest.approx(0, abs=1e-12)
    assert sum(calls) < 20_000


@pytest.mark.parametrize("speed", [0.99, 1.01])
def test_a_field_wrong_by_a_percent_is_found_out(speed):
    problem = _problem()
    residual = _residual(problem, *_audited(problem, speed=speed))
    # Along theta' = -c g the loss falls by c times the integral of grad L . g.
    loss = problem.loss(_audited(problem, speed=speed)[0].theta)
    expected = (loss[0] - loss) / loss[0] * (1 - 1 / speed)
    assert torch.allclose(residual, expected, rtol=1e-4, atol=1e-7)
    assert float(residual.abs().max()) > 5e-3


@pytest.mark.parametrize("backward", ["jfb", "neumann:3"])
def test_with_another_backward_the_product_with_the_loss_gradient_is_integrated(backward):
    problem = _problem(backward=backward)
    residual = _residual(problem, *_audited(problem, "DOP853"))
    assert float(residual.abs().max()) <= 1e-7


def test_the_audit_closes_to_the_last_point_where_a_target_cuts_the_step():
    problem = _problem()
    target = Target(Status.LOSS, lambda t, theta: float(problem.loss(theta)) - 0.1)
    for method in ("dopri5", "BDF"):
        trajectory, audit = _audited(problem, method, targets=[target])
        residual = _residual(problem, trajectory, audit)
        assert trajectory.status is Status.LOSS
        assert 0 < float(trajectory.t[-1]) < 20.0
        assert float(residual.abs().max()) <= 1e-7


@pytest.mark.parametrize("method", ["dopri5", "DOP853", "LSODA"])
def test_it_costs_no_more_evaluations_than_the_flow(monkeypatch, method):
    problem, rows = _problem(), []
    dissipation = GradientFlow.dissipation
    monkeypatch.setattr(
        GradientFlow,
        "dissipation",
        lambda *given: rows.append(len(given[2])) or dissipation(*given),
    )
    trajectory, audit = _audited(problem, method, times=5)
    audit.integral(trajectory.t)
    assert sum(rows) <= trajectory.nfe + 2 * NODES  # the first and the last panel may be short
    assert sum(rows) >= 0.1 * trajectory.nfe


def test_panels_of_several_steps_agree_with_panels_of_one():
    problem = _problem()
    trajectory, audit = _audited(problem)
    alone = EnergyAudit(problem)
    for count, step in enumerate(trajectory.path.steps, 1):
        alone.observe(step, NODES * count)
    apart = alone.integral(trajectory.t) - audit.integral(trajectory.t)
    assert abs(float(apart[-1])) <= 1e-8
    assert float(apart.abs().max()) <= 1e-7


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_batches_change_nothing(monkeypatch, batch):
    problem = _problem()
    trajectory, audit = _audited(problem)
    whole = audit.integral(trajectory.t)
    monkeypatch.setattr("gflow.diagnostics.energy.BATCH", batch)
    again = _audited(problem)[1].integral(trajectory.t)
    assert torch.allclose(again, whole, rtol=1e-13, atol=1e-15)


def test_the_integral_can_be_asked_for_again_at_any_times():
    problem = _problem()
    trajectory, audit = _audited(problem)
    times = torch.tensor([20.0, 0.0, 3.3, 0.01, 3.3], dtype=torch.float64)
    found = audit.integral(times)
    assert torch.equal(audit.integral(times), found)
    assert float(found[1]) == 0.0
    assert float(found[2]) == float(found[4])
    order = times.argsort()
    assert (found[order].diff() >= 0).all()
    assert float(found[0]) == pytest.approx(float(audit.integral(trajectory.t)[-1]), rel=1e-14)


def test_before_any_step_the_integral_is_zero():
    assert EnergyAudit(_problem()).integral(torch.zeros(3)).tolist() == [0.0] * 3


def test_float32_flows_are_audited_to_their_own_rounding():
    problem = _problem(dtype="float32")
    trajectory, audit = _audited(problem, rtol=1e-5)
    assert audit.integral(trajectory.t).dtype == torch.float64
    assert float(_residual(problem, trajectory, audit).abs().max()) <= 5e-5


@pytest.mark.parametrize("rows", [1, 4096])
@pytest.mark.parametrize("method", ["tsit5", "exprb43"])
def test_the_audit_of_a_batch_closes(monkeypatch, method, rows):
    monkeypatch.setattr("gflow.diagnostics.energy.BATCH_ROWS", rows)
    problems = [_problem(), _problem().on(_problem().x, 2 * _problem().y)]
    stack = ProblemStack(problems)
    audit = BatchAudit(stack, problems.__getitem__)
    start = stack.theta([[-0.4, 0.3, 0.2], [0.5, 0.1, -0.3]])
    saves = torch.linspace(0, 5.0, 21, dtype=torch.float64)
    plan = Plan(
        resolve(method),
        Settings(5.0, 1e-7, 1e-10),
        lambda index: gradient_flow(problems[index]),
        observer=audit,
    )
    found = integrate_ensemble(gradient_flow(stack), start, saves, plan)
    integrals = audit.integrals(saves, np.array([5.0, 2.6]))
    for problem, trajectory, integral in zip(problems, found, integrals, strict=True):
        loss = problem.loss(trajectory.theta)
        inside = integral.isfinite()
        residual = (loss[0] - loss - integral)[inside] / loss[0]
        assert float(residual.abs().max()) <= 1e-7
    assert integrals.isnan().sum(-1).tolist() == [0, 10]
