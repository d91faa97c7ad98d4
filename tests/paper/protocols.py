"""The experiments of arXiv 2511.16976 as problems and starts, and the values recorded for them.

Recorded values are the results of the authors' public experiments (sanjitdp/single-index-deq, MIT);
flow values are integrations by two methods that agree to the digits tested.
"""

from __future__ import annotations

import numpy as np

import gflow


def uniform_inputs() -> np.ndarray:
    """The inputs of A.1 and A.2."""
    return np.random.default_rng(42).uniform(0, 1, 1000)


def small_start() -> np.ndarray:
    """The initial parameters of A.1 and A.2."""
    return np.random.default_rng(43).normal(0, 0.1, 2)


def linear_problem() -> gflow.Problem:
    """A.1: a linear DEQ in one dimension with target 2x."""
    x = uniform_inputs()
    return gflow.Problem(gflow.LinearDEQ(dim=1), x, 2 * x, theta_target=[2.0, 0.0])


def sigmoid_problem() -> gflow.Problem:
    """A.2: a sigmoid DEQ in one dimension with target sigmoid(2x)."""
    x = uniform_inputs()
    return gflow.Problem(gflow.SingleIndexDEQ(1, "sigmoid"), x, 1 / (1 + np.exp(-2 * x)))


def population_problem(backward: str) -> gflow.Problem:
    """A.3 linear: mean x^2 = 1 and target x, as one sample."""
    return gflow.Problem(gflow.LinearDEQ(dim=1), [1.0], [1.0], backward=backward)


def weak_problem(seed: int, epsilon: float) -> tuple[gflow.Problem, np.ndarray]:
    """A.4: sigma(u) = u + epsilon tanh(u), d = 10, n = 4096; the problem and its start."""
    rng = np.random.default_rng(seed)
    xi = rng.normal(size=10)
    xi /= np.linalg.norm(xi)
    x = rng.normal(size=(4096, 10))
    rng.normal(size=(16384, 10))
    v = rng.normal(size=10)
    v -= (v @ xi) * xi
    v /= np.linalg.norm(v)
    target = np.append(xi, 0.0)
    model = gflow.SingleIndexDEQ(10, f"weak-tanh:{epsilon}")
    y = gflow.Problem(model, x, np.zeros(len(x))).predict(target)
    start = target + 0.1 * np.append(-xi, 1.0) / np.sqrt(2) + 0.03 * np.append(v, 0.0)
    return gflow.Problem(model, x, y, theta_target=target), start


GD_PARAMETER_ERROR = {
    (1729, 0.5): 4.8438249524512784e-11,
    (1729, 0.25): 0.0003727139853491307,
    (1729, 0.125): 0.02221275880866144,
    (1731, 0.5): 1.8505375279239303e-10,
    (1731, 0.25): 0.0005338545811327774,
    (1731, 0.125): 0.02446947136092208,
}
"""A.4: |theta - theta_target| after 60,000 updates at eta = 0.05."""

FLOW_PARAMETER_ERROR = {
    (1729, 0.5): 4.861697619434365e-11,
    (1729, 0.25): 0.0003729173312345227,
    (1729, 0.125): 0.022218227779213014,
    (1731, 0.5): 1.8577024576369282e-10,
    (1731, 0.25): 0.0005341315013053961,
    (1731, 0.125): 0.02447551034136295,
}
"""A.4: the same for the flow at t = 3000."""


def agrees(error: float, expected: float, epsilon: float) -> bool:
    """A.4's tolerance: relative 1e-5, absolute 1e-10 where the error itself is of that size."""
    allowed = 1e-10 if epsilon == 0.5 else 1e-5 * expected
    return abs(error - expected) <= allowed
