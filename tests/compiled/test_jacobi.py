"""Eigenvalues and eigenvectors in C are those of LAPACK."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gflow.compiled import compiler, jacobi
from gflow.compiled.jacobi import FEWEST, LARGEST, eigenpairs_in_c

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, compiler.COMPILERS)), reason="there is no C compiler"
)


def _symmetric(rows, size, seed=0):
    matrices = torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, size, size)))
    return 0.5 * (matrices + matrices.mT)


def _agree(matrices, units=50):
    """Values, orthogonality and the matrix itself, to rounding."""
    values, vectors = eigenpairs_in_c(matrices)
    size = torch.linalg.matrix_norm(matrices, keepdim=True)
    rounding = units * torch.finfo(torch.float64).eps
    gap = values.sort().values - torch.linalg.eigvalsh(matrices)
    assert bool((gap.abs() <= rounding * size[..., 0]).all())
    one = torch.eye(matrices.shape[-1], dtype=torch.float64)
    assert float((vectors.mT @ vectors - one).abs().max()) <= rounding
    rebuilt = (vectors * values[:, None]) @ vectors.mT
    assert bool(((rebuilt - matrices).abs() <= rounding * size).all())


@pytest.mark.parametrize("rows", [FEWEST, 7, 8, 9, 33])
@pytest.mark.parametrize("size", [1, 2, 3, 11, LARGEST])
def test_they_are_those_of_lapack(rows, size):
    _agree(_symmetric(rows, size))


@given(
    st.integers(1, LARGEST), st.integers(0, 2**32 - 1), st.integers(-150, 150), st.integers(0, 12)
)
@settings(deadline=None)
def test_whatever_the_size_of_the_numbers(size, seed, power, spread):
    """Eigenvalues alike, of both signs, and far apart; a matrix of rank one, a diagonal one, 0."""
    rng = np.random.default_rng(seed)
    turns = np.linalg.qr(rng.normal(size=(FEWEST, size, size)))[0]
    own = rng.choice([-1.0, 1.0, 1.0 + 1e-13], size=(FEWEST, size)) * 10.0 ** -rng.integers(
        0, spread + 1, size=(FEWEST, size)
    )
    own[1, 1:] = 0
    turns[2] = np.eye(size)
    own[3] = 0
    matrices = torch.from_numpy((turns * own[:, None]) @ turns.swapaxes(1, 2) * 10.0**power)
    _agree(0.5 * (matrices + matrices.mT))


@pytest.mark.parametrize("levels", [(1.0, 0.5), (1.0, -1.0), (1.0, 0.5, 0.2)])
@pytest.mark.parametrize("spread", [0.0, 1e-15, 1e-14, 1e-9])
@pytest.mark.parametrize("size", [10, LARGEST])
def test_many_equal_eigenvalues_are_found_by_rotations(monkeypatch, size, spread, levels):
    """Their vectors are arbitrary, and rounding must not turn them for ever."""
    rng = np.random.default_rng(0)
    turns = np.linalg.qr(rng.normal(size=(64, size, size)))[0]
    own = np.array(levels)[np.arange(size) % len(levels)] + spread * rng.normal(size=(64, size))
    matrices = torch.from_numpy((turns * own[:, None]) @ turns.swapaxes(1, 2))
    matrices = 0.5 * (matrices + matrices.mT)
    with monkeypatch.context() as patched:
        patched.setattr(torch.linalg, "eigh", None)
        eigenpairs_in_c(matrices)
    _agree(matrices)


def test_small_entries_beside_large_ones():
    matrices = torch.zeros(FEWEST, 4, 4, dtype=torch.float64)
    matrices[:, 0, 1] = matrices[:, 1, 0] = 1e-50
    matrices[:, 2, 3] = matrices[:, 3, 2] = 7e-163
    _agree(matrices)


def test_one_that_does_not_converge_is_lapacks(monkeypatch):
    matrices = _symmetric(9, 5)
    whole = eigenpairs_in_c(matrices)
    monkeypatch.setattr(jacobi, "divided", lambda function, job, held, *others: _first(held, whole))
    values, vectors = eigenpairs_in_c(matrices)
    assert torch.equal(values[:8], whole[0][:8])
    torch.testing.assert_close(values[8], torch.linalg.eigvalsh(matrices[8]))
    assert torch.equal(vectors[:8], whole[1][:8])


def _first(held, pairs):
    """All but the last row."""
    _, values, vectors, found = held
    values[:8], vectors[:8] = pairs[0][:8], pairs[1][:8]
    found[:8], found[8] = True, False


@pytest.mark.parametrize("factor", [1e300, 1e-300, 1e-320])
def test_numbers_whose_squares_are_not(factor):
    matrices = _symmetric(FEWEST, 5)
    values, vectors = eigenpairs_in_c(factor * matrices)
    expected = torch.linalg.eigvalsh(matrices)
    unit = 1e-13 if factor > 1e-310 else 1e-2
    torch.testing.assert_close(values.sort().values / factor, expected, rtol=unit, atol=unit)
    assert float((vectors.mT @ vectors - torch.eye(5)).abs().max()) < 1e-14


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_that_is_not_finite_has_no_values_and_spoils_no_other(bad):
    matrices = _symmetric(9, 4)
    whole = eigenpairs_in_c(matrices)
    matrices[3, 1, 2] = matrices[3, 2, 1] = bad
    values, vectors = eigenpairs_in_c(matrices)
    assert values.isnan().all(-1).tolist() == [row == 3 for row in range(9)]
    others = torch.arange(9) != 3
    assert torch.equal(values[others], whole[0][others])
    assert torch.equal(vectors[others], whole[1][others])


def test_no_matrix_depends_on_those_beside_it_or_on_threads(monkeypatch):
    matrices = _symmetric(40, 6)
    matrices[::3] *= torch.eye(6)
    whole = eigenpairs_in_c(matrices)
    part = eigenpairs_in_c(matrices[5:12])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(jacobi, "SHARE", 1)
    threaded = eigenpairs_in_c(matrices)
    for all_, some, by_threads in zip(whole, part, threaded, strict=True):
        assert torch.equal(all_[5:12], some)
        assert torch.equal(all_, by_threads)


def test_what_c_does_not_serve(monkeypatch):
    matrices = _symmetric(FEWEST, 3)
    assert eigenpairs_in_c(matrices) is not None
    assert eigenpairs_in_c(matrices.mT) is not None
    assert eigenpairs_in_c(matrices[1:]) is None
    assert eigenpairs_in_c(matrices.float()) is None
    assert eigenpairs_in_c(matrices.clone().requires_grad_()) is None
    assert eigenpairs_in_c(matrices[None]) is None
    assert eigenpairs_in_c(matrices[:, :2]) is None
    assert eigenpairs_in_c(matrices[:, :, :2]) is None
    assert eigenpairs_in_c(_symmetric(FEWEST, LARGEST + 1)) is None
    monkeypatch.setenv(compiler.SWITCH, "0")
    assert eigenpairs_in_c(matrices) is None
