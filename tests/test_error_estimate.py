"""The estimated error beside the true one, where closed forms tell it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import gflow
from gflow.ensemble_run import run_ensemble
from gflow.error_estimate import LOOSER, ensemble_estimate, lone_estimate, plan_second
from gflow.flow_run import FlowOptions, FlowRun
from gflow.integrators.registry import METHODS
from gflow.status import Status
from gflow.theory import exact_trajectory

HONEST = 10.0
ROUNDING = 1e-13
ERRATIC = [("scipy:DOP853", "stiff")]
"""On its stability limit single saves of the second run are off by hundreds of its tolerances."""
RATES = torch.tensor([0.1, 1.0, 10.0, 300.0], dtype=torch.float64)


def _linear():
    """The linear DEQ in one dimension."""
    problem, start = gflow.Problem(gflow.LinearDEQ(1), [[0.5], [1.0]], [1.0, 2.0]), [0.1, 0.0]
    return problem, start, lambda t: exact_trajectory(t, np.array(start), 0.625, 2.0)


def _stiff():
    """A linear flow of rates from 0.1 to 300."""
    problem = gflow.Objective(lambda w: (RATES * w * w).sum() / 2, 4)
    return problem, [1.0] * 4, lambda t: np.exp(-np.outer(t, RATES.numpy()))


def _cubic():
    """Algebraic decay: w' = -w^3."""
    problem, start = gflow.Objective(lambda w: (w**4).sum() / 4, 3), np.array([0.3, 1.0, -5.0])
    return problem, start, lambda t: start / np.sqrt(1 + 2 * np.outer(t, start**2))


PROBLEMS = {"linear": _linear, "stiff": _stiff, "cubic": _cubic}


def _options(method, rtol, t_end=5.0, saves=41, step_size=None, stop=None):
    times = np.linspace(0, t_end, saves).tolist()
    return FlowOptions(
        t_end, method, rtol, 1e-3 * rtol, times, "linear", step_size, stop, "gradient"
    )


def _ratios(case, options):
    """True errors over estimates, see below, and the estimate."""
    problem, start, exact = PROBLEMS[case]()
    theta0 = problem.theta(start)
    first = FlowRun(problem, theta0, options).run()
    assert first.status is Status.T_END
    estimate = lone_estimate(problem, theta0, options, first)
    assert estimate.dims == ("time",)
    return _compared(exact(first.t.numpy()), first.theta.numpy(), estimate.values), estimate


def _compared(exact, theta, estimate):
    """True error over estimate (2, K) where it is above rounding: at a save, and about it.

    Where the error passes through zero, the estimate may be larger than it at that save, but not
    than the error at the saves beside.
    """
    error = np.linalg.norm(theta - exact, axis=-1)
    padded = np.pad(error, 1)
    about = np.maximum(error, np.maximum(padded[:-2], padded[2:]))
    told = error > ROUNDING * np.linalg.norm(exact, axis=-1)
    return np.stack([error, about])[:, told] / estimate[told]


def _is_honest(ratios):
    return ratios[0].max() <= HONEST and ratios[1].min() >= 1 / HONEST


def _adaptive():
    for name, info in ((name, method.info) for name, method in METHODS.items()):
        order = info.order or 5
        for case in PROBLEMS:
            for rtol in (1e-3, 1e-6, 1e-9) if order > 3 else (1e-3, 1e-6):
                steps = case == "stiff" and not info.implicit  # thousands of them
                dear = steps and rtol < 1e-3 and name not in ("native:tsit5", "scipy:DOP853")
                if info.adaptive and not dear and not (order == 2 and (steps or rtol < 1e-3)):
                    many = (steps or order <= 3) or (name == "scipy:Radau" and rtol < 1e-6)
                    slow = (pytest.mark.slow,) if many and rtol < 1e-3 else ()
                    yield pytest.param(name, case, rtol, marks=slow, id=f"{name}-{case}-{rtol:g}")


@pytest.mark.parametrize(("name", "case", "rtol"), list(_adaptive()))
def test_the_estimate_is_honest_for_every_adaptive_method(name, case, rtol):
    ratios, estimate = _ratios(case, _options(name, rtol))
    if ratios.size:  # exponential methods solve linear flows exactly
        assert _is_honest(ratios) or (name, case) in ERRATIC
        assert ratios[0].max() <= HONEST
        assert (ratios[1] < 1 / HONEST).mean() <= 0.15
        assert 0.5 <= np.median(ratios[0]) <= 2.0
    assert estimate.attrs["second_run_nfe"][0] > 0
    assert estimate.attrs["second_run_message"] == ""


@pytest.mark.parametrize("case", ["linear", "cubic"])
@pytest.mark.parametrize("name", ["euler", "midpoint", "heun2", "heun3", "rk4"])
def test_the_estimate_is_honest_for_methods_of_fixed_step(name, case):
    ratios, estimate = _ratios(case, _options(name, 1e-6, t_end=2.0, step_size=0.015))
    assert ratios.shape[1] >= 35
    assert _is_honest(ratios)
    assert "half the step size, by a method of order" in estimate.attrs["formula"]


def test_steps_that_no_tolerance_limits_do_not_hide_the_error():
    # It steps onto the saves, here more of them than its tolerance asks for.
    ratios, _ = _ratios("cubic", _options("dopri8", 1e-3, saves=201))
    assert ratios.shape[1] > 20
    assert _is_honest(ratios)


def test_a_tolerance_that_cannot_be_tightened_is_loosened():
    options = _options("expcol8", 1e-13)
    problem, start, _ = _linear()
    first = FlowRun(problem, problem.theta(start), options).run()
    plan = plan_second(options, first, torch.float64)
    assert plan.options.rtol == LOOSER * options.rtol
    assert plan.ratio == LOOSER
    half = plan_second(replace(options, rtol=1e-12), first, torch.float64)
    assert half.options.rtol == pytest.approx(1e-13)
    single = plan_second(replace(options, rtol=1e-4), first, torch.float32)
    assert single.options.rtol == pytest.approx(1e-5)


def test_at_the_smallest_tolerance_of_single_precision_the_estimate_is_still_honest():
    problem, start, exact = _linear()
    single = gflow.Problem(problem.model, problem.x, problem.y, dtype="float32")
    flow = gflow.integrate(
        single, start, 5.0, rtol=1e-5, method="bosh3", diagnostics={"error_estimate": True}
    )["flow"]
    error = np.linalg.norm(flow.theta.values - exact(flow.time.values), axis=-1)
    assert (error <= HONEST * flow.error_estimate.values + 1e-6).all()


@pytest.mark.parametrize("method", ["tsit5", "exprb43", "auto", "dopri5", "dopri8"])
def test_the_estimate_of_an_ensemble_is_honest(method):
    problem, start, _ = _linear()
    starts = np.array([start, [0.4, -0.3], [-0.2, 0.5]])
    flow = gflow.integrate(
        problem, starts, 5.0, method=method, times=41, diagnostics={"error_estimate": True}
    )["flow"]
    assert flow.error_estimate.dims == ("trajectory", "time")
    for row, one in enumerate(starts):
        exact = exact_trajectory(flow.time.values, one, 0.625, 2.0)
        estimate = flow.error_estimate.values[row]
        ratios = _compared(exact, flow.theta.values[row], estimate)
        assert ratios.shape[1] > 30
        assert _is_honest(ratios)
    assert flow.error_estimate.attrs["second_run_nfe"].shape == (3,)


def test_flows_that_meet_a_rule_have_an_estimate_at_all_their_saves():
    problem, start, _ = _linear()
    starts = np.array([start, [0.4, -0.3]])
    for t_end in (50.0, np.inf):
        flow = gflow.integrate(
            problem, starts, t_end, stop={"loss": 1e-6}, diagnostics={"error_estimate": True}
        )["flow"]
        assert set(flow.status.values) == {"loss"}
        saved = np.isfinite(flow.loss.values)
        assert (np.isfinite(flow.error_estimate.values) == saved).all()
        alone = gflow.integrate(
            problem, start, t_end, stop={"loss": 1e-6}, diagnostics={"error_estimate": True}
        )["flow"]
        assert np.isfinite(alone.error_estimate.values).all()


def test_it_is_off_by_default_and_labelled():
    problem, start, _ = _linear()
    assert "error_estimate" not in gflow.integrate(problem, start, 1.0)["flow"]
    tree = gflow.integrate(problem, start, 1.0, diagnostics={"error_estimate": True})
    estimate = tree["flow"].error_estimate
    assert estimate.attrs["formula"].startswith("|theta - theta_2| / |1 - 0.01|, theta_2 by")
    assert estimate.attrs["units"] == "1"
    assert int(estimate.attrs["second_run_nfe"][0]) != int(tree["flow"].nfe)
    gflow.validate(tree)


def test_a_flow_of_second_order_has_the_error_of_theta_alone():
    bowl = gflow.Objective(lambda w: 50 * (w * w).sum(), 1)
    flow = gflow.integrate(
        bowl, [1.0], 3.0, flow="heavy_ball:1", rtol=1e-5, diagnostics={"error_estimate": True}
    )["flow"]
    rate, t = np.sqrt(100 - 0.25), flow.time.values
    exact = np.exp(-t / 2) * (np.cos(rate * t) + np.sin(rate * t) / (2 * rate))
    error = abs(flow.theta.values[:, 0] - exact)
    large = error > 0.1 * error.max()
    ratios = error[large] / flow.error_estimate.values[large]
    assert 1 / HONEST <= ratios.min() <= ratios.max() <= HONEST


def test_a_second_run_that_ends_early_leaves_nan_and_says_why():
    problem, start, _ = _linear()
    options, theta0 = _options("tsit5", 1e-6, stop={"wall_seconds": 100.0}), problem.theta(start)
    first = replace(FlowRun(problem, theta0, options).run(), wall_seconds=200.0)
    estimate = lone_estimate(problem, theta0, options, first)
    assert np.isnan(estimate.values[1:]).all()
    told = estimate.attrs["second_run_message"]
    assert told.startswith("NaN beyond the end of the second run. The wall-clock limit")
    run = run_ensemble([problem] * 2, [theta0] * 2, options)
    estimate = ensemble_estimate(
        [problem] * 2, [theta0] * 2, options, replace(run, wall_seconds=200.0)
    )
    assert np.isnan(estimate.values[:, 1:]).all()
    assert (
        "2 of 2 second runs, the first of them that of trajectory 0"
        in (estimate.attrs["second_run_message"])
    )


@pytest.mark.parametrize("status", [Status.INTERRUPTED, Status.T_END])
def test_a_flow_that_was_interrupted_or_never_left_its_start_is_not_run_again(status):
    problem, start, _ = _linear()
    options, theta0 = _options("tsit5", 1e-6), problem.theta(start)
    first = FlowRun(problem, theta0, options).run()
    if status is Status.INTERRUPTED:
        first = replace(first, status=status)
    else:
        first = replace(first, t=first.t[:1], theta=first.theta[:1])
    estimate = lone_estimate(problem, theta0, options, first)
    assert estimate.attrs["second_run_nfe"].tolist() == [0]
    interrupted = status is Status.INTERRUPTED
    assert np.isnan(estimate.values).all() == interrupted
    assert bool(estimate.attrs["second_run_message"]) == interrupted
