"""The same runs on a CUDA device and on the CPU; skipped where there is no device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gflow

pytestmark = pytest.mark.cuda

RNG = np.random.default_rng(5)
X = RNG.normal(size=(301, 4))
START = [0.3, -0.2, 0.1, 0.0, -0.4]


def problem(device: str, activation: str = "tanh") -> gflow.Problem:
    model = gflow.SingleIndexDEQ(4, activation)
    y = gflow.Problem(model, X, np.zeros(301)).predict([1.0, -0.5, 0.2, 0.1, 0.3])
    return gflow.Problem(model, X, y, device=device)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus", "weak-tanh:0.25"])
def test_the_problem_agrees(activation: str) -> None:
    theta = RNG.normal(size=(7, 5)) * 0.3
    here, there = problem("cpu", activation), problem("cuda", activation)
    for name in ("loss", "gradient", "hessian"):
        expected, got = getattr(here, name)(theta), getattr(there, name)(theta)
        assert got.device.type == "cuda"
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "method", ["dopri5", "exprb43", "expcol8", "tsit5", "rkc4", "LSODA", "auto"]
)
def test_the_flow_agrees(method: str) -> None:
    ends = []
    for device in ("cpu", "cuda"):
        tree = gflow.compare(
            problem(device), START, [0.1, 0.2], 5.0, method=method, rtol=1e-9, atol=1e-12, times=5
        )
        assert str(tree["flow"].status.values) == "t_end"
        ends.append(tree)
    for group, name in (("flow", "theta"), ("descent", "theta"), ("comparison", "distance")):
        np.testing.assert_allclose(ends[1][group][name], ends[0][group][name], atol=1e-8)
    assert "cuda" in ends[1].attrs["device"]


@pytest.mark.parametrize("method", ["exprb43", "expcol8", "tsit5", "rkc2", "rkc4", "auto"])
def test_the_ensemble_agrees(method: str) -> None:
    starts = np.array(START) + 0.1 * RNG.normal(size=(5, 5))
    ends = []
    for device in ("cpu", "cuda"):
        problems = [problem(device, f"weak-tanh:{0.1 * (i + 1):g}") for i in range(5)]
        tree = gflow.integrate(problems, starts, 5.0, method=method, rtol=1e-6, times=5)
        assert (tree["flow"].status == "t_end").all()
        ends.append(tree["flow"].theta)
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-5)
