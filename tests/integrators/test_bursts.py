"""Bursts in compiled C leave behind what the same steps in PyTorch do."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from fleet import check_log
from hypothesis import given, settings
from hypothesis import strategies as st

from gflow.compiled import compiler, threads
from gflow.flows import GradientFlow, flow_field
from gflow.integrators import bursts
from gflow.integrators.auto import COMPILED, choose_ensemble
from gflow.integrators.base import Settings
from gflow.integrators.bursts import FEWEST, LARGEST, Bursts, offer
from gflow.integrators.ensemble import Plan, integrate_ensemble
from gflow.integrators.explicit import TSIT5_METHOD
from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.problem import Problem
from gflow.stacking import group_problems
from gflow.status import Status

compiles = pytest.mark.skipif(
    not any(map(shutil.which, compiler.COMPILERS)), reason="there is no C compiler"
)
TIMES = np.array([0.0, 1e-3, 0.1, 0.1, 0.7, 1.0, 1.9999, 2.0])


@dataclass
class Steps:
    """Observer of all accepted steps: owner, t0, t1, theta1 and theta in the middle."""

    def __post_init__(self):
        self.seen = []

    def observe_batch(self, ids, rows, step, nfe):
        middle = step.dense(torch.from_numpy(rows), torch.full((len(rows),), 0.5).double())
        for k, row in enumerate(rows):
            self.seen.append(
                (ids[row], step.t0[row], step.t1[row], *step.theta1[row], *middle[k], nfe)
            )

    def alone(self, index):
        return self

    def observe(self, step, nfe):
        pass

    @property
    def table(self):
        """By owner and time."""
        table = np.array(self.seen)
        return table[np.lexsort((table[:, 1], table[:, 0]))]


def _ensemble(rows=FEWEST, dim=3, own_inputs=False, shared=False, seed=0, decay=0.0):
    """The stacked field of linear DEQs on both branches, their lone fields and starts."""
    rng = np.random.default_rng(seed)
    model, x = LinearDEQ(dim), rng.normal(size=(dim + 2, dim))
    problems = []
    for _ in range(rows):
        inputs = rng.normal(size=x.shape) if own_inputs else x
        problems.append(Problem(model, inputs, inputs @ rng.normal(size=dim) / dim))
    problems = problems[:1] * rows if shared else problems
    (_, stacked), *others = group_problems(problems)
    assert not others
    flow = GradientFlow(weight_decay=decay)
    start = rng.normal(size=(rows, dim + 1))
    start[:, -1] = np.where(rng.random(rows) < 0.7, rng.uniform(-1, 0.6, rows), 1.8)
    return (
        flow_field(flow, stacked),
        lambda i: flow_field(flow, problems[i]),
        torch.from_numpy(start),
    )


def _both(made, times=TIMES, rtol=1e-6, observer=None, **given):
    """The trajectories by compiled C and by PyTorch."""
    field, lone, theta0 = made
    found = []
    kernel = offer(TSIT5_METHOD, field, theta0, float(times[-1])).kernel
    assert kernel is not None
    first_step = given.pop("first_step", None)
    for known in (kernel, None):
        plan = Plan(
            TSIT5_METHOD,
            Settings(float(times[-1]), rtol, 1e-3 * rtol, first_step=first_step),
            lone,
            kernel=known,
            observer=None if observer is None else observer[known is None],
            **given,
        )
        found.append(integrate_ensemble(field, theta0, torch.from_numpy(times), plan))
    return found


def _check_same(compiled, eager, rtol=1e-6):
    """The same but for rounding, by which a step may be just accepted here and rejected there."""
    alike = 0
    for one, other in zip(compiled, eager, strict=True):
        assert one.status is other.status, (one.message, other.message)
        assert one.reason == other.reason
        check_log(one)
        count = len(one.t) - (one.status is Status.STEP_LIMIT)
        np.testing.assert_array_equal(one.t[:count], other.t[:count])
        scale = 1e-3 + other.theta[:count].abs()
        assert float(((one.theta - other.theta)[:count] / scale).abs().max()) < rtol
        ours, theirs = one.log.table, other.log.table
        if ours.shape == theirs.shape and (ours[:, 3] == theirs[:, 3]).all():
            alike += 1
            np.testing.assert_allclose(ours[:, 0], theirs[:, 0], rtol=1e-2)
            np.testing.assert_array_equal(ours[:, 5:], theirs[:, 5:])
    assert alike >= 0.97 * len(eager)


@compiles
@settings(max_examples=25)
@given(
    dim=st.integers(1, 9),
    rows=st.integers(FEWEST, FEWEST + 20),
    own_inputs=st.booleans(),
    decay=st.sampled_from([0.0, 0.3]),
    rtol=st.sampled_from([1e-3, 1e-5, 1e-8]),
    first_step=st.sampled_from([None, 1e-3]),
    seed=st.integers(0, 2**16),
)
def test_steps_and_saves_are_those_of_pytorch(dim, rows, own_inputs, decay, rtol, first_step, seed):
    made = _ensemble(rows, dim, own_inputs, seed=seed, decay=decay)
    compiled, eager = _both(made, rtol=rtol, first_step=first_step, max_steps=100)
    _check_same(compiled, eager, rtol)


@compiles
def test_flows_of_one_problem_from_many_starts():
    _check_same(*_both(_ensemble(shared=True)))


@compiles
def test_observers_see_the_same_steps():
    watches = Steps(), Steps()
    _both(_ensemble(rows=70), observer=watches)
    compiled, eager = (each.table for each in watches)
    assert compiled.shape == eager.shape
    np.testing.assert_allclose(compiled, eager, rtol=1e-6, atol=1e-9)


@compiles
def test_steps_for_observers_go_in_pieces_that_fit(monkeypatch):
    monkeypatch.setattr(bursts, "TRACED", 3 * 70 * 4 * 9)
    watch, made = Steps(), _ensemble(rows=70)
    field, lone, theta0 = made
    kernel = offer(TSIT5_METHOD, field, theta0, 2.0).kernel
    longest = Bursts(TSIT5_METHOD, kernel).length(
        TSIT5_METHOD.start(field, np.zeros(70), theta0, Settings(2.0)), 8, True
    )
    assert longest == 3
    plan = Plan(TSIT5_METHOD, Settings(2.0, 1e-6, 1e-9), lone, kernel=kernel, observer=watch)
    found = integrate_ensemble(field, theta0, torch.from_numpy(TIMES), plan)
    assert len(watch.seen) == sum(one.accepted for one in found)


@compiles
def test_trajectories_in_trouble_end_as_they_do_alone():
    """One begins where there is no value, one is thrown onto the other branch, one far away."""
    field, lone, theta0 = _ensemble(rows=FEWEST + 3)
    theta0[3, -1], theta0[7, -1], theta0[11] = 1.0, 1.0 - 1e-9, 1e160
    compiled, eager = _both((field, lone, theta0))
    assert len({one.status for one in eager}) > 1
    for index, (one, other) in enumerate(zip(compiled, eager, strict=True)):
        assert (one.status, len(one.log)) == (other.status, len(other.log)), index
    keep = [i for i in range(len(eager)) if i not in (3, 7, 11)]
    _check_same([compiled[i] for i in keep], [eager[i] for i in keep])


@compiles
@pytest.mark.parametrize("max_steps", [1, 5, 64, 100])
def test_budgets_end_all_at_the_same_attempt(max_steps):
    made = _ensemble()
    compiled, eager = _both(made, rtol=1e-8, times=np.linspace(0, 100, 5), max_steps=max_steps)
    assert Status.STEP_LIMIT in {one.status for one in compiled}
    for one, other in zip(compiled, eager, strict=True):
        assert (one.status, len(one.log)) == (other.status, len(other.log))
        np.testing.assert_allclose(one.t, other.t, rtol=1e-4)


@compiles
def test_the_wall_limit_is_kept():
    field, lone, theta0 = _ensemble()
    kernel = offer(TSIT5_METHOD, field, theta0, 1e9).kernel
    plan = Plan(
        TSIT5_METHOD,
        Settings(1e9, 1e-6, 1e-9),
        lone,
        kernel=kernel,
        max_steps=10**9,
        wall_seconds=0.3,
    )
    began = time.perf_counter()
    found = integrate_ensemble(field, theta0, torch.tensor([0.0, 1e9]).double(), plan)
    assert time.perf_counter() - began < 30
    assert {one.status for one in found} == {Status.WALL_LIMIT}
    for one in found:
        check_log(one)
        assert 0 < float(one.t[-1]) < 1e9


@compiles
def test_a_row_is_the_same_beside_any_others():
    field, _, theta0 = _ensemble(rows=200)
    kernel = offer(TSIT5_METHOD, field, theta0, 2.0).kernel
    plan = Plan(TSIT5_METHOD, Settings(2.0, 1e-6, 1e-9), lambda i: field, kernel=kernel)
    times = torch.from_numpy(TIMES)
    whole = integrate_ensemble(field, theta0, times, plan)
    rows = np.arange(3, 200, 3)
    part = replace(plan, kernel=kernel.select(rows))
    some = integrate_ensemble(
        field.select(torch.from_numpy(rows)), theta0[rows].clone(), times, part
    )
    same = [torch.equal(one.theta, whole[i].theta) for i, one in zip(rows, some, strict=True)]
    assert np.mean(same) > 0.9  # the first step and the first value are PyTorch's


@compiles
def test_threads_change_nothing(monkeypatch):
    monkeypatch.setattr(bursts, "SHARE", 1)
    made = _ensemble(rows=197)
    lone_thread, _ = _both(made)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    used = []
    monkeypatch.setattr(
        threads, "ThreadPoolExecutor", lambda count: used.append(count) or ThreadPoolExecutor(count)
    )
    many, _ = _both(made)
    assert max(used) == 4
    for one, other in zip(lone_thread, many, strict=True):
        assert torch.equal(one.theta, other.theta)
        np.testing.assert_array_equal(one.log.table, other.log.table)


@compiles
def test_an_interrupt_leaves_what_was_reached(monkeypatch):
    field, lone, theta0 = _ensemble()
    kernel = offer(TSIT5_METHOD, field, theta0, 50.0).kernel
    calls, run = [], Bursts.run

    def interrupted(self, *given):
        calls.append(given)
        found = run(self, *given)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Bursts, "run", interrupted)
    plan = Plan(TSIT5_METHOD, Settings(50.0, 1e-8, 1e-11), lone, kernel=kernel)
    times = torch.linspace(0, 50, 11, dtype=torch.float64)
    found = integrate_ensemble(field, theta0, times, plan)
    assert Status.INTERRUPTED in {one.status for one in found}
    monkeypatch.undo()
    whole = integrate_ensemble(field, theta0, times, plan)
    for one, other in zip(found, whole, strict=True):
        check_log(one)
        count = len(one.t) - (one.status is Status.INTERRUPTED)
        assert torch.equal(one.theta[:count], other.theta[:count])


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"rows": FEWEST - 1}, ""),
        ({"dim": LARGEST}, ""),
        ({"t_end": float("inf")}, ""),
        ({"model": SingleIndexDEQ(3)}, ""),
    ],
    ids=lambda value: "",
)
def test_where_nothing_is_offered(change, note):
    rows, dim, t_end = (change.get(k, v) for k, v in (("rows", 64), ("dim", 3), ("t_end", 1.0)))
    model = change.get("model", LinearDEQ(dim))
    problem = Problem(model, np.eye(dim), np.ones(dim))
    theta0 = torch.zeros(rows, dim + 1, dtype=torch.float64)
    found = offer(TSIT5_METHOD, flow_field(GradientFlow(), problem), theta0, t_end)
    assert found.kernel is None
    assert found.note == note


@pytest.mark.parametrize("name", ["auto", "tsit5", "auto:tsit5"])
def test_without_a_compiler_pytorch_takes_the_steps(monkeypatch, name):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    field, _, theta0 = _ensemble()
    choice = choose_ensemble(name, field, theta0, 2.0, 1e-6)
    assert choice.kernel is None
    assert choice.reason.endswith(
        "; its steps are PyTorch's, since no C compiler named cc, gcc, clang was found"
    )


@compiles
@pytest.mark.parametrize("name", ["auto", "tsit5", "auto:tsit5"])
def test_the_reason_tells_that_steps_are_compiled(name):
    field, _, theta0 = _ensemble()
    choice = choose_ensemble(name, field, theta0, 2.0, 1e-6)
    assert choice.method is TSIT5_METHOD
    assert choice.reason.endswith("; its steps are compiled C")
    plain = choose_ensemble(name, field, theta0, 2.0, 1e-6, ruled=True)
    assert plain.kernel is None
    if name != "tsit5":
        assert choice.switch.patience == COMPILED * plain.switch.patience


@compiles
def test_stiff_rows_are_handed_over():
    rng = np.random.default_rng(0)
    x, rows = np.diag([0.1, 300.0]), FEWEST
    problems = [Problem(LinearDEQ(2), x, x @ rng.normal(size=2)) for _ in range(rows)]
    ((_, stacked),) = group_problems(problems)
    field = flow_field(GradientFlow(), stacked)
    theta0 = torch.zeros(rows, 3, dtype=torch.float64)
    choice = choose_ensemble("auto:tsit5", field, theta0, 1.0, 1e-6)
    plan = Plan(
        choice.method,
        Settings(1.0, 1e-6, 1e-9),
        lambda i: flow_field(GradientFlow(), problems[i]),
        switch=replace(choice.switch, patience=10.0),
        other=choice.other,
        kernel=choice.kernel,
    )
    found = integrate_ensemble(field, theta0, torch.tensor([0.0, 1.0]).double(), plan)
    assert {one.method for one in found} == {"native:tsit5 then native:expcol8"}
    for one in found:
        assert one.status.ok
        check_log(one)


class _Halved(GradientFlow):
    def rate(self, point, t, state):
        return 0.5 * super().rate(point, t, state)


class _OtherLinear(LinearDEQ):
    pass


@pytest.mark.parametrize(("flow", "model"), [(_Halved, LinearDEQ), (GradientFlow, _OtherLinear)])
def test_other_classes_are_their_own(flow, model):
    problem = Problem(model(3), np.eye(3), np.ones(3))
    theta0 = torch.zeros(FEWEST, 4, dtype=torch.float64)
    assert offer(TSIT5_METHOD, flow_field(flow(), problem), theta0, 1.0).kernel is None


@compiles
def test_an_interrupted_observer_has_seen_what_the_run_keeps():
    """As the audit must, which would miss a part of the dissipation."""
    field, lone, theta0 = _ensemble()
    kernel = offer(TSIT5_METHOD, field, theta0, 50.0).kernel

    class Interrupted(Steps):
        def observe_batch(self, *given):
            super().observe_batch(*given)
            if 300 < len(self.seen) < 500:
                raise KeyboardInterrupt

    watch = Interrupted()
    plan = Plan(TSIT5_METHOD, Settings(50.0, 1e-8, 1e-11), lone, kernel=kernel, observer=watch)
    found = integrate_ensemble(field, theta0, torch.tensor([0.0, 50.0]).double(), plan)
    assert {one.status for one in found} == {Status.INTERRUPTED}
    last = {owner: t1 for owner, _, t1, *_ in sorted(watch.seen, key=lambda seen: seen[2])}
    assert [float(one.t[-1]) for one in found] == [last[i] for i in range(len(found))]


@compiles
def test_no_memory_for_a_burst_is_no_endless_loop(monkeypatch):
    monkeypatch.setattr(bursts, "divided", lambda *given: None)
    field, lone, theta0 = _ensemble()
    kernel = offer(TSIT5_METHOD, field, theta0, 1.0).kernel
    plan = Plan(TSIT5_METHOD, Settings(1.0, 1e-6, 1e-9), lone, kernel=kernel)
    with pytest.raises(MemoryError):
        integrate_ensemble(field, theta0, torch.tensor([0.0, 1.0]).double(), plan)
