"""What is advised is checked against closed forms, and by doing it."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch

import gflow
import gflow.advice
from gflow.advice_text import conclusion
from gflow.curvature import Point, TimeScales, largest_steps, point_of, rates_along
from gflow.status import Status
from gflow.step_verdicts import Curve, short


def a1_problem(backward: str = "exact") -> gflow.Problem:
    """Experiment A.1 of arXiv 2511.16976."""
    x = np.random.default_rng(42).uniform(0, 1, 1000)
    return gflow.Problem(gflow.LinearDEQ(1), x, 2 * x, backward=backward)


A1_START = np.random.default_rng(43).normal(0, 0.1, 2)


def weak_problem() -> gflow.Problem:
    """Three parameters, the slowest of which takes a thousand times as long as the fastest."""
    x = np.random.default_rng(1).normal(size=(1000, 2))
    model = gflow.SingleIndexDEQ(2, "weak-tanh:0.25")
    y = gflow.Problem(model, x, np.zeros(1000)).predict([0.6, 0.8, 0.0])
    return gflow.Problem(model, x, y)


WEAK_START = [0.53, 0.73, 0.07]


@pytest.fixture(scope="module")
def weak() -> gflow.advice.Advice:
    return gflow.advise(weak_problem(), WEAK_START, step_sizes=[2 / 6.0])


@pytest.mark.parametrize(
    ("offset", "recorded"), [(0.0, 19.09718512840126), (1.0, 3196.1093859475986)]
)
def test_the_linear_limit_has_the_recorded_sharpness(offset: float, recorded: float) -> None:
    problem, start = a1_problem(), A1_START + [0, offset]
    advice = gflow.advise(problem, start, t_end=2.0, step_sizes=[0.01])
    assert advice.settled
    assert advice.status is Status.GRADIENT_NORM
    mean_square = float((problem.x**2).mean())
    radius = math.hypot(start[0], 1 - start[1])
    assert 2 * mean_square * 25 / radius**2 == pytest.approx(recorded, rel=1e-12)
    assert advice.end.sharpness == pytest.approx(recorded, rel=1e-6)
    assert advice.largest_step == pytest.approx(2 / recorded, rel=1e-6)
    assert float(advice.closed_forms["sharpness_limit"]) == pytest.approx(recorded, rel=1e-12)
    np.testing.assert_allclose(advice.end.theta, advice.closed_forms["theta_limit"], atol=1e-7)
    assert (advice.end.negative, advice.end.flat) == (0, 1)
    assert advice.time_scales is not None
    assert advice.time_scales.slowest == pytest.approx(1 / recorded, rel=1e-6)
    assert advice.gradient_left == pytest.approx(1e-8, rel=1e-3)
    (step,) = advice.steps
    assert step.stable == (recorded < 200) == (radius > advice.closed_forms["critical_radius"][0])


@pytest.mark.parametrize("backward", ["exact", "neumann:2"])
@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_descent_from_beside_the_limit_does_as_told(backward: str, factor: float) -> None:
    problem = a1_problem(backward)
    limit = gflow.advise(problem, A1_START).end
    eta = factor * limit.largest_step
    beside = limit.theta + [1e-7, -1e-7]
    descent = gflow.descend(problem, beside, [eta], 100.5 * eta, records=2)["descent"]
    assert descent["update"].values[0, -1] == 100
    growth = descent.gradient_norm.values[0, -1] / descent.gradient_norm.values[0, 0]
    # Each update multiplies the gradient by 1 - eta lambda = 1 - 2 factor.
    assert math.log(growth) == pytest.approx(100 * math.log(2 * factor - 1), rel=0.05)


def test_step_sizes_are_judged_as_descent_then_goes() -> None:
    problem = a1_problem()
    advice = gflow.advise(problem, A1_START, step_sizes=[0.05, 0.13])
    small, large = advice.steps
    assert small.stable
    assert small.sentence == "stable all along the flow"
    assert small.updates == pytest.approx(advice.end.t / 0.05)
    assert not large.stable
    assert large.stable_from is None
    assert large.sentence == "too large from t = 0.8 on: cannot settle at the flow's limit"
    descent = gflow.descend(problem, A1_START, [0.05, 0.13], 200.0, records=2)["descent"]
    radius, (near, far) = (
        advice.closed_forms["critical_radius"],
        descent.sphere_radius.values[:, -1],
    )
    assert near**2 == pytest.approx(advice.closed_forms["sphere_radius"] ** 2, rel=0.2)
    assert advice.closed_forms["sphere_radius"] < radius[1] < far
    assert descent.sharpness.values[1, -1] < 2 / 0.13
    assert descent.gradient_norm.values[0, -1] < 1e-8


def test_a_step_size_may_be_too_large_in_between(weak: gflow.advice.Advice) -> None:
    (step,) = weak.steps
    assert max(weak.start.sharpness, weak.end.sharpness) < 6.0 < 2 / weak.largest_step
    assert step.unstable_from is not None
    assert step.stable_from is not None
    count = round((step.stable_from - step.unstable_from) * 3)
    assert step.sentence == (
        f"too large from t = {short(step.unstable_from)} to t = {short(step.stable_from)}, for "
        f"{count} updates, then stable"
    )
    times = [step.unstable_from, step.stable_from]
    flow = gflow.integrate(weak_problem(), WEAK_START, 2 * times[1], times=times)["flow"]
    np.testing.assert_allclose(flow.sharpness.values[1:3], 6.0, rtol=1e-3)


def test_the_spectrum_is_that_of_the_hessian(weak: gflow.advice.Advice) -> None:
    for point, theta in ((weak.start, np.array(WEAK_START)), (weak.end, weak.end.theta)):
        expected = np.linalg.eigvalsh(weak_problem().hessian(theta).numpy())
        np.testing.assert_allclose(point.eigenvalues, expected, atol=1e-12)
        assert (point.sharpness, point.smallest) == (point.eigenvalues[-1], point.eigenvalues[0])
        assert point.largest_step == pytest.approx(2 / expected[-1])
    np.testing.assert_allclose(weak.end.theta, [0.6, 0.8, 0.0], atol=1e-5)


def test_the_slowest_mode_takes_the_time_and_the_updates_told(weak: gflow.advice.Advice) -> None:
    problem, scales = weak_problem(), weak.time_scales
    assert scales is not None
    assert scales.stiffness == pytest.approx(weak.end.sharpness / weak.end.smallest)
    assert scales.loss_updates == pytest.approx(scales.stiffness / 2, rel=1e-3)
    slow = np.linalg.eigh(problem.hessian(weak.end.theta).numpy())[1][:, 0]
    start = np.array([0.6, 0.8, 0.0]) + 1e-4 * slow
    end = gflow.integrate(problem, start, scales.loss_time, times=2)["flow"].loss.values
    assert end[1] / end[0] == pytest.approx(math.exp(-1), rel=0.02)
    eta = weak.end.largest_step / 2
    descent = gflow.descend(problem, start, [eta], (scales.loss_updates + 0.5) * eta, records=2)
    losses = descent["descent"].loss.values[0]
    assert losses[-1] / losses[0] == pytest.approx(math.exp(-1), rel=0.02)


def test_what_auto_takes_is_told(weak: gflow.advice.Advice) -> None:
    for t_end in (2.0, weak.suggested_t_end):
        advice = gflow.advise(weak_problem(), WEAK_START, t_end=t_end)
        flow = gflow.integrate(weak_problem(), WEAK_START, t_end)["flow"]
        assert advice.method == advice.auto_method == flow.method.item()
        told = f"Integrator: {advice.method} suits: {advice.reason}. auto takes it."
        assert conclusion(advice)[-2] == told
        left = float(flow.gradient_norm[-1] / flow.gradient_norm[0])
        assert advice.gradient_left == pytest.approx(left, rel=0.1)
    assert weak.suggested_t_end == pytest.approx(weak.end.t, rel=0.1)
    assert left <= 1e-8


def test_the_method_suits_the_whole_flow_and_not_only_its_start() -> None:
    problem, start, t_end = a1_problem(), [0.03, 0.62], 20.0
    advice = gflow.advise(problem, start, t_end=t_end)
    assert advice.start.sharpness * t_end < 500 < advice.end.sharpness * t_end
    rate = f"fastest rate {advice.end.sharpness:.3g} times t_end 20"
    assert (advice.method, advice.reason.partition(" is ")[0]) == (
        "native:expcol8",
        f"stiff ({rate}",
    )
    runs = {
        method: gflow.integrate(problem, start, t_end, method=method)["flow"]
        for method in ("auto", advice.method, "native:tsit5")
    }
    assert advice.auto_method == runs["auto"].method.item() == "native:tsit5 then native:expcol8"
    assert 3 * int(runs[advice.method].nfe) < int(runs["native:tsit5"].nfe)
    assert conclusion(advice)[-2] == (
        f"Integrator: native:expcol8 suits: {advice.reason}. auto begins with native:tsit5 and "
        "hands over to native:expcol8 where stability comes to limit its steps."
    )
    early = gflow.advise(problem, start, t_end=0.1)
    assert early.method == early.auto_method == "native:tsit5"
    assert float(early.reason.split("rate ")[1].split()[0]) < 0.9 * advice.end.sharpness


@pytest.mark.parametrize(
    ("asked", "t_end", "told"),
    [
        ("TSIT5", 0.1, "You name native:tsit5, and auto would take it too."),
        ("dopri8", 0.1, "You name torchdiffeq:dopri8; auto would take native:tsit5."),
        (
            "tsit5",
            20.0,
            "You name native:tsit5; auto would begin with it and hand over to native:expcol8 where "
            "stability comes to limit its steps.",
        ),
    ],
)
def test_a_method_that_is_named_is_compared_with_auto(asked: str, t_end: float, told: str) -> None:
    advice = gflow.advise(a1_problem(), [0.03, 0.62], t_end=t_end, method=asked)
    assert conclusion(advice)[-2] == f"Integrator: {advice.method} suits: {advice.reason}. {told}"


def test_a_lost_equilibrium_is_no_limit() -> None:
    x = np.linspace(-1, 1, 20)
    problem = gflow.Problem(gflow.SingleIndexDEQ(1, "tanh"), x, 0.95 * np.sign(x))
    advice = gflow.advise(problem, [0.1, 0.0], t_end=1.0, step_sizes=[1.6, 1.5])
    assert not advice.settled
    assert advice.status is Status.EQUILIBRIUM_LOST
    assert "theta2 = 1" in advice.message
    assert advice.end.theta[1] == pytest.approx(1.0, abs=1e-6)
    assert advice.time_scales is advice.suggested_t_end is None
    large, small = (step.sentence for step in advice.steps)
    assert large.startswith("too large from the start to t = 0.")
    assert small == "stable up to t = 3.6"
    assert gflow.advise(problem, [0.1, 0.0], t_end=1e4).gradient_left is None


def test_budgets_and_fading_gradients_are_no_limits() -> None:
    advice = gflow.advise(weak_problem(), WEAK_START, wall_seconds=1e-3)
    assert (advice.settled, advice.status) == (False, Status.WALL_LIMIT)
    fading = gflow.Objective(lambda w: torch.exp(-w[0]), 1)
    advice = gflow.advise(fading, [0.0], step_sizes=[1.0])
    assert (advice.settled, advice.status) == (False, Status.GRADIENT_NORM)
    assert "no limit yet at t = 1e+08" in advice.message
    assert advice.steps[0].sentence == "stable up to t = 1e+08"


def test_saddles_and_rest_points_are_told_apart() -> None:
    saddle = gflow.Objective(lambda w: w[0] ** 2 - w[1] ** 2, 2)
    advice = gflow.advise(saddle, [1.0, 0.0])
    assert (advice.settled, advice.end.negative) == (True, 1)
    assert advice.end.largest_step == pytest.approx(1.0)
    rest = gflow.advise(saddle, [0.0, 0.0], t_end=1.0)
    assert (rest.settled, rest.end.t, rest.suggested_t_end) == (True, 0.0, None)
    assert conclusion(rest)[-1] == "Cost: none; the flow does not leave its start."
    linear = gflow.advise(gflow.Objective(lambda w: 0.0 * w[0] + 1.0, 1), [1.0])
    assert linear.largest_step == math.inf
    assert linear.time_scales is None


def test_many_parameters_have_their_extremes() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 510))
    problem = gflow.Problem(gflow.LinearDEQ(510), x, x[:, 0], backward="exact")
    theta = problem.theta(np.append(0.01 * rng.normal(size=510), 0.2))
    expected = np.linalg.eigvalsh(problem.hessian(theta).numpy())
    point = point_of(problem, 0.0, theta)
    np.testing.assert_allclose(point.eigenvalues, expected[[0, -1]], rtol=1e-8)
    assert point.negative is point.flat is point.slowest_rate is None
    assert TimeScales.at(point) is None
    well = Point(9.0, np.zeros(600), 0.0, 0.0, rates := np.array([0.5, 2.0]), rates)
    assert (well.negative, well.flat, well.slowest_rate) == (0, 0, 0.5)
    assert TimeScales.at(well).stiffness == 4.0  # type: ignore[union-attr]
    lost = torch.stack([theta, theta.index_fill(0, torch.tensor(510), 1.0), theta])
    found = rates_along(problem, lost)
    np.testing.assert_allclose(found[[0, 2]], expected[[0, -1]][None].repeat(2, 0), rtol=1e-8)
    assert np.isnan(found[1]).all()
    other = gflow.Problem(gflow.LinearDEQ(510), x, x[:, 0], backward="jfb")
    assert np.isnan(rates_along(other, lost)[1]).all()
    rates = np.linalg.eigvals(other.jacobian(theta).numpy())
    leading = point_of(other, 0.0, theta).rates
    assert max(abs(leading)) == pytest.approx(max(abs(rates)), rel=1e-6)


def test_a_mode_that_turns_asks_for_smaller_steps() -> None:
    rates = np.array([[1 + 2j, 1 - 2j], [3.0, 1.0], [-1.0, 0.0], [np.nan, np.nan]])
    np.testing.assert_allclose(largest_steps(rates), [0.4, 2 / 3, np.inf, np.nan])
    assert abs(1 - 0.4 * (1 + 2j)) == pytest.approx(1.0)


def test_a_curve_is_judged_between_its_points() -> None:
    curve = Curve(np.array([0.0, 1.0, 2.0]), b := np.array([4.0, 8.0, 4.0]), b, True)
    assert (curve.largest_step(math.inf), curve.largest_step(0.5)) == (2 / 8, 2 / 6)
    step = curve.judge(2 / 6, None)
    assert (step.unstable_from, step.stable_from) == (0.5, 1.5)
    late = curve.judge(2 / 6, 0.25).sentence
    assert late.startswith(
        "stable to t_end = 0.25; too large from t = 0.5 to t = 1.5, for 3 updates"
    )
    limitless = Curve(np.array([0.0, 1.0, 2.0]), b := np.array([1.0, 2.0, 4.0]), b, False)
    assert limitless.judge(2 / 3, 1.0).sentence == "stable to t_end = 1; too large from t = 1.5 on"
    assert curve.judge(1.0, None).sentence == (
        "too large from the start on: cannot settle at the flow's limit"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"t_end": 0.0}, "t_end is 0.0; it must be positive and finite."),
        ({"step_sizes": [0.1, -1]}, "a step size is -1.0; it must be positive and finite."),
        ({"method": "foo"}, 'method "foo" is unknown.*'),
        ({"rtol": 2.0}, "rtol is 2.0; it must be a number between 0 and 1."),
    ],
)
def test_a_wrong_argument_is_told(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(gflow.UsageError, match=f"^{told}$"):
        gflow.advise(a1_problem(), A1_START, **arguments)  # type: ignore[arg-type]


def test_a_start_without_a_value_is_told() -> None:
    with pytest.raises(gflow.GflowError, match="No equilibrium"):
        gflow.advise(a1_problem(), [1.0, 1.0])
    with pytest.raises(gflow.UsageError, match="not finite at theta0"):
        gflow.advise(gflow.Objective(lambda w: torch.log(w[0]), 1), [-1.0])


def test_the_docstring_s_example_runs() -> None:
    failures, tried = doctest.testmod(gflow.advice)
    assert (failures, tried) == (0, 5)
