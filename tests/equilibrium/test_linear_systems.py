"""Batched linear solves: against LU, by themselves, and where they cannot succeed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gflow.equilibrium import linear
from gflow.equilibrium.linear import METHODS, solve_linear
from gflow.errors import ProblemError

F64 = torch.float64


def _case(seed, samples, size, norm=0.7, dtype=F64):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(samples, size, size, generator=generator, dtype=F64)
    matrix = matrix * (norm / torch.linalg.matrix_norm(matrix, 2))[:, None, None]
    right = torch.randn(samples, size, generator=generator, dtype=F64)
    return matrix.to(dtype), right.to(dtype)


def _product(matrix):
    return lambda v, rows: (matrix[rows] @ v[..., None])[..., 0]


def _reference(matrix, right):
    return torch.linalg.solve(torch.eye(right.shape[1]).to(right) - matrix, right)


@pytest.mark.parametrize("method", METHODS)
@given(size=st.integers(1, 40), samples=st.integers(1, 5), seed=st.integers(0, 999))
def test_every_method_agrees_with_lu(method, size, samples, seed):
    matrix, right = _case(seed, samples, size)
    found = solve_linear(_product(matrix), right, method=method)
    assert found.converged.all()
    assert torch.allclose(found.solution, _reference(matrix, right), rtol=0, atol=1e-11)
    defect = right - found.solution + _product(matrix)(found.solution, torch.arange(samples))
    true = torch.linalg.vector_norm(defect, dim=-1) / torch.linalg.vector_norm(right, dim=-1)
    assert torch.allclose(found.residual, true, rtol=0, atol=1e-15)


@pytest.mark.parametrize("form", ["tensor", "callable"])
def test_a_given_matrix_is_used(form):
    matrix, right = _case(0, 7, 5)

    def product(v, rows):
        assert len(v) == 7  # a residual; forming the matrix would ask for 35
        return _product(matrix)(v, rows)

    given_matrix = matrix if form == "tensor" else lambda rows: matrix[rows]
    found = solve_linear(product, right, method="direct", matrix=given_matrix)
    assert found.converged.all()


def test_chunks_change_nothing(monkeypatch):
    matrix, right = _case(1, 11, 6)
    whole = solve_linear(_product(matrix), right, method="direct")
    monkeypatch.setattr(linear, "NUMBERS", 4 * 36)
    parts = solve_linear(_product(matrix), right, method="direct")
    assert torch.allclose(whole.solution, parts.solution, rtol=1e-14)


@pytest.mark.parametrize("norm", [0.999, 3.0])
def test_full_gmres_ends_within_the_dimension(norm):
    matrix, right = _case(2, 20, 12, norm)
    found = solve_linear(_product(matrix), right, method="gmres")
    assert found.converged.all()
    assert (found.iterations <= 2 * 12).all()  # at most one more cycle polishes
    assert torch.allclose(found.solution, _reference(matrix, right), rtol=1e-9, atol=1e-9)


def test_gmres_restarts(monkeypatch):
    monkeypatch.setattr(linear, "RESTART", 5)
    matrix, right = _case(3, 10, 40, 0.9)
    found = solve_linear(_product(matrix), right, method="gmres")
    assert found.converged.all()
    assert (found.iterations > 5).all()
    assert torch.allclose(found.solution, _reference(matrix, right), rtol=0, atol=1e-11)


def test_gmres_goes_on_where_the_residual_stands_still():
    """I - J is a cyclic shift: GMRES makes no progress at all before the last step."""
    size = 9
    shift = torch.roll(torch.eye(size, dtype=F64), 1, 0)
    matrix = (torch.eye(size, dtype=F64) - shift)[None]
    right = torch.eye(size, dtype=F64)[:1]
    found = solve_linear(_product(matrix), right, method="gmres")
    assert found.converged.all()
    assert torch.allclose(found.solution, _reference(matrix, right), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_no_sample_drives_the_others(method, monkeypatch):
    """Sample 1 is singular, 2 NaN, 3 has no right-hand side, 4 is ill-conditioned."""
    monkeypatch.setattr(linear, "SWEEP_FROM", 4)
    matrix, right = _case(4, 7, 6, 0.3)
    matrix[1] = torch.eye(6)
    matrix[2, 0, 0] = torch.nan
    right[3] = 0.0
    matrix[4] = torch.diag(torch.tensor([1 - 1e-9, 0.5, 0.1, -0.2, -3.0, 0.0], dtype=F64))
    found = solve_linear(_product(matrix), right, method=method)
    assert found.converged[[0, 3, 5, 6]].all()
    assert not found.converged[[1, 2]].any()
    assert bool(found.converged[4]) == (method != "fixed_point")
    assert (found.solution[3] == 0).all()
    assert found.residual[3] == 0
    for row in (0, 3, 4, 5, 6):
        alone = solve_linear(_product(matrix[row : row + 1]), right[row : row + 1], method=method)
        if alone.converged[0]:
            relative = (found.solution[row] - alone.solution[0]).abs().max()
            assert relative <= 1e-7 * (1e-6 + alone.solution[0].abs().max())
        assert abs(int(alone.iterations[0]) - int(found.iterations[row])) <= 1


def test_the_recursion_is_not_believed():
    """Products that lie after the first few: the residual told is that of the last product."""
    matrix, right = _case(5, 3, 8)
    calls = []

    def product(v, rows):
        calls.append(len(v))
        return _product(matrix)(v, rows) * (1.0 if len(calls) % 9 else 2.0)

    found = solve_linear(product, right, method="gmres", max_iterations=8)
    assert not found.converged.any()


def test_a_good_first_guess_is_kept():
    matrix, right = _case(6, 5, 8)
    exact = _reference(matrix, right)
    for method in METHODS:
        found = solve_linear(_product(matrix), right, method=method, start=exact)
        assert found.converged.all()
        assert (found.iterations == 0).all()


def test_auto_sweeps_then_turns_to_what_still_works(monkeypatch):
    monkeypatch.setattr(linear, "SWEEP_FROM", 4)
    matrix, right = _case(7, 6, 12, 0.2)
    matrix[3:] *= 20  # sweeps diverge
    found = solve_linear(_product(matrix), right)
    assert found.converged.all()
    assert (found.iterations[:3] > 5).all()
    assert (found.iterations[3:] <= 3).all()
    monkeypatch.setattr(linear, "GMRES_FROM", 4)
    assert solve_linear(_product(matrix), right).converged.all()


@pytest.mark.parametrize("method", METHODS)
def test_single_precision(method):
    matrix, right = _case(8, 30, 20, dtype=torch.float32)
    found = solve_linear(_product(matrix), right, method=method)
    assert found.converged.all()
    assert found.solution.dtype == found.residual.dtype == torch.float32
    reference = _reference(matrix.double(), right.double())
    assert torch.allclose(found.solution.double(), reference, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("right", "method", "word"),
    [
        (torch.zeros(2, 2), "qr", "qr"),
        (torch.zeros(2), "auto", r"\(2,\)"),
        (torch.zeros(2, 2, dtype=torch.int64), "auto", "int64"),
    ],
)
def test_wrong_requests_are_sentences(right, method, word):
    with pytest.raises(ProblemError, match=word):
        solve_linear(lambda v, k: v, right, method=method)
