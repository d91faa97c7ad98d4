"""Inputs of several problems, which nothing copies unless all are asked for."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from gflow.compiled import samples
from gflow.compiled.inputs import OwnInputs
from gflow.flows import gradient_flow
from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.problem import Problem
from gflow.stacking import ProblemStack


def _problems(model, rows=3, n=20):
    rng = np.random.default_rng(0)
    return [Problem(model, rng.normal(size=(n, 2)), rng.normal(size=n)) for _ in range(rows)]


def test_a_stack_has_the_inputs_of_each():
    problems = _problems(SingleIndexDEQ(2))
    stack = ProblemStack(problems)
    assert isinstance(stack.inputs, OwnInputs)
    assert stack.own_inputs
    assert stack.n_samples == 20
    assert torch.equal(stack.x, torch.stack([problem.x for problem in problems]))
    assert stack.x.mT.is_contiguous()
    part = stack.select(torch.tensor([2, 0, 2]))
    assert torch.equal(part.x, stack.x[[2, 0, 2]])
    assert torch.equal(part.y, stack.y[[2, 0, 2]])


def test_shared_inputs_are_those_of_one():
    first, *_ = problems = _problems(SingleIndexDEQ(2))
    stack = ProblemStack([Problem(first.model, first.x, problem.y) for problem in problems])
    assert not stack.own_inputs
    assert stack.x.shape == (20, 2)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda stack: pickle.loads(pickle.dumps(stack))])
def test_a_stack_can_be_copied(again):
    stack = ProblemStack(_problems(LinearDEQ(2)))
    places = stack.inputs.places.tolist()
    other = again(stack)
    assert torch.equal(other.x, stack.x)
    assert other.inputs.places.tolist() == [x.data_ptr() for x in other.inputs._each]
    assert not set(places) & set(other.inputs.places.tolist())


def test_places_are_told_where_c_can_read():
    x = torch.zeros(2, 5, dtype=torch.float64).mT
    assert OwnInputs([x, x]).places.tolist() == [x.data_ptr()] * 2
    assert OwnInputs([x, x.float()]).places is None
    assert OwnInputs([x, x.contiguous()]).places is None
    assert OwnInputs([x, x.clone().requires_grad_()]).places is None


def test_a_field_by_c_copies_no_inputs(monkeypatch):
    monkeypatch.setattr(samples, "FEWEST", 1)
    stack = ProblemStack(_problems(SingleIndexDEQ(2)))
    theta = torch.full((3, 3), 0.1, dtype=torch.float64)
    expected = -torch.stack([p.gradient(theta[0]) for p in _problems(stack.model)])
    hessians = torch.stack([p.hessian(theta[0]) for p in _problems(stack.model)])
    monkeypatch.setattr(OwnInputs, "together", None)
    field = gradient_flow(stack)
    torch.testing.assert_close(field(0.0, theta), expected)
    torch.testing.assert_close(field.jacobian(0.0, theta), -hessians)
    rows = field.select(torch.tensor([1]))
    torch.testing.assert_close(rows(0.0, theta[1:2]), expected[1:2])
