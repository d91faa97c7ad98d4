"""Many trajectories at once: each is what it would be alone, whatever becomes of the others."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from fleet import check_log, fleet, lone, sail, sail_alone, starts

from gflow.flows import gradient_flow
from gflow.integrators.base import Field, Settings
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


def _gist(reason):
    """Without numbers; whether the field or its Jacobian was met first depends on the steps."""
    return NUMBER.sub("#", reason).replace("Jacobian", "field")


NATIVE = [method for method in METHODS.values() if isinstance(method, NativeMethod)]
OURS = pytest.mark.parametrize("method", [TSIT5_METHOD, EXPRB43], ids=lambda m: m.info.name)
each_method = pytest.mark.parametrize("method", NATIVE, ids=lambda m: m.info.name)


def _check_same(found, alone, rtol=1e-9):
    assert found.status is alone.status, found.message
    assert torch.allclose(found.t, alone.t, rtol=1e-6, atol=0)
    scale = 1 + alone.theta.abs()
    assert float(((found.theta - alone.theta) / scale).abs().max()) < rtol
    check_log(found)


@each_method
def test_every_row_is_its_lone_run(method):
    """To rounding for the pair; exprb43 takes df/dt by differences, which lose half the digits.

    rkc2 and rkc4 take as many stages as the stiffest row needs.
    """
    settings = replace(SETTINGS, rtol=1e-4, atol=1e-7)
    together = sail(SOUND, method, settings, TIMES)
    close, steps = {"native:tsit5": (1e-11, 1e-6), "native:exprb43": (1e-7, 1e-2)}.get(
        method.info.name, (1e-4, None)
    )
    for found, alone in zip(together, sail_alone(SOUND, method, settings, TIMES), strict=True):
        assert torch.equal(found.t, TIMES)
        _check_same(found, alone, close)
        if steps is not None:
            np.testing.assert_allclose(found.log.table[:, 1], alone.log.table[:, 1], rtol=steps)
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
        assert _gist(found.reason) == _gist(one.reason)
        assert found.message.startswith(found.status.sentence)
        assert torch.isfinite(found.theta).all()
        passed = times[times <= found.t[-1]]
        assert torch.equal(found.t[: len(passed)], passed)
        check_log(found)


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


@each_method
def test_nobody_needs_to_have_a_value(method):
    together = sail(("broken",) * 3, method, SETTINGS, TIMES)
    assert {found.status for found in together} == {Status.NONFINITE_START}
    assert all(found.t.tolist() == [0.0] for found in together)


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


@cache
def _reference():
    return sail_alone(SOUND, EXPRB43, replace(SETTINGS, rtol=1e-8, atol=1e-10), TIMES)


@pytest.mark.parametrize("moving", [(1,), (0, 1, 4), (0, 1, 2, 3, 4)])
def test_rows_that_are_handed_over_go_on_with_the_other_method(moving):
    asked = []

    def switch(field, state, attempts):
        asked.append(attempts)
        return np.isin(np.arange(len(state.t)), moving) & (attempts == 5)

    together = sail(SOUND, TSIT5_METHOD, SETTINGS, TIMES, switch=switch, other=EXPRB43)
    assert asked[:5] == [1, 2, 3, 4, 5]
    for index, (found, reference) in enumerate(zip(together, _reference(), strict=True)):
        switched = index in moving
        assert found.method == "native:tsit5" + " then native:exprb43" * switched
        assert found.status is Status.T_END
        assert torch.equal(found.t, TIMES)
        assert torch.allclose(found.theta, reference.theta, rtol=1e-5, atol=1e-6)
        assert (found.hessians > 0) == switched
        check_log(found)


def test_trouble_after_the_hand_over_has_its_verdict_too():
    def switch(field, state, attempts):
        return np.full(len(state.t), attempts == 2)

    together = sail(TROUBLED, TSIT5_METHOD, SETTINGS, TIMES, switch=switch, other=EXPRB43)
    alone = sail_alone(TROUBLED, EXPRB43, SETTINGS, TIMES)
    assert [found.status for found in together] == [one.status for one in alone]
    for found in together:
        check_log(found)


@pytest.mark.parametrize("budget", [0, 1, 20])
def test_the_step_limit_is_everyones_own(budget):
    kinds = (*SOUND, "breaks", "broken")
    together = sail(kinds, TSIT5_METHOD, SETTINGS, TIMES, max_steps=budget)
    for kind, found in zip(kinds, together, strict=True):
        check_log(found)
        if kind == "broken" and budget:
            assert found.status is Status.NONFINITE_START
        elif found.status is not Status.T_END:
            assert found.status is Status.STEP_LIMIT
            assert len(found.log) == budget
    assert together[4].status is Status.STEP_LIMIT
    assert (together[0].status is Status.T_END) == (budget == 20)


def test_the_step_limit_holds_on_the_way_alone():
    (whole,) = sail(("breaks",), TSIT5_METHOD, SETTINGS, TIMES)
    for short in (1, 5, 9):
        budget = len(whole.log) - short
        (found,) = sail(("breaks",), TSIT5_METHOD, SETTINGS, TIMES, max_steps=budget)
        assert found.status is Status.STEP_LIMIT
        assert len(found.log) == budget
        check_log(found)


@pytest.mark.parametrize("budget", [9, 20])
def test_the_step_limit_holds_after_a_hand_over(budget):
    def switch(field, state, attempts):
        return np.full(len(state.t), attempts == 3)

    plan = {"switch": switch, "other": EXPRB43, "max_steps": budget}
    for found in sail(("moving", "stiff"), TSIT5_METHOD, SETTINGS, TIMES, **plan):
        assert found.status is Status.STEP_LIMIT
        assert len(found.log) == budget
        check_log(found)


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
        assert found.status in (Status.INTERRUPTED, Status.T_END, Status.NONFINITE_START)
        check_log(found)
        kept = len(found.log)
        np.testing.assert_allclose(found.log.table[:, :2], full.log.table[:kept, :2], rtol=1e-9)
        passed = int((found.t[-1] >= TIMES).sum())
        assert torch.equal(found.t[:passed], TIMES[:passed])
        assert torch.allclose(found.theta[:passed], full.theta[:passed], rtol=1e-12)
    assert any(found.status is Status.INTERRUPTED for found in together)


def test_an_interruption_holds_for_those_about_to_be_handed_over():
    def switch(field, state, attempts):
        if attempts == 4:
            raise KeyboardInterrupt
        return (np.arange(len(state.t)) == 1) & (attempts == 2)

    together = sail(SOUND, TSIT5_METHOD, SETTINGS, TIMES, switch=switch, other=EXPRB43)
    assert {found.status for found in together} == {Status.INTERRUPTED}
    assert [len(found.log) for found in together] == [4, 2, 4, 4, 4]
    for found in together:
        check_log(found)


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
        check_log(found)


def test_the_wall_limit_holds_on_the_way_alone():
    """The batch is quick, the field of the one in trouble is not."""
    slow = _with(lone("blows up"), lambda: time.sleep(0.05))
    plan = Plan(TSIT5_METHOD, SETTINGS, lambda index: slow, wall_seconds=0.3)
    (found,) = integrate_ensemble(fleet(["blows up"]), starts(1), TIMES, plan)
    assert found.status is Status.WALL_LIMIT
    assert float(found.t[-1]) == pytest.approx(1 / 0.6, rel=1e-3)
    check_log(found)


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
        check_log(found)


def _first_row_down():
    """Rules of which the first row meets one soon, and no other row ever."""

    def targets(index):
        return [Target(Status.LOSS, lambda t, y: float(y[0]) - 0.5 if index == 0 else 1.0)]

    def met(ids, t, theta):
        return (ids == 0) & (theta[:, 0] <= 0.5).numpy()

    return {"targets": targets, "met": met}


@OURS
@pytest.mark.parametrize("status", [Status.WALL_LIMIT, Status.INTERRUPTED])
def test_a_rule_met_before_a_budget_is_used_up_stays_met(method, status):
    kinds, settings = ("mild", "moving", "cubic"), replace(SETTINGS, t_end=1e6)
    calls = iter(range(400))

    def pause():
        time.sleep(0.002 if status is Status.WALL_LIMIT else 0)
        if status is Status.INTERRUPTED and next(calls, None) is None:
            raise KeyboardInterrupt

    field = _with(fleet(kinds), pause)
    seconds = 0.8 if status is Status.WALL_LIMIT else 60.0
    plan = {"field": field, "wall_seconds": seconds} | _first_row_down()
    together = sail(kinds, method, settings, TIMES, **plan)
    assert [found.status for found in together] == [Status.LOSS, status, status]
    assert float(together[0].t[-1]) == pytest.approx(2 * np.log(0.6 / 0.5), rel=1e-5)
    assert all(float(found.t[-1]) > float(together[0].t[-1]) for found in together[1:])
    for found in together:
        check_log(found)


@OURS
def test_an_interruption_while_a_rule_is_located_ends_the_others_too(method):
    def lone_field(index):
        def function(t, y):
            raise KeyboardInterrupt

        return replace(lone("mild"), function=function)

    plan = Plan(method, SETTINGS, lone_field, **_first_row_down())
    together = integrate_ensemble(fleet(("mild",) * 3), starts(3), TIMES, plan)
    assert {found.status for found in together} == {Status.INTERRUPTED}
    for found in together:
        assert 0 < float(found.t[-1]) < 2
        check_log(found)


@OURS
def test_a_step_below_rounding_is_told_in_an_ensemble_as_alone(method):
    """From t = 0.5 on no step is small enough for the error test."""

    def rough(t, y):
        return torch.sin(1e18 * y) * 1e12 if t > 0.5 else -y

    field = Field(rough, jacobian=lambda t, y: -torch.eye(2, dtype=y.dtype), symmetric=True)
    rows = replace(
        field,
        function=lambda t, y: torch.stack([rough(s, r) for s, r in zip(t, y, strict=True)]),
        jacobian=lambda t, y: -torch.eye(2, dtype=y.dtype).expand(len(y), 2, 2),
        batched=True,
    )
    plan = Plan(method, replace(SETTINGS, rtol=1e-4), lambda index: field)
    together = integrate_ensemble(rows, starts(2), TIMES, plan)
    for found, theta0 in zip(together, starts(2), strict=True):
        alone = integrate_field(field, theta0, method, plan.settings, TIMES)
        for one in (found, alone):
            assert one.status is Status.STEP_UNDERFLOW
            assert "the error test fails at the smallest step" in one.message
            assert float(one.t[-1]) == pytest.approx(0.5, abs=1e-6)
