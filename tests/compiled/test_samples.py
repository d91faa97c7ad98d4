"""Roots and sums over samples in C are those of PyTorch."""

from __future__ import annotations

import ctypes
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gflow
from gflow.compiled import compiler, samples
from gflow.compiled.compiler import library, source_of
from gflow.equilibrium.adjoint import parse_backward
from gflow.equilibrium.solvers import NEAR
from gflow.losses import parse_loss
from gflow.models import SingleIndexDEQ
from gflow.models.activations import parse_activation
from gflow.problem import Problem
from gflow.stacking import ProblemStack

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, compiler.COMPILERS)), reason="there is no C compiler"
)
ACTIVATIONS = ["tanh", "weak-tanh:0.3", "weak-tanh:own"]
TANH = """
void each(const double *x, double *out, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) keep(out + i, hyperbolic(load(x + i, n - i)), n - i);
}
void moves(const double *x, const double *by, double *out, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) {
        const lanes t = hyperbolic(load(x + i, n - i));
        keep(out + i, moved(t, load(by + i, n - i)), n - i);
    }
}
"""


def _pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


@pytest.fixture(scope="module")
def functions():
    return library(source_of(("lanes.h", "samples.c"), {"NEAR": NEAR}, {}) + TANH)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=20))
def test_tanh_is_within_three_units_of_numpys(functions, values):
    x = np.array(values)
    found = np.empty_like(x)
    functions.each(_pointer(x), _pointer(found), ctypes.c_int64(len(x)))
    expected = np.tanh(x)
    near = np.abs(found - expected) <= 3 * np.spacing(np.abs(expected))
    assert (near | (np.isnan(x) & np.isnan(found))).all()
    np.testing.assert_array_equal(np.signbit(found), np.signbit(x) & ~np.isnan(x) | np.isnan(found)
                                  & np.signbit(found))  # fmt: skip


@given(
    st.lists(
        st.tuples(st.floats(-30, 30), st.floats(-0.1, 0.1)), min_size=1, max_size=20
    )
)  # fmt: skip
def test_tanh_of_a_point_near_by(functions, pairs):
    x, by = map(np.ascontiguousarray, np.array(pairs).T)
    found = np.empty_like(x)
    functions.moves(_pointer(x), _pointer(by), _pointer(found), ctypes.c_int64(len(x)))
    np.testing.assert_allclose(found, np.tanh(x - by), rtol=0, atol=1e-14)


def _stack(activation, n, rows=5, dim=3, own_inputs=True, seed=0):
    """A stack of problems, of which row i has a parameter of its own where there is one."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim))
    problems = []
    for row in range(rows):
        inputs = rng.normal(size=(n, dim)) if own_inputs else x
        name = activation.replace("own", str(0.1 + 0.2 * row))
        problems.append(Problem(SingleIndexDEQ(dim, name), inputs, rng.normal(size=n)))
    theta = torch.from_numpy(rng.normal(size=(rows, dim + 1)))
    theta[:, -1] = torch.linspace(-1, 0.45, rows)
    return ProblemStack(problems), theta


def _evaluated(stack, theta, warm):
    """Equilibrium, gradient and Jacobian, which is told from targets or from slopes."""
    found = stack.model.equilibrium(theta, stack.x, warm)
    slope, bend = stack._slope(found), stack._bend(found)
    other = stack.model.pullback_jacobian(found, stack.x, slope, bend, stack.backward)
    return found, stack.gradient_at(found), stack.jacobian_at(found), other


def _both(monkeypatch, stack, theta, warm=None):
    """The same by C, which is seen to be used, and by PyTorch."""
    used, sums = [], samples.Samples._sums

    def spied(self, name, *given, **numbers):
        used.append(name)
        return sums(self, name, *given, **numbers)

    with monkeypatch.context() as patched:
        patched.setattr(samples, "FEWEST", 1)
        patched.setattr(samples.Samples, "_sums", spied)
        compiled = _evaluated(stack, theta, warm)
    assert sorted(used) == ["bend", "bend", "pull", "track"]
    return compiled, _evaluated(stack, theta, warm)


@pytest.mark.parametrize("own_inputs", [True, False])
@pytest.mark.parametrize("n", [1, 5, 31, 257, 5000])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_they_are_those_of_pytorch(monkeypatch, activation, n, own_inputs):
    stack, theta = _stack(activation, n, own_inputs=own_inputs)
    warm = stack.model.equilibrium(theta + 0.01, stack.x)
    for start in (None, warm, warm.preactivation):
        (ours, *found), (theirs, *expected) = _both(monkeypatch, stack, theta, start)
        for name in ("output", "preactivation", "slope"):
            one, other = getattr(ours, name), getattr(theirs, name)
            torch.testing.assert_close(one, other.expand_as(one), rtol=1e-12, atol=1e-13)
        assert bool(ours.valid.all())
        assert float(stack.model.residual(ours, stack.x).max()) < 1e-13
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_warm_start_is_its_points_alone(monkeypatch, activation):
    """What is known there beside them saves time, and changes nothing."""
    monkeypatch.setattr(samples, "FEWEST", 1)
    stack, theta = _stack(activation, 500)
    warm = stack.model.equilibrium(theta, stack.x)
    for size in (1e-9, 1e-4, 0.05):
        found = [
            stack.model.equilibrium(theta + size, stack.x, start)
            for start in (warm, warm.preactivation)
        ]
        assert torch.equal(found[0].preactivation, found[1].preactivation)
        assert torch.equal(found[0].output, found[1].output)


@pytest.mark.parametrize("own_inputs", [True, False])
@pytest.mark.parametrize("n", [5, 257, 5000])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_pass_finds_what_two_do(monkeypatch, activation, n, own_inputs):
    monkeypatch.setattr(samples, "FEWEST", 1)
    stack, theta = _stack(activation, n, own_inputs=own_inputs)
    theta[1, -1] = 2.5 if activation == "tanh" else 0.9  # no equilibrium
    if not own_inputs:
        stack.y = stack.y[0]
    for warm in (None, stack.model.equilibrium(theta + 0.01, stack.x)):
        expected = stack.model.equilibrium(theta, stack.x, warm)
        found, gradient = stack.fit(theta, warm)
        assert found.valid.tolist() == expected.valid.tolist() == [True, False, True, True, True]
        for name in ("output", "preactivation", "slope"):
            one, other = getattr(found, name), getattr(expected, name)
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        by_two = stack.gradient_at(expected)
        torch.testing.assert_close(gradient, by_two, rtol=1e-11, atol=1e-13, equal_nan=True)


def test_one_pass_is_for_the_exact_gradient_of_squares_alone(monkeypatch):
    monkeypatch.setattr(samples, "FEWEST", 1)
    stack, theta = _stack("tanh", 40)
    assert stack.fit(theta) is not None
    assert stack.fit(theta, torch.full((5, 40), torch.nan, dtype=torch.float64)) is None
    stack.backward = parse_backward("jfb")
    assert stack.fit(theta) is None
    stack.backward, stack.loss_function = parse_backward("exact"), parse_loss("logistic", ())
    assert stack.fit(theta) is None


@pytest.mark.parametrize("rows", [1, 2, 4, 9])
def test_other_rows_than_the_stacks_are_refused(monkeypatch, rows):
    monkeypatch.setattr(samples, "FEWEST", 1)
    stack, theta = _stack("tanh", 40, own_inputs=False)
    others = theta[:1].expand(rows, 4).contiguous()
    with pytest.raises(RuntimeError, match="expand"):
        stack.fit(others)
    with pytest.raises(RuntimeError, match="expand"):
        stack.hessian(others)
    sigma = _stack("weak-tanh:own", 40)[0].model.activation.hyperbolic
    assert samples.in_c(others, stack.x, sigma, NEAR) is None


def test_the_warm_start_keeps_nothing_else_in_memory(monkeypatch):
    monkeypatch.setattr(samples, "FEWEST", 1)
    stack, theta = _stack("tanh", 40)
    kept = stack.model.equilibrium(theta, stack.x).preactivation
    assert kept.untyped_storage().nbytes() == kept.nbytes


def test_rows_without_an_equilibrium_hold_nan(monkeypatch):
    stack, theta = _stack("tanh", 40)
    theta[2, -1], theta[3, 0] = 1.5, torch.nan
    (ours, *found), (theirs, *expected) = _both(monkeypatch, stack, theta)
    assert ours.valid.tolist() == theirs.valid.tolist() == [True, True, False, False, True]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12, equal_nan=True)


def test_what_is_not_near_is_left_to_the_safeguarded_search(monkeypatch):
    stack, theta = _stack("tanh", 40)
    warm = torch.full((5, 40), 1e3, dtype=torch.float64)
    warm[1, 3] = torch.nan
    theta[:, -1] = 0.99
    expected = stack.model.equilibrium(theta, stack.x, warm)
    monkeypatch.setattr(samples, "FEWEST", 1)
    found = stack.model.equilibrium(theta, stack.x, warm)
    torch.testing.assert_close(found.output, expected.output, rtol=1e-9, atol=1e-11)


def test_threads_change_nothing(monkeypatch):
    stack, theta = _stack("tanh", 9000)
    monkeypatch.setattr(samples, "FEWEST", 1)
    alone = _evaluated(stack, theta, None)
    monkeypatch.setattr(samples, "SHARE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for one, other in zip(alone[1:], _evaluated(stack, theta, None)[1:], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "change",
    [
        {"theta": torch.zeros(4, dtype=torch.float64)},
        {"theta": torch.zeros(5, 4)},
        {"sigma": parse_activation("sigmoid").hyperbolic},
        {"x": torch.zeros(5, 30, 3, dtype=torch.float64).mT.contiguous().mT},
        {"x": torch.zeros(5, 5000, 3, dtype=torch.float64)},
        {"x": torch.zeros(5, 3, 5000).mT},
        {"x": torch.zeros(5, 2, 5000, dtype=torch.float64).mT},
        {"x": torch.zeros(2, 3, 25000, dtype=torch.float64).mT},
    ],
    ids=[
        "one theta",
        "single precision",
        "sigmoid",
        "few samples",
        "inputs row by row",
        "inputs in single precision",
        "other inputs",
        "inputs of fewer rows",
    ],
)
def test_where_it_does_not_serve(change):
    theta = torch.zeros(5, 4, dtype=torch.float64)
    x = torch.zeros(5, 3, 5000, dtype=torch.float64).mT
    fits = {"theta": theta, "x": x, "sigma": parse_activation("tanh").hyperbolic}
    assert samples.in_c(**fits, near=NEAR) is not None
    assert samples.in_c(**{**fits, **change}, near=NEAR) is None


def test_rows_of_a_stack_keep_their_layout():
    stack, _ = _stack("tanh", 40)
    assert stack.select(torch.tensor([0, 3])).x.mT.is_contiguous()


def test_flows_are_those_of_pytorch(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 4))
    problems = [
        gflow.Problem(SingleIndexDEQ(4, f"weak-tanh:{e}"), x, rng.normal(size=2000))
        for e in np.linspace(0.1, 0.9, 12)
    ]
    start = 0.1 * rng.normal(size=(12, 5))
    both = []
    for switch in ("1", "0"):
        monkeypatch.setenv("GFLOW_COMPILED", switch)
        tree = gflow.integrate(problems, start, t_end=5.0, method="exprb43", rtol=1e-6)
        both.append(tree["flow"])
    ours, theirs = both
    assert (ours.nfe == theirs.nfe).all()
    for name in ("theta", "loss", "gradient_norm", "sharpness"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-8, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_gradients_through_it_are_pytorchs(monkeypatch):
    monkeypatch.setattr(samples, "FEWEST", 1)
    stack, theta = _stack("tanh", 40)
    theta.requires_grad_()
    stack.model.equilibrium(theta, stack.x).output.sum().backward()
    assert theta.grad is not None


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_what_is_asked_with_it_must_be_plain_too(monkeypatch):
    monkeypatch.setattr(samples, "FEWEST", 1)
    stack, theta = _stack("tanh", 40)
    found = stack.model.equilibrium(theta, stack.x)
    cotangent = torch.randn(5, 40, dtype=torch.float64)
    exact = stack.model.pullback(found, stack.x, cotangent, stack.backward)
    single = stack.model.pullback(found, stack.x, cotangent.float(), stack.backward)
    torch.testing.assert_close(single, exact, rtol=1e-5, atol=1e-5)
    cotangent.requires_grad_()
    assert stack.model.pullback(found, stack.x, cotangent, stack.backward).requires_grad
    warm = found.preactivation.float()
    assert torch.allclose(stack.model.equilibrium(theta, stack.x, warm).output, found.output)


def test_an_activation_of_ones_own_is_not_taken_for_tanh():
    tanh = parse_activation("tanh")
    mine = replace(tanh, name="mine", jet=lambda s, order: (s.sin() / 2, s.cos() / 2))
    assert tanh.hyperbolic is not None
    assert mine.hyperbolic is None


def test_the_switch_is_obeyed_at_once(monkeypatch):
    monkeypatch.setattr(samples, "FEWEST", 1)
    stack, theta = _stack("tanh", 40)
    assert stack.fit(theta) is not None
    monkeypatch.setenv("GFLOW_COMPILED", "0")
    assert stack.fit(theta) is None
