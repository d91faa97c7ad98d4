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


def classification(device: str, backward: str = "exact") -> gflow.Problem:
    model = gflow.VectorDEQ(4, 6, outputs=3)
    classes = np.abs(X).argmax(1) % 3
    return gflow.Problem(model, X, classes, loss="cross_entropy", backward=backward, device=device)


@pytest.mark.parametrize("backward", ["exact", "jfb", "damped:3:0.5"])
def test_the_vector_deq_agrees(backward: str) -> None:
    here, there = classification("cpu", backward), classification("cuda", backward)
    theta = here.model.initial(0, radius=0.6)
    vector = RNG.normal(size=theta.shape)
    pairs = [(p.gradient(theta), p.jvp(theta, vector), p.loss(theta)) for p in (here, there)]
    for expected, got in zip(*pairs, strict=True):
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-10, atol=1e-12)


def test_a_module_with_an_implicit_layer_agrees() -> None:
    torch.manual_seed(0)
    cell = Cell()
    net = torch.nn.Sequential(gflow.DEQLayer(cell, width=5), torch.nn.Linear(5, 1))
    found = []
    for device in ("cpu", "cuda"):
        model = gflow.ModuleModel(net)
        one = gflow.Problem(model, X, X[:, 0], device=device)
        theta = model.initial()
        found.append((one.gradient(theta), one.hvp(theta, np.ones(len(theta)))))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["rkc2", "auto"])
def test_the_flow_of_a_vector_deq_agrees(method: str) -> None:
    ends = []
    for device in ("cpu", "cuda"):
        one = classification(device)
        tree = gflow.integrate(one, one.model.initial(0), 3.0, method=method, rtol=1e-7, times=5)
        assert str(tree["flow"].status.values) == "t_end"
        ends.append(tree["flow"])
    np.testing.assert_allclose(ends[1].theta, ends[0].theta, atol=1e-5)
    np.testing.assert_allclose(ends[1].accuracy, ends[0].accuracy, atol=0.01)


class Cell(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.state, self.inputs = torch.nn.Linear(5, 5), torch.nn.Linear(4, 5)
        torch.nn.init.orthogonal_(self.state.weight, gain=0.5)

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.state(z) + self.inputs(x))
