"""Where a vector DEQ has several equilibria: flows follow one, and end where it does.

z = tanh(w z + b) with w = 1.5 has three roots for |b| < b_f = w z_f - artanh z_f, with z_f =
sqrt(1 - 1/w), where 1 = w (1 - z^2); the upper one ends at b = -b_f.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gflow

W = 1.5
Z_FOLD = math.sqrt(1 - 1 / W)
FOLD = math.atanh(Z_FOLD) - W * Z_FOLD
MODEL = gflow.VectorDEQ(1, 1, train=("b",), fixed={"W": [[W]], "U": [[0.0]]})
PROBLEM = gflow.Problem(MODEL, [[1.0]], [-1.0])


def upper(b):
    """The largest root, by bisection of b = artanh z - w z, which rises beyond z_f."""
    low, high = Z_FOLD, 1.0
    for _ in range(100):
        z = 0.5 * (low + high)
        low, high = (z, high) if np.arctanh(z) - W * z < b else (low, z)
    return low


@pytest.mark.parametrize("method", ["tsit5", "exprb43", "expcol8", "dopri5", "auto"])
def test_a_flow_ends_where_its_branch_does(method):
    tree = gflow.integrate(PROBLEM, [0.5], 50, method=method, rtol=1e-5, times=1000)
    flow = tree["flow"]
    assert str(flow.status.values) == "equilibrium_lost"
    b = flow.theta.values[:, 0]
    assert b[-1] >= FOLD - 1e-12
    assert b[-1] == pytest.approx(FOLD, abs=1e-3)
    followed = [(upper(one) + 1) ** 2 for one in b[:-1]]
    assert flow.loss.values[:-1] == pytest.approx(followed, abs=1e-9)
    assert float(flow.singular_distance.max()) < 0


def test_rows_of_an_ensemble_end_there_too():
    tree = gflow.integrate(PROBLEM, [[0.5], [0.4], [0.3]], 50, method="tsit5", rtol=1e-5, times=20)
    assert set(tree["flow"].status.values) == {"equilibrium_lost"}
    assert tree["flow"].theta_final.values == pytest.approx(FOLD, abs=1e-3)


def test_saves_far_apart_are_followed_all_the_same():
    """Solved from z = 0, b = -0.15 has the lower root; the way from 0.5 leads to the upper one."""
    assert float(MODEL.equilibrium(PROBLEM.theta([-0.15]), PROBLEM.x).preactivation) < 0
    tree = gflow.integrate(PROBLEM, [0.5], 0.84, rtol=1e-8, times=[0.84])
    flow = tree["flow"]
    b = float(flow.theta[-1, 0])
    assert FOLD < b < -0.1
    assert float(flow.loss[-1]) == pytest.approx((upper(b) + 1) ** 2, abs=1e-9)


def test_gradient_descent_may_jump_and_goes_on():
    tree = gflow.descend(PROBLEM, [0.5], [0.05], 50)
    assert str(tree["descent"].status.values[0]) == "t_end"
    assert float(tree["descent"].loss[0, -1]) < 1.0


@pytest.mark.parametrize("step", [1e-3, 0.1])
def test_a_step_along_a_branch_is_no_jump(step):
    problem = gflow.Problem(MODEL, [[1.0]], [-1.0])
    near = MODEL.equilibrium(problem.theta([0.4]), problem.x)
    far = MODEL.equilibrium(problem.theta([0.4 + step]), problem.x, near)
    assert bool(near.valid)
    assert bool(MODEL.continued(far, near))
    below = MODEL.equilibrium(problem.theta([FOLD - 0.05]), problem.x)
    before = torch.full_like(near.preactivation, Z_FOLD)
    assert bool(below.valid)
    assert not bool(MODEL.continued(below, before))
