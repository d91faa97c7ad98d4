"""Descents whose warm start is a table for each theta: where rows leave, the others go on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gflow
from gflow.descent import gradient_descent
from gflow.status import Status


@pytest.mark.parametrize("flow", ["gradient", "heavy_ball:0.3", "natural:0.1"])
def test_step_sizes_of_a_vector_deq_together_equal_each_alone(flow):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 3))
    model = gflow.VectorDEQ(3, 4, 2)
    problem = gflow.Problem(model, x, np.tanh(x[:, :2]))
    theta0, etas = problem.theta(model.initial(0)), [0.5, 0.1, 0.04]
    assert problem.evaluate(theta0).equilibrium.preactivation.ndim > 1
    together = gradient_descent(problem, theta0, etas, 1.0, records=3, flow=flow)
    assert together.status == [Status.T_END] * 3
    for row, eta in enumerate(etas):
        alone = gradient_descent(problem, theta0, [eta], 1.0, records=3, flow=flow)
        kept = alone.update.shape[1]
        assert torch.allclose(together.theta[row, :kept], alone.theta[0], rtol=1e-10, atol=1e-11)
