"""Tolerances below rounding end a run soon; those just above it do not."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from gflow import LinearDEQ, Problem, SingleIndexDEQ
from gflow.flows import gradient_flow
from gflow.integrators import rounding
from gflow.integrators.base import Field, Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.ensemble import integrate_ensemble
from gflow.integrators.plan import Plan
from gflow.integrators.registry import METHODS
from gflow.integrators.stiffness import StiffnessWatch, Switching
from gflow.paper import linear_problem, small_start, weak_problem
from gflow.status import Status

EXPCOL8, TSIT5 = METHODS["native:expcol8"], METHODS["native:tsit5"]
NATIVE = [name for name in METHODS if name.startswith("native:")]


def grainy(batched=False):
    """y' = -y^3 - y, computed of y in float32: its grain is some 1e-7."""

    def coarse(y):
        return y.float().double()

    return Field(
        lambda t, y: -(coarse(y) ** 3) - coarse(y),
        jacobian=lambda t, y: torch.diag_embed(-3 * y**2 - 1),
        symmetric=True,
        batched=batched,
        autonomous=True,
    )


START = torch.tensor([1.0, 0.5], dtype=torch.float64)


def run(rtol, atol, method=EXPCOL8, **options):
    return integrate_field(grainy(), START, method, Settings(10.0, rtol, atol), **options)


def test_a_tolerance_below_rounding_ends_soon_with_one_that_holds():
    ended = run(1e-10, 1e-10)
    assert ended.status is Status.ROUNDING
    assert len(ended.log) == rounding.FIRST_LOOK
    atol = float(re.search(r"can hold atol = (\S+)\.$", ended.message)[1])
    assert 1e-9 < atol < 1e-3
    assert run(1e-10, atol).status is Status.T_END


def test_a_method_that_may_hand_over_is_looked_at_too():
    ended = run(1e-10, 1e-10, Switching(EXPCOL8, TSIT5, StiffnessWatch(math.inf)))
    assert ended.status is Status.ROUNDING


def test_rows_of_a_batch_end_each_by_itself():
    """The second row rests at 0, where nothing rounds."""
    theta0 = torch.stack([START, torch.zeros(2, dtype=torch.float64), 0.9 * START])
    plan = Plan(EXPCOL8, Settings(10.0, 1e-10, 1e-10), lambda row: grainy())
    found = integrate_ensemble(grainy(True), theta0, torch.tensor([0.0, 10.0]), plan)
    assert [one.status for one in found] == [Status.ROUNDING, Status.T_END, Status.ROUNDING]
    assert "can hold atol" in found[0].message
    assert float(found[0].t[-1]) < 1 < float(found[1].t[-1])


@pytest.mark.parametrize("name", NATIVE)
def test_no_estimate_is_rounding_at_ordinary_tolerances(name):
    """Nor with kinks, nor where stability limits the steps."""
    method = METHODS[name]
    kinked = Problem(SingleIndexDEQ(2, "relu"), np.eye(2), [1.0, -0.5])
    flows = [
        (*weak_problem(0, 0.1), 1e-6),
        (linear_problem(), small_start(), 1e-9),
        (kinked, [0.3, 0.2, 0.1], 1e-4),
    ]
    for problem, start, rtol in flows:
        field = gradient_flow(problem)
        settings = Settings(1e6, rtol, rtol / 100)
        state = method.init(field, 0.0, problem.theta(start), settings)
        for _ in range(12):
            state, _ = method.step(field, state)
            assert not rounding.is_rounding(field, method, state, 0, state.t).any()


@pytest.mark.parametrize(("rtol", "atol"), [(1e-12, 1e-12), (1e-13, 1e-12), (1e-13, 1e-300)])
def test_tolerances_just_above_rounding_hold(rtol, atol):
    problem = linear_problem()
    field, start = gradient_flow(problem), problem.theta(small_start())
    found = integrate_field(field, start, EXPCOL8, Settings(50.0, rtol, atol))
    assert found.status is Status.T_END


def test_a_look_leaves_the_run_as_it_was(monkeypatch):
    problem, start = weak_problem(0, 0.1)
    looks = []

    def look(*arguments):
        looks.append(rounding.lone_reason(*arguments))
        return looks[-1]

    def again():
        field = gradient_flow(problem)
        return integrate_field(field, problem.theta(start), EXPCOL8, Settings(3e3, 1e-10, 1e-12))

    monkeypatch.setattr("gflow.integrators.run.lone_reason", look)
    monkeypatch.setattr(rounding, "FIRST_LOOK", 8)
    monkeypatch.setattr(rounding, "AHEAD", -1.0)
    every = np.ones(1, dtype=bool), np.zeros(1)
    noisy = rounding._estimates_are_noise
    monkeypatch.setattr(rounding, "_estimates_are_noise", lambda *at: noisy(*at) and every)
    looked = again()
    assert looks == [""] * len(looks)
    assert len(looks) >= 2
    monkeypatch.setattr(rounding, "FIRST_LOOK", 10**6)
    alone = again()
    assert torch.equal(looked.theta, alone.theta)
    assert np.array_equal(looked.log.table, alone.log.table)


@pytest.mark.parametrize("name", [*NATIVE, "scipy:BDF", "scipy:LSODA", "torchdiffeq:dopri5"])
def test_a_vanishing_atol_is_no_trap_for_components_that_are_zero(name):
    """Squares of values in units of 1e-300 overflow, and first steps then had no length."""
    problem = Problem(LinearDEQ(1), [1.0, 2.0], [1.0, 2.0])
    field, start = gradient_flow(problem), problem.theta([0.5, 0.0])
    found = integrate_field(field, start, METHODS[name], Settings(0.5, 1e-3, 1e-300))
    assert found.status is Status.T_END


def test_steps_without_length_end_the_run():
    field = Field(lambda t, y: 1e200 * y, autonomous=True)
    found = integrate_field(field, START, TSIT5, Settings(1.0, 1e-9, 1e-9))
    assert found.status is Status.STEP_UNDERFLOW
    assert "does not advance t" in found.message
    assert found.nfe < 20


def test_steps_that_no_longer_advance_end_the_run():
    """y' = -1/y chatters about 0 for good, which it reaches at t = 1/2."""
    field = Field(lambda t, y: -1 / y, autonomous=True)
    start = torch.ones(1, dtype=torch.float64)
    found = integrate_field(field, start, TSIT5, Settings(1.0, 1e-9, 1e-9), max_steps=100_000)
    assert found.status is not Status.STEP_LIMIT
    assert float(found.t[-1]) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("name", ["native:tsit5", "scipy:RK45", "torchdiffeq:dopri5"])
def test_steps_that_cannot_lead_to_the_end_do_not_use_up_their_limit(name):
    """y' = -sign(y) chatters about 0, which it reaches at t = 0.7."""
    field = Field(lambda t, y: -torch.sign(y), autonomous=True)
    start = torch.full((1,), 0.7, dtype=torch.float64)
    found = integrate_field(field, start, METHODS[name], Settings(50.0, 1e-6, 1e-9))
    assert found.status is Status.STEP_LIMIT
    assert "such attempts away" in found.message
    assert len(found.log) < 20_000
    assert float(found.t[-1]) == pytest.approx(0.7, rel=1e-2)
