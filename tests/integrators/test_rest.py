"""At rest: what no longer moves is told from what moves slowly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gflow.integrators.base import Field, Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.ensemble import integrate_ensemble
from gflow.integrators.plan import Plan
from gflow.integrators.registry import METHODS
from gflow.integrators.rest import GROWTH, LOOKS, Rest
from gflow.status import Status

SETTINGS = Settings(math.inf, 1e-6, 1e-9)
TIMES = 1.01 * GROWTH ** np.arange(1.0, 40.0)


def _looks(path, rows=1):
    """After how many looks the rows of path(t) are found at rest; 40 for never."""
    rest, found = Rest(np.ones(rows), path(np.ones(rows)), SETTINGS), np.full(rows, 40)
    for k, t in enumerate(TIMES, start=1):
        resting = rest(np.full(rows, t), path(np.full(rows, t)))
        found = np.where(resting & (found == 40), k, found)
    return found.tolist()


def _column(values):
    return torch.as_tensor(values, dtype=torch.float64)[:, None]


def test_what_stands_still_is_at_rest_after_as_many_looks():
    assert _looks(lambda t: _column(1.0 + 0 * t)) == [LOOKS]


def test_rounding_at_rest_is_no_movement():
    rng = np.random.default_rng(0)
    assert _looks(lambda t: _column(1.0 + 1e-10 * rng.normal(size=len(t)))) == [LOOKS]


@pytest.mark.parametrize("path", [np.log, lambda t: 1 + t**-0.1, lambda t: 1 - t**-0.2])
def test_what_moves_slowly_is_not(path):
    """A look apart, 1 + t^-0.1 moves by 1e-6 up to t = 1e53."""
    assert _looks(lambda t: _column(path(t))) == [40]


def test_rows_are_watched_by_themselves_and_can_be_selected():
    rest = Rest(np.ones(3), torch.zeros(3, 1, dtype=torch.float64), SETTINGS)
    for t in TIMES[: LOOKS - 1]:
        assert not rest(np.full(3, t), _column([0.0, t, 0.0])).any()
    rest.select(np.array([1, 2]))
    assert rest(np.full(2, TIMES[LOOKS - 1]), _column([1.0, 0.0])).tolist() == [False, True]


def _decay():
    return Field(
        lambda t, y: 1.0 - y,
        jacobian=lambda t, y: -torch.eye(len(y), dtype=y.dtype),
        symmetric=True,
        autonomous=True,
    )


@pytest.mark.parametrize("name", ["native:exprb43", "native:expcol8", "scipy:LSODA"])
def test_an_endless_flow_at_rest_is_given_up(name):
    start = torch.tensor([3.0, -2.0], dtype=torch.float64)
    found = integrate_field(_decay(), start, METHODS[name], SETTINGS, max_steps=1000)
    assert found.status is Status.STALLED
    assert 1e4 < float(found.t[-1]) < 1e10
    assert torch.allclose(found.theta[-1], torch.ones(2, dtype=torch.float64), atol=1e-6)


def test_an_end_that_is_asked_for_is_reached():
    settings = Settings(1e12, 1e-6, 1e-9)
    start = torch.ones(2, dtype=torch.float64)
    found = integrate_field(_decay(), start, METHODS["native:exprb43"], settings)
    assert found.status is Status.T_END


def test_a_flow_that_grows_like_a_logarithm_goes_on():
    field = Field(
        lambda t, y: torch.exp(-y),
        jacobian=lambda t, y: -torch.diag(torch.exp(-y)),
        symmetric=True,
        autonomous=True,
    )
    start = torch.zeros(1, dtype=torch.float64)
    found = integrate_field(field, start, METHODS["native:expcol8"], SETTINGS, max_steps=60)
    assert found.status is Status.STEP_LIMIT
    assert float(found.t[-1]) > 4 * GROWTH**LOOKS
    assert float(found.theta[-1]) == pytest.approx(math.log(float(found.t[-1])), rel=1e-5)


def test_an_ensemble_lets_go_of_rows_at_rest():
    eye = torch.eye(2, dtype=torch.float64)
    field = Field(
        lambda t, y: 1.0 - y,
        jacobian=lambda t, y: -eye.expand(len(y), 2, 2),
        symmetric=True,
        autonomous=True,
        batched=True,
    )
    starts = torch.tensor([[3.0, -2.0], [1.0, 1.0], [0.0, 5.0]], dtype=torch.float64)
    plan = Plan(METHODS["native:exprb43"], SETTINGS, lambda i: _decay(), max_steps=1000)
    found = integrate_ensemble(field, starts, torch.zeros(1, dtype=torch.float64), plan)
    assert [each.status for each in found] == [Status.STALLED] * 3
    assert all(1e-3 < float(each.t[-1]) < 1e12 for each in found)
