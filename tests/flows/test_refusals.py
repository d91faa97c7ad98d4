"""What a flow refuses, and how it says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gflow
from gflow.errors import ProblemError
from gflow.flows import HeavyBall, ModifiedFlow, NaturalFlow, Preconditioned, parse_flow
from gflow.flows.natural import conjugate_gradients

X = np.random.default_rng(1).normal(size=(8, 2))


def _problem(model=None, **how):
    return gflow.Problem(model or gflow.SingleIndexDEQ(2, "tanh"), X, np.tanh(X[:, 0]), **how)


def _objective():
    return gflow.Objective(lambda theta: (theta**2).sum(), 3)


SENTENCES = {
    "kind": (lambda: parse_flow("nesterow"), 'flow "nesterow" is unknown; did you mean "nesterov"'),
    "numbers": (
        lambda: parse_flow("heavy_ball:-1"),
        'flow is "heavy_ball:-1"; it must be heavy_ball:MASS, MASS > 0.',
    ),
    "no numbers": (
        lambda: parse_flow("natural"),
        'flow is "natural"; it must be natural:LAMBDA, LAMBDA >= 0.',
    ),
    "decay": (
        lambda: parse_flow("gradient", -0.1),
        "weight_decay is -0.1; it must be a finite number of at least 0.",
    ),
    "mass": (lambda: HeavyBall(0.0), "mass is 0.0; it must be a positive finite number."),
    "backward": (
        lambda: gflow.integrate(_problem(backward="jfb"), np.zeros(3), 1.0, flow="modified:0.1"),
        'flow "modified:0.1" needs the exact backward, not "jfb"',
    ),
    "metric": (
        lambda: gflow.integrate(_objective(), np.ones(3), 1.0, flow="natural:0.1"),
        'flow "natural:0.1" needs a model on data; give the objective a metric',
    ),
    "block": (
        lambda: gflow.integrate(_problem(), np.zeros(3), 1.0, flow="scaled:theta_1=2"),
        '"theta_1" is no block of the parameters; did you mean "theta1" or "theta2"? '
        'Choose from "theta1", "theta2".',
    ),
    "size": (
        lambda: gflow.descend(_problem(), np.zeros(3), [0.1], 1.0, flow=Preconditioned(np.eye(2))),
        r"the matrix of a preconditioned flow has shape \(2, 2\); the problem has 3 parameters",
    ),
    "unsymmetric": (lambda: Preconditioned([[1.0, 0.5], [0.0, 1.0]]), "matrix has shape"),
    "indefinite": (lambda: Preconditioned(np.diag([1.0, -1.0])), "matrix has shape"),
    "negative": (lambda: Preconditioned([1.0, 0.0]), "matrix has shape"),
    "words": (lambda: Preconditioned("theta"), "matrix cannot be read as an array of numbers"),
    "rate": (
        lambda: Preconditioned({"theta1": -1.0}),
        "the rate of theta1 is -1.0; it must be a positive finite number.",
    ),
    "schedule": (
        lambda: gflow.descend(_problem(), np.zeros(3), [0.1], 1.0, schedule="cosin"),
        'schedule is "cosin"; it must be constant, linear, cosine, warmup:F',
    ),
    "nesterov": (
        lambda: gflow.compare(
            _problem(), np.zeros(3), [0.1], 1.0, flow="nesterov", schedule="linear"
        ),
        'flow "nesterov" has no schedule of step sizes, its updates count on one; leave '
        'schedule = "linear" out.',
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_what_is_wrong_is_told(case):
    attempt, sentence = SENTENCES[case]
    with pytest.raises(ProblemError, match=sentence.replace("?", r"\?")):
        attempt()


def test_a_singular_metric_ends_the_flow_and_the_descent_with_a_sentence():
    """A linear DEQ's outputs leave one direction of theta alone."""
    problem = _problem(gflow.LinearDEQ(2))
    start = [0.1, 0.2, 0.3]
    told = "0 I of the natural gradient is singular or could not be solved with; raise LAMBDA"
    flow = gflow.integrate(problem, start, 1.0, flow="natural:0")["flow"]
    assert str(flow.status.values) == "nonfinite_start"
    assert told in str(flow.status_message.values)
    rows = gflow.integrate(problem, [start, start], 1.0, flow="natural:0")["flow"]
    assert rows.status.values.tolist() == ["nonfinite_start"] * 2
    assert told in str(rows.status_message[1].values)
    descent = gflow.descend(problem, start, [0.1, 0.2], 1.0, flow="natural:0")["descent"]
    assert descent.status.values.tolist() == ["nonfinite"] * 2
    assert told in str(descent.status_message[0].values)
    assert descent["update"].max("record").values.tolist() == [0, 0]


def test_a_regular_metric_needs_no_damping():
    flow = gflow.integrate(_problem(), [0.3, 0.2, 0.1], 1.0, flow="natural:0")["flow"]
    assert str(flow.status.values) == "t_end"
    assert float(flow.loss[-1]) < 0.5 * float(flow.loss[0])


def test_conjugate_gradients_solve_rows_and_hold_nan_where_they_cannot():
    rng = np.random.default_rng(0)
    roots = torch.from_numpy(rng.normal(size=(3, 20, 20)))
    matrix = roots @ roots.mT + torch.eye(20)
    right = torch.from_numpy(rng.normal(size=(3, 20)))
    right[1] = 0.0
    product = lambda v: (matrix @ v[..., None])[..., 0]  # noqa: E731
    found = conjugate_gradients(product, right)
    assert torch.allclose(found, torch.linalg.solve(matrix, right), rtol=1e-8, atol=1e-10)
    matrix[2, 0, 0] = torch.nan
    found = conjugate_gradients(product, right)
    assert found.isnan().any(-1).tolist() == [False, False, True]


@pytest.mark.parametrize("batch", [False, True])
def test_the_natural_field_is_the_same_by_factors_and_by_conjugate_gradients(monkeypatch, batch):
    problem = _problem()
    theta = problem.theta([[0.3, 0.2, 0.1], [0.1, -0.4, 0.5]])
    theta, t = (theta, np.zeros(2)) if batch else (theta[0], 0.0)
    given = []
    for most in (500, 0):
        monkeypatch.setattr("gflow.flows.natural.DENSE", most)
        field = gflow.flows.flow_field(NaturalFlow(0.05), problem)
        given.append((field.function(t, theta), field.jvp(t, theta, torch.ones_like(theta))))
    for mine, theirs in zip(*given, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-8, atol=1e-9)


def test_the_jacobian_of_many_parameters_is_not_formed(monkeypatch):
    monkeypatch.setattr("gflow.flows.natural.AFFORDABLE", 2)
    assert gflow.flows.flow_field(NaturalFlow(0.05), _problem()).jacobian is None
    tree = gflow.integrate(_problem(), [0.3, 0.2, 0.1], 2.0, flow="natural:0.05", rtol=1e-8)
    assert float(abs(tree["flow"].energy_residual).max()) < 1e-7


def test_a_flow_keeps_its_own_weight_decay_unless_another_is_given():
    flow = ModifiedFlow(0.1, weight_decay=0.2)
    assert parse_flow(flow) is flow
    assert parse_flow(flow, 0.3).weight_decay == 0.3
