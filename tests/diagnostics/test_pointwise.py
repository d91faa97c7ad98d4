"""Diagnostics at the saves against their definitions, for any batch shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gflow.diagnostics.pointwise import POINTWISE, evaluate_pointwise
from gflow.models import LinearDEQ, SingleIndexDEQ, VectorDEQ
from gflow.problem import Problem
from gflow.stacking import ProblemStack

ALL = (*(name for name in POINTWISE if name not in ("accuracy", "adjoint_residual")), "sharpness")
"""Those of a regression."""


def _problem(name="tanh", backward="exact", d=2, dtype="float64"):
    rng = np.random.default_rng(3)
    model = LinearDEQ(d) if name == "linear" else SingleIndexDEQ(d, name)
    x, y = rng.normal(size=(8, d)), rng.normal(size=8)
    return Problem(model, x, y, backward=backward, dtype=dtype)


def _thetas(*shape, d=2):
    rng = np.random.default_rng(7)
    theta = rng.normal(size=(*shape, d + 1))
    theta[..., -1] = rng.uniform(-2, 0.7, shape)
    return torch.tensor(theta)


@pytest.mark.parametrize("backward", ["exact", "jfb"])
@pytest.mark.parametrize("name", ["linear", "tanh", "gelu"])
def test_each_is_its_definition(name, backward):
    problem, theta = _problem(name, backward), _thetas(5)
    found = evaluate_pointwise(problem, theta, ALL)
    assert set(found) == set(ALL)
    for row, point in enumerate(theta):
        s = problem.evaluate(point).equilibrium.preactivation
        slope = problem.model.activation.jet(s, 1)[1]
        y, theta2 = problem.predict(point), float(point[-1])
        sigma = problem.model.activation(problem.x @ point[:-1] + theta2 * y)
        radius = float((point - torch.tensor([0.0, 0.0, 1.0])).norm())
        edges = {"tanh": [1.0], "gelu": [1 / 1.1289041, 1 / -0.1289041]}.get(name, [])
        expected = {
            "loss": float(problem.loss(point)),
            "gradient_norm": float(problem.gradient(point).norm()),
            "sphere_radius": radius,
            "singular_distance": min([abs(theta2 - edge) for edge in edges] or [radius]),
            "conditioning": float((1 - theta2 * slope).abs().min()),
            "equilibrium_residual": float((y - sigma).abs().max()),
            "sharpness": float(torch.linalg.eigvalsh(problem.hessian(point)).max()),
        }
        for key, value in expected.items():
            tolerance = 1e-6 if key == "singular_distance" else 1e-12
            assert float(found[key][row]) == pytest.approx(value, rel=tolerance, abs=1e-15), key


@pytest.mark.parametrize("backward", ["exact", "jfb"])
@pytest.mark.parametrize("adjoint", ["direct", "gmres", "fixed_point"])
def test_the_adjoints_residual_is_the_equations(backward, adjoint):
    rng = np.random.default_rng(0)
    model = VectorDEQ(2, 5, 3, adjoint=adjoint, tolerance=1e-6)
    problem = Problem(model, rng.normal(size=(7, 2)), rng.normal(size=(7, 3)), backward=backward)
    theta = torch.tensor(np.stack([model.initial(seed) for seed in range(3)]))
    found = evaluate_pointwise(problem, theta, ["adjoint_residual"])["adjoint_residual"]
    assert found.shape == (3,)
    assert bool((found < 1e-5).all())
    assert (float(found.max()) > 1e-12) == (adjoint != "direct")


def test_the_sharpness_may_be_negative_and_is_not_the_largest_modulus():
    """Far in tanh's tails the loss is concave along theta1."""
    problem = Problem(SingleIndexDEQ(1, "tanh"), [1.0], [-1.0])
    theta = torch.tensor([0.2, -0.5], dtype=torch.float64)
    values = torch.linalg.eigvalsh(problem.hessian(theta))
    assert float(values[0]) < 0 < float(values[-1])
    found = evaluate_pointwise(problem, theta, ["sharpness"])["sharpness"]
    assert float(found) == pytest.approx(float(values[-1]), rel=1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (3, 1, 2)])
def test_any_batch_shape_is_kept(shape):
    problem, theta = _problem(), _thetas(*shape)
    flat = evaluate_pointwise(problem, theta.reshape(-1, 3), ALL)
    found = evaluate_pointwise(problem, theta, ALL)
    assert {value.shape for value in found.values()} == {shape}
    for key, value in found.items():
        assert torch.equal(value.reshape(-1), flat[key])


def test_only_what_is_asked_for_is_computed():
    problem, theta = _problem(), _thetas(3)
    assert set(evaluate_pointwise(problem, theta, ["conditioning"])) == {"conditioning"}
    assert set(evaluate_pointwise(problem, theta, {"sharpness", "loss"})) == {"loss", "sharpness"}
    assert evaluate_pointwise(problem, theta, []) == {}


def test_rows_that_are_nan_or_lost_give_nan_and_harm_no_other():
    problem, theta = _problem(), _thetas(5)
    fine = evaluate_pointwise(problem, theta, ALL)
    theta[1] = torch.nan
    theta[3, -1] = 1.5
    for key, value in evaluate_pointwise(problem, theta, ALL).items():
        assert value.isnan().tolist() == [False, True, False, True, False], key
        assert torch.allclose(value[[0, 2, 4]], fine[key][[0, 2, 4]], rtol=1e-11, atol=1e-15), key


def test_chunks_change_nothing(monkeypatch):
    problem, theta = _problem(), _thetas(7)
    whole = evaluate_pointwise(problem, theta, ALL)
    monkeypatch.setattr("gflow.diagnostics.rows.CHUNK", 24)
    for key, value in evaluate_pointwise(problem, theta, ALL).items():
        assert torch.allclose(value, whole[key], rtol=1e-12, atol=1e-15), key


def test_the_equilibria_are_solved_once_for_all_but_the_sharpness(monkeypatch):
    problem, solved = _problem(), []
    solve = problem.model.equilibrium
    monkeypatch.setattr(
        problem.model, "equilibrium", lambda t, *rest: solved.append(len(t)) or solve(t, *rest)
    )
    evaluate_pointwise(problem, _thetas(6), POINTWISE)
    assert solved == [6]
    solved.clear()
    monkeypatch.setattr("gflow.diagnostics.rows.CHUNK", 2 * 8 * 3)
    evaluate_pointwise(problem, _thetas(6), ALL)
    assert solved == [6, 2, 2, 2]  # n = 8 samples with a row of P = 3 numbers each


@pytest.mark.parametrize("count", [1, 2, 5, 6, 40])
def test_a_costly_sharpness_is_computed_at_a_few_saves_the_ends_among_them(monkeypatch, count):
    monkeypatch.setattr("gflow.diagnostics.spectrum.SHARPNESS_WORK", 0)
    monkeypatch.setattr("gflow.diagnostics.spectrum.SHARPNESS_LEAST", 5)
    problem, theta = _problem(), _thetas(count)
    some = evaluate_pointwise(problem, theta, ["sharpness"])["sharpness"]
    each = evaluate_pointwise(problem, theta, ["sharpness"], every_sharpness=True)["sharpness"]
    done = some.isfinite()
    assert int(done.sum()) == min(count, 5)
    assert bool(done[0])
    assert bool(done[-1])
    assert torch.allclose(some[done], each[done], rtol=1e-12)
    assert each.isfinite().all()
    gaps = torch.nonzero(done)[:, 0].diff()
    assert int(gaps.max() - gaps.min()) <= 1 if count > 1 else len(gaps) == 0


def test_a_costly_sharpness_skips_the_padding_of_shorter_runs(monkeypatch):
    monkeypatch.setattr("gflow.diagnostics.spectrum.SHARPNESS_WORK", 0)
    monkeypatch.setattr("gflow.diagnostics.spectrum.SHARPNESS_LEAST", 3)
    theta = _thetas(3, 9)
    theta[1, 4:] = torch.nan
    theta[2] = torch.nan
    found = evaluate_pointwise(_problem(), theta, ["sharpness"])["sharpness"]
    places = [torch.nonzero(row.isfinite())[:, 0].tolist() for row in found]
    assert places[0] == [0, 4, 8]
    assert (len(places[1]), places[1][0], places[1][-1]) == (3, 0, 3)
    assert places[2] == []


def test_float32_is_kept():
    found = evaluate_pointwise(_problem(dtype="float32"), _thetas(3).float(), ALL)
    assert {value.dtype for value in found.values()} == {torch.float32}


@pytest.mark.parametrize("chunk", [24, 2**21])
@pytest.mark.parametrize("shared", [True, False])
def test_a_stack_has_each_problem_s_own_values(monkeypatch, shared, chunk):
    monkeypatch.setattr("gflow.diagnostics.rows.CHUNK", chunk)
    first, theta = _problem(), _thetas(4, 5)
    theta[2, 3:] = torch.nan
    moved = [first.x + (0.0 if shared else 0.1 * k) for k in range(4)]
    problems = [first.on(x, first.y * (1 + k)) for k, x in enumerate(moved)]
    found = evaluate_pointwise(ProblemStack(problems), theta, ALL)
    for k, problem in enumerate(problems):
        for key, value in evaluate_pointwise(problem, theta[k], ALL).items():
            assert torch.allclose(found[key][k], value, rtol=1e-11, atol=1e-14, equal_nan=True), key
