"""What a problem reads, and the sentence with which it refuses the rest."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from gflow.errors import ProblemError
from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.problem import Problem

X, Y = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([0.5, 1.5, 2.5])


def _problem(**options):
    return Problem(LinearDEQ(2), X, Y, **options)


@pytest.mark.parametrize(
    "read", [np.asarray, np.float32, np.ndarray.tolist, pd.DataFrame, torch.tensor, np.int64]
)
def test_inputs_are_anything_that_numpy_reads(read):
    problem = Problem(LinearDEQ(2), read(X), Y)
    assert problem.x.dtype == torch.float64
    assert problem.x.tolist() == X.tolist()


@pytest.mark.parametrize("read", [list, tuple, pd.Series, torch.tensor])
def test_targets_and_theta_are_too(read):
    problem = Problem(LinearDEQ(2), X, read(Y), theta_target=read(Y))
    assert problem.y.tolist() == problem.theta_target.tolist() == Y.tolist()
    assert problem.theta(read(Y)).dtype == torch.float64


def test_a_vector_of_inputs_is_one_column_where_d_is_1():
    assert Problem(LinearDEQ(1), Y, Y).x.shape == (3, 1)
    assert Problem(LinearDEQ(1), Y, Y).predict([1.0, 0.5], Y).tolist() == [1.0, 3.0, 5.0]
    with pytest.raises(ProblemError, match=r"^x has shape \(3,\); LinearDEQ\(dim=2\) needs"):
        Problem(LinearDEQ(2), Y, Y)


def test_a_tensor_that_requires_a_gradient_is_detached():
    theta = torch.tensor([1.0, 2.0, 0.5], requires_grad=True)
    assert not _problem().gradient(theta).requires_grad


@pytest.mark.parametrize("read", [np.array, torch.tensor])
def test_what_is_given_is_copied(read):
    x, y, theta = read(X), read(Y), read(Y)
    problem = Problem(LinearDEQ(2), x, y)
    kept = problem.theta(theta)
    x[:], y[:], theta[:] = 0.0, 0.0, 0.0
    assert problem.x.tolist() == X.tolist()
    assert problem.y.tolist() == kept.tolist() == Y.tolist()


def test_no_target_parameters_are_none():
    assert _problem().theta_target is None


@pytest.mark.parametrize("dtype", ["float32", torch.float32])
def test_dtypes_are_named_or_given(dtype):
    problem = _problem(dtype=dtype, theta_target=[1, 2, 3])
    kinds = {problem.dtype, problem.x.dtype, problem.y.dtype, problem.theta_target.dtype}
    assert kinds == {torch.float32}


def _complex(*values):
    return np.array(values, dtype=complex)


NAN = np.where(X == 4, math.nan, X)
LONG = SingleIndexDEQ(5)
REFUSALS = {
    "x width": (
        lambda: Problem(LinearDEQ(3), X, Y),
        "x has shape (3, 2); LinearDEQ(dim=3) needs (n, d) with n >= 1 and d = 3.",
    ),
    "x empty": (
        lambda: Problem(LinearDEQ(2), np.empty((0, 2)), []),
        "x has shape (0, 2); LinearDEQ(dim=2) needs (n, d) with n >= 1 and d = 2.",
    ),
    "x scalar": (
        lambda: Problem(LinearDEQ(1), 3.0, [1.0]),
        "x has shape (); LinearDEQ(dim=1) needs (n, d) with n >= 1 and d = 1.",
    ),
    "x cube": (
        lambda: Problem(LinearDEQ(2), X[None], Y),
        "x has shape (1, 3, 2); LinearDEQ(dim=2) needs (n, d) with n >= 1 and d = 2.",
    ),
    "x NaN": (
        lambda: Problem(LinearDEQ(2), NAN, Y),
        "x has 1 values that are not finite, the first at (1, 1); remove or fill them.",
    ),
    "x infinite elsewhere": (
        lambda: _problem().predict([1, 2, 0], X * math.inf),
        "x has 6 values that are not finite, the first at (0, 0); remove or fill them.",
    ),
    "x overflows float32": (
        lambda: Problem(LinearDEQ(2), X * 1e300, Y, dtype="float32"),
        "x has 6 values that are not finite, the first at (0, 0); remove or fill them.",
    ),
    "x complex": (
        lambda: Problem(LinearDEQ(1), _complex(1 + 2j, 1), [1, 1]),
        "x is complex; gflow integrates real parameters.",
    ),
    "y length": (
        lambda: Problem(LinearDEQ(2), X, Y[:2]),
        "y has shape (2,) but x has 3 rows; y must be a vector with one target per row.",
    ),
    "y column": (
        lambda: Problem(LinearDEQ(2), X, Y[:, None]),
        "y has shape (3, 1) but x has 3 rows; y must be a vector with one target per row.",
    ),
    "y infinite": (
        lambda: Problem(LinearDEQ(2), X, [1, math.inf, -math.inf]),
        "y has 2 values that are not finite, the first at (1,); remove or fill them.",
    ),
    "theta length": (
        lambda: _problem().loss([1, 2]),
        "theta has shape (2,); LinearDEQ(dim=2) needs (P,) or (B, P) with P = 3: "
        "theta1[0], theta1[1], theta2.",
    ),
    "theta of many": (
        lambda: Problem(LONG, np.ones((1, 5)), [1]).gradient([1, 2]),
        'theta has shape (2,); SingleIndexDEQ(dim=5, activation="tanh") needs (P,) or (B, P) with '
        "P = 6: theta1[0], ..., theta1[4], theta2.",
    ),
    "theta cube": (
        lambda: _problem().hessian(np.ones((1, 1, 3))),
        "theta has shape (1, 1, 3); LinearDEQ(dim=2) needs (P,) or (B, P) with P = 3: "
        "theta1[0], theta1[1], theta2.",
    ),
    "theta scalar": (
        lambda: _problem().theta(1.0),
        "theta has shape (); LinearDEQ(dim=2) needs (P,) or (B, P) with P = 3: "
        "theta1[0], theta1[1], theta2.",
    ),
    "theta complex": (
        lambda: _problem().loss(_complex(1 + 2j, 1, 0)),
        "theta is complex; gflow integrates real parameters.",
    ),
    "theta complex tensor": (
        lambda: _problem().loss(torch.tensor(_complex(1 + 2j, 1, 0))),
        "theta is complex; gflow integrates real parameters.",
    ),
    "target length": (
        lambda: _problem(theta_target=[1.0]),
        "theta has shape (1,); LinearDEQ(dim=2) needs (P,) or (B, P) with P = 3: "
        "theta1[0], theta1[1], theta2.",
    ),
    "vector shape": (
        lambda: _problem().jvp([1, 2, 0], [[1, 2, 0]]),
        "vector has shape (1, 3) but theta (3,).",
    ),
    "dtype": (
        lambda: _problem(dtype="float16"),
        "dtype is float16; it must be float64 or float32.",
    ),
    "dtype object": (
        lambda: _problem(dtype=torch.bfloat16),
        "dtype is torch.bfloat16; it must be float64 or float32.",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_fit_is_refused_in_a_sentence(case):
    call, sentence = REFUSALS[case]
    with pytest.raises(ProblemError) as refusal:
        call()
    assert str(refusal.value) == sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [("theta", ["a", "b", "c"]), ("theta", [1, [2, 3]]), ("theta", object()), ("x", {"a": 1})],
)
def test_what_is_no_array_of_numbers_is_refused(name, value):
    problem = _problem()
    read = problem.theta if name == "theta" else lambda x: problem.predict([1, 2, 0], x)
    with pytest.raises(ProblemError, match=f"^{name} cannot be read as an array of numbers: .+"):
        read(value)


@pytest.mark.parametrize("device", ["nowhere", "cpu:x", "cuda:99"])
def test_a_device_that_cannot_be_had_is_refused(device):
    with pytest.raises(ProblemError) as refusal:
        _problem(device=device)
    assert str(refusal.value).startswith(f'device "{device}" cannot be used: ')
    assert str(refusal.value).endswith('. Try "cpu".')
    assert "\n" not in str(refusal.value)


def test_unknown_backwards_and_activations_are_refused():
    with pytest.raises(ProblemError, match='backward is "exakt"; it must be exact, jfb'):
        _problem(backward="exakt")
    with pytest.raises(ProblemError, match='backward is "neumann:0"; it must be'):
        _problem().gradient([1, 2, 0], "neumann:0")


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (np.ma.masked_array([[1.0], [2.0]], [[True], [False]]), "x has masked values; remove"),
        (np.array([["2020-01-01"], ["2020-01-02"]], "M8[D]"), "x holds dates or durations"),
        (np.array([[1], [2]], "m8[s]"), "x holds dates or durations; give numbers"),
    ],
    ids=["masked", "dates", "durations"],
)
def test_what_numpy_would_make_other_numbers_of_is_refused(x: np.ndarray, told: str) -> None:
    with pytest.raises(ProblemError, match=told):
        Problem(LinearDEQ(1), x, [1.0, 2.0])


def test_a_mask_that_hides_nothing_is_none() -> None:
    x = np.ma.masked_array([[1.0], [2.0]], [[False], [False]])
    assert Problem(LinearDEQ(1), x, [1.0, 2.0]).x.tolist() == [[1.0], [2.0]]
