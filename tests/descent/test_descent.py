"""Gradient descent: many step sizes at once, the plain loop, and the way to the flow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gflow.descent import gradient_descent, record_times
from gflow.errors import ProblemError
from gflow.flows import gradient_flow
from gflow.integrators.base import Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.registry import resolve
from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.problem import Problem
from gflow.status import Status

ETAS = [0.3, 0.01, 0.07, 0.011, 0.15]
BACKWARDS = ["exact", "jfb", "neumann:3", "damped:2:0.5"]


def _problem(name="tanh", backward="exact", dtype="float64", d=2):
    rng = np.random.default_rng(12)
    x = rng.normal(size=(11, d))
    model = LinearDEQ(d) if name == "linear" else SingleIndexDEQ(d, name)
    target = Problem(model, x, np.zeros(11)).predict([0.7] * d + [-0.4])
    return Problem(
        model, x, target.numpy() + 0.1 * rng.normal(size=11), backward=backward, dtype=dtype
    )


def _start(problem, theta2=0.4):
    return problem.theta([-0.3, 0.2] + [theta2])


def _plain_loop(problem, theta, eta, updates):
    """What everyone writes by hand, with the equilibrium warm-started."""
    iterates, gradients, warm = [theta], [], None
    for _ in range(updates):
        evaluation = problem.evaluate(theta, warm)
        warm = evaluation.equilibrium.preactivation
        theta = theta - eta * evaluation.gradient
        iterates.append(theta)
        gradients.append(evaluation.gradient)
    return torch.stack(iterates), torch.stack(gradients)


@pytest.mark.parametrize("name", ["linear", "tanh", "softplus"])
def test_step_sizes_together_equal_each_alone(name):
    problem = _problem(name)
    together = gradient_descent(problem, _start(problem), ETAS, 4.0, records=9)
    assert together.step_sizes.tolist() == ETAS
    clock = np.where(together.update < 0, np.nan, np.outer(ETAS, np.ones(9)) * together.update)
    np.testing.assert_array_equal(together.time, clock)
    assert together.status == [Status.T_END] * 5
    for row, eta in enumerate(ETAS):
        alone = gradient_descent(problem, _start(problem), [eta], 4.0, records=9)
        kept = alone.update.shape[1]
        assert together.update[row, :kept].tolist() == alone.update[0].tolist()
        assert (together.update[row, kept:] == -1).all()
        for mine, theirs in (
            (together.theta, alone.theta),
            (together.squared_updates, alone.squared_updates),
        ):
            assert torch.allclose(mine[row, :kept], theirs[0], rtol=1e-12, atol=1e-12)
            assert mine[row, kept:].isnan().all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["linear", "tanh", "gelu"])
def test_one_step_size_is_bitwise_the_plain_loop(name, dtype):
    problem = _problem(name, dtype=dtype)
    descent = gradient_descent(problem, _start(problem), [0.07], 300 * 0.07, records=301)
    iterates, gradients = _plain_loop(problem, _start(problem), 0.07, 300)
    assert descent.theta.dtype == iterates.dtype
    assert torch.equal(descent.theta[0], iterates)
    squared = torch.cat([gradients.new_zeros(1), (0.07 * gradients).pow(2).sum(-1).cumsum(0)])
    assert torch.allclose(
        descent.squared_updates[0], squared, rtol=1e-5 if dtype == "float32" else 1e-13
    )


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("name", ["linear", "tanh", "gelu"])
def test_euler_with_that_step_is_gradient_descent_bitwise(name, backward):
    """Rule R6: one unbatched gradient, one order of operations."""
    problem, eta, updates = _problem(name, backward), 0.07, 300
    clock = eta * torch.arange(updates + 1, dtype=torch.float64)
    t_end = float(clock[-1])
    euler = integrate_field(
        gradient_flow(problem),
        _start(problem),
        resolve("torchdiffeq:euler"),
        Settings(t_end, step_size=eta),
        clock,
    )
    descent = gradient_descent(problem, _start(problem), [eta], t_end, records=updates + 1)
    assert euler.nfe <= updates + 1
    assert torch.equal(euler.t, clock)
    assert torch.equal(euler.theta, descent.theta[0])


@pytest.mark.parametrize("backward", ["exact", "neumann:3"])
def test_gradient_descent_tends_to_the_flow_with_slope_1(backward):
    problem, t_end = _problem(backward=backward), 2.0
    etas = [0.04 / 2**k for k in range(5)]
    flow = integrate_field(
        gradient_flow(problem), _start(problem), resolve("DOP853"), Settings(t_end, 1e-12, 1e-14)
    )
    descent = gradient_descent(problem, _start(problem), etas, t_end, records=2)
    apart = (descent.theta[:, -1] - flow.theta[-1]).norm(dim=-1).log2()
    assert descent.update[:, -1].tolist() == [50 * 2**k for k in range(5)]
    assert (apart[:-1] - apart[1:]).tolist() == pytest.approx([1.0] * 4, abs=0.05)
    assert float(apart[0]) > -12


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("theta2", [0.4, -1.7, 1.6])
def test_the_radius_drifts_by_the_squared_updates(backward, theta2):
    """R^2_{k+1} - R^2_k = eta^2 |g_k|^2 for the linear DEQ, whatever the backward."""
    problem = _problem("linear", backward)
    descent = gradient_descent(problem, _start(problem, theta2), ETAS, 3.0, records=11)
    radius = problem.model.sphere_radius(descent.theta) ** 2
    drift = radius - radius[:, :1]
    real = torch.from_numpy(descent.update >= 0)
    assert (descent.squared_updates[:, 1][real[:, 1]] > 0).all()
    error = (drift - descent.squared_updates)[real] / radius[real]
    assert float(error.abs().max()) <= 1e-13


def _stubborn(name="tanh"):
    """Targets out of tanh's reach: a large step pushes theta2 past 1."""
    return Problem(SingleIndexDEQ(1, name), [1.0, 2.0, -1.0], [5.0, 6.0, -5.0])


def test_a_lost_equilibrium_ends_its_step_size_alone():
    problem, theta0 = _stubborn(), torch.tensor([0.5, 0.0], dtype=torch.float64)
    etas = [1e-3, 0.5, 2e-3]
    descent = gradient_descent(problem, theta0, etas, 1.0, records=6)
    assert descent.status == [Status.T_END, Status.EQUILIBRIUM_LOST, Status.T_END]
    last = int(descent.update[1].max())
    iterates = [theta0]
    for _ in range(last):
        iterates.append(iterates[-1] - 0.5 * problem.gradient(iterates[-1]))
    place = int(descent.update[1].argmax())
    assert torch.allclose(descent.theta[1, place], iterates[-1], rtol=1e-13)
    assert float(iterates[-1][-1]) >= 1.0
    assert f"It ended at update {last}: at theta2 = " in descent.message[1]
    assert "no unique fixed point" in descent.message[1]
    assert descent.theta[1, place + 1 :].isnan().all()
    without = gradient_descent(problem, theta0, [1e-3, 2e-3], 1.0, records=6)
    assert torch.allclose(descent.theta[[0, 2]], without.theta, rtol=1e-12)
    assert descent.update[[0, 2]].tolist() == without.update.tolist()


def test_a_diverging_step_size_ends_alone():
    problem = Problem(LinearDEQ(1), [1.0, 2.0], [1e3, 2e3])
    theta0 = torch.tensor([0.5, -1.0], dtype=torch.float64)
    etas = [1e-7, 1e9, 2e-7]
    descent = gradient_descent(problem, theta0, etas, 2e9, records=5, wall_seconds=0.2)
    assert descent.status == [Status.WALL_LIMIT, Status.DIVERGED, Status.WALL_LIMIT]
    assert descent.update[1].max() <= 2
    assert (descent.update[[0, 2]].max(1) > descent.update[1].max()).all()
    assert descent.theta[[0, 2]].nan_to_num(0.0).abs().max() < 1e3


@pytest.mark.parametrize("target", [1e14, 1e200, 1e308])
def test_what_grows_without_bound_has_diverged(target):
    """Beyond the range of floats too: theta that is not finite has diverged, not lost its root."""
    problem = Problem(LinearDEQ(1), [1.0, 2.0], [target, 0.5 * target])
    theta0 = torch.tensor([0.5, 0.0], dtype=torch.float64)
    descent = gradient_descent(problem, theta0, [0.5], 100.0, records=5)
    last = int(descent.update.max())
    assert descent.status == [Status.DIVERGED]
    assert descent.message[0].startswith(Status.DIVERGED.sentence)
    assert f"It ended at update {last}." in descent.message[0]
    assert 1 <= last <= 3


def test_growth_by_eight_orders_is_no_divergence():
    """The first update throws theta far out, where the gradient is small."""
    problem = Problem(LinearDEQ(1), [1.0, 2.0], [1e8, 2e8])
    theta0 = torch.tensor([0.5, 0.0], dtype=torch.float64)
    descent = gradient_descent(problem, theta0, [0.5], 100.0, records=5)
    assert descent.status == [Status.T_END]
    assert float(descent.theta.abs().max()) > 1e8


def test_a_jump_over_the_singular_point_is_told():
    """Gradient descent may cross theta2 = 1, which no flow can."""
    problem = Problem(LinearDEQ(1), [1.0, 2.0], [3.0, 6.0])
    theta0 = torch.tensor([0.1, 0.9], dtype=torch.float64)
    descent = gradient_descent(problem, theta0, [1e-4, 0.1], 0.5, records=6)
    sides = descent.theta[..., -1] < 1
    assert sides[0].all()
    jump = int(torch.nonzero(~sides[1])[0])
    assert descent.status == [Status.T_END] * 2
    assert "branch" not in descent.message[0]
    assert f"by update {jump} it had left the start's branch of solutions" in descent.message[1]


def test_a_start_without_equilibrium_is_its_only_record():
    problem = _stubborn()
    theta0 = torch.tensor([0.5, 1.5], dtype=torch.float64)
    descent = gradient_descent(problem, theta0, [0.1, 0.2], 1.0, records=4)
    assert descent.status == [Status.EQUILIBRIUM_LOST] * 2
    assert descent.update.tolist() == [[0, -1, -1, -1]] * 2
    assert torch.equal(descent.theta[:, 0], theta0.expand(2, 2))
    assert descent.squared_updates[:, 0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("calls", [1, 7, 12])
def test_an_interrupt_keeps_what_was_recorded_and_the_last_iterate(monkeypatch, calls):
    problem, seen = _problem(), []
    whole = gradient_descent(problem, _start(problem), [0.1, 0.05], 2.0, records=21)
    gradient = problem.gradient_at

    def interrupted(equilibrium, backward=None):
        seen.append(equilibrium.theta)
        if len(seen) == calls:
            raise KeyboardInterrupt
        return gradient(equilibrium, backward)

    monkeypatch.setattr(problem, "gradient_at", interrupted)
    descent = gradient_descent(problem, _start(problem), [0.1, 0.05], 2.0, records=21)
    assert descent.status == [Status.INTERRUPTED] * 2
    assert descent.update.max(1).tolist() == [calls - 1] * 2
    assert descent.message[0] == f"{Status.INTERRUPTED.sentence} It ended at update {calls - 1}."
    # Of eta = 0.1 every update is recorded, of eta = 0.05 every second one and the last.
    assert descent.update[0, :calls].tolist() == list(range(calls))
    assert torch.equal(descent.theta[0, :calls], whole.theta[0, :calls])
    kept = descent.update[1] >= 0
    assert descent.update[1][kept].tolist() == [*range(0, calls - 1, 2), calls - 1]
    assert torch.equal(descent.theta[1, torch.from_numpy(kept)][-1], seen[-1][1])


def test_a_wall_limit_ends_all_that_still_run():
    problem = _problem()
    descent = gradient_descent(problem, _start(problem), [0.5, 1e-6], 10.0, 3, wall_seconds=0.0)
    assert descent.status == [Status.WALL_LIMIT] * 2
    assert (descent.update.max(1) > 0).all()
    assert descent.wall_seconds < 2.0


def test_progress_is_told_in_increasing_fractions():
    problem, told = _problem(), []
    gradient_descent(
        problem,
        _start(problem),
        [0.1, 0.2],
        4.0,
        records=5,
        progress=lambda fraction, theta: told.append((fraction, theta.shape)),
    )
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] < 1
    assert len(told) >= 4
    assert {shape for _, shape in told} == {(3,)}


@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_the_recorded_times_are_those_of_the_descent(spacing):
    problem = _problem()
    times = record_times(ETAS, 4.0, 9, spacing)
    descent = gradient_descent(problem, _start(problem), ETAS, 4.0, 9, spacing)
    clock = descent.step_sizes[:, None] * descent.update
    assert times == np.unique(clock[descent.update >= 0]).tolist()
    with pytest.raises(ProblemError, match="a step size is given twice"):
        record_times([0.1, 0.1], 4.0, 9, spacing)


REFUSALS = {
    "too large": (
        ([0.1, 3.0], 2.0),
        "step size 3 exceeds t_end = 2; no update fits. Lower the step size or raise t_end.",
    ),
    "zero": (([0.1, 0.0], 2.0), "step_sizes is [0.1, 0.0]; it must hold positive finite numbers."),
    "negative": (([-0.1], 2.0), "step_sizes is [-0.1]; it must hold positive finite numbers."),
    "NaN": (([np.nan], 2.0), "step_sizes is [nan]; it must hold positive finite numbers."),
    "infinite": (([np.inf], 2.0), "step_sizes is [inf]; it must hold positive finite numbers."),
    "none": (([], 2.0), "step_sizes is []; it must hold positive finite numbers."),
    "twice": (([0.1, 0.2, 0.1], 2.0), "step_sizes is [0.1, 0.2, 0.1]; a step size is given twice."),
    "words": ((["a"], 2.0), "step_sizes is ['a']; it must be a list of numbers."),
    "nested": (([[0.1, 0.2]], 2.0), "step_sizes is [[0.1, 0.2]]; it must be a list of numbers."),
    "no time": (([0.1], 0.0), "t_end of a descent is 0; it must be positive and finite."),
    "for ever": (([0.1], np.inf), "t_end of a descent is inf; it must be positive and finite."),
    "one record": (
        ([0.1], 2.0, 1),
        "records is 1; at least 2 are needed, the start and the end.",
    ),
    "spacing": (([0.1], 2.0, 5, "x"), 'spacing is "x"; it must be linear or log.'),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_no_descent_is_refused_in_a_sentence(case):
    arguments, sentence = REFUSALS[case]
    problem = _problem()
    with pytest.raises(ProblemError) as refusal:
        gradient_descent(problem, _start(problem), *arguments)
    assert str(refusal.value) == sentence


def test_one_step_size_may_be_a_number():
    problem = _problem()
    descent = gradient_descent(problem, _start(problem), 0.1, 1.0, records=3)
    assert descent.step_sizes.tolist() == [0.1]
