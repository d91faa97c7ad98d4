"""Rule R1: the explicit pair's coefficients satisfy the order conditions of rooted trees."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gflow.integrators.base import Field, Settings
from gflow.integrators.explicit import TSIT5, TSIT5_METHOD, Tableau


def _partitions(total, largest):
    if total == 0:
        yield ()
    for part in range(min(total, largest), 0, -1):
        for rest in _partitions(total - part, part):
            yield (part, *rest)


def _trees(order):
    """Rooted trees with `order` nodes; a tree is the tuple of its root's branches."""
    found = set()
    for parts in _partitions(order - 1, order - 1):
        forests = {()}
        for size in parts:
            forests = {tuple(sorted((*f, tree))) for f in forests for tree in _trees(size)}
        found |= forests
    return found


def _size(tree):
    return 1 + sum(_size(branch) for branch in tree)


def _density(tree):
    return _size(tree) * math.prod(_density(branch) for branch in tree)


def _weight(tree, a):
    """The elementary weight of every stage as if it were the root."""
    product = np.ones(len(a))
    for branch in tree:
        product = product * (a @ _weight(branch, a))
    return product


MATRIX = np.zeros((7, 7))
for _i, _row in enumerate(TSIT5.a):
    MATRIX[_i, : len(_row)] = _row
SOLUTION = MATRIX[-1]
EMBEDDED = SOLUTION - TSIT5.error
UP_TO_FOUR = 8
TREES = [tree for order in range(1, 6) for tree in sorted(_trees(order))]


def test_there_are_seventeen_trees_up_to_order_five():
    counts = [len(_trees(order)) for order in range(1, 7)]
    assert counts == [1, 1, 2, 4, 9, 20]
    assert len(TREES) == 17
    assert sum(_size(tree) <= 4 for tree in TREES[:UP_TO_FOUR]) == UP_TO_FOUR
    bushy, tall = ((),) * 4, (((((),),),),)
    assert (_density(bushy), _density(tall)) == (5, 120)


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_the_solution_is_of_order_five(tree):
    assert SOLUTION @ _weight(tree, MATRIX) == pytest.approx(1 / _density(tree), abs=3e-14)


def test_the_embedded_solution_is_of_order_four_and_no_more():
    missed = [EMBEDDED @ _weight(tree, MATRIX) - 1 / _density(tree) for tree in TREES]
    assert np.abs(missed[:UP_TO_FOUR]).max() < 3e-14
    assert np.abs(missed[UP_TO_FOUR:]).max() > 1e-5


@pytest.mark.parametrize("x", [0.0, 0.1, 0.37, 0.5, 0.8, 1.0])
def test_dense_output_is_of_order_four_everywhere(x):
    weights = TSIT5.dense @ x ** np.arange(1, 5)
    for tree in TREES[:UP_TO_FOUR]:
        exact = x ** _size(tree) / _density(tree)
        assert weights @ _weight(tree, MATRIX) == pytest.approx(exact, abs=2e-14)


def test_dense_output_joins_smoothly():
    """Its slopes at both ends are the field there, which are the first and the last stage."""
    slopes = [TSIT5.dense[:, 0], TSIT5.dense @ np.arange(1, 5)]
    np.testing.assert_allclose(slopes, [np.eye(7)[0], np.eye(7)[-1]], rtol=0, atol=1e-13)


@pytest.mark.parametrize("part", ["c", "a", "error", "dense"])
def test_one_wrong_digit_is_found(part):
    value = getattr(TSIT5, part)
    if part == "a":
        wrong = (*value[:4], (value[4][0] + 1e-9, *value[4][1:]), *value[5:])
    else:
        wrong = value.copy()
        wrong[3] += 1e-9
    with pytest.raises(ValueError, match="violates its own identities"):
        replace(TSIT5, **{part: wrong})
    assert isinstance(replace(TSIT5, **{part: value}), Tableau)


def _turning(calls=None):
    def function(t, y):
        if calls is not None:
            calls.append((t.copy(), y.clone()))
        speed = torch.as_tensor(1 + t, dtype=y.dtype)[:, None]
        return speed * torch.stack([-y[:, 1], y[:, 0]], dim=-1)

    return Field(function, batched=True)


def test_the_last_stage_is_the_next_first():
    calls = []
    field = _turning(calls)
    theta, dt = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double(), np.array([0.1, 0.2])
    settings = Settings(5.0, 1e-4, 1e-9)
    state = TSIT5_METHOD.start(field, np.zeros(2), theta, settings, dt)
    for _ in range(3):
        before = len(calls)
        state, step = TSIT5_METHOD.advance(field, state)
        assert len(calls) - before == 6
        assert step.accepted.all()
        assert torch.equal(state.cache["value"], field.function(state.t, state.theta))
        calls.pop()
        times, points = calls[-1]
        np.testing.assert_allclose(times, step.t1, rtol=1e-15)
        assert torch.equal(points, state.theta)


def test_a_rejected_row_keeps_its_first_stage():
    theta, settings = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double(), Settings(5.0, 1e-8, 1e-9)
    start = TSIT5_METHOD.start(_turning(), np.zeros(2), theta, settings, np.array([0.01, 3.0]))
    state, step = TSIT5_METHOD.advance(_turning(), start)
    assert step.accepted.tolist() == [True, False]
    assert state.t.tolist() == [0.01, 0.0]
    assert torch.equal(state.cache["value"][1], start.cache["value"][1])
    assert torch.equal(state.theta[1], theta[1])
    assert state.dt[1] < 3.0


def test_stages_stand_at_their_nodes():
    calls = []
    field, dt = _turning(calls), np.array([0.1, 0.2])
    theta = torch.ones(2, 2, dtype=torch.float64)
    state = TSIT5_METHOD.start(field, np.array([1.0, 2.0]), theta, Settings(5.0), dt)
    calls.clear()
    TSIT5_METHOD.advance(field, state)
    times = [[1.0, 2.0] + node * dt for node in TSIT5.c[1:]]
    np.testing.assert_allclose([t for t, _ in calls], times, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_output_is_evaluated_row_by_row(dtype):
    theta = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=dtype)
    settings = Settings(5.0, 1e-4, 1e-6)
    state = TSIT5_METHOD.start(_turning(), np.zeros(2), theta, settings, np.array([0.1, 0.2]))
    _, step = TSIT5_METHOD.advance(_turning(), state)
    rows, x = torch.tensor([1, 0, 1, 1]), torch.tensor([0.5, 0.25, 0.0, 1.0], dtype=dtype)
    found = step.dense(rows, x)
    assert found.dtype == dtype
    times = x.double() * torch.tensor([0.2, 0.1, 0.2, 0.2]).double()
    angle = times + times**2 / 2 + torch.tensor([np.pi / 2, 0, np.pi / 2, np.pi / 2])
    size = torch.tensor([2.0, 1.0, 2.0, 2.0]).double()[:, None]
    exact = size * torch.stack([torch.cos(angle), torch.sin(angle)], dim=-1)
    assert torch.allclose(found.double(), exact, rtol=0, atol=1e-6)
