"""Choosing a method: what is asked for, what suits the field, and why."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gflow.errors import MethodError
from gflow.flows import gradient_flow
from gflow.integrators.auto import DENSE_LIMIT, STIFF, choose
from gflow.integrators.base import Breakdown, Field
from gflow.integrators.registry import METHODS
from gflow.models import LinearDEQ
from gflow.problem import Problem
from gflow.status import Status

MANY = DENSE_LIMIT + 1


def _diagonal(rates, dense=True, symmetric=True):
    """theta' = rates * theta, with its Jacobian dense or as a product only."""
    return Field(
        lambda t, y: rates * y,
        jacobian=(lambda t, y: torch.diag(rates)) if dense else None,
        jvp=lambda t, y, v: rates * v,
        symmetric=symmetric,
    )


def _choose(field, size, t_end=1.0, rtol=1e-6, dtype=torch.float64):
    method, reason = choose("auto", field, torch.ones(size, dtype=dtype), t_end, rtol)
    assert reason.startswith(f"auto chose {method.info.name}: ")
    return method.info.name, reason


@pytest.mark.parametrize("name", ["scipy:Radau", "radau", "RADAU"])
def test_a_name_is_taken_as_asked(name):
    method, reason = choose(name, Field(lambda t, y: -y), torch.ones(2).double(), 1.0, 1e-6)
    assert method is METHODS["scipy:Radau"]
    assert reason == "scipy:Radau, as asked"


def test_auto_in_any_case_is_auto_and_another_name_is_unknown():
    rates = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    assert choose("Auto", _diagonal(rates), rates, 1.0, 1e-6)[0] is METHODS["scipy:DOP853"]
    with pytest.raises(MethodError, match='"LSODE" is unknown; did you mean "LSODA"'):
        choose("LSODE", _diagonal(rates), rates, 1.0, 1e-6)


@pytest.mark.parametrize(
    ("rtol", "dtype", "floor"),
    [
        (9e-14, torch.float64, "1e-13"),
        (1.0, torch.float64, "1e-13"),
        (math.nan, torch.float64, "1e-13"),
        (-1e-3, torch.float64, "1e-13"),
        (9e-6, torch.float32, "1e-05"),
    ],
)
@pytest.mark.parametrize("name", ["auto", "dopri5"])
def test_a_tolerance_that_the_dtype_cannot_hold_is_refused(name, rtol, dtype, floor):
    with pytest.raises(MethodError) as refusal:
        choose(name, Field(lambda t, y: -y), torch.ones(2, dtype=dtype), 1.0, rtol)
    assert str(refusal.value) == (
        f"rtol is {rtol:g}; in {str(dtype).removeprefix('torch.')} it must be at least {floor} "
        "and below 1."
    )


@pytest.mark.parametrize(("rtol", "expected"), [(1e-3, "scipy:RK45"), (9e-5, "scipy:DOP853")])
def test_what_is_not_stiff_gets_an_explicit_method(rtol, expected):
    rates = torch.tensor([-0.1, -STIFF], dtype=torch.float64)
    name, reason = _choose(_diagonal(rates), 2, rtol=rtol)
    assert name == expected
    assert "not stiff (fastest rate 500 times t_end 1 is 500, at most 500)" in reason


def test_what_is_stiff_gets_lsoda_and_the_exact_jacobian():
    rates = torch.tensor([-0.1, -STIFF - 1], dtype=torch.float64)
    name, reason = _choose(_diagonal(rates), 2)
    assert name == "scipy:LSODA"
    assert "stiff (fastest rate 501 times t_end 1 is 501) and P = 2 allows the exact Ja" in reason


@pytest.mark.parametrize("symmetric", [True, False])
def test_stiffness_grows_with_the_interval_and_counts_growth_too(symmetric):
    """The rate is a largest absolute value, of a symmetric Jacobian or of another."""
    field = _diagonal(torch.tensor([3.0, -1.0], dtype=torch.float64), symmetric=symmetric)
    assert _choose(field, 2, t_end=STIFF / 3.1)[0] == "scipy:DOP853"
    assert _choose(field, 2, t_end=STIFF / 2.9)[0] == "scipy:LSODA"
    assert _choose(field, 2, t_end=math.inf)[0] == "scipy:LSODA"


def test_an_unsymmetric_jacobian_is_not_read_as_a_symmetric_one():
    """A nilpotent Jacobian has rate 0, though its symmetric part has not."""
    shear = torch.tensor([[0.0, 1e6], [0.0, 0.0]], dtype=torch.float64)
    field = Field(lambda t, y: shear @ y, jacobian=lambda t, y: shear)
    name, reason = _choose(field, 2)
    assert name == "scipy:DOP853"
    assert "fastest rate 0 times" in reason


def test_a_still_field_is_not_stiff_on_an_infinite_interval():
    zeros = torch.zeros(2, dtype=torch.float64)
    assert _choose(_diagonal(zeros), 2, t_end=math.inf)[0] == "scipy:DOP853"
    assert _choose(_diagonal(torch.zeros(MANY).double(), dense=False), MANY)[0] == (
        "torchdiffeq:dopri5"
    )


def test_without_a_jacobian_lsoda_looks_itself_while_it_can():
    field = Field(lambda t, y: -1e6 * y)
    assert _choose(field, DENSE_LIMIT) == (
        "scipy:LSODA",
        "auto chose scipy:LSODA: the field offers no Jacobian, and LSODA finds stiffness itself",
    )
    assert _choose(field, MANY) == (
        "torchdiffeq:dopri5",
        "auto chose torchdiffeq:dopri5: no Jacobian is known and P = 501 is too many for a dense "
        "one",
    )


def test_many_parameters_are_measured_by_products_alone():
    """The dense Jacobian is never formed; the power iteration finds the fastest rate."""

    def forbidden(t, y):
        raise AssertionError("a dense Jacobian was asked for")

    rates = -(torch.linspace(0, 1, MANY, dtype=torch.float64) ** 8) * 900
    field = Field(
        lambda t, y: rates * y, jacobian=forbidden, jvp=lambda t, y, v: rates * v, symmetric=True
    )
    name, reason = _choose(field, MANY)
    assert name == "torchdiffeq:dopri5"
    assert "but P = 501 exceeds 500, too many for a dense Jacobian" in reason
    rate = float(reason.partition("fastest rate ")[2].partition(" ")[0])
    assert rate == pytest.approx(900, rel=0.1)
    cost = float(reason.partition("about ")[2].partition(" ")[0])
    assert cost == pytest.approx(2 * rate, rel=0.05)
    assert "not stiff" in _choose(field, MANY, t_end=0.1)[1]


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_jacobian_that_is_not_finite_is_said_so(dense, value):
    size = 2 if dense else MANY
    field = _diagonal(torch.full((size,), value, dtype=torch.float64), dense=dense)
    name, reason = _choose(field, size)
    assert name == ("scipy:DOP853" if dense else "torchdiffeq:dopri5")
    assert reason.endswith("the stiffness could not be measured at the start")


@pytest.mark.parametrize("failure", [Breakdown(Status.NONFINITE, "no value"), RuntimeError("no")])
def test_a_jacobian_that_fails_is_no_obstacle(failure):
    def jacobian(t, y):
        raise failure

    field = Field(lambda t, y: -y, jacobian=jacobian)
    assert _choose(field, 2)[1].endswith("the stiffness could not be measured at the start")


def test_single_precision_stays_in_torch():
    rates = torch.tensor([-1.0, -2.0])
    name, _ = _choose(_diagonal(rates), 2, rtol=1e-4, dtype=torch.float32)
    assert name == "torchdiffeq:dopri5"


@pytest.mark.parametrize("dim", [1, MANY])
def test_a_start_without_equilibrium_is_left_to_the_run(dim):
    rng = np.random.default_rng(0)
    problem = Problem(LinearDEQ(dim), rng.normal(size=(4, dim)), rng.normal(size=4))
    start = torch.ones(dim + 1, dtype=torch.float64)
    reason = choose("auto", gradient_flow(problem), start, 1.0, 1e-6)[1]
    assert reason.endswith("the stiffness could not be measured at the start")
