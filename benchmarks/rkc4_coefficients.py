"""Solve for what the fourth-order stabilised method rests on.

For every degree s of :mod:`gflow.integrators.rkc4_tableau`, which has the notation:

1. the complex zeros of w, such that R = w p has order 4 at z = 0 (Newton's method, given l), and
   the largest l with |R| <= 0.95 on [-l, ln 0.95]. Each degree starts from the one before; the
   first, s = 5, from R = 1 + z + ... + z^4 / 24 + 0.0046 z^5;
2. the shape of the b_j, six coefficients (four or five for s < 8), such that the four conditions of
   order 4 that are left hold. The remaining freedom makes the fifth-order error small, with nodes
   of at most about 0.99 and b_j of at most about 0.9.

Usage::

    python benchmarks/rkc4_coefficients.py             print a table (a minute or two)
    python benchmarks/rkc4_coefficients.py --write     and rewrite gflow/integrators/rkc4_roots.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, fsolve, least_squares

from gflow.integrators.rkc4_tableau import (
    DAMPING,
    EXACT,
    TREES,
    Rkc4Tableau,
    quartic,
    recurrence,
    stability,
    stage_drives,
    stage_scales,
    stage_slopes,
    stage_weights,
)

Array = NDArray[np.float64]
Field = Callable[[float, Array], Array]

LARGEST = 250
RATIO = 1.05
"""The next degree is the next integer, or this much larger where that is more."""

SHAPE_SIZE = 6
"""From s = 8 on: with fewer weights than conditions, their digits must do, and 15 fit for five."""

FIRST_SHAPE = (-1.4, -1.2, 0.5)
LARGEST_SCALE = 0.9
LARGEST_NODE = 0.99

FIFTH = ((0,) * 4, (0, 0, 1), (0, 2), (0, 3), (1, 1), (4,), (5,), (6,), (7,))
FIFTH_EXACT = 1 / np.array([5, 10, 15, 30, 20, 20, 40, 60, 120])
FIFTH_SYMMETRY = np.array([24, 2, 2, 1, 2, 6, 1, 2, 1])
"""The trees of order 5 on those of :data:`TREES`: children, 1 / density and symmetry."""

MOST_DIGITS = 15
LINE_LENGTH = 100

HEADER = '''"""What the fourth-order stabilised method rests on, as solved for.

Written by ``python benchmarks/rkc4_coefficients.py --write``, which says how.
"""

from __future__ import annotations

'''
ROOTS_DOC = '"""Degree: l, then real and imaginary part of one zero of w and of another."""\n\n'
SHAPES_DOC = '"""Degree: the Legendre coefficients of ln b_j."""\n'


class Solution(NamedTuple):
    """What is solved for at one degree, and the norm of its fifth-order error."""

    degree: int
    reach: float
    zeros: Array
    shape: Array
    fifth: float


def degrees() -> Iterator[int]:
    """Yield the degrees to solve for, from 5."""
    degree = 5
    while degree <= LARGEST:
        yield degree
        degree = max(degree + 1, int(RATIO * degree))


def order_residual(zeros: Array, degree: int, reach: float) -> Array:
    """Return by how much w's coefficients differ from those of e^z / p, relative to them."""
    taylor, before = np.eye(5)[0], np.eye(5)[0]
    for mu, kappa in zip(*recurrence(degree, reach, zeros.tolist()), strict=True):
        shifted = np.concatenate([[0], taylor[:-1]])
        before, taylor = taylor, mu * shifted + (1 + kappa) * taylor - kappa * before
    wanted: list[float] = []
    for power, exact in enumerate((1, 1, 1 / 2, 1 / 6, 1 / 24)):
        wanted.append(exact - sum(taylor[power - i] * x for i, x in enumerate(wanted)))
    return np.asarray(quartic(zeros.tolist())[1:] / wanted[1:] - 1)


def solve_zeros(guess: Array, degree: int, reach: float) -> Array:
    """Return the zeros of w for which R has order 4."""
    args = (degree, reach)
    zeros, report, _, _ = fsolve(order_residual, guess, args, full_output=True, xtol=1e-14)
    if np.abs(report["fvec"]).max() > 1e-11:
        raise RuntimeError(f"no polynomial of degree {degree} found for l = {reach}")
    return np.asarray(zeros)


def excess(zeros: Array, degree: int, reach: float) -> float:
    """Return the largest |R| from z = -l to where R follows e^z, less the bound."""
    z = -(1 + (reach - 1) * np.sin(np.linspace(0, np.pi / 2, 400 * degree)) ** 2)
    return float(np.abs(stability(degree, reach, zeros.tolist(), z)).max()) - DAMPING


def longest(guess: Array, degree: int, reach: float) -> tuple[float, Array]:
    """Return the largest l within the bound, and its zeros, from a ``reach`` that is within it."""
    zeros = solve_zeros(guess, degree, reach)
    step = 0.02 * reach
    while excess(solve_zeros(zeros, degree, reach + step), degree, reach + step) < 0:
        reach += step
        zeros = solve_zeros(zeros, degree, reach)
    length = brentq(
        lambda x: excess(solve_zeros(zeros, degree, x), degree, x), reach, reach + step, rtol=1e-12
    )
    return length, solve_zeros(zeros, degree, length)


def first_zeros() -> Array:
    """Return the zeros of w in the guess for s = 5."""
    roots = np.roots([0.0046, 1 / 24, 1 / 6, 1 / 2, 1, 1])
    upper = roots[roots.imag > 1e-9]
    return np.column_stack([upper.real, upper.imag]).ravel()


def shape_residual(
    shape: Array, degree: int, reach: float, zeros: Sequence[float], strictness: float
) -> Array:
    """Return what the b_j should keep small: order conditions, error, nodes, weights, b_j."""
    scale = stage_scales(degree, shape)
    slopes = stage_slopes(scale, stage_drives(reach, scale), TREES + FIFTH)
    weights = stage_weights(scale, reach, zeros)
    series = weights @ slopes
    return np.concatenate(
        [
            strictness * (series[: len(TREES)] - EXACT),
            10 * fifth_error(series),
            3 * np.maximum(slopes[:, 1] - LARGEST_NODE, 0),
            np.maximum(np.log(scale[1:] / LARGEST_SCALE), 0),
            0.003 * np.sqrt(degree) * weights,
        ]
    )


def fifth_error(series: Array) -> Array:
    """Return the coefficients of the elementary differentials of order 5 in the local error."""
    return np.asarray((series[len(TREES) :] - FIFTH_EXACT) / FIFTH_SYMMETRY)


def solve_shape(guess: Array, degree: int, reach: float, zeros: Array) -> tuple[Array, float]:
    """Return the shape of the b_j and the norm of the fifth-order error."""
    shape = np.zeros(min(SHAPE_SIZE, max(4, degree - 2)))
    shape[: len(guess)] = guess
    for strictness in (1e3, 1e6):
        args = (degree, reach, zeros.tolist(), strictness)
        shape = least_squares(shape_residual, shape, args=args, xtol=1e-14, ftol=1e-14).x
    residual = shape_residual(shape, *args)
    if np.abs(residual[: len(TREES)]).max() > 1e-10 * strictness:
        raise RuntimeError(f"no stages of degree {degree} found")
    fifth = residual[len(TREES) : len(TREES + FIFTH)] / 10
    return shape, float(np.linalg.norm(fifth))


def solve_all() -> Iterator[Solution]:
    """Yield each degree's solution."""
    reach, zeros, shape = 5.0, first_zeros(), np.array(FIRST_SHAPE)
    for degree in degrees():
        reach, zeros = longest(zeros, degree, reach)
        shape, fifth = solve_shape(shape, degree, reach, zeros)
        yield Solution(degree, reach, zeros, shape, fifth)


def prototype_step(
    f: Field, t: float, y: Array, h: float, f0: Array, tableau: Rkc4Tableau
) -> tuple[Array, Array, Array, Array]:
    """Return the new y, the error estimate, and h times the slope at the start and the end.

    Plain numpy, as a reference for other implementations. ``f0`` is f(t, y); the field is evaluated
    s - 1 times more.
    """
    rise = increment = np.zeros_like(y)
    slopes: list[Array] = []
    for b, drive, node in zip(tableau.scale, tableau.drive, tableau.nodes, strict=True):
        slope = f(t + node * h, y + b * increment) if slopes else f0
        rise = rise + drive * h * (slope - (1 - b) * f0)
        increment = increment + rise
        slopes.append(slope)
    rows = np.array([tableau.weights, tableau.error, tableau.start, tableau.end])
    change, error, start, end = h * np.tensordot(rows.astype(y.dtype), np.array(slopes), 1)
    return y + change, error, start, end


def table(name: str, rows: dict[int, list[float]]) -> str:
    """Return the source of a dictionary of tuples, a line each, with the digits that fit."""
    lines = [f"{name}: dict[int, tuple[float, ...]] = {{\n"]
    for degree, row in rows.items():
        for digits in range(MOST_DIGITS, 0, -1):
            values = ", ".join(repr(float(f"{x:.{digits}g}")) for x in row)
            line = f"    {degree}: ({values}),\n"
            if len(line) <= LINE_LENGTH + 1:
                break
        lines.append(line)
    return "".join([*lines, "}\n"])


def main() -> None:
    """Solve, print what came out, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    solutions = []
    for found in solve_all():
        solutions.append(found)
        ratio = found.reach / found.degree**2
        print(f"s {found.degree:4d}  l {found.reach:10.4f}  l/s^2 {ratio:.4f}", end="")
        print(f"  fifth-order error {found.fifth:.4f}", flush=True)
    if write:
        roots = {x.degree: [x.reach, *x.zeros] for x in solutions}
        shapes = {x.degree: x.shape.tolist() for x in solutions}
        source = (HEADER, table("ROOTS", roots), ROOTS_DOC, table("SHAPES", shapes), SHAPES_DOC)
        path = Path(__file__).parents[1] / "gflow" / "integrators" / "rkc4_roots.py"
        path.write_text("".join(source))


if __name__ == "__main__":
    main()
