"""Coefficients of a fourth-order stabilised explicit Runge-Kutta method of the ROCK4 type.

A. Abdulle, "Fourth order Chebyshev methods with recurrence relation", SIAM J. Sci. Comput. 23
(2002) 2041-2054. A step of degree s costs s evaluations of the field. Its stability polynomial is
R = w p, where w has degree 4 and p, of degree s - 4, is orthogonal on [-l, ln eta] to lower degrees
for the weight w(z)^2 / sqrt((z + l)(ln eta - z)), so that p obeys a three-term recurrence. The
stages g_j follow the recurrence up to j = s - 4, and four more stages, started from g_{s-4}, have w
for their stability polynomial and complete the order conditions (:func:`_finish`).

Nothing here is copied from a table. :data:`gflow.integrators.rock4_roots.ROOTS` holds l and the
zeros of w, which ``benchmarks/rock4_coefficients.py`` solves for; every other coefficient follows
from them below. What differs from the published method:

- l is the largest with \\|R(z)\\| <= eta = 0.95 on [-l, ln eta]. Starting the weight at ln eta costs
  0.6 % of the l of the paper's Table 2.1 (5.9983, 32.4470, 138.3586 and 879.8864 at s = 5, 10, 20,
  50) and damps the bulk of the interval to 0.82-0.88 instead of 0.95.
- The last four stages have c_2 = 0.35 and c_3 = 0.55 of what g_{s-4} leaves of the step, where the
  fifth-order error is within a tenth of its smallest for moderate coefficients.
- The error estimate uses one of the recurrence's own slopes, not f(y_{n+1}), and so stays bounded
  on the whole interval, however long (:func:`_bounded_slopes`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gflow.integrators.rock4_roots import ROOTS

Array = NDArray[np.float64]
Row = tuple[float, ...]

TREES: tuple[tuple[int, ...], ...] = ((), (0,), (0, 0), (1,), (0, 0, 0), (0, 1), (2,), (3,))
"""The rooted trees of order 1 to 4, each as the positions of the trees on its root.

A B-series is below an array of one elementary weight a tree, without the starting value."""

EXACT: Row = (1, 1 / 2, 1 / 3, 1 / 6, 1 / 4, 1 / 8, 1 / 12, 1 / 24)
"""The exact solution's elementary weights, 1 / (a tree's density)."""

DAMPING = 0.95
"""eta, the bound on the stability polynomial."""

DEGREES: tuple[int, ...] = tuple(sorted(ROOTS))
"""The degrees on offer."""

REACHES: tuple[float, ...] = tuple(ROOTS[degree][0] for degree in DEGREES)
"""l for each of :data:`DEGREES`: the largest h times spectral radius that is stable."""

ORDER_TOLERANCE = 1e-13


@dataclass(frozen=True)
class Rock4Tableau:
    """The coefficients of one degree; checks its order conditions when made.

    With m = s - 4 and f_j = f(t + nodes[j] h, g_j), where g_0 = y is the step's start, a step is::

        g_1 = y + mu[1] h f_0
        g_j = mu[j] h f_{j-1} + (1 + kappa[j]) g_{j-1} - kappa[j] g_{j-2}           j = 2..m
        k_i = f(t + late_nodes[i] h, g_m + h sum_{l < i} a[i][l] k_l)               i = 0..3
        y_new = g_m + h sum_i b[i] k_i

    ``mu[0]`` and ``kappa[:2]`` are zero and unused. ``error``, ``start`` and ``end`` weigh the five
    slopes (f_probe, k_0, k_1, k_2, k_3). h times the weighted sum is, for ``error``, the local
    error's estimate: y_new less a method of order 3, so O(h^4). For ``start`` and ``end`` it is h
    times the slope of the solution at either end of the step, to O(h^4) like a cubic Hermite
    interpolant's own error, for which they are meant: h f(y) itself grows with h times the spectral
    radius where these stay bounded.

    Parameters
    ----------
    degree : int
        s, the evaluations of a step whose f_0 is known from the step before, plus that one.
    reach : float
        l: \\|R(z)\\| <= 0.95 for -l <= z <= ln 0.95.

    Raises
    ------
    ValueError
        If an order condition is missed by more than 1e-13.
    """

    degree: int
    reach: float
    mu: Row
    kappa: Row
    nodes: Row
    a: tuple[Row, ...]
    b: Row
    late_nodes: Row
    probe: int
    error: Row
    start: Row
    end: Row

    def __post_init__(self) -> None:
        miss = np.abs(self.elementary_weights() - EXACT).max()
        if not miss <= ORDER_TOLERANCE:
            raise ValueError(f"the degree {self.degree} misses an order condition by {miss:.1e}")

    def elementary_weights(self) -> Array:
        """Return the whole step's elementary weights for :data:`TREES`, stage by stage."""
        early = recurrence_series(self.mu, self.kappa)[-1]
        return early + _combine(self.b, _late_slopes(early, self.a))


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


@lru_cache(maxsize=None)
def rock4_tableau(degree: int) -> Rock4Tableau:
    """Return the coefficients of a degree of :data:`DEGREES`.

    Raises
    ------
    ValueError
        If the degree is not on offer.
    """
    if degree not in ROOTS:
        raise ValueError(f"degree {degree} is not one of {DEGREES}")
    reach, *zeros = ROOTS[degree]
    mu, kappa = recurrence(degree, reach, zeros)
    series = recurrence_series(mu, kappa)
    a, b = _finish(series[-1])
    probe = (degree - 4) // 2
    slopes = (_slope(series[probe]), *_late_slopes(series[-1], a))
    error, start, end = _bounded_slopes(np.array(slopes)[:, :4])
    error /= np.abs(error @ _slopes_on_interval(reach, mu, kappa, a, probe)).max()
    nodes = tuple(float(g[0]) for g in series)
    return Rock4Tableau(
        degree,
        reach,
        mu,
        kappa,
        nodes,
        a,
        b,
        tuple(nodes[-1] + sum(row) for row in a),
        probe,
        *(tuple(row.tolist()) for row in (error, start, end)),
    )


def recurrence(degree: int, reach: float, zeros: Sequence[float]) -> tuple[Row, Row]:
    """Return mu and kappa of the orthogonal polynomials p_j, normalised by p_j(0) = 1.

    p_j(z) = (mu_j z + 1 + kappa_j) p_{j-1}(z) - kappa_j p_{j-2}(z), by the Stieltjes procedure on
    Gauss-Chebyshev nodes, enough of them for exact inner products (W. Gautschi, SIAM J. Sci. Stat.
    Comput. 3 (1982) 289-317). ``zeros`` are the real and imaginary part of one zero of w and of the
    other; their conjugates are zeros too.
    """
    z = interval(reach, degree + 2)
    weight = np.polynomial.polynomial.polyval(z, weight_coefficients(zeros)) ** 2
    mu, kappa = [0.0], [0.0]
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


def interval(reach: float, count: int) -> Array:
    """Return ``count`` Chebyshev nodes on [-reach, ln eta]."""
    cosine = np.cos((np.arange(count) + 0.5) * (np.pi / count))
    near = math.log(DAMPING)
    return (near - reach + (near + reach) * cosine) / 2


def weight_coefficients(zeros: Sequence[float]) -> Array:
    """Return w's five coefficients, constant first, from both zeros' real and imaginary parts."""
    squares = [re * re + im * im for re, im in (zeros[:2], zeros[2:])]
    first, second = (
        np.array([1, -2 * re / square, 1 / square])
        for re, square in zip(zeros[::2], squares, strict=True)
    )
    return np.convolve(first, second)


def remaining_weights(early: Array) -> Row:
    """Return the elementary weights that the last four stages must have by themselves.

    These are the order conditions of the composition (E. Hairer, S. P. Norsett, G. Wanner, Solving
    Ordinary Differential Equations I, Theorem II.12.6) solved for the second method, given the
    first one's weights ``early``. With c the last stages' own nodes, u = a c and v = a c^2, the
    values are the sums of b, b c, b c^2, b u, b c^3, b c u, b v and b a u.
    """
    c, t2, t31, t32, t41, t42, t43, t44 = early.tolist()
    w1 = 1 - c
    w2 = 1 / 2 - t2 - c * w1
    w31 = 1 / 3 - t31 - c * c * w1 - 2 * c * w2
    w32 = 1 / 6 - t32 - t2 * w1 - c * w2
    w41 = 1 / 4 - t41 - c**3 * w1 - 3 * c * c * w2 - 3 * c * w31
    w42 = 1 / 8 - t42 - c * (t2 * w1 + c * w2 + w32) - t2 * w2 - c * w31
    w43 = 1 / 12 - t43 - t31 * w1 - c * c * w2 - 2 * c * w32
    w44 = 1 / 24 - t44 - t32 * w1 - t2 * w2 - c * w32
    return w1, w2, w31, w32, w41, w42, w43, w44


def _finish(early: Array) -> tuple[tuple[Row, ...], Row]:
    """Return a and b of the last four stages: eight conditions, with c_2 and c_3 chosen.

    As for the classical methods of order 4 (Hairer, Norsett & Wanner, section II.1), the product of
    the sums of b_i (c_i - c_4) a_ij c_j and b_i a_ij c_j (c_j - c_2) equals that of b_i a_ij a_jk
    c_k and b_i c_i (c_i - c_2)(c_i - c_4), which fixes c_4; the rest is linear.
    """
    w1, w2, w31, w32, w41, w42, w43, w44 = remaining_weights(early)
    c2, c3 = 0.35 * w1, 0.55 * w1
    c4 = (w44 * (w41 - c2 * w31) - w42 * (w43 - c2 * w32)) / (
        w44 * (w31 - c2 * w2) - w32 * (w43 - c2 * w32)
    )
    powers = np.vander([0, c2, c3, c4], increasing=True).T
    b = np.linalg.solve(powers, [w1, w2, w31, w41]).tolist()
    u3, u4 = np.linalg.solve([b[2:], [b[2] * c3, b[3] * c4]], [w32, w42]).tolist()
    v4 = (w43 - b[2] * c2 * u3) / b[3]
    a32 = u3 / c2
    a43 = (v4 - c2 * u4) / (c3 * (c3 - c2))
    a42 = (u4 - a43 * c3) / c2
    return ((), (c2,), (c3 - a32, a32), (c4 - a42 - a43, a42, a43)), tuple(b)


def _bounded_slopes(weights: Array) -> tuple[Array, Array, Array]:
    """Return the slopes' combinations that give the error, and h y' at the start and the end.

    Four conditions hold on the trees of order 1 to 3, and there are five slopes. The four last ones
    alone admit no error estimate, and f(y_{n+1}) for the fifth would make it grow like z R(z); the
    slope in the middle of the recurrence leaves it below 1.4 times its value at z = -8. The error's
    combination is the null vector, the others are the shortest solutions.

    Parameters
    ----------
    weights : ndarray, shape (5, 4)
        The slopes' elementary weights for the trees of order 1 to 3.
    """
    start, end = np.linalg.pinv(weights.T) @ [1, 0, 0, 0], np.linalg.pinv(weights.T) @ [1, 1, 1, 0.5]
    error = np.linalg.svd(weights.T)[2][-1]
    return math.copysign(1.0, error[-1]) * error, start, end


def _slopes_on_interval(reach: float, mu: Row, kappa: Row, a: tuple[Row, ...], probe: int) -> Array:
    """Return h times the five slopes of y' = z y / h from y = 1, for z over the interval."""
    z = interval(reach, 20 * len(mu) + 80)
    stages = [np.ones_like(z)]
    for j in range(1, len(mu)):
        before = stages[max(j - 2, 0)]
        stages.append((mu[j] * z + 1 + kappa[j]) * stages[-1] - kappa[j] * before)
    late: list[Array] = []
    for row in a:
        late.append(z * (stages[-1] + _combine(row, late)))
    return np.array([z * stages[probe], *late])


def recurrence_series(mu: Row, kappa: Row) -> list[Array]:
    """Return the B-series of g_0 to g_m."""
    stages = [np.zeros(len(TREES))]
    for j in range(1, len(mu)):
        before = stages[max(j - 2, 0)]
        stages.append(mu[j] * _slope(stages[-1]) + (1 + kappa[j]) * stages[-1] - kappa[j] * before)
    return stages


def _late_slopes(early: Array, a: tuple[Row, ...]) -> list[Array]:
    """Return the B-series of h k_0 to h k_3, started from the series ``early`` of g_m."""
    slopes: list[Array] = []
    for row in a:
        slopes.append(_slope(early + _combine(row, slopes)))
    return slopes


def _slope(series: Array) -> Array:
    """Return the B-series of h f at a stage, from that of the stage."""
    weights = series.tolist()
    return np.array([math.prod(weights[child] for child in tree) for tree in TREES])


def _combine(weights: Row, vectors: Sequence[Array]) -> Array | float:
    return sum(x * v for x, v in zip(weights, vectors, strict=True))
