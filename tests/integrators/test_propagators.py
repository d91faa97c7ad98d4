"""The three propagators against SciPy's exponential, and each against itself at fractions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

import gflow
from gflow.integrators import accumulation, propagators
from gflow.integrators.krylov import KrylovPropagator
from gflow.integrators.propagators import (
    EigenPropagator,
    MatrixPropagator,
    Nodes,
    eigenpairs,
)

ROWS, SIZE = 3, 7
WIDTH = torch.tensor([[0.5], [2.0], [0.01]], dtype=torch.float64)
TERMS = ((1, 1.0), (2, -0.5), (3, 16.0), (3, -2.0), (4, 12.0))
"""Orders and factors, one vector each."""


NODES = Nodes((0.5, 1.0), highest=4)
PLACES = {0.5: 0, 1.0: 1}


def _jacobians(symmetric):
    matrix = np.random.default_rng(2).normal(size=(ROWS, SIZE, SIZE))
    matrix = matrix - 3 * np.eye(SIZE)
    return torch.tensor((matrix + matrix.swapaxes(1, 2)) / 2 if symmetric else matrix)


def _vectors():
    return torch.tensor(np.random.default_rng(3).normal(size=(len(TERMS), ROWS, SIZE)))


def _krylov(matrix, symmetric):
    scale = torch.full((ROWS, SIZE), 1e-14, dtype=torch.float64)
    return KrylovPropagator(
        lambda v: (matrix @ v[..., None])[..., 0], symmetric, WIDTH, scale, NODES
    )


def _propagators(symmetric):
    matrix = _jacobians(symmetric)
    found = {"matrix": MatrixPropagator(matrix, WIDTH, NODES), "krylov": _krylov(matrix, symmetric)}
    if symmetric:
        found["eigen"] = EigenPropagator(*torch.linalg.eigh(matrix), WIDTH, NODES)
    return found


CASES = [
    pytest.param(symmetric, name, id=f"{name}-{'symmetric' if symmetric else 'unsymmetric'}")
    for symmetric in (True, False)
    for name in _propagators(symmetric)
]
each = pytest.mark.parametrize(("symmetric", "name"), CASES)


def _phi(order, matrix):
    """phi_k from the corner of one exponential of a block matrix, of identities but for A."""
    size = len(matrix)
    block = np.zeros(((order + 1) * size,) * 2)
    block[:size, :size] = matrix
    for k in range(order):
        block[k * size : (k + 1) * size, (k + 1) * size : (k + 2) * size] = np.eye(size)
    return scipy.linalg.expm(block)[:size, -size:]


def _expected(symmetric, row, x):
    scaled = x * float(WIDTH[row]) * _jacobians(symmetric)[row].numpy()
    pairs = zip(TERMS, _vectors()[:, row].numpy(), strict=True)
    return sum(factor * x**order * _phi(order, scaled) @ v for (order, factor), v in pairs)


def _terms(by):
    return [(*term, by.into(v)) for term, v in zip(TERMS, _vectors(), strict=True)]


def _close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@each
def test_coordinates_lead_there_and_back(symmetric, name):
    """A space's first coordinate is its vector."""
    by, vector = _propagators(symmetric)[name], _vectors()[0]
    coordinates = by.into(vector)
    if name == "krylov":
        first = torch.eye(SIZE, dtype=torch.float64)[0] * coordinates.size
        coordinates = [(coordinates, first[:, : coordinates.matrix.shape[-1]])]
    _close(by.out(coordinates), vector)


@each
@pytest.mark.parametrize("x", [0.5, 1.0])
def test_the_stages_are_products_of_phi_functions(symmetric, name, x):
    by = _propagators(symmetric)[name]
    found = by.out(by.advance(_terms(by), PLACES[x]))
    _close(found, [_expected(symmetric, row, x) for row in range(ROWS)])
    assert by.short is False


@each
def test_dense_output_is_the_same_at_any_fraction_of_any_row(symmetric, name):
    by = _propagators(symmetric)[name]
    rows, x = [2, 0, 0, 1, 1], [0.5, 0.123, 1.0, 0.0, 0.9]
    found = by.dense(_terms(by), torch.tensor(rows), torch.tensor(x, dtype=torch.float64))
    _close(found, [_expected(symmetric, r, f) for r, f in zip(rows, x, strict=True)])
    assert not found[3].any(), "nothing has been added where the step begins"


@each
def test_the_remainder_is_what_the_jacobian_leaves_of_a_difference(symmetric, name):
    by, difference = _propagators(symmetric)[name], _vectors()[1]
    increment = by.advance(_terms(by), PLACES[0.5])
    image = (_jacobians(symmetric) @ by.out(increment)[..., None])[..., 0]
    found = by.remainder(difference, increment)
    expected = WIDTH * (difference - image)
    _close(
        by.out(by.advance([(1, 1.0, found)], PLACES[1.0])),
        [
            _phi(1, float(WIDTH[r]) * _jacobians(symmetric)[r].numpy()) @ expected[r].numpy()
            for r in range(ROWS)
        ],
    )


@pytest.mark.parametrize("x", [0.5, 1.0])
@pytest.mark.parametrize("row", range(ROWS))
def test_a_lone_row_takes_a_shorter_way_to_the_same_place(row, x):
    matrix, vectors = _jacobians(True)[row : row + 1], _vectors()[:, row : row + 1]
    by = EigenPropagator(*torch.linalg.eigh(matrix), WIDTH[row : row + 1], NODES)
    terms = [(*term, by.into(v)) for term, v in zip(TERMS, vectors, strict=True)]
    increment = by.advance(terms, PLACES[x])
    _close(by.out(increment), [_expected(True, row, x)])
    _close(by.out(by.into(vectors[0])), vectors[0])
    rows, fractions = torch.zeros(2, dtype=torch.long), torch.tensor([0.3, x]).double()
    dense = by.dense(terms, rows, fractions)
    _close(dense, [_expected(True, row, float(f)) for f in fractions])
    image = (matrix @ by.out(increment)[..., None])[..., 0]
    remainder = by.out(by.remainder(vectors[1], increment))
    _close(remainder, WIDTH[row] * (vectors[1] - image))


@pytest.mark.parametrize("rows", [1, ROWS])
def test_single_precision_stays_single(rows):
    pairs = torch.linalg.eigh(_jacobians(True)[:rows].float())
    by = EigenPropagator(*pairs, WIDTH[:rows].float(), NODES)
    vectors = _vectors()[:, :rows].float()
    terms = [(*term, by.into(v)) for term, v in zip(TERMS, vectors, strict=True)]
    found = by.dense(terms, torch.arange(rows), torch.ones(rows))
    assert found.dtype == torch.float32
    assert torch.allclose(found, by.out(by.advance(terms, PLACES[1.0])), rtol=1e-4, atol=1e-5)


def test_eigenpairs_leave_out_what_is_not_finite():
    matrix = _jacobians(True)
    matrix[1, 2, 3] = torch.inf
    values, vectors = eigenpairs(matrix)
    assert values.isnan().all(-1).tolist() == [False, True, False]
    rebuilt = (vectors * values[:, None]) @ vectors.mT
    _close(rebuilt[[0, 2]], matrix[[0, 2]])


HIGH = Nodes((0.25, 0.5, 1.0), highest=8)


@pytest.mark.parametrize("kind", ["matrix", "eigen", "lone"])
def test_several_nodes_and_vectors_are_served_at_once(kind):
    """With a term of order 8; what comes of each node is what it alone would give."""
    rows = 1 if kind == "lone" else ROWS
    matrix, vectors, width = _jacobians(True)[:rows], _vectors()[:2, :rows], WIDTH[:rows]
    if kind == "matrix":
        by = MatrixPropagator(matrix, width, HIGH)
    else:
        by = EigenPropagator(*torch.linalg.eigh(matrix), width, HIGH)
    terms = [(1, 1.0, by.into(vectors[0])), (8, 5e3, by.into(vectors[1]))]
    both = by.advance(terms, [0, 2])
    for found, place in zip(by.out(both), (0, 2), strict=True):
        _close(found, by.out(by.advance(terms, place)))
        scaled = [HIGH.at[place] * float(w) * m.numpy() for w, m in zip(width, matrix, strict=True)]
        weight = 5e3 * HIGH.at[place] ** 8
        exact = [
            HIGH.at[place] * _phi(1, a) @ v.numpy() + weight * _phi(8, a) @ w.numpy()
            for a, v, w in zip(scaled, *vectors, strict=True)
        ]
        _close(found, exact)
    differences = torch.stack([vectors[0], vectors[1]])
    remainders = by.out(by.remainder(differences, both))
    for place in (0, 1):
        alone = by.out(by.remainder(differences[place], both[place]))
        _close(remainders[place], alone)
    _close(by.out(by.into(differences)), differences)


@pytest.mark.parametrize("method", ["exprb43", "expcol8"])
def test_tensors_take_the_steps_that_arrays_take(monkeypatch, method):
    """As on a device that numpy cannot reach."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), 0.5 * rng.normal(size=50)
    problem = gflow.Problem(gflow.SingleIndexDEQ(3, "tanh"), x, y)
    start = 0.1 * rng.normal(size=(4, 4))
    monkeypatch.setenv("GFLOW_COMPILED", "0")
    by_arrays = gflow.integrate(problem, start, t_end=30.0, method=method, rtol=1e-6)["flow"]
    for module in (propagators, accumulation):
        monkeypatch.setattr(module, "plain", lambda tensor: tensor)
    by_tensors = gflow.integrate(problem, start, t_end=30.0, method=method, rtol=1e-6)["flow"]
    assert set(by_arrays.status.values) == {"t_end"}
    assert (by_arrays.nfe == by_tensors.nfe).all()
    np.testing.assert_allclose(by_arrays.theta, by_tensors.theta, rtol=1e-12, atol=1e-13)
