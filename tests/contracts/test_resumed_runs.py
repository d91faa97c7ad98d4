"""Rule R9 for whole runs: one that is stopped and goes on is the one that was not, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gflow.diagnostics import energy
from gflow.diagnostics.energy import EnergyAudit
from gflow.flows import gradient_flow
from gflow.integrators.auto import choose
from gflow.integrators.base import Settings
from gflow.integrators.continuation import (
    method_of,
    plain_method,
    plain_snapshot,
    snapshot_of,
)
from gflow.integrators.driver import integrate_field
from gflow.integrators.native import NativeMethod
from gflow.integrators.registry import METHODS
from gflow.models import LinearDEQ, SingleIndexDEQ, VectorDEQ
from gflow.problem import Problem
from gflow.status import Status
from gflow.store.codec import pack, unpack

NATIVE = [method for method in METHODS.values() if isinstance(method, NativeMethod)]
WRAPPED = [METHODS[name] for name in ("scipy:LSODA", "scipy:RK45", "torchdiffeq:dopri5")]


END = 4.0


@pytest.fixture(autouse=True)
def often_clean(monkeypatch):
    """The audit of a small problem evaluates 64 panels together, and a run goes on between."""
    monkeypatch.setattr(energy, "BATCH", 2)


def by_name(method):
    return method.info.name


class Collector:
    """Keeps every snapshot that it is offered."""

    def __init__(self):
        self.kept = []

    def due(self):
        return True

    def keep(self, trajectory):
        assert trajectory.status is Status.RUNNING
        if trajectory.snapshot is not None:
            self.kept.append(trajectory)


def tanh_problem():
    rng = np.random.default_rng(9)
    x = rng.normal(size=(30, 2))
    problem = Problem(SingleIndexDEQ(2, "tanh"), x, np.tanh(x @ [1.0, -0.7]))
    return problem, problem.theta([0.3, 0.4, 0.2])


def linear_problem():
    rng = np.random.default_rng(10)
    x = rng.normal(size=(30, 2)) * [1.0, 3.0]
    problem = Problem(LinearDEQ(2), x, x @ [1.0, -0.7])
    return problem, problem.theta([0.3, 0.4, 0.2])


def vector_problem():
    rng = np.random.default_rng(11)
    model = VectorDEQ(2, 3, 1, "tanh")
    x = rng.normal(size=(12, 2))
    problem = Problem(model, x, np.sin(x[:, 0]))
    return problem, problem.theta(model.initial(3))


def run(make, method, t_end, keeper=None, snapshot=None, times=None):
    problem, theta0 = make()
    audit = EnergyAudit(problem)
    times = torch.linspace(0, END, 61, dtype=torch.float64) if times is None else times
    settings = Settings(t_end, 1e-4, 1e-7)
    found = integrate_field(
        gradient_flow(problem),
        theta0,
        method,
        settings,
        times[times <= t_end],
        observers=[audit],
        keeper=keeper,
        snapshot=snapshot,
    )
    return found, audit.integral(found.t)


def through_bytes(snapshot):
    return snapshot_of(unpack(pack(plain_snapshot(snapshot))))


def assert_same(first, second):
    (one, integral), (two, other) = first, second
    assert one.status is two.status
    assert one.message == two.message
    assert one.method == two.method
    assert np.array_equal(one.log.table, two.log.table, equal_nan=True)
    for name in ("t", "theta"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    for name in ("nfe", "hessians", "linear_solves", "jvps"):
        assert getattr(one, name) == getattr(two, name), name
    assert torch.equal(integral, other)


@pytest.mark.parametrize("make", [tanh_problem, linear_problem, vector_problem])
@pytest.mark.parametrize("method", NATIVE, ids=by_name)
def test_a_native_run_goes_on_bit_for_bit(method, make):
    collector = Collector()
    whole = run(make, method, END, collector)
    plain = run(make, method, END)
    assert_same(whole, plain)  # keeping changes nothing
    kept = collector.kept
    chosen = {0, len(kept) // 3, len(kept) - 1} if kept else set()
    for place in sorted(chosen):
        snapshot = through_bytes(kept[place].snapshot)
        assert snapshot.exact
        assert_same(whole, run(make, method, END, snapshot=snapshot))


def test_there_are_places_to_go_on_from():
    collector = Collector()
    run(tanh_problem, METHODS["native:tsit5"], END, collector)
    assert len(collector.kept) > 3


@pytest.mark.parametrize("method", NATIVE, ids=by_name)
def test_a_run_is_extended_as_if_it_had_never_ended(method):
    times = torch.linspace(0, 3 * END, 181, dtype=torch.float64)
    short, _ = run(tanh_problem, method, END, Collector(), times=times)
    whole = run(tanh_problem, method, 3 * END, times=times)
    snapshot = None if short.snapshot is None else through_bytes(short.snapshot)
    assert_same(whole, run(tanh_problem, method, 3 * END, snapshot=snapshot, times=times))


@pytest.mark.parametrize("method", WRAPPED, ids=by_name)
def test_a_wrapped_run_goes_on_to_tolerance(method):
    collector = Collector()
    whole, integral = run(tanh_problem, method, END, collector)
    snapshot = through_bytes(collector.kept[len(collector.kept) // 2].snapshot)
    assert not snapshot.exact
    again, other = run(tanh_problem, method, END, snapshot=snapshot)
    assert again.status is Status.T_END
    assert torch.equal(again.t, whole.t)
    torch.testing.assert_close(again.theta, whole.theta, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(other, integral, rtol=1e-2, atol=1e-4)
    before = len(snapshot.saved_t)
    assert torch.equal(again.theta[:before], whole.theta[:before])
    assert again.nfe < 1.5 * whole.nfe


def test_auto_goes_on_by_the_method_it_chose(monkeypatch):
    problem, theta0 = tanh_problem()
    method, _ = choose("auto", gradient_flow(problem), theta0, END, 1e-6)
    again = method_of(unpack(pack(plain_method(method))))
    assert type(again) is type(method)
    collector = Collector()
    whole = run(tanh_problem, method, END, collector)
    for kept in collector.kept[::3]:
        snapshot = through_bytes(kept.snapshot)
        assert_same(whole, run(tanh_problem, again, END, snapshot=snapshot))


@pytest.mark.parametrize("name", ["native:tsit5", "native:expcol8"])
def test_an_endless_run_remembers_that_it_rests(name):
    def endless(keeper=None, snapshot=None):
        problem, theta0 = linear_problem()
        return integrate_field(
            gradient_flow(problem),
            theta0,
            METHODS[name],
            Settings(float("inf"), 1e-6, 1e-9),
            torch.linspace(0, END, 61, dtype=torch.float64),
            max_steps=400,
            keeper=keeper,
            snapshot=snapshot,
        )

    collector = Collector()
    whole = endless(collector)
    for kept in collector.kept[:: max(1, len(collector.kept) // 4)]:
        again = endless(snapshot=through_bytes(kept.snapshot))
        assert again.status is whole.status
        assert again.message == whole.message
        assert torch.equal(again.theta, whole.theta)
