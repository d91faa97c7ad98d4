"""Located events beside closed forms, alone and in batches, and observed in two parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

import gflow
from gflow.diagnostics import crossings as module
from gflow.diagnostics.crossings import Crossings
from gflow.diagnostics.measures import Look
from gflow.diagnostics.thresholds import Threshold, read_events
from gflow.flows import gradient_flow
from gflow.integrators.base import Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.ensemble import Plan, integrate_ensemble
from gflow.integrators.registry import resolve
from gflow.stacking import ProblemStack
from gflow.store.codec import pack, unpack
from gflow.theory import exact_trajectory

RATES = (1.0, 10.0)
START = (2.0, 1.0)


def _bowl(rates=RATES):
    known = torch.tensor(rates, dtype=torch.float64)
    return gflow.Objective(lambda w: (known * w * w).sum() / 2, len(rates))


def _observed(problem, thresholds, start, t_end, method, rtol=1e-9):
    crossings = Crossings(problem, thresholds)
    trajectory = integrate_field(
        gradient_flow(problem),
        problem.theta(start),
        resolve(method),
        Settings(t_end, rtol, 1e-13),
        observers=[crossings],
        dense=True,
    )
    assert trajectory.status.ok
    return trajectory, crossings


def _squares(t, power):
    pairs = zip(RATES, START, strict=True)
    return sum(rate**power * start**2 * math.exp(-2 * rate * t) for rate, start in pairs)


@pytest.mark.parametrize("method", ["exprb43", "expcol8", "tsit5", "dopri5", "LSODA"])
def test_loss_and_gradient_cross_where_the_closed_form_does(method):
    problem = _bowl()
    thresholds = read_events({"loss": [1.0, 1e-2], "gradient_norm": 1e-2}, problem)
    found = _observed(problem, thresholds, START, 6.0, method, 1e-8)[1].found[0]
    losses = [brentq(lambda t, v=v: _squares(t, 1) / 2 - v, 0, 6) for v in (1.0, 1e-2)]
    norm = brentq(lambda t: math.sqrt(_squares(t, 2)) - 1e-2, 0, 6)
    assert [one.time for one in found] == pytest.approx([*losses, norm], rel=1e-6)
    assert [one.direction for one in found] == [-1, -1, -1]
    assert [one.level for one in found] == [1.0, 1e-2, 1e-2]
    assert [one.loss for one in found[:2]] == pytest.approx([1.0, 1e-2], rel=1e-8)
    assert found[2].loss == pytest.approx(_squares(norm, 1) / 2, rel=1e-5)


def test_both_crossings_within_a_giant_step_are_found():
    saddle = gflow.Objective(lambda w: (5 * w[0] ** 2 - w[1] ** 2) / 2, 2)
    trajectory, crossings = _observed(
        saddle, [Threshold("gradient_norm", 0.02)], [1.0, 1e-4], 8.0, "exprb43", 1e-6
    )

    def norm(t):
        return math.hypot(5 * math.exp(-5 * t), 1e-4 * math.exp(t))

    expected = [brentq(lambda t: norm(t) - 0.02, *ends) for ends in ((0, 3), (3, 8))]
    down, up = crossings.found[0]
    assert [down.time, up.time] == pytest.approx(expected, rel=1e-8)
    assert [down.direction, up.direction] == [-1, 1]
    assert any(step.t0 < down.time and up.time < step.t1 for step in trajectory.path.steps)


def test_a_start_on_the_threshold_is_crossed_at_once_if_the_measure_leaves_it_upwards():
    hill = gflow.Objective(lambda w: -(w**2).sum() / 2, 1)
    (found,) = _observed(hill, [Threshold("gradient_norm", 1.0)], [1.0], 2.0, "tsit5")[1].found
    assert [(one.time, one.direction) for one in found] == [(0.0, 1)]


def test_sharpness_crosses_up_and_down_where_it_does_along_the_exact_flow():
    problem = gflow.Problem(gflow.LinearDEQ(1), [[0.6]], [1.2])
    start, level = [0.04, 0.92], 154.0

    def excess(t):
        theta = exact_trajectory(np.array([t]), np.array(start), 0.36, 2.0)[0]
        return float(torch.linalg.eigvalsh(problem.hessian(theta))[-1]) - level

    times = np.linspace(0, 0.01, 401)
    signs = np.sign([excess(t) for t in times])
    places = np.flatnonzero(signs[1:] != signs[:-1])
    expected = [brentq(excess, times[k], times[k + 1]) for k in places]
    found = _observed(problem, [Threshold("sharpness", level)], start, 0.01, "expcol8")[1].found[0]
    assert len(expected) == 2
    assert [one.time for one in found] == pytest.approx(expected, rel=1e-7)
    assert [one.direction for one in found] == [-int(signs[k]) for k in places]


def _quartic(size=151):
    weights = torch.linspace(0.5, 2.0, size, dtype=torch.float64)
    return gflow.Objective(lambda w: (weights * w**4).sum() / 4, size), np.asarray(weights)


def test_sharpness_of_many_parameters_is_followed_by_products():
    problem, weights = _quartic()
    start = np.linspace(1.5, 1.0, len(weights))

    def sharpness(t):
        return float((3 * weights * start**2 / (1 + 2 * weights * start**2 * t)).max())

    thresholds = read_events({"sharpness": [1.0, 2.0]}, problem)
    found = _observed(problem, thresholds, start, 3.0, "dopri8", 1e-8)[1].found[0]
    expected = [brentq(lambda t, v=v: sharpness(t) - v, 0, 3) for v in (2.0, 1.0)]
    # Nearly equal eigenvalues: the search by products ends at a residual of 1e-5.
    assert [one.time for one in found] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("activation", ["identity", "tanh"])
def test_conditioning_of_a_vector_deq_is_followed_along_its_branch(activation):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(12, 2))
    model = gflow.VectorDEQ(2, 3, activation=activation)
    problem = gflow.Problem(model, x, np.sin(x[:, 0]))
    start, times = model.initial(1, "spectral", 0.9), np.linspace(0, 30, 601)
    flow = gflow.integrate(problem, start, 30.0, times=times, rtol=1e-9)["flow"]
    values = flow.conditioning.values
    level = 0.5 * (values[0] + values[-1])
    flow = gflow.integrate(
        problem, start, 30.0, times=times, rtol=1e-9, events={"conditioning": level}
    )["flow"]
    places = np.flatnonzero((values[1:] > level) != (values[:-1] > level))
    expected = [np.interp(level, *_rising(values, times, k)) for k in places]
    assert len(expected) > 0
    assert flow.event_time.values == pytest.approx(np.array(expected), abs=2e-3)


def _rising(values, times, k):
    pairs = sorted([(values[k], times[k]), (values[k + 1], times[k + 1])])
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _members():
    rng = np.random.default_rng(0)
    x, model = rng.normal(size=(40, 3)), gflow.SingleIndexDEQ(3, "tanh")
    y = gflow.Problem(model, x, np.zeros(40)).predict([0.8, -0.5, 0.4, -0.7]).numpy()
    problems = [gflow.Problem(model, x, scale * y) for scale in (1.0, 0.9, 0.8)]
    return problems, rng.normal(0, 0.3, size=(3, 4))


EVENTS = {"loss": [1e-2, 1e-3], "sharpness": [0.9, 1.0], "conditioning": [1.1, 1.2]}


@pytest.mark.parametrize("method", ["tsit5", "exprb43"])
@pytest.mark.parametrize("alike", [True, False])
def test_a_batch_finds_what_its_members_find_alone(method, alike):
    problems, starts = _members()
    problems = [problems[0]] * 3 if alike else problems
    stack = problems[0] if alike else ProblemStack(problems)
    thresholds = read_events(EVENTS, stack)
    together = Crossings(stack, thresholds, 3)
    plan = Plan(
        resolve(method),
        Settings(5.0, 1e-6, 1e-9),
        lambda index: gradient_flow(problems[index]),
        observer=together,
    )
    saves = torch.tensor([0.0, 5.0], dtype=torch.float64)
    integrate_ensemble(gradient_flow(stack), stack.theta(starts), saves, plan)
    for index, problem in enumerate(problems):
        alone = Crossings(problem, thresholds)
        integrate_field(
            gradient_flow(problem),
            problem.theta(starts[index]),
            resolve(method),
            Settings(5.0, 1e-6, 1e-9),
            observers=[alone],
        )
        (found,) = alone.found
        assert [one.kind for one in together.found[index]] == [one.kind for one in found]
        times = [one.time for one in together.found[index]]
        assert times == pytest.approx([one.time for one in found], rel=1e-7)
        assert together.counts[index].sum() == len(found) > 0


def test_members_that_go_on_alone_are_watched_to_the_end():
    problems, starts = _members()
    events, stop = {"loss": [1e-2, 1e-3]}, {"loss": 1e-3}
    flow = gflow.integrate(problems, starts, 1e4, rtol=1e-8, events=events, stop=stop)["flow"]
    assert set(flow.status.values) == {"loss"}
    last = np.nanmax(flow.event_time.values, axis=1)
    assert last == pytest.approx(flow.t_final.values, rel=1e-8)
    assert (flow.event_count.values >= 1).all()


@pytest.mark.parametrize("make", [_members, _quartic])
def test_observing_in_two_parts_is_bitwise_observing_at_once(make):
    made, second = make()
    problem = made[0] if make is _members else made
    start = second[1] if make is _members else np.linspace(1.5, 1.0, 151)
    events = EVENTS if make is _members else {"sharpness": [0.5, 0.8], "loss": 50.0}
    thresholds = read_events(events, problem)
    trajectory, whole = _observed(problem, thresholds, start, 2.0, "dopri8", 1e-4)
    steps = trajectory.path.steps
    with torch.no_grad():
        for cut in (0, 1, len(steps) // 2):
            first, then = Crossings(problem, thresholds), Crossings(problem, thresholds)
            for step in steps[:cut]:
                first.observe(step, 0)
            assert first.clean()
            then.restore(unpack(pack(first.state())))
            for step in steps[cut:]:
                first.observe(step, 0)
                then.observe(step, 0)
            assert then.found == first.found == whole.found
            assert (then.counts == whole.counts).all()
    assert whole.counts.sum() > 1


def test_a_state_is_not_changed_by_what_is_observed_later():
    problem = _bowl()
    thresholds = read_events({"loss": [1.0, 1e-2]}, problem)
    trajectory, _ = _observed(problem, thresholds, START, 5.0, "tsit5", 1e-5)
    crossings = Crossings(problem, thresholds)
    with torch.no_grad():
        crossings.observe(trajectory.path.steps[0], 0)
        state = crossings.state()
        before = pack(state).copy()
        for step in trajectory.path.steps[1:]:
            crossings.observe(step, 0)
    assert crossings.found[0]
    assert (pack(state) == before).all()


def test_crossings_beyond_the_most_are_counted_alone(monkeypatch):
    monkeypatch.setattr(module, "MOST", 3)
    flow = gflow.integrate(
        _bowl(), START, 10.0, flow="heavy_ball:5", events={"loss": 1.0, "sharpness": 0.1}
    )["flow"]
    assert flow.event_kind.values.tolist() == ["loss"] * 3
    assert flow.event_direction.values.tolist() == [-1.0, 1.0, -1.0]
    assert int(flow.event_count) > 3


def test_a_value_that_is_not_known_leaves_the_one_before():
    like = torch.zeros(2, 3, dtype=torch.float64)
    table = Look(like.clone(), like.clone(), like.clone(), like.clone())
    seen = Look(like[:1] + 1, torch.tensor([[1.0, math.nan, 2.0]]).double(), like[:1], like[:1])
    table.put(torch.tensor([1]), seen)
    assert table.values.tolist() == [[0, 0, 0], [1, 0, 2]]
    assert table.theta.tolist() == [[0, 0, 0], [1, 1, 1]]
