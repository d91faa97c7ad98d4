"""Krylov spaces: their basis, when they suffice and where they end early."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gflow.integrators.krylov import ACCURACY, LARGEST, LOOK, KrylovPropagator
from gflow.integrators.phi import phi_functions, phi_products
from gflow.integrators.propagators import Nodes

SIZE = 40
NODES = Nodes((0.5, 1.0), highest=4)
HALF, FULL = 0, 1


def _matrix(symmetric, size=SIZE, stiffest=50.0):
    rng = np.random.default_rng(4)
    turn = np.linalg.qr(rng.normal(size=(size, size)))[0]
    matrix = -turn * np.linspace(0, stiffest, size) @ turn.T
    return torch.tensor(
        matrix if symmetric else matrix + 0.5 * np.triu(rng.normal(size=(size, size)))
    )


class _Products:
    """Products with a matrix, counted."""

    def __init__(self, matrix):
        self.matrix, self.count = matrix, 0

    def __call__(self, vector):
        self.count += 1
        return vector @ self.matrix.mT


def _start(rows, size=SIZE):
    return torch.tensor(np.random.default_rng(5).normal(size=(rows, size)))


def _propagator(matrix, symmetric, widths, tolerance=1e-12):
    width = torch.tensor(widths, dtype=torch.float64)[:, None]
    scale = torch.full((len(widths), len(matrix)), tolerance, dtype=torch.float64)
    return KrylovPropagator(_Products(matrix), symmetric, width, scale, NODES)


def _error(by, space, vector, widths, matrix, order=1):
    found = by.out(by.advance([(order, 1.0, space)], FULL))
    width = torch.tensor(widths, dtype=torch.float64)[:, None, None]
    sources = torch.zeros(*vector.shape[:1], order, vector.shape[-1], dtype=torch.float64)
    sources[:, -1] = vector
    return (found - phi_products(width * matrix, sources)).abs().amax(-1)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_basis_is_orthonormal_and_holds_the_jacobian(symmetric):
    matrix, vector = _matrix(symmetric), _start(2)
    by = _propagator(matrix, symmetric, [0.2, 0.1])
    space = by.into(vector)
    count = space.matrix.shape[-1]
    assert LOOK <= count < SIZE
    assert count % LOOK == 0
    for row in range(2):
        basis = space.basis[:, row]
        assert torch.allclose(basis @ basis.T, torch.eye(count + 1).double(), rtol=0, atol=1e-14)
        images = basis[:-1] @ matrix.T
        assert torch.allclose(images, space.matrix[row].T @ basis, rtol=0, atol=1e-12)
        assert torch.allclose(space.size[row] * basis[0], vector[row], rtol=1e-14, atol=0)
    if symmetric:
        off = space.matrix[:, :-1] - space.matrix[:, :-1].mT
        assert float(off.abs().max()) < 1e-12, "Lanczos' process is a special case"


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-10])
def test_a_space_that_suffices_keeps_its_accuracy_for_every_order(symmetric, tolerance):
    matrix, vector, widths = _matrix(symmetric), _start(3), [0.3, 0.02, 1.0]
    by = _propagator(matrix, symmetric, widths, tolerance)
    space = by.into(vector)
    assert (by.short, by.solves) == (False, 1)
    for order in (1, 2, 3, 4):
        error = _error(by, space, vector, widths, matrix, order)
        assert float(error.max()) <= 5 * ACCURACY * tolerance * math.sqrt(SIZE) + 1e-13


def test_a_looser_tolerance_and_a_shorter_step_need_fewer_products():
    def products(width, tolerance):
        by = _propagator(_matrix(True), True, [width], tolerance)
        by.into(_start(1))
        return by._apply.count

    counts = [products(1.0, 1e-10), products(1.0, 1e-4), products(0.01, 1e-4)]
    assert counts[0] > counts[1] > counts[2] >= LOOK


def test_a_space_that_is_too_small_says_so_and_one_of_the_whole_does_not():
    """Beyond LARGEST the step is too long; up to it the space is all there is, hence exact."""
    assert LARGEST < 150
    vector = _start(1, 150)
    by = _propagator(_matrix(True, 150, 1e6), True, [1.0])
    assert by.into(vector).matrix.shape[-1] == LARGEST
    assert by.short
    assert by._apply.count == LARGEST
    whole = _propagator(_matrix(True, 30, 1e6), True, [1.0])
    space = whole.into(_start(1, 30))
    assert not whole.short
    assert float(_error(whole, space, _start(1, 30), [1.0], _matrix(True, 30, 1e6)).max()) < 1e-9


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_eigenvector_spans_its_own_space(symmetric):
    matrix = torch.diag(torch.linspace(-40, -1, SIZE, dtype=torch.float64))
    vector = 3 * torch.eye(SIZE, dtype=torch.float64)[4:5]
    by = _propagator(matrix, symmetric, [0.5])
    space = by.into(vector)
    assert torch.equal(space.matrix[0, 1:], torch.zeros_like(space.matrix[0, 1:]))
    assert float(_error(by, space, vector, [0.5], matrix).max()) < 1e-14
    found = by.out(by.advance([(2, 1.0, space)], HALF))[0, 4]
    value = phi_functions(torch.tensor([0.25 * -36.0]).double())[1, 0]
    assert float(found) == pytest.approx(0.25 * 3 * float(value), rel=1e-13)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_a_space_that_closes_early_is_not_spoilt_by_rounding(symmetric, turned):
    """Three parameters that no other acts on, in plain coordinates or in turned ones."""
    matrix = _matrix(symmetric)
    matrix[:3, 3:] = matrix[3:, :3] = 0.0
    vector = _start(2)
    vector[0, 3:] = 0.0
    if turned:
        turn = torch.linalg.qr(_start(SIZE))[0]
        matrix, vector = turn @ matrix @ turn.T, vector @ turn.T
    widths = [0.3, 0.3]
    by = _propagator(matrix, symmetric, widths)
    space = by.into(vector)
    assert float(_error(by, space, vector, widths, matrix).max()) < 1e-11
    assert torch.isfinite(space.basis).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_nothing_and_without_a_value_leave_the_others_alone(symmetric, dtype):
    matrix, vector = _matrix(symmetric).to(dtype), _start(3).to(dtype)
    vector[1], vector[2, 0] = 0.0, torch.nan
    width = torch.full((3, 1), 0.2, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    scale = torch.full((3, SIZE), tolerance, dtype=dtype)
    by = KrylovPropagator(_Products(matrix), symmetric, width, scale, NODES)
    space = by.into(vector)
    assert not by.short
    found = by.out(by.advance([(1, 1.0, space)], FULL))
    exact = phi_products(0.2 * matrix.double(), vector[:1].double())
    assert float((found[0] - exact).abs().max()) < 10 * tolerance
    assert torch.equal(found[1], torch.zeros_like(found[1]))
    assert found[2].isnan().all()


def test_terms_in_one_space_share_it():
    matrix, vector = _matrix(True), _start(1)
    by = _propagator(matrix, True, [0.2])
    space, other = by.into(vector), by.into(vector.flip(-1))
    parts = by.advance([(1, 1.0, space), (3, -2.0, space), (4, 5.0, other)], HALF)
    assert [id(part) for part, _ in parts] == [id(space), id(other)]
    separately = sum(
        by.out(by.advance([term], HALF))
        for term in [(1, 1.0, space), (3, -2.0, space), (4, 5.0, other)]
    )
    assert torch.allclose(by.out(parts), separately, rtol=1e-13, atol=1e-14)
    assert by.solves == 2
