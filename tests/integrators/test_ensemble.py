"""Many trajectories at once: each is what it would be alone, whatever becomes of the others."""

from __future__ import annotations

import math
import re
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from fleet import fleet, lone, sail, sail_alone, starts

from gflow.flows import gradient_flow
from gflow.integrators.base import Settings
from gflow.integrators.driver import Target, integrate_field
from gflow.integrators.ensemble import Plan, integrate_ensemble
from gflow.integrators.explicit import TSIT5_METHOD
from gflow.integrators.exponential import EXPRB43
from gflow.integrators.native import NativeMethod
from gflow.integrators.registry import METHODS
from gflow.models import SingleIndexDEQ
from gflow.problem import Problem
from gflow.stacking import group_problems
from gflow.status import Status

SETTINGS = Settings(2.0, 1e-6, 1e-9)
TIMES = torch.linspace(0, 2, 9, dtype=torch.float64)
SOUND = ("mild", "moving", "cubic", "mild", "stiff")
TROUBLED = ("mild", "breaks", "moving", "blows up", "cubic", "broken", "leaves", "moving")
NUMBER = re.compile(r"\d[\d.e+-]*")
NATIVE = [method for method in METHODS.values() if isinstance(method, NativeMethod)]
OURS = pytest.mark.parametrize("method", [TSIT5_METHOD, EXPRB43], ids=lambda m: m.info.name)
each_method = pytest.mark.parametrize("method", NATIVE, ids=lambda m: m.info.name)


def _check_log(trajectory):
    """Accepted steps lead from 0 to the end without a gap; what was counted only grows."""
    table = trajectory.log.table
    dt = table[:, 1] * table[:, 3]
    assert trajectory.accepted == table[:, 3].sum()
    np.testing.assert_allclose(table[:, 0], np.cumsum(dt) - dt, rtol=1e-12, atol=1e-15)
    assert dt.sum() == pytest.approx(float(trajectory.t[-1]), rel=1e-12)
    assert (np.diff(table[:, 4:], axis=0) >= 0).all()
    if len(table):
        assert trajectory.nfe >= table[-1, 4]


def _check_same(found, alone, rtol=1e-9):
    assert found.status is alone.status, found.message
    assert torch.allclose(found.t, alone.t, rtol=1e-6, atol=0)
    scale = 1 + alone.theta.abs()
    assert float(((found.theta - alone.theta) / scale).abs().max()) < rtol
    _check_log(found)


@each_method
def test_every_row_is_its_lone_run_to_rounding(method):
    together = sail(SOUND, method, SETTINGS, TIMES)
    for found, alone in zip(together, sail_alone(SOUND, method, SETTINGS, TIMES), strict=True):
        assert torch.equal(found.t, TIMES)
        rounding = 1e-11 if method in (TSIT5_METHOD, EXPRB43) else 1e-5
        _check_same(found, alone, rounding)
        if method in (TSIT5_METHOD, EXPRB43):
            np.testing.assert_allclose(found.log.table[:, :2], alone.log.table[:, :2], rtol=1e-6)
            np.testing.assert_array_equal(found.log.table[:, 3], alone.log.table[:, 3])
    assert len({len(found.log) for found in together}) > 2, "everyone keeps its own step"


@each_method
def test_everyone_has_the_verdict_that_it_has_alone(method):
    settings = replace(SETTINGS, t_end=4.0, rtol=1e-4)
    times = 2 * TIMES
    together = sail(TROUBLED, method, settings, times)
    alone = sail_alone(TROUBLED, method, settings, times)
    statuses = [found.status for found in together]
    assert statuses == [one.status for one in alone]
    expected = {
        "breaks": Status.NONFINITE,
        "blows up": Status.DIVERGED,
        "broken": Status.NONFINITE_START,
        "leaves": Status.NONFINITE,
    }
    assert statuses == [expected.get(kind, Status.T_END) for kind in TROUBLED]
    for found, one in zip(together, alone, strict=True):
        assert float(found.t[-1]) == pytest.approx(float(one.t[-1]), abs=1e-4)
        assert NUMBER.sub("#", found.reason) == NUMBER.sub("#", one.reason)
        assert found.message.startswith(found.status.sentence)
        assert torch.isfinite(found.theta).all()
        passed = times[times <= found.t[-1]]
        assert torch.equal(found.t[: len(passed)], passed)
        _check_log(found)


@OURS
def test_those_in_trouble_change_nothing_for_the_others(method):
    """Not a digit beyond rounding, though the batch is not the same."""
    sound = [i for i, kind in enumerate(TROUBLED) if kind in ("mild", "moving", "cubic")]
    together = sail(TROUBLED, method, SETTINGS, TIMES)
    others = sail(
        [TROUBLED[i] for i in sound], method, SETTINGS, TIMES, theta0=starts(len(TROUBLED))[sound]
    )
    for index, expected in zip(sound, others, strict=True):
        _check_same(together[index], expected, 1e-12)
        assert len(together[index].log) == len(expected.log)


def test_those_that_are_done_leave_the_batch():
    sizes = []
    kinds = ("mild", "stiff", "mild", "stiff", "mild")
    together = sail(kinds, TSIT5_METHOD, SETTINGS, TIMES, field=fleet(kinds, sizes))
    assert sizes == sorted(sizes, reverse=True)
    attempts = [len(found.log) for found in together]
    assert (sizes[0], sizes[-1]) == (5, 1)
    assert sum(sizes) <= 1.1 * 6 * sum(attempts) + 10, "nobody waits for the slowest"


def _tanh(targets):
    x = [[0.1], [-0.1]]
    return Problem(SingleIndexDEQ(1, "tanh"), x, [targets, -targets])


@each_method
def test_an_equilibrium_lost_on_the_way_is_lost_alone(method):
    """Targets out of reach drive theta2 to 1, the others' data do not."""
    problems = [_tanh(0.05), _tanh(0.9), _tanh(0.03)]
    theta0 = torch.stack([problems[0].theta([0.5, 0.0])] * 3)
    ((_, stack),) = group_problems(problems)
    settings, times = Settings(10.0, 1e-5, 1e-8), torch.linspace(0, 10, 5, dtype=torch.float64)
    plan = Plan(method, settings, lambda i: gradient_flow(problems[i]))
    together = integrate_ensemble(gradient_flow(stack), theta0, times, plan)
    for index, found in enumerate(together):
        alone = integrate_field(gradient_flow(problems[index]), theta0[0], method, settings, times)
        assert found.status is alone.status
        assert float(found.t[-1]) == pytest.approx(float(alone.t[-1]), abs=0.02)
        if found.status.ok:
            assert torch.allclose(found.theta, alone.theta, rtol=1e-4, atol=1e-7)
    assert [found.status for found in together] == [
        Status.T_END,
        Status.EQUILIBRIUM_LOST,
        Status.T_END,
    ]


@OURS
def test_rows_of_a_gradient_flow_are_their_lone_runs(method):
    """Warm starts are kept row by row, also where the batch shrinks."""
    rng = np.random.default_rng(12)
    x = rng.normal(size=(20, 2))
    problems = [
        Problem(SingleIndexDEQ(2, "tanh"), scale * x, np.tanh(x @ [1.0, -0.5]))
        for scale in (0.5, 1.0, 4.0)
    ]
    theta0 = torch.tensor(rng.normal(size=(3, 3)) / 3)
    ((_, stack),) = group_problems(problems)
    settings = Settings(20.0, 1e-7, 1e-10)
    plan = Plan(method, settings, lambda i: gradient_flow(problems[i]))
    together = integrate_ensemble(gradient_flow(stack), theta0, 10 * TIMES, plan)
    for problem, start, found in zip(problems, theta0, together, strict=True):
        _check_same(
            found, integrate_field(gradient_flow(problem), start, method, settings, 10 * TIMES)
        )


@pytest.mark.parametrize("moving", [(1,), (0, 1, 4), (0, 1, 2, 3, 4)])
def test_rows_that_are_handed_over_go_on_with_the_other_method(moving):
    asked = []

    def switch(field, state, attempts):
        asked.append(attempts)
        return np.isin(np.arange(len(state.t)), moving) & (attempts == 5)

    together = sail(SOUND, TSIT5_METHOD, SETTINGS, TIMES, switch=switch, other=EXPRB43)
    assert asked[:5] == [1, 2, 3, 4, 5]
    exact = sail_alone(SOUND, EXPRB43, replace(SETTINGS, rtol=1e-10, atol=1e-12), TIMES)
    for index, (found, reference) in enumerate(zip(together, exact, strict=True)):
        switched = index in moving
        assert found.method == "native:tsit5" + " then native:exprb43" * switched
        assert found.status is Status.T_END
        assert torch.equal(found.t, TIMES)
        assert torch.allclose(found.theta, reference.theta, rtol=1e-5, atol=1e-6)
        assert (found.hessians > 0) == switched
        _check_log(found)


def test_trouble_after_the_hand_over_has_its_verdict_too():
    def switch(field, state, attempts):
        return np.full(len(state.t), attempts == 2)

    together = sail(TROUBLED, TSIT5_METHOD, SETTINGS, TIMES, switch=switch, other=EXPRB43)
    alone = sail_alone(TROUBLED, EXPRB43, SETTINGS, TIMES)
    assert [found.status for found in together] == [one.status for one in alone]
    for found in together:
        _check_log(found)


@pytest.mark.parametrize("budget", [0, 1, 20])
def test_the_step_limit_is_everyones_own(budget):
    kinds = (*SOUND, "breaks", "broken")
    together = sail(kinds, TSIT5_METHOD, SETTINGS, TIMES, max_steps=budget)
    for kind, found in zip(kinds, together, strict=True):
        _check_log(found)
        if kind == "broken" and budget:
            assert found.status is Status.NONFINITE_START
        elif found.status is not Status.T_END:
            assert found.status is Status.STEP_LIMIT
            assert len(found.log) == budget
    assert together[4].status is Status.STEP_LIMIT
    assert (together[0].status is Status.T_END) == (budget == 20)


def _with(field, before):
    """The field, and that of any of its rows, with something that happens before it is asked."""

    def function(t, y):
        before()
        return field.function(t, y)

    return replace(field, function=function, select=lambda rows: _with(field.select(rows), before))


@OURS
@pytest.mark.parametrize("calls", [0, 1, 30, 60])
def test_an_interruption_keeps_everything_accepted(method, calls):
    left = iter(range(calls))

    def interrupt():
        if next(left, None) is None:
            raise KeyboardInterrupt

    whole = sail(TROUBLED, method, SETTINGS, TIMES)
    together = sail(TROUBLED, method, SETTINGS, TIMES, field=_with(fleet(TROUBLED), interrupt))
    for found, full in zip(together, whole, strict=True):
        assert found.status in (Status.INTERRUPTED, Status.T_END)
        _check_log(found)
        kept = len(found.log)
        np.testing.assert_allclose(found.log.table[:, :2], full.log.table[:kept, :2], rtol=1e-9)
        passed = int((TIMES <= found.t[-1]).sum())
        assert torch.equal(found.t[:passed], TIMES[:passed])
        assert torch.allclose(found.theta[:passed], full.theta[:passed], rtol=1e-12)
    assert any(found.status is Status.INTERRUPTED for found in together)


def test_an_interruption_of_one_that_goes_on_alone_ends_those_after_it():
    kinds = ("breaks", "mild", "breaks")

    def lone_field(index):
        def function(t, y):
            raise KeyboardInterrupt

        return replace(lone(kinds[index]), function=function)

    plan = Plan(TSIT5_METHOD, SETTINGS, lone_field)
    together = integrate_ensemble(fleet(kinds), starts(3), TIMES, plan)
    assert [found.status.value for found in together] == ["interrupted", "t_end", "interrupted"]
    for found in together:
        assert float(found.t[-1]) > 0.4
        _check_log(found)


def test_the_wall_limit_is_shared():
    kinds = ("mild", "stiff")
    slow = _with(fleet(kinds), lambda: time.sleep(0.002))
    began = time.perf_counter()
    together = sail(kinds, TSIT5_METHOD, SETTINGS, TIMES, field=slow, wall_seconds=0.25)
    assert time.perf_counter() - began < 1.0
    assert together[1].status is Status.WALL_LIMIT
    assert 0 < float(together[1].t[-1]) < 2
    assert all(found.wall_seconds >= 0.25 for found in together)
    for found in together:
        _check_log(found)


@OURS
def test_saves_are_evaluated_at_the_grid_and_nowhere_else(method):
    """Dense output is within tolerance of the exact solution at crowded times and at none."""
    crowded = torch.cat([torch.tensor([0.0]), torch.rand(40, dtype=torch.float64).sort()[0] * 2])
    for times in (crowded.double(), torch.tensor([2.0]).double(), crowded[3:9].double()):
        found = sail(("mild", "moving"), method, SETTINGS, times)[0]
        expected = times if float(times[-1]) == 2.0 else torch.cat([times, times.new_tensor([2.0])])
        assert torch.equal(found.t, expected)
        exact = starts(2)[0] * torch.exp(-0.5 * expected)[:, None]
        assert torch.allclose(found.theta, exact, rtol=1e-5, atol=1e-8)


@OURS
@pytest.mark.parametrize("t_end", [math.inf, 50.0])
def test_everyone_stops_at_its_own_rule(method, t_end):
    """|theta_0| falls to a level of its own; an endless flow needs no other end."""
    levels = torch.tensor([0.5, 0.1, 0.01], dtype=torch.float64)

    def targets(index):
        return [Target(Status.LOSS, lambda t, y: float(y[0].abs() - levels[index]))]

    def met(ids, t, theta):
        return (theta[:, 0].abs() <= levels[torch.as_tensor(ids)]).numpy()

    times = torch.tensor([0.0, 0.5, 1.0, 8.0, 1000.0], dtype=torch.float64)
    settings = replace(SETTINGS, t_end=t_end)
    times = times[times < t_end] if math.isfinite(t_end) else times
    together = sail(("mild",) * 3, method, settings, times, targets=targets, met=met)
    for found, start, level in zip(together, starts(3)[:, 0], levels, strict=True):
        exact = 2 * math.log(float(start / level))
        assert found.status is Status.LOSS
        assert float(found.t[-1]) == pytest.approx(exact, rel=1e-5)
        assert float(found.theta[-1, 0]) <= float(level)
        passed = times[times <= exact]
        assert torch.equal(found.t, torch.cat([passed, found.t[-1:]]))
        assert torch.allclose(
            found.theta[:, 0], start * torch.exp(-0.5 * found.t), rtol=1e-5, atol=1e-8
        )


def test_a_rule_that_holds_at_the_start_ends_there():
    def met(ids, t, theta):
        return (theta[:, 0] < 1.0).numpy()

    def targets(index):
        return [Target(Status.GRADIENT_NORM, lambda t, y: float(y[0]) - 0.9999)]

    together = sail(("mild",) * 3, TSIT5_METHOD, SETTINGS, TIMES, targets=targets, met=met)
    assert [found.status.value for found in together] == ["gradient_norm"] * 3
    assert [float(found.t[-1]) > 0 for found in together] == [False, True, True]
    assert together[0].t.tolist() == [0.0]
    assert len(together[0].log) == 0


class _Witness:
    """Keeps the ends of all steps by trajectory."""

    def __init__(self):
        self.ends = {}

    def observe_batch(self, ids, rows, step, nfe):
        for row in rows:
            x = torch.tensor([0.0, 1.0], dtype=torch.float64)
            ends = step.dense(torch.tensor([row, row]), x)
            assert torch.allclose(ends[0], step.theta0[row], rtol=1e-12, atol=1e-14)
            assert torch.allclose(ends[1], step.theta1[row], rtol=1e-12, atol=1e-14)
            self.ends.setdefault(int(ids[row]), []).append((step.t0[row], step.t1[row]))

    def alone(self, index):
        witness = self

        class _Lone:
            def observe(self, step, nfe):
                witness.ends.setdefault(index, []).append((step.t0, step.t1))

        return _Lone()


@OURS
def test_an_observer_sees_every_step_of_everyone(method):
    witness = _Witness()
    together = sail(TROUBLED, method, SETTINGS, TIMES, observer=witness)
    for index, found in enumerate(together):
        ends = witness.ends.get(index, [])
        assert len(ends) == found.accepted
        assert [a for a, _ in ends[1:]] == [b for _, b in ends[:-1]]
        if ends:
            assert ends[-1][1] == float(found.t[-1])
