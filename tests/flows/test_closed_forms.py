"""Flows and their updates on quadratics, whose solutions are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.special import j1

import gflow
from gflow.flows import Preconditioned

CURVATURES = np.array([0.05, 1.0, 8.0])
T_END = 12.0


def _quadratic():
    weights = torch.from_numpy(CURVATURES)
    return gflow.Objective(lambda theta: (weights * theta * theta).sum() / 2, 3)


def _damped(times, mass):
    """m x'' + x' + h x = 0 from x = 1 at rest, by the roots of m r^2 + r + h."""
    root = np.sqrt(1 - 4 * mass * CURVATURES + 0j)
    fast, slow = (-1 - root) / (2 * mass), (-1 + root) / (2 * mass)
    waves = fast * np.exp(slow * times[:, None]) - slow * np.exp(fast * times[:, None])
    return (waves / (fast - slow)).real


def _bessel(times):
    """2 J_1(u) / u with u = t sqrt(h): Su, Boyd & Candes 2016, sect. 3.2."""
    u = np.maximum(times[:, None] * np.sqrt(CURVATURES), 1e-8)
    return 2 * j1(u) / u


def _decay(rates):
    return lambda times: np.exp(-times[:, None] * rates)


CASES = {
    "heavy_ball:0.7": lambda times: _damped(times, 0.7),
    "heavy_ball:0.002": lambda times: _damped(times, 0.002),
    "nesterov": _bessel,
    "modified:0.1": _decay(CURVATURES + 0.05 * CURVATURES**2),
    "scaled:theta=0.25": _decay(0.25 * CURVATURES),
    "gradient": _decay(CURVATURES),
}


@pytest.mark.parametrize("method", ["tsit5", "expcol8", "exprb43", "LSODA", "Radau"])
@pytest.mark.parametrize("name", CASES)
def test_the_closed_form_is_met(name, method):
    rtol = 1e-8 if method in ("exprb43", "LSODA", "Radau") else 1e-10
    if name == "nesterov" and method == "exprb43":
        rtol = 1e-6
    tree = gflow.integrate(
        _quadratic(), np.ones(3), T_END, flow=name, method=method, rtol=rtol, atol=rtol, times=25
    )
    times, theta = tree["flow"].time.values, tree["flow"].theta.values
    assert str(tree["flow"].status.values) == "t_end"
    assert abs(theta - CASES[name](times)).max() <= 200 * rtol
    if "velocity" in tree["flow"]:
        step = 1e-5
        slope = (CASES[name](times[1:] + step) - CASES[name](times[1:] - step)) / (2 * step)
        assert abs(tree["flow"].velocity.values[1:] - slope).max() <= 200 * rtol + 1e-8


def test_a_matrix_of_ones_own():
    matrix = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.4]])
    tree = gflow.integrate(
        _quadratic(), np.ones(3), 2.0, flow=Preconditioned(matrix), rtol=1e-10, atol=1e-12, times=3
    )
    expected = expm(-2.0 * matrix @ np.diag(CURVATURES)) @ np.ones(3)
    assert abs(tree["flow"].theta.values[-1] - expected).max() <= 1e-8


def test_the_natural_flow_of_a_linear_deq_decays_uniformly():
    """Where the outputs can follow it, phi' = -(phi - xi) whatever the data (lambda to 0)."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(30, 2)) @ np.diag([1.0, 0.3])
    problem = gflow.Problem(gflow.LinearDEQ(2), x, x @ [0.7, -0.4])
    tree = gflow.integrate(
        problem, [0.2, 0.5, 0.1], 3.0, flow="natural:1e-7", rtol=1e-7, atol=1e-9, times=7
    )
    theta, times = tree["flow"].theta.values, tree["flow"].time.values
    gap = theta[:, :2] / (1 - theta[:, 2:]) - [0.7, -0.4]
    assert abs(gap - gap[0] * np.exp(-times)[:, None]).max() <= 1e-5


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_momentum_is_the_heavy_ball_of_its_mass(beta):
    """theta + beta (theta_k - theta_{k-1}) - alpha g: eta = alpha / (1 - beta)."""
    alpha = 0.02
    eta = alpha / (1 - beta)
    tree = gflow.descend(
        _quadratic(),
        np.ones(3),
        [eta],
        30 * eta,
        records=31,
        flow=f"heavy_ball:{eta * beta / (1 - beta)!r}",
    )
    theta, before = np.ones(3), np.ones(3)
    for k in range(31):
        found = tree["descent"].theta.values[0, k]
        assert abs(found - theta).max() <= 1e-12
        assert tree["descent"].time.values[0, k] == pytest.approx(k * eta)
        theta, before = theta + beta * (theta - before) - alpha * CURVATURES * theta, theta


def test_nesterovs_method_is_the_textbooks():
    tree = gflow.descend(_quadratic(), np.ones(3), [0.04], 6.0, records=31, flow="nesterov")
    x, before = np.ones(3), np.ones(3)
    for k in range(31):
        assert abs(tree["descent"].theta.values[0, k] - x).max() <= 1e-12
        assert tree["descent"].time.values[0, k] == pytest.approx(0.2 * k)
        y = x + (k - 1) / (k + 2) * (x - before)
        x, before = y - 0.04 * CURVATURES * y, x


def test_a_schedule_multiplies_the_step_sizes():
    tree = gflow.descend(_quadratic(), np.ones(3), [0.1], 2.0, records=41, schedule="cosine")
    k = np.arange(40)
    sizes = 0.05 * (1 + np.cos(np.pi * (k + 0.5) / 40))
    theta = np.cumprod(1 - sizes[:, None] * CURVATURES, axis=0)
    np.testing.assert_allclose(tree["descent"].theta.values[0, 1:], theta, rtol=1e-12)
    np.testing.assert_allclose(tree["descent"].time.values[0, 1:], sizes.cumsum(), rtol=1e-12)
    assert tree["descent"].attrs["schedule"] == "cosine"


def test_step_sizes_with_a_schedule_together_equal_each_alone():
    etas = [0.1, 0.07, 0.02]
    options = {"records": 7, "schedule": "step:0.4:0.2", "flow": "heavy_ball:0.3"}
    together = gflow.descend(_quadratic(), np.ones(3), etas, 2.0, **options)["descent"]
    for row, eta in enumerate(etas):
        alone = gflow.descend(_quadratic(), np.ones(3), [eta], 2.0, **options)["descent"]
        kept = alone.sizes["record"]
        np.testing.assert_allclose(together.theta[row, :kept], alone.theta[0], rtol=1e-12)
        np.testing.assert_array_equal(together.time[row, :kept], alone.time[0])


@pytest.mark.parametrize("schedule", ["warmup:0.3", "inverse:0.2", "linear"])
def test_descents_with_a_schedule_stay_on_the_flows_clock(schedule):
    """Their distance at equal times falls with the step size."""
    tree = gflow.compare(
        _quadratic(),
        np.ones(3),
        [0.02, 0.01],
        2.0,
        schedule=schedule,
        flow="heavy_ball:0.3",
        rtol=1e-9,
    )
    largest = tree["comparison"].distance.max("record").values
    assert math.log2(largest[0] / largest[1]) == pytest.approx(1.0, abs=0.1)
    assert largest[0] < 0.1
