"""Coefficients of a fourth-order stabilised explicit Runge-Kutta method.

A step of degree s evaluates the field s times and is stable for h times the spectral radius up to
about 0.35 s^2. The stability polynomial R is that of ROCK4 (A. Abdulle, "Fourth order Chebyshev
methods with recurrence relation", SIAM J. Sci. Comput. 23 (2002) 2041-2054): R = w p, w of degree 4
and p, of degree s - 4, orthogonal to lower degrees on [-l, ln eta] for the weight
w(z)^2 / sqrt((z + l)(ln eta - z)). l is the largest with |R| <= eta = 0.95 on that interval. With
the weight's other end free as well, the same equations give the paper's Table 2.1 to 2e-4 (5.9983,
32.4470, 138.3586 and 879.8864 at s = 5, 10, 20, 50); its place at ln eta costs 0.6 % of l and damps
most of the interval to 0.88 instead of 0.95.

The stages are not ROCK4's. There, p's recurrence comes first and w's four stages follow it, which
multiplies the rounding of every late stage by w, some 0.01 z^4: 4e-6 at s = 40, more than 1 at
s = 152. Here the stages are Y_j = y + b_j D_j, where D_j follows the plain Chebyshev recurrence on
[-l, 0] (P. J. van der Houwen & B. P. Sommeijer, ZAMM 60 (1980) 479-485), their stability
polynomials are 1 - b_j + b_j T_j(1 + 2 z / l), and y_new = y + h sum_j q_j f(Y_j). T_j's
coefficient in (R - 1) / z is q_j b_j, so any b_j realise R, and the four conditions of order 4
that linear problems do not see are met by the choice of the b_j. Rounding is amplified to 6e-14 at
s = 20 and 3e-12 at s = 242. The price is a fifth-order error of norm 0.0142 for s >= 16 and 0.0229
at s = 5 (the classical method's is 0.0145), where ROCK4's stages could have 0.0024 and 0.0087.

Nothing here is copied from a table. ``benchmarks/rkc4_coefficients.py`` solves for l, w and b and
keeps them in :mod:`gflow.integrators.rkc4_roots`; every other coefficient follows below.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import legendre, polynomial
from numpy.typing import NDArray

from gflow.integrators.rkc4_roots import ROOTS, SHAPES

Array = NDArray[np.float64]
Row = tuple[float, ...]
Tree = tuple[int, ...]

TREES: tuple[Tree, ...] = ((), (0,), (0, 0), (1,), (0, 0, 0), (0, 1), (2,), (3,))
"""The rooted trees of order 1 to 4, each as the positions of the trees on its root."""

EXACT: Row = (1, 1 / 2, 1 / 3, 1 / 6, 1 / 4, 1 / 8, 1 / 12, 1 / 24)
"""The exact solution's elementary weights, 1 / (a tree's density)."""

START_SLOPE: Row = (1, 0, 0, 0)
END_SLOPE: Row = (1, 1, 1, 1 / 2)
"""The weights of h times the exact solution's slope, for the trees of order 1 to 3."""

DAMPING = 0.95
"""eta, the bound on the stability polynomial."""

ERROR_SCALE = 2.0
"""The estimate's size over that of the fit to R(z) - e^z, which is about half of it near z = -8."""

DEGREES: tuple[int, ...] = tuple(sorted(ROOTS))
"""The degrees on offer."""

REACHES: Row = tuple(ROOTS[degree][0] for degree in DEGREES)
"""l for each of :data:`DEGREES`: the largest h times spectral radius that is stable."""

CONDITION_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Rkc4Tableau:
    """The coefficients of one degree; checks its order conditions when made.

    A step from y at t, with E = D = 0 at first, does for j = 0 .. s - 1::

        F_j = f(t + nodes[j] h, y + scale[j] D)          F_0 = f(t, y)
        E += drive[j] h (F_j - (1 - scale[j]) F_0)
        D += E                                           (not needed after the last F_j)

    and then h times the sum of F_j with these weights is:

    ============ ==================================================================================
    ``weights``  y_new - y
    ``error``    the estimate of the local error, O(h^4)
    ``start``    h y' at t, to O(h^4), the order of a cubic Hermite interpolant, for which it is
                 meant: h F_0 itself multiplies stiff errors by h times the spectral radius
    ``end``      the same at t + h
    ============ ==================================================================================

    All of them respond to y' = z y / h by a bounded factor for -reach <= z <= 0. F_0 of the next
    step is no part of this one.

    Parameters
    ----------
    degree : int
        s, the evaluations of a step.
    reach : float
        l: |R(z)| <= 0.95 for -l <= z <= ln 0.95.
    scale, drive, nodes : tuple of float, length s
        As above. The nodes lie in [0, 1].
    weights, error, start, end : tuple of float, length s
        As above.

    Raises
    ------
    ValueError
        If an order condition is missed by more than 1e-12.
    """

    degree: int
    reach: float
    scale: Row
    drive: Row
    nodes: Row
    weights: Row
    error: Row
    start: Row
    end: Row

    def __post_init__(self) -> None:
        slopes = stage_slopes(self.scale, self.drive)
        misses = [np.array(self.weights) @ slopes - EXACT] + [
            np.array(row) @ slopes[:, :4] - exact
            for row, exact in (
                (self.error, np.zeros(4)),
                (self.start, START_SLOPE),
                (self.end, END_SLOPE),
            )
        ]
        miss = np.abs(np.concatenate(misses)).max()
        if not miss <= CONDITION_TOLERANCE:
            raise ValueError(f"degree {self.degree} misses an order condition by {miss:.1e}")


def degree_for(reach: float) -> int:
    """Return the smallest degree that is stable for h times spectral radius up to ``reach``.

    Raises
    ------
    ValueError
        If ``reach`` exceeds ``REACHES[-1]`` or is NaN.
    """
    if not reach <= REACHES[-1]:
        raise ValueError(f"no degree reaches {reach}; the largest, {DEGREES[-1]}, {REACHES[-1]}")
    return DEGREES[bisect_left(REACHES, reach)]


@cache
def rkc4_tableau(degree: int) -> Rkc4Tableau:
    """Return the coefficients of a degree of :data:`DEGREES`.

    Raises
    ------
    ValueError
        If the degree is not on offer.
    """
    if degree not in ROOTS:
        raise ValueError(f"degree {degree} is not one of {DEGREES}")
    reach, *zeros = ROOTS[degree]
    scale = stage_scales(degree, SHAPES[degree])
    drive = stage_drives(reach, scale)
    slopes = stage_slopes(scale, drive)
    weights = stage_weights(scale, reach, zeros)
    weights += np.linalg.pinv(slopes.T) @ (EXACT - weights @ slopes)
    rows = (scale, drive, slopes[:, 1], weights, *_combinations(reach, scale, weights, slopes))
    return Rkc4Tableau(degree, reach, *(tuple(row.tolist()) for row in rows))


def recurrence(degree: int, reach: float, zeros: Sequence[float]) -> tuple[Row, Row]:
    """Return mu and kappa of the orthogonal polynomials p_j, normalised by p_j(0) = 1.

    p_j(z) = (mu_j z + 1 + kappa_j) p_{j-1}(z) - kappa_j p_{j-2}(z) for j = 1 .. degree - 4, by the
    Stieltjes procedure on Gauss-Chebyshev nodes, enough of them for exact inner products
    (W. Gautschi, SIAM J. Sci. Stat. Comput. 3 (1982) 289-317). ``zeros`` are the real and imaginary
    part of one zero of w and of another; their conjugates are the other two.
    """
    near = math.log(DAMPING)
    z = (near - reach + (near + reach) * np.cos(_angles(degree + 2))) / 2
    weight = polynomial.polyval(z, quartic(zeros)) ** 2
    mu, kappa = [], []
    before, now = np.zeros_like(z), np.ones_like(z)
    norm_before, norm = np.inf, weight.sum()
    for _ in range(degree - 4):
        centre = (weight * z * now * now).sum() / norm
        back = (weight * z * now * before).sum() / norm_before
        mu.append(float(-1 / (centre + back)))
        kappa.append(float(back * mu[-1]))
        before, now = now, ((z - centre) * now - back * before) * mu[-1]
        norm_before, norm = norm, (weight * now * now).sum()
    return tuple(mu), tuple(kappa)


def quartic(zeros: Sequence[float]) -> Array:
    """Return the coefficients of w, constant first; w(0) = 1."""
    first, second = (
        np.array([1, -2 * re / (re * re + im * im), 1 / (re * re + im * im)])
        for re, im in (zeros[:2], zeros[2:])
    )
    return np.asarray(np.convolve(first, second))


def stability(degree: int, reach: float, zeros: Sequence[float], z: Array) -> Array:
    """Return R at the points ``z``."""
    before, now = np.ones_like(z), np.ones_like(z)
    for mu, kappa in zip(*recurrence(degree, reach, zeros), strict=True):
        before, now = now, (mu * z + 1 + kappa) * now - kappa * before
    return np.asarray(polynomial.polyval(z, quartic(zeros)) * now)


def stage_scales(degree: int, shape: Sequence[float] | Array) -> Array:
    """Return the b_j: ln b_j is a Legendre series in j^2, and b_0 = 1 is immaterial."""
    place = 2 * (np.arange(degree) / (degree - 1)) ** 2 - 1
    scale: Array = np.exp(legendre.legval(place, np.array(shape)))
    scale[0] = 1.0
    return scale


def stage_drives(reach: float, scale: Array) -> Array:
    """Return the factors of the field in the recurrence, from that of T_j(1 + 2 z / l)."""
    drive = 4 / (reach * scale)
    drive[0] /= 2
    return drive


def stage_weights(scale: Array, reach: float, zeros: Sequence[float]) -> Array:
    """Return the q_j that make R the stability polynomial."""
    degree = len(scale)
    angles = _angles(degree)
    z = reach / 2 * (np.cos(angles) - 1)
    ratio = (stability(degree, reach, zeros, z) - 1) / z
    chebyshev = 2 / degree * np.cos(np.outer(np.arange(degree), angles)) @ ratio
    weights: Array = chebyshev / scale
    weights[0] = chebyshev[0] / 2 - weights[1:] @ (1 - scale[1:])
    return weights


def stage_slopes(
    scale: Sequence[float] | Array,
    drive: Sequence[float] | Array,
    trees: Sequence[Tree] = TREES,
) -> Array:
    """Return the elementary weights of every h f(Y_j) for the trees, shape (s, len(trees))."""
    rise = increment = np.zeros(len(trees))
    slopes: list[Array] = []
    for b, d in zip(scale, drive, strict=True):
        stage = (b * increment).tolist()
        slopes.append(np.array([math.prod(stage[child] for child in tree) for tree in trees]))
        rise = rise + d * (slopes[-1] - (1 - b) * slopes[0])
        increment = increment + rise
    return np.array(slopes)


def _combinations(
    reach: float, scale: Array, weights: Array, slopes: Array
) -> tuple[Array, Array, Array]:
    """Return the weights of the error estimate and of the slopes at both ends.

    Each meets its conditions for the trees of order 1 to 3. What freedom is left brings its
    response to y' = z y / h as near as possible to, in turn, R(z) - e^z, 0 and z e^z, in the mean
    square over the logarithm of z.
    """
    angles = _angles(2 * len(scale))
    z = reach / 2 * (np.cos(angles) - 1)
    responses = z[:, None] * (1 - scale + scale * np.cos(np.outer(angles, np.arange(len(scale)))))
    targets = (
        (np.zeros(4), responses @ weights + 1 - np.exp(z)),
        (np.array(START_SLOPE), np.zeros_like(z)),
        (np.array(END_SLOPE), z * np.exp(z)),
    )
    error, start, end = (
        _fit(slopes[:, :4].T, values, responses / angles[:, None], target / angles)
        for values, target in targets
    )
    return ERROR_SCALE * error, start, end


def _fit(conditions: Array, values: Array, matrix: Array, target: Array) -> Array:
    """Return x with ``conditions @ x = values`` and the least |matrix @ x - target|."""
    free = np.linalg.svd(conditions)[2][len(values) :].T
    x = np.linalg.pinv(conditions) @ values
    return np.asarray(x + free @ np.linalg.lstsq(matrix @ free, target - matrix @ x)[0])


def _angles(count: int) -> Array:
    """Return the angles of ``count`` Chebyshev nodes."""
    return np.pi * (np.arange(count, dtype=np.float64) + 0.5) / count
