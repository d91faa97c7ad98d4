"""The spectral radius: from above, in few evaluations, and never misled by the last direction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gflow.integrators.base import Field
from gflow.integrators.spectral_radius import first_direction, spectral_radius, unit
from gflow.integrators.system import System


class Linear:
    """theta' = A theta for rows, with a count."""

    def __init__(self, *matrices):
        self.matrices = torch.stack([torch.as_tensor(m, dtype=torch.float64) for m in matrices])
        self.calls = 0

    def estimate(self, theta, direction=None):
        def function(t, rows):
            self.calls += 1
            return (self.matrices @ rows[:, :, None])[:, :, 0]

        value = function(None, theta)
        self.calls = 0
        direction = first_direction(value) if direction is None else direction
        system = System(Field(function, batched=True))
        return spectral_radius(system, np.zeros(len(theta)), theta, value, direction)


def _symmetric(eigenvalues, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q @ torch.diag(torch.as_tensor(eigenvalues, dtype=torch.float64)) @ q.T, q


SPECTRUM = [*np.linspace(-1, 0.1, 197), -30.0, -40.0, -45.0]


@pytest.mark.parametrize("seed", range(4))
def test_a_spectrum_with_a_few_stiff_modes(seed):
    """A start that all but misses the stiffest mode, as seed 4 gives, is beyond any such method."""
    matrix, _ = _symmetric(SPECTRUM, seed)
    linear = Linear(matrix)
    theta = torch.cos(torch.arange(200.0, dtype=torch.float64))[None]
    radius, direction = linear.estimate(theta)
    assert 0.97 * 45 < radius[0] < 1.06 * 45
    assert linear.calls <= 6
    again = unit(matrix @ direction[0])
    assert float((again * unit(direction[0])).sum().abs()) > 0.9


def test_a_positive_eigenvalue_counts_as_well():
    matrix, _ = _symmetric([-1.0, -2.0, -3.0, 8.0])
    radius, _ = Linear(matrix).estimate(torch.ones(1, 4, dtype=torch.float64))
    assert radius[0] == pytest.approx(8, rel=0.1)


def test_a_newcomer_is_found_where_the_start_holds_a_little_of_it():
    """The start is the eigenvector of -40; -45 has overtaken it."""
    matrix, q = _symmetric(SPECTRUM)
    linear = Linear(matrix)
    theta = torch.zeros(1, 200, dtype=torch.float64)
    radius, _ = linear.estimate(theta, (q[:, -2] + 0.2 * q[:, -1] + 0.2 * q[:, 0])[None])
    assert 44 < radius[0] < 50
    assert linear.calls <= 4


def test_an_eigenvector_stays_one():
    matrix, q = _symmetric(SPECTRUM)
    linear = Linear(matrix)
    radius, direction = linear.estimate(torch.zeros(1, 200, dtype=torch.float64), q[:, -1][None])
    assert radius[0] == pytest.approx(45, rel=1e-6)
    assert float((unit(direction)[0] @ q[:, -1]).abs()) == pytest.approx(1, abs=1e-6)
    assert linear.calls <= 3


def test_complex_eigenvalues_have_their_modulus():
    matrix = torch.tensor([[-3.0, 4.0], [-4.0, -3.0]], dtype=torch.float64)
    radius, direction = Linear(matrix).estimate(torch.ones(1, 2, dtype=torch.float64))
    assert radius[0] == pytest.approx(5, rel=1e-6)
    assert torch.isfinite(direction).all()


def test_rows_have_their_own_radius_and_failures_stay_alone():
    bad = np.full((3, 3), np.nan)
    linear = Linear(np.diag([-1.0, -2.0, -3.0]), np.zeros((3, 3)), bad, np.diag([-1e4, 0.0, 0.0]))
    radius, direction = linear.estimate(torch.ones(4, 3, dtype=torch.float64))
    assert radius == pytest.approx([3, 0, 0, 1e4], rel=0.1)
    assert torch.isfinite(direction).all()


def test_a_field_that_vanishes_where_it_starts_is_no_obstacle():
    radius, _ = Linear(np.diag([-1.0, -5.0])).estimate(torch.zeros(1, 2, dtype=torch.float64))
    assert radius[0] == pytest.approx(5, rel=1e-6)
