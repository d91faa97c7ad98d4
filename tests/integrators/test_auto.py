"""Choosing a method: what is asked for, what suits the field, and why."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gflow.errors import MethodError
from gflow.flows import gradient_flow
from gflow.integrators.auto import (
    FACTORISED,
    MANY,
    STABLE,
    STIFF,
    TIGHT,
    choose,
    choose_ensemble,
)
from gflow.integrators.base import Breakdown, Field
from gflow.integrators.registry import METHODS
from gflow.integrators.stiffness import DENSE_LIMIT, Switching
from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.problem import Problem
from gflow.status import Status

LARGE = DENSE_LIMIT + 1


def _diagonal(rates, dense=True, symmetric=True):
    """theta' = rates * theta, with its Jacobian dense or as a product only."""
    return Field(
        lambda t, y: rates * y,
        jacobian=(lambda t, y: torch.diag(rates)) if dense else None,
        jvp=lambda t, y, v: rates * v,
        symmetric=symmetric,
    )


def _choose(field, size, t_end=1.0, rtol=1e-6, dtype=torch.float64):
    """The method's name, after which a method that may take over on the way, and the reason."""
    method, reason = choose("auto", field, torch.ones(size, dtype=dtype), t_end, rtol)
    assert reason.startswith(f"auto chose {method.info.name}: ")
    names = [method.info.name]
    if isinstance(method, Switching):
        names.append(method.other.info.name)
    return " or ".join(names), reason


WATCHED = "native:tsit5 or native:expcol8"
BEYOND = "native:tsit5 or native:rkc4"


@pytest.mark.parametrize("name", ["scipy:Radau", "radau", "RADAU"])
def test_a_name_is_taken_as_asked(name):
    method, reason = choose(name, Field(lambda t, y: -y), torch.ones(2).double(), 1.0, 1e-6)
    assert method is METHODS["scipy:Radau"]
    assert reason == "scipy:Radau, as asked"


def test_auto_in_any_case_is_auto_and_another_name_is_unknown():
    rates = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    assert choose("Auto", _diagonal(rates), rates, 1.0, 1e-9)[0] is METHODS["native:expcol8"]
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


@pytest.mark.parametrize(
    ("rtol", "size", "expected"),
    [
        (1e-3, 2, WATCHED),
        (TIGHT, 2, WATCHED),
        (0.9 * TIGHT, 50, "native:expcol8"),
        (0.9 * TIGHT, 51, "scipy:LSODA"),
    ],
)
def test_what_is_not_stiff_gets_an_explicit_method_or_one_of_high_order(rtol, size, expected):
    rates = torch.full((size,), -STIFF, dtype=torch.float64)
    name, reason = _choose(_diagonal(rates), size, rtol=rtol)
    assert name == expected
    assert "not stiff (fastest rate 500 times t_end 1 is 500, at most 500)" in reason


@pytest.mark.parametrize(
    ("rtol", "expected", "why"),
    [
        (1e-3, "native:expcol8", "and P = 2 allows the exact Jacobian"),
        (1e-6, "native:expcol8", "and P = 2 allows the exact Jacobian"),
        (1e-12, "native:expcol8", "and P = 2 allows the exact Jacobian"),
    ],
)
def test_what_is_stiff_gets_the_exact_jacobian(rtol, expected, why):
    rates = torch.tensor([-0.1, -STIFF - 1], dtype=torch.float64)
    name, reason = _choose(_diagonal(rates), 2, rtol=rtol)
    assert name == expected
    assert reason.endswith(f"stiff (fastest rate 501 times t_end 1 is 501) {why}")


@pytest.mark.parametrize("symmetric", [True, False])
def test_stiffness_grows_with_the_interval_and_counts_growth_too(symmetric):
    """The rate is a largest absolute value, of a symmetric Jacobian or of another."""
    field = _diagonal(torch.tensor([3.0, -1.0], dtype=torch.float64), symmetric=symmetric)
    assert _choose(field, 2, t_end=STIFF / 3.1)[0] == WATCHED
    assert _choose(field, 2, t_end=STIFF / 2.9)[0] == "native:expcol8"
    assert _choose(field, 2, t_end=math.inf)[0] == "native:expcol8"


def test_an_unsymmetric_jacobian_is_not_read_as_a_symmetric_one():
    """A nilpotent Jacobian has rate 0, though its symmetric part has not."""
    shear = torch.tensor([[0.0, 1e6], [0.0, 0.0]], dtype=torch.float64)
    field = Field(lambda t, y: shear @ y, jacobian=lambda t, y: shear)
    name, reason = _choose(field, 2)
    assert name == WATCHED
    assert "fastest rate 0 times" in reason


def test_a_still_field_is_not_stiff_on_an_infinite_interval():
    zeros = torch.zeros(2, dtype=torch.float64)
    assert _choose(_diagonal(zeros), 2, t_end=math.inf)[0] == WATCHED
    many = _diagonal(torch.zeros(LARGE, dtype=torch.float64), dense=False)
    assert _choose(many, LARGE, t_end=math.inf)[0] == BEYOND


def test_without_a_jacobian_lsoda_looks_itself_while_it_can():
    field = Field(lambda t, y: -1e6 * y)
    assert _choose(field, DENSE_LIMIT) == (
        "scipy:LSODA",
        "auto chose scipy:LSODA: the field offers no Jacobian, and LSODA finds stiffness itself",
    )
    assert _choose(field, LARGE) == (
        BEYOND,
        "auto chose native:tsit5: no Jacobian is known and P = 501 is large",
    )


def test_many_parameters_are_measured_by_products_alone():
    """The dense Jacobian is never formed; the power iteration finds the fastest rate."""

    def forbidden(t, y):
        raise AssertionError("a dense Jacobian was asked for")

    rates = -(torch.linspace(0, 1, LARGE, dtype=torch.float64) ** 8) * 900
    field = Field(
        lambda t, y: rates * y, jacobian=forbidden, jvp=lambda t, y, v: rates * v, symmetric=True
    )
    name, reason = _choose(field, LARGE)
    assert name == "native:rkc4"
    assert reason.endswith("and P = 501 is too many for a dense one")
    rate = float(reason.partition("fastest rate ")[2].partition(" ")[0])
    assert rate == pytest.approx(900, rel=0.1)
    name, reason = _choose(field, LARGE, t_end=0.1)
    assert name == BEYOND
    assert "not stiff" in reason


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_jacobian_that_is_not_finite_is_said_so(dense, value):
    size = 2 if dense else LARGE
    field = _diagonal(torch.full((size,), value, dtype=torch.float64), dense=dense)
    name, reason = _choose(field, size)
    assert name == (WATCHED if dense else BEYOND)
    assert reason.endswith("the stiffness could not be measured at the start")


@pytest.mark.parametrize("failure", [Breakdown(Status.NONFINITE, "no value"), RuntimeError("no")])
def test_a_jacobian_that_fails_is_no_obstacle(failure):
    def jacobian(t, y):
        raise failure

    field = Field(lambda t, y: -y, jacobian=jacobian, batched=True)
    assert _choose(field, 2)[1].endswith("the stiffness could not be measured at the start")
    choice = choose_ensemble("auto", field, torch.ones(3, 2).double(), 1.0, 1e-6)
    assert choice.method is METHODS["native:tsit5"]


def test_single_precision_stays_in_torch():
    def name(*rates):
        return _choose(_diagonal(torch.tensor(rates)), 2, rtol=1e-4, dtype=torch.float32)[0]

    assert name(-1.0, -2.0) == "native:tsit5 or native:exprb43"
    assert name(-1.0, -2000.0) == "native:exprb43"
    bare = Field(lambda t, y: -y)
    assert _choose(bare, 2, rtol=1e-4, dtype=torch.float32)[0].startswith("native:tsit5 or ")


@pytest.mark.parametrize("dim", [1, LARGE])
def test_a_start_without_equilibrium_is_left_to_the_run(dim):
    rng = np.random.default_rng(0)
    problem = Problem(LinearDEQ(dim), rng.normal(size=(4, dim)), rng.normal(size=4))
    start = torch.ones(dim + 1, dtype=torch.float64)
    reason = choose("auto", gradient_flow(problem), start, 1.0, 1e-6)[1]
    assert reason.endswith("the stiffness could not be measured at the start")


def _rows(rates, dense=True):
    """theta' = -rate theta with a rate for each row (B,), two parameters or LARGE."""
    rates = torch.as_tensor(rates, dtype=torch.float64)[:, None]
    size = 2 if dense else LARGE
    eye = torch.eye(size, dtype=torch.float64)
    field = Field(
        lambda t, y: -rates * y,
        jacobian=(lambda t, y: -rates[:, :, None] * eye) if dense else None,
        jvp=lambda t, y, v: -rates * v,
        symmetric=True,
        batched=True,
    )
    return field, torch.ones(len(rates), size, dtype=torch.float64)


def _choose_ensemble(rates, t_end=10.0, rtol=1e-6, dense=True):
    choice = choose_ensemble("auto", *_rows(rates, dense), t_end, rtol)
    assert choice.reason.startswith(f"auto chose {choice.method.info.name}: ")
    return choice


def test_an_ensemble_takes_a_name_as_asked_and_refuses_what_cannot_be_held():
    choice = choose_ensemble("RADAU", *_rows([1.0]), 1.0, 1e-6)
    assert (choice.method, choice.switch, choice.other) == (METHODS["scipy:Radau"], None, None)
    assert choice.reason == "scipy:Radau, as asked"
    with pytest.raises(MethodError, match="must be at least 1e-13"):
        choose_ensemble("auto", *_rows([1.0]), 1.0, 1e-14)


@pytest.mark.parametrize(("dense", "other"), [(True, "native:expcol8"), (False, "native:rkc4")])
def test_a_mild_ensemble_is_watched_and_a_stiff_one_is_not(dense, other):
    """What decides is the steps that stability asks of half of the rows."""
    mild = _choose_ensemble([1.0, 2.0, 3.0, 1e6, 1e6], dense=dense)
    assert mild.method is METHODS["native:tsit5"]
    assert mild.other is METHODS[other]
    steps = f"for {3 * 10 / STABLE:.0f} steps of half of the trajectories"
    assert steps in mild.reason
    assert mild.reason.endswith(f"{other} takes over where it is stiff")
    stiff = _choose_ensemble([1.0, 2.0, 1e4, 1e6, 1e6], dense=dense)
    assert (stiff.method, stiff.switch, stiff.other) == (METHODS[other], None, None)
    assert "stiff (stability asks tsit5 for 28,571 steps" in stiff.reason


def test_the_patience_decides():
    """As many steps of tsit5 as cost what a whole flow by the other method does."""
    rate = 1.5 * 5.0 * 1e-6**-0.25 * STABLE / 10.0
    assert _choose_ensemble([0.999 * rate] * 3).method is METHODS["native:tsit5"]
    assert _choose_ensemble([1.001 * rate] * 3).method is METHODS["native:expcol8"]
    assert _choose_ensemble([1.001 * rate] * 3, rtol=2e-7).method is METHODS["native:tsit5"]
    assert _choose_ensemble([1.001 * rate] * MANY).method is METHODS["native:tsit5"]


@pytest.mark.parametrize(
    ("rows", "expected"), [(MANY - 1, "native:expcol8"), (MANY, "native:tsit5")]
)
def test_a_small_ensemble_at_a_tight_tolerance_gets_the_high_order_at_once(rows, expected):
    choice = _choose_ensemble([1.0] * rows, rtol=0.9 * TIGHT)
    assert choice.method is METHODS[expected]
    if rows < MANY:
        assert choice.switch is None
        assert choice.reason.endswith(f"asks for high order, and {rows} x 2 parameters allow it")


@pytest.mark.parametrize("rates", [[0.0, 0.0], [1e9, 1e9]])
def test_an_endless_ensemble_is_left_to_the_watch(rates):
    choice = _choose_ensemble(rates, t_end=math.inf)
    assert choice.method is METHODS["native:tsit5"]
    assert choice.switch is not None
    assert "t_end is infinite; native:expcol8 takes over where it is stiff" in choice.reason


def test_rows_without_a_jacobian_do_not_decide():
    nan = math.nan
    assert _choose_ensemble([nan, 1e6, 1e6]).method is METHODS["native:expcol8"]
    blind = _choose_ensemble([nan, nan])
    assert blind.method is METHODS["native:tsit5"]
    assert blind.reason.endswith("every trajectory has its own step")
    bare = Field(lambda t, y: -y, batched=True)
    choice = choose_ensemble("auto", bare, torch.ones(3, 2).double(), 1.0, 1e-6)
    assert choice.method is METHODS["native:tsit5"]


@pytest.mark.parametrize(("rtol", "expected"), [(1e-4, "native:rkc2"), (9e-5, "native:rkc4")])
def test_the_stabilised_method_s_order_follows_the_tolerance(rtol, expected):
    rates = torch.linspace(1, 1000, 501, dtype=torch.float64)
    field = Field(lambda t, y: -rates * y, jvp=lambda t, y, v: -rates * v)
    assert _choose(field, 501, t_end=10.0, rtol=rtol)[0] == expected


@pytest.mark.parametrize(("size", "expected"), [(50, "native:expcol8"), (51, "scipy:LSODA")])
def test_large_unsymmetric_jacobians_are_left_to_an_implicit_method(size, expected):
    matrix = -torch.diag(torch.linspace(1, 1000, size, dtype=torch.float64))
    matrix[0, 1] = 1.0
    field = Field(lambda t, y: matrix @ y, jacobian=lambda t, y: matrix)
    assert _choose(field, size, t_end=10.0, rtol=1e-5)[0] == expected


def test_kinks_are_not_for_a_method_of_high_order():
    """LSODA lowers its order there; so must what takes over."""
    rates = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    rough = replace(_diagonal(rates), smooth=False)
    assert _choose(rough, 2)[0] == "native:tsit5 or native:exprb43"
    assert _choose(rough, 2, t_end=1e4)[0] == "native:exprb43"
    assert _choose(rough, 2, rtol=1e-9)[0] == "scipy:LSODA"
    field, starts = _rows([1.0, 2.0])
    choice = choose_ensemble("auto", replace(field, smooth=False), starts, 1.0, 1e-9)
    assert choice.method is METHODS["native:tsit5"]
    assert choice.other is METHODS["native:exprb43"]


@pytest.mark.parametrize(("activation", "smooth"), [("tanh", True), ("leaky-relu", False)])
def test_a_flow_knows_whether_its_activation_has_kinks(activation, smooth):
    problem = Problem(SingleIndexDEQ(1, activation), np.ones((3, 1)), np.ones(3))
    assert gradient_flow(problem).smooth is smooth


@pytest.mark.parametrize(
    ("size", "expected"), [(FACTORISED, "native:expcol8"), (FACTORISED + 1, "scipy:LSODA")]
)
def test_many_eigenvectors_are_left_to_a_method_that_factorises_now_and_then(size, expected):
    rates = -torch.linspace(1, 1000, size, dtype=torch.float64)
    assert _choose(_diagonal(rates), size, t_end=10.0)[0] == expected
    name, reason = _choose(
        _diagonal(rates.float()), size, t_end=10.0, rtol=1e-3, dtype=torch.float32
    )
    assert name == "native:exprb43", reason


def test_kinks_beyond_dense_jacobians_are_for_the_estimate_that_sees_them():
    field = replace(_diagonal(-torch.linspace(1, 1000, LARGE).double(), dense=False), smooth=False)
    assert _choose(field, LARGE, t_end=10.0)[0] == "native:rkc2"
