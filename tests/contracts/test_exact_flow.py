"""Rules R5 and R11: what holds along the exact flow holds to tolerance, at a bounded cost.

Gradient descent, rule R6, is in ``test_descent.py``.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch

from gflow.diagnostics.energy import EnergyAudit
from gflow.flow_run import FlowOptions, run_flow
from gflow.flows import gradient_flow
from gflow.integrators.base import Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.registry import METHODS
from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.problem import Problem
from gflow.status import Status
from gflow.theory import exact_trajectory

SLOPE = 2.0
STARTS = {
    "line": [0.1, 0.05],
    "far side": [-0.3, 2.1],
    "linear": [0.5, 0.5, -0.2, 0.1],
    "tanh": [0.2, 0.1, -0.1, 0.3],
}
LENGTH = {"line": 5.0, "far side": 20.0, "linear": 10.0, "tanh": 10.0}
EXACT = ("line", "far side")
SPHERES = ("line", "far side", "linear")

NFE = {
    "native:exprb43": (191, 146, 260, 248),
    "native:expcol8": (299, 261, 352, 376),
    "native:tsit5": (284, 524, 380, 260),
    "native:rkc2": (301, 264, 526, 492),
    "native:rkc4": (342, 307, 539, 478),
    "scipy:RK23": (362, 452, 554, 488),
    "scipy:RK45": (296, 578, 338, 200),
    "scipy:DOP853": (431, 773, 494, 287),
    "scipy:Radau": (415, 312, 534, 496),
    "scipy:BDF": (297, 306, 417, 394),
    "scipy:LSODA": (174, 157, 275, 235),
    "torchdiffeq:dopri8": (392, 1133, 431, 340),
    "torchdiffeq:dopri5": (302, 626, 356, 188),
    "torchdiffeq:bosh3": (317, 515, 431, 374),
    "torchdiffeq:fehlberg2": (456, 570, 806, 694),
    "torchdiffeq:adaptive_heun": (265, 328, 398, 379),
}
"""Field evaluations measured for each flow, in the order of STARTS."""
NFE_SLACK = 1.3
HESSIANS = {"native:exprb43": 113, "native:expcol8": 28}
"""One a step; the others keep theirs, or need none."""

ADAPTIVE = [name for name, method in METHODS.items() if method.info.adaptive]
each_method = pytest.mark.parametrize("name", ADAPTIVE)


@cache
def _problem(flow):
    rng = np.random.default_rng(3)
    if flow in EXACT:
        x = rng.uniform(0, 1, 40)
        return Problem(LinearDEQ(1), x, SLOPE * x)
    x, noise = rng.normal(size=(60, 3)), rng.normal(size=60)
    index = x @ [1.0, -0.5, 0.3]
    if flow == "linear":
        return Problem(LinearDEQ(3), x, index + 0.3 * noise)
    return Problem(SingleIndexDEQ(3, "tanh"), x, np.tanh(index))


def _rtol(name):
    order = METHODS[name].info.order
    return 1e-4 if order is not None and order <= 3 else 1e-6


@cache
def _run(name, flow):
    problem, rtol = _problem(flow), _rtol(name)
    times = torch.linspace(0, LENGTH[flow], 21, dtype=torch.float64)
    audit = EnergyAudit(problem)
    trajectory = integrate_field(
        gradient_flow(problem),
        problem.theta(STARTS[flow]),
        METHODS[name],
        Settings(LENGTH[flow], rtol, 1e-3 * rtol),
        times,
        observers=[audit],
    )
    assert trajectory.status.ok, trajectory.message
    return trajectory, audit.integral(trajectory.t)


@pytest.mark.parametrize("flow", STARTS)
@each_method
def test_the_loss_never_rises_and_its_fall_is_accounted_for(name, flow):
    """L(0) - L(t) is the integral of |grad L|^2, whatever the model."""
    trajectory, integral = _run(name, flow)
    loss = _problem(flow).loss(trajectory.theta)
    unit = _rtol(name) * float(loss[0])
    assert float(loss.diff().max()) <= 0.1 * unit
    assert float((loss[0] - loss - integral).abs().max()) <= 10 * unit
    assert float(loss[-1]) < 0.5 * float(loss[0])


@pytest.mark.parametrize("flow", SPHERES)
@each_method
def test_the_flow_stays_on_its_sphere_and_on_its_side(name, flow):
    """[DR] Thm 3.1 and Lemma 3.2."""
    trajectory, _ = _run(name, flow)
    radius = _problem(flow).model.sphere_radius(trajectory.theta)
    assert float((radius / radius[0] - 1).abs().max()) <= 2 * _rtol(name)
    side = 1 - trajectory.theta[:, -1]
    assert bool((side * side[0] > 0).all())


def _distance(name, flow, trajectory):
    """Largest RMS of error / (atol + rtol |theta|) over the saves."""
    problem, rtol = _problem(flow), _rtol(name)
    mean_square = float(problem.x.pow(2).mean())
    exact = exact_trajectory(trajectory.t.numpy(), STARTS[flow], mean_square, SLOPE)
    scaled = (trajectory.theta.numpy() - exact) / (1e-3 * rtol + rtol * np.abs(exact))
    return np.sqrt((scaled**2).mean(-1)).max()


@pytest.mark.parametrize("flow", EXACT)
@each_method
def test_the_exact_trajectory_is_met(name, flow):
    assert _distance(name, flow, _run(name, flow)[0]) <= 10


@each_method
def test_an_endless_flow_meets_it_too(name):
    """Its saves are placed once its end is known, on dense output."""
    problem, rtol, stop = _problem("line"), _rtol(name), {"gradient_norm": 1e-3}
    options = FlowOptions(math.inf, name, rtol, 1e-3 * rtol, 41, "linear", None, stop, "gradient")
    trajectory, _ = run_flow(problem, problem.theta(STARTS["line"]), options)
    assert trajectory.status is Status.GRADIENT_NORM
    assert len(trajectory.t) == 41
    assert _distance(name, "line", trajectory) <= 10


@each_method
def test_the_cost_is_bounded(name):
    for flow, measured in zip(STARTS, NFE[name], strict=True):
        trajectory, _ = _run(name, flow)
        assert trajectory.nfe <= NFE_SLACK * measured
        assert trajectory.hessians <= HESSIANS.get(name, 20)
