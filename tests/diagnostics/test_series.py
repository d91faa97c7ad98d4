"""Diagnostics as a run goes are those of the whole run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gflow
from gflow.diagnostics import series
from gflow.diagnostics.pointwise import evaluate_pointwise
from gflow.diagnostics.series import Measures, Series

NAMES = ("loss", "gradient_norm", "conditioning", "singular_distance")


def _problem(model):
    x = np.random.default_rng(0).normal(size=(12, 2))
    return gflow.Problem(model, x, np.sin(x[:, 0]))


MODELS = [gflow.SingleIndexDEQ(2, "tanh"), gflow.VectorDEQ(2, 3, 1, "tanh")]


def _thetas(model, count=23):
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.normal(size=(count, model.n_parameters)) * 0.02, axis=0)
    return torch.from_numpy(walk)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_what_comes_out_does_not_depend_on_when_it_was_asked_for(model, monkeypatch):
    problem, theta = _problem(model), _thetas(model)
    monkeypatch.setattr(series, "CHUNK", 4 * problem.width * problem.n_parameters)
    once = Series(problem, NAMES)(theta)
    growing = Series(problem, NAMES)
    for count in (1, 3, 4, 5, 12, 13, 23):
        found = growing(theta[:count])
        assert all(len(values) == count for values in found.values())
    assert found.keys() == once.keys()
    for name, values in once.items():
        assert torch.equal(found[name], values), name
        plain = evaluate_pointwise(problem, theta, [name])[name]
        torch.testing.assert_close(values, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_where_a_run_is_at_the_moment_is_not_kept(size, monkeypatch):
    """The last row of a checkpoint is no save: the next save takes its place."""
    problem, theta = _problem(MODELS[0]), _thetas(MODELS[0])
    monkeypatch.setattr(series, "CHUNK", size * problem.width * problem.n_parameters)
    growing = Series(problem, NAMES)
    for count in range(1, 23):
        growing(torch.cat([theta[:count], theta[count : count + 1] * 0.5]))
    once = Series(problem, NAMES)(theta)
    assert all(torch.equal(values, once[name]) for name, values in growing(theta).items())


def test_a_whole_block_is_evaluated_once_more_at_most(monkeypatch):
    problem, theta = _problem(MODELS[0]), _thetas(MODELS[0])
    monkeypatch.setattr(series, "CHUNK", 4 * problem.width * problem.n_parameters)
    seen = []
    evaluate = series.evaluate_rows

    def counted(problem, theta, *arguments):
        seen.append(len(theta))
        return evaluate(problem, theta, *arguments)

    monkeypatch.setattr(series, "evaluate_rows", counted)
    growing = Series(problem, NAMES)
    for count in range(1, 13):
        growing(theta[:count])
    assert seen.count(4) == 5  # two blocks, and three times the last four saves


def test_an_interrupted_evaluation_leaves_nothing_behind(monkeypatch):
    problem, theta = _problem(MODELS[1]), _thetas(MODELS[1])
    monkeypatch.setattr(series, "CHUNK", 4 * problem.width * problem.n_parameters)
    growing, evaluate = Series(problem, NAMES), series.evaluate_rows

    def interrupted(*arguments):
        evaluate(*arguments)
        raise KeyboardInterrupt

    growing(theta[:5])
    with monkeypatch.context() as patched:
        patched.setattr(series, "evaluate_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            growing(theta[:12])
    once = Series(problem, NAMES)(theta)
    assert all(torch.equal(values, once[name]) for name, values in growing(theta).items())


def test_rows_of_different_lengths_are_padded():
    problem = _problem(MODELS[0])
    theta = torch.stack([_thetas(MODELS[0]), 2 * _thetas(MODELS[0])])
    measures = Measures(problem, None, {"gradient_norm": True}, jumps=True)
    found = measures.of_rows(theta, np.array([5, 23]))
    assert set(found) == {"loss", "gradient_norm"}
    for values in found.values():
        assert values.shape == (2, 23)
        assert torch.isnan(values[0, 5:]).all()
        assert torch.isfinite(values[0, :5]).all()
        assert torch.isfinite(values[1]).all()


def test_an_evaluation_set_is_measured_beside():
    problem = _problem(MODELS[0])
    beside = problem.on(np.ones((3, 2)), np.zeros(3))
    found = Measures(problem, beside, {"evaluation_loss": True}).at(0, _thetas(MODELS[0]))
    assert set(found) == {"loss", "evaluation_loss"}
    assert "evaluation_loss" not in Measures(problem, beside, {"evaluation_loss": False}).at(
        0, _thetas(MODELS[0])
    )
