"""Rule R9 for native methods: a run that is stopped goes on from its state, bit for bit."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch

import gflow.integrators.stiffness as stiffness
from gflow.flows import gradient_flow
from gflow.integrators.base import Settings
from gflow.integrators.explicit import TSIT5_METHOD
from gflow.integrators.exponential import EXPRB43
from gflow.integrators.native import NativeMethod
from gflow.integrators.registry import METHODS
from gflow.integrators.stiffness import StiffnessWatch, Switching
from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.problem import Problem

NATIVE = [method for method in METHODS.values() if isinstance(method, NativeMethod)]
each_method = pytest.mark.parametrize("method", NATIVE, ids=lambda method: method.info.name)


def _tanh():
    rng = np.random.default_rng(9)
    x = rng.normal(size=(30, 2))
    problem = Problem(SingleIndexDEQ(2, "tanh"), x, np.tanh(x @ [1.0, -0.7]))
    return problem, problem.theta([0.3, 0.4, 0.2])


def _linear():
    rng = np.random.default_rng(10)
    x = rng.normal(size=(30, 2)) * [1.0, 6.0]
    problem = Problem(LinearDEQ(2), x, x @ [1.0, -0.7])
    return problem, problem.theta([0.3, 0.4, 0.2])


def _through_a_pickle(state):
    return pickle.loads(pickle.dumps(state))


def _through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _check_continuation(method, make, keep, steps, begins):
    """From the state alone, on a field that remembers nothing."""
    problem, theta0 = make()
    settings = Settings(300.0, 1e-6, 1e-9)
    field = gradient_flow(problem)
    state = method.init(field, 0.0, theta0, settings)
    ends, kept = [], {}
    while len(ends) < steps and (not ends or ends[-1].t1 < settings.t_end):
        kept[len(ends)] = keep(state) if len(ends) in begins else None
        state, step = method.step(field, state)
        ends.append(step)
    assert len(ends) > max(begins)
    for begun in begins:
        fresh, again = gradient_flow(make()[0]), kept[begun]
        for expected in ends[begun:]:
            again, step = method.step(fresh, again)
            assert step.attempts == expected.attempts
            assert torch.equal(step.theta1, expected.theta1)
        middle = torch.tensor([(step.t0 + step.t1) / 2], dtype=torch.float64)
        assert torch.equal(step.interpolate(middle), expected.interpolate(middle))
        assert method.label(again) == method.label(state)
    return method.label(state)


@pytest.mark.parametrize("keep", [_through_a_pickle, _through_a_file])
@pytest.mark.parametrize("make", [_tanh, _linear])
@each_method
def test_a_run_that_is_stopped_goes_on_bit_for_bit(method, make, keep):
    _check_continuation(method, make, keep, 30, (0, 3, 12))


@pytest.mark.parametrize("make", [_tanh, _linear])
def test_a_run_goes_on_before_and_after_it_has_switched(make, monkeypatch):
    monkeypatch.setattr(stiffness, "FIRST_LOOK", 8)
    monkeypatch.setattr(stiffness, "LIMITED", 0.0)
    method = Switching(TSIT5_METHOD, EXPRB43, StiffnessWatch(0.0))
    label = _check_continuation(method, make, _through_a_pickle, 20, (0, 3, 12))
    assert label == "native:tsit5 then native:exprb43"
