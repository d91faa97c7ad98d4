"""phi-functions against a confluent hypergeometric function in fifty digits."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from gflow.integrators.phi import NEAR, phi_functions, phi_products

EDGE, FAR_EDGE = NEAR[4], NEAR[8]


def _reference(order, z):
    """phi_k(z) = 1F1(1; k + 1; z) / k!"""
    with mpmath.workdps(50):
        return float(mpmath.hyp1f1(1, order + 1, mpmath.mpf(z)) / mpmath.factorial(order))


def _check(z, dtype, rtol, highest=4):
    found = phi_functions(torch.tensor(z, dtype=dtype), highest)
    assert (found.shape, found.dtype) == ((highest, len(z)), dtype)
    held = torch.tensor(z, dtype=dtype).tolist()
    expected = [[_reference(k, value) for value in held] for k in range(1, highest + 1)]
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=rtol, atol=0)


@given(st.lists(st.floats(-1e3, 700) | st.floats(-3, 3), min_size=1, max_size=8))
@example([0.0, -0.0, 1e-300, -1e-8, EDGE, -EDGE, np.nextafter(EDGE, 2), np.nextafter(-EDGE, -2)])
@example([FAR_EDGE, -FAR_EDGE, np.nextafter(FAR_EDGE, 4), np.nextafter(-FAR_EDGE, -4)])
@example([-1e3, -300.0, -40.0, -5.0, 5.0, 40.0, 300.0, 700.0])
def test_both_signs_agree_with_fifty_digits(z):
    _check(z, torch.float64, 5e-15)
    _check(z, torch.float64, 3e-14, highest=8)


def test_single_precision_stays_single_and_accurate():
    _check([-80.0, -2.0, -1.0, -1e-4, 0.0, 1e-4, 1.0, 2.0, 80.0], torch.float32, 3e-6)


def test_the_sizes_of_large_arguments_are_known():
    """phi_k(z) is 1 / ((k - 1)! |z|) far to the left and overflows to infinity on the right."""
    far = torch.tensor([-1e6, -1e12, -1e300], dtype=torch.float64)
    limits = 1 / (torch.tensor([1.0, 1.0, 2.0, 6.0]).double()[:, None] * far.abs())
    assert torch.allclose(phi_functions(far), limits, rtol=4e-6, atol=0)
    assert phi_functions(torch.tensor([710.0, 1e9, 1e300], dtype=torch.float64)).isposinf().all()


def test_what_is_nan_stays_so_and_leaves_its_neighbours_alone():
    found = phi_functions(torch.tensor([float("nan"), 1.0], dtype=torch.float64))
    assert found[:, 0].isnan().all()
    assert float(found[0, 1]) == pytest.approx(np.e - 1, rel=1e-15)


def test_any_shape_is_taken():
    z = torch.linspace(-9, 9, 24, dtype=torch.float64)
    assert torch.equal(phi_functions(z.view(2, 3, 4)).flatten(1), phi_functions(z))


def _products(matrix, vectors):
    """By the recurrence phi_k = (phi_(k-1) - 1/(k-1)!) A^-1 on well-conditioned matrices."""
    size, total, phi = len(matrix), 0.0, scipy.linalg.expm(matrix)
    factorial = 1.0
    for k, vector in enumerate(vectors, start=1):
        phi = np.linalg.solve(matrix, phi - np.eye(size) / factorial)
        factorial *= k
        total = total + phi @ vector
    return total


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_products_follow_the_recurrence(count, scale):
    rng = np.random.default_rng(1)
    matrices = [
        scale * (rng.normal(size=(5, 5)) / 5 - np.eye(5)),
        -scale * np.diag(np.arange(1, 6)),
    ]
    vectors = rng.normal(size=(2, count, 5))
    found = phi_products(torch.tensor(np.stack(matrices)), torch.tensor(vectors))
    expected = [_products(a, w) for a, w in zip(matrices, vectors, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-11, atol=1e-13)


@given(z=st.floats(-50, 50), weights=st.lists(st.floats(-2, 2), min_size=4, max_size=4))
def test_products_of_one_parameter_are_the_scalar_functions(z, weights):
    """Also where the matrix is singular, and the recurrence would not do."""
    w = torch.tensor(weights, dtype=torch.float64)
    matrix = torch.tensor([[z]], dtype=torch.float64)
    phi = phi_functions(matrix.flatten())[:, 0]
    found = phi_products(matrix, w[:, None])
    assert float((found[0] - w @ phi).abs()) <= 1e-12 * float(w.abs() @ phi)
