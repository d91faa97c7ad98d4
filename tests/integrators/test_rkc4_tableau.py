"""Tests of gflow.integrators.rkc4_tableau."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from gflow.integrators.rkc4_roots import ROOTS
from gflow.integrators.rkc4_tableau import (
    DEGREES,
    REACHES,
    Rkc4Tableau,
    degree_for,
    rkc4_tableau,
    stability,
)

Array = NDArray[np.float64]
Field = Callable[[float, Array], Array]

SEVERAL = (5, 6, 8, 12, 20, 50)


def step(f: Field, t: float, y: Array, h: float, tableau: Rkc4Tableau) -> tuple[Array, ...]:
    """Return y_new, the error estimate and h y' at both ends, as the tableau's docstring says."""
    rise, increment = np.zeros_like(y), np.zeros_like(y)
    slopes: list[Array] = []
    for scale, drive, node in zip(tableau.scale, tableau.drive, tableau.nodes, strict=True):
        slopes.append(f(t + node * h, y + scale * increment))
        rise = rise + drive * h * (slopes[-1] - (1 - scale) * slopes[0])
        increment = increment + rise
    rows = (tableau.weights, tableau.error, tableau.start, tableau.end)
    change, error, start, end = (h * np.tensordot(row, slopes, 1) for row in rows)
    return y + change, error, start, end


def respond(tableau: Rkc4Tableau, z: Array) -> tuple[Array, ...]:
    """Return what a step makes of y' = z y / h from y = 1."""
    return step(lambda _, y: z * y, 0.0, np.ones_like(z), 1.0, tableau)


def autonomous(_: float, y: Array) -> Array:
    """A pendulum with a Lotka-Volterra coupling: no tree of order 4 vanishes on it."""
    return np.array([y[1] * (1 + 0.3 * y[0]), -np.sin(y[0]) - 0.4 * y[0] * y[1] ** 2])


def driven(t: float, y: Array) -> Array:
    return np.array([-y[0] * (1 + np.sin(2 * t)) * y[1], y[0] ** 2 - y[1] * np.cos(t)])


def end_error(f: Field, count: int, tableau: Rkc4Tableau, embedded: bool) -> float:
    """Return the error at t = 2 after ``count`` equal steps from t = 0."""
    start, h = np.array([0.6, 0.8]), 2 / count
    y = start
    for k in range(count):
        y_new, error, _, _ = step(f, k * h, y, h, tableau)
        y = y_new - error if embedded else y_new
    exact = solve_ivp(f, (0, 2), start, "DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    return float(np.linalg.norm(y - exact))


@pytest.mark.parametrize("f", [autonomous, driven])
@pytest.mark.parametrize("degree", SEVERAL)
@pytest.mark.parametrize(("embedded", "order"), [(False, 4), (True, 3)])
def test_order_is_measured(f: Field, degree: int, embedded: bool, order: int) -> None:
    coarse, fine = (end_error(f, n, rkc4_tableau(degree), embedded) for n in (40, 160))
    assert math.log(coarse / fine, 4) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("f", [autonomous, driven])
@pytest.mark.parametrize("degree", SEVERAL)
def test_slopes_at_the_ends_have_local_order_four(f: Field, degree: int) -> None:
    y = np.array([0.6, 0.8])
    misses = []
    for h in (0.1, 0.025):
        y_new, _, start, end = step(f, 0.3, y, h, rkc4_tableau(degree))
        misses.append((start - h * f(0.3, y), end - h * f(0.3 + h, y_new)))
    ratios = np.log([np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(*misses, strict=True)])
    assert (ratios / np.log(4) > 3.6).all()


@pytest.mark.parametrize("degree", DEGREES)
def test_is_stable_and_bounded_on_its_interval(degree: int) -> None:
    tableau = rkc4_tableau(degree)
    z = -tableau.reach * np.sin(np.linspace(0, np.pi / 2, 60 * degree)) ** 2
    y, error, start, end = np.abs(respond(tableau, z))
    assert y[z > math.log(0.95)].max() <= 1 + 1e-12
    assert y[z < math.log(0.95)].max() <= 0.95 + 1e-6
    assert error.max() < 3.5
    assert start.max() < 3
    assert end.max() < 13


@pytest.mark.parametrize("degree", SEVERAL)
def test_stability_polynomial_agrees_with_the_exponential_to_fourth_order(degree: int) -> None:
    z = np.array([-0.2, -0.1, 0.1, 0.2])
    assert np.abs((respond(rkc4_tableau(degree), z)[0] - np.exp(z)) / z**5).max() < 1 / 120


@pytest.mark.parametrize("degree", DEGREES)
def test_estimate_is_no_less_than_the_linear_error_of_a_resolved_mode(degree: int) -> None:
    z = np.linspace(-1, -0.05, 40)
    y, error, _, _ = respond(rkc4_tableau(degree), z)
    assert (np.abs(error) > np.abs(y - np.exp(z))).all()


@pytest.mark.parametrize(
    ("degree", "published"), [(5, 5.9983), (10, 32.4470), (20, 138.3586), (50, 879.8864)]
)
def test_reach_is_within_a_percent_of_table_2_1_of_abdulle(degree: int, published: float) -> None:
    assert 0.99 * published < rkc4_tableau(degree).reach < published


@pytest.mark.parametrize("degree", [20, 101, DEGREES[-1]])
def test_rounding_is_not_amplified(degree: int) -> None:
    tableau = rkc4_tableau(degree)
    z = -np.linspace(1, tableau.reach, 2000)
    rest = np.random.default_rng(0).uniform(1, 2, z.size)
    y_new = step(lambda _, y: z * (y - rest), 0.0, rest + 1e-6, 1.0, tableau)[0]
    reach, *zeros = ROOTS[degree]
    exact = rest + stability(degree, reach, zeros, z) * 1e-6
    assert np.abs(y_new - exact).max() < 1e-11


def test_nodes_lie_within_the_step() -> None:
    nodes = np.concatenate([rkc4_tableau(degree).nodes for degree in DEGREES])
    assert nodes.min() >= 0
    assert nodes.max() <= 1


def test_degree_is_the_smallest_that_reaches() -> None:
    assert degree_for(0.0) == 5
    assert degree_for(REACHES[3]) == DEGREES[3]
    assert degree_for(REACHES[3] * (1 + 1e-12)) == DEGREES[4]


@pytest.mark.parametrize("reach", [REACHES[-1] * 1.01, math.nan])
def test_no_degree_is_refused(reach: float) -> None:
    with pytest.raises(ValueError, match="no degree reaches"):
        degree_for(reach)


def test_unknown_degree_is_refused() -> None:
    with pytest.raises(ValueError, match="degree 4 is not one of"):
        rkc4_tableau(4)


@pytest.mark.parametrize("row", ["weights", "error", "start", "end", "scale", "drive"])
def test_a_wrong_coefficient_is_refused(row: str) -> None:
    tableau = rkc4_tableau(9)
    values = list(getattr(tableau, row))
    values[4] += 1e-6
    with pytest.raises(ValueError, match="misses an order condition"):
        replace(tableau, **{row: tuple(values)})
