"""The outermost eigenvalues against spectra that are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from gflow.eigen import CAP, MOST, PROBE, Eigenpairs, grown, top_eigenpairs

P = 2000
NONE = torch.empty(0, P, dtype=torch.float64)


def diagonal(values: Tensor, counted: list[int] | None = None) -> Callable[[Tensor], Tensor]:
    def apply(vector: Tensor) -> Tensor:
        if counted is not None:
            counted.append(1)
        return values * vector

    return apply


def spectrum(*top: float, bulk: float = 1.0, size: int = P) -> Tensor:
    """Some eigenvalues beside others between -bulk and bulk, in random order."""
    generator = torch.Generator().manual_seed(3)
    rest = bulk * (2 * torch.rand(size - len(top), generator=generator, dtype=torch.float64) - 1)
    values = torch.cat([torch.tensor(top, dtype=torch.float64), rest])
    return values[torch.randperm(size, generator=generator)]


def check(found: Eigenpairs, operator: Tensor) -> None:
    """What must hold of any result: the residuals are true, the vectors orthonormal."""
    applied = operator * found.vectors if operator.ndim == 1 else found.vectors @ operator
    true = torch.linalg.vector_norm(applied - found.values[:, None] * found.vectors, dim=-1)
    scale = float(operator.abs().max()) * len(operator)
    assert torch.allclose(found.residuals, true, rtol=1e-6, atol=1e-14 * scale)
    gram = found.vectors @ found.vectors.T
    assert torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype), atol=1e-10)


def top(values: Tensor, k: int) -> Tensor:
    return values.sort(descending=True)[0][:k]


@given(
    st.lists(st.integers(-4, 4), min_size=1, max_size=40),
    st.integers(1, 8),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_any_small_spectrum_is_found_with_its_multiplicities(
    integers: list[int], k: int, smallest: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(len(integers),) * 2))[0]
    matrix = torch.tensor(rotation * np.array(integers) @ rotation.T)
    start = torch.tensor(rng.normal(size=(seed % 3, len(integers))))
    found = top_eigenpairs(lambda v: matrix @ v, start, k, smallest=smallest)
    expected = sorted(integers, reverse=not smallest)[:k]
    np.testing.assert_allclose(found.values, expected, atol=1e-7)
    assert found.converged.all()
    check(found, matrix)


@given(
    st.lists(st.integers(-20, 20), min_size=1, max_size=6),
    st.integers(1, 6),
    st.integers(0, 99),
)
def test_outliers_of_a_bulk_are_found(quarters: list[int], k: int, seed: int) -> None:
    values = spectrum(*(quarter / 4 for quarter in quarters), bulk=0.2, size=300)
    start = torch.randn(2, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = top_eigenpairs(diagonal(values), start[: seed % 3], k, rtol=1e-7, most=2000)
    np.testing.assert_allclose(found.values, top(values, k), rtol=1e-6, atol=1e-6)
    check(found, values)


def test_the_largest_is_not_that_of_largest_modulus() -> None:
    values = spectrum(-10.0, 1.0, bulk=0.5)
    largest = top_eigenpairs(diagonal(values), NONE, 1)
    smallest = top_eigenpairs(diagonal(values), NONE, 1, smallest=True)
    assert float(largest.values) == pytest.approx(1.0, rel=1e-9)
    assert float(smallest.values) == pytest.approx(-10.0, rel=1e-9)
    assert float(smallest.residuals) <= 1e-4


def test_the_accuracy_is_that_of_the_largest_and_not_of_a_huge_smallest() -> None:
    values = spectrum(-100.0, 1.0, bulk=0.5)
    counted: list[int] = []
    found = top_eigenpairs(diagonal(values, counted), NONE, 1)
    assert float(found.residuals) <= 1e-5
    assert found.products == len(counted) < 120
    asked: list[int] = []
    product = diagonal(values, asked)
    operator = LinearOperator(
        (P, P), matvec=lambda v: product(torch.tensor(v)).numpy(), dtype=float
    )
    start = np.random.default_rng(0).normal(size=P)
    eigsh(operator, 1, which="LA", v0=start, tol=1e-5, return_eigenvectors=False)
    assert len(asked) > found.products


@pytest.mark.parametrize("copies", [2, 3, 5])
def test_each_copy_of_a_multiple_eigenvalue_is_found(copies: int) -> None:
    """One Krylov space holds one copy; eigsh has the others from its rounding."""
    values = spectrum(*([3.0] * copies), 2.0)
    cold = top_eigenpairs(diagonal(values), NONE, copies + 1)
    warm = top_eigenpairs(diagonal(values + 0.5), cold.vectors, copies + 1)
    for found, shift in ((cold, 0.0), (warm, 0.5)):
        expected = [3.0 + shift] * copies + [2.0 + shift]
        np.testing.assert_allclose(found.values, expected, rtol=1e-8)
        check(found, values + shift)


@pytest.mark.parametrize("k", [1, 3])
def test_a_start_of_eigenvectors_hides_no_newcomer(k: int) -> None:
    """The residuals of the former pairs are zero, and another one has overtaken them."""
    values = spectrum(5.0, 4.0, 3.0)
    before = torch.zeros(k, P, dtype=torch.float64)
    before[range(k), values.argsort(descending=True)[:k]] = 1.0
    moved = values.clone()
    moved[values.argmin()] = 7.0
    found = top_eigenpairs(diagonal(moved), before, k)
    np.testing.assert_allclose(found.values, top(moved, k), rtol=1e-8)


def test_a_near_start_saves_products() -> None:
    values = spectrum(*np.linspace(5, 50, 9))
    for k in (1, 4):
        cold = top_eigenpairs(diagonal(values), NONE, k)
        near = values + 0.01 * spectrum()
        warm = top_eigenpairs(diagonal(near), cold.vectors, k)
        again = top_eigenpairs(diagonal(near), NONE, k)
        np.testing.assert_allclose(warm.values, top(near, k), rtol=1e-9)
        assert warm.products < again.products


def test_a_dense_spectrum_takes_many_restarts() -> None:
    values = torch.linspace(-1, 1, 400, dtype=torch.float64)
    found = top_eigenpairs(diagonal(values), NONE[:, :400], 3)
    assert 60 < found.products < MOST
    assert found.converged.all()
    np.testing.assert_allclose(found.values, top(values, 3), rtol=1e-7)
    check(found, values)


@pytest.mark.parametrize("k", [1, 4])
def test_zero_has_zeros(k: int) -> None:
    found = top_eigenpairs(torch.zeros_like, NONE, k)
    assert found.values.tolist() == found.residuals.tolist() == [0.0] * k
    assert found.converged.all()
    assert found.products <= k + 1


def test_all_of_a_small_space_and_no_more() -> None:
    values = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64)
    found = top_eigenpairs(diagonal(values), NONE[:, :3], 5)
    np.testing.assert_allclose(found.values, [2.0, 2.0, -1.0], atol=1e-14)
    assert found.products == 3


@pytest.mark.parametrize("after", [0, 5])
def test_a_product_that_is_not_finite_ends_it(after: int) -> None:
    counted: list[int] = []
    product = diagonal(spectrum(), counted)

    def apply(vector: Tensor) -> Tensor:
        return product(vector) / (len(counted) <= after)

    found = top_eigenpairs(apply, NONE, 3)
    assert found.values.isnan().all()
    assert found.residuals.isnan().all()
    assert not found.converged.any()
    assert found.products == after + 1


def test_what_is_not_reached_is_told_by_the_residual() -> None:
    values = torch.linspace(-1, 1, P, dtype=torch.float64)
    found = top_eigenpairs(diagonal(values), NONE, 1, most=0)
    assert found.products == 20
    assert not found.converged.any()
    assert 1 - float(found.residuals) < float(found.values) < 1


def test_their_number_grows_while_the_last_exceeds_an_edge() -> None:
    values, none = spectrum(*np.linspace(2, 9, 20), size=400), NONE[:, :400]
    expected = top(values, 40)
    for above, count in ((math.inf, 2), (20.0, 2), (8.9, 2), (8.0, 4), (6.9, 8), (3.0, 32)):
        found = top_eigenpairs(diagonal(values), none, 2, above=above)
        np.testing.assert_allclose(found.values, expected[:count], rtol=1e-6)
    assert len(top_eigenpairs(diagonal(values), none, 2, above=-9.0).values) == CAP
    assert len(top_eigenpairs(diagonal(values[:5]), NONE[:, :5], 2, above=-9.0).values) == 5
    assert grown(expected, CAP + 6, 0.0) == CAP + 6


def test_float32_reaches_what_it_can() -> None:
    values = spectrum(4.0, 3.0, 3.0)
    found = top_eigenpairs(diagonal(values.float()), NONE.float(), 3)
    assert found.values.dtype == found.vectors.dtype == torch.float32
    assert found.converged.all()
    np.testing.assert_allclose(found.values, [4.0, 3.0, 3.0], rtol=1e-5)
    assert found.products < 60 + 3 * PROBE


@pytest.mark.cuda
def test_it_runs_where_the_operator_is() -> None:
    values = spectrum(4.0, 3.0, 3.0)
    there = top_eigenpairs(diagonal(values.cuda()), NONE.cuda(), 3)
    here = top_eigenpairs(diagonal(values), NONE, 3)
    assert there.vectors.is_cuda
    assert there.products == here.products
    assert torch.allclose(there.values.cpu(), here.values, rtol=1e-10)
