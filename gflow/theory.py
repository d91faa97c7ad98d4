"""Closed forms of the linear DEQ's gradient flow.

The output is phi.x with phi = theta1 / (1 - theta2), and the loss L = (1/n) sum (phi.x_i - y_i)^2,
without a factor 1/2. With Sigma = X^T X / n and xi a least-squares solution, L - L* is exactly
(phi - xi)^T Sigma (phi - xi) whatever the noise in y: the residuals at xi are orthogonal to the
inputs. So everything here holds for noisy targets too, for L - L*.

The flow stays on the sphere |theta1|^2 + (1 - theta2)^2 = R^2 about the singular point (0, 1):
[DR] Thm 3.1 = Dandapanthula & Ramdas, arXiv 2511.16976. The other formulas are derived from it in
the docstrings below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gflow._arc import Arc, Array
from gflow.errors import ProblemError

__all__ = ["LinearReference", "critical_radius", "exact_trajectory", "reduced_field", "time_of"]


@dataclass(frozen=True, eq=False)
class LinearReference:
    """What theory says of one gradient flow of a linear DEQ; build it by :meth:`from_data`.

    Attributes
    ----------
    sigma : ndarray, shape (d, d)
        Second moment of the inputs, X^T X / n.
    eigenvalues : ndarray, shape (d,)
        Of ``sigma``, ascending, from the singular values of X.
    xi : ndarray, shape (d,)
        Least-squares solution, the shortest one if there are many.
    minimal_loss : float
        L*, the loss at ``xi``.
    initial_excess : float
        L(theta0) - L*.
    full_rank : bool
        Whether the least eigenvalue exceeds max(n, d) * eps times the largest.
    radius : float
        R, conserved along the flow ([DR] Thm 3.1).
    side : float
        Sign of 1 - theta2, conserved too ([DR] Lemma 3.2): 1.0 or -1.0.
    """

    sigma: Array
    eigenvalues: Array
    xi: Array
    minimal_loss: float
    initial_excess: float
    full_rank: bool
    radius: float
    side: float

    @classmethod
    def from_data(cls, x: ArrayLike, y: ArrayLike, theta0: ArrayLike) -> LinearReference:
        """Closed forms for inputs x (n, d), targets y (n,) and initial parameters theta0 (d + 1,).

        Raises
        ------
        ProblemError
            For shapes that do not match, values that are not finite, or theta2(0) = 1.
        """
        inputs, targets, theta = _checked_data(x, y, theta0)
        n, d = inputs.shape
        xi, _, _, singular_values = np.linalg.lstsq(inputs, targets, rcond=None)
        eigenvalues = np.zeros(d)
        eigenvalues[d - singular_values.size :] = singular_values[::-1] ** 2 / n
        gap = 1.0 - theta[-1]
        return cls(
            sigma=inputs.T @ inputs / n,
            eigenvalues=eigenvalues,
            xi=np.asarray(xi, np.float64),
            minimal_loss=float(np.mean((inputs @ xi - targets) ** 2)),
            initial_excess=float(np.mean((inputs @ (theta[:-1] / gap - xi)) ** 2)),
            full_rank=bool(eigenvalues[0] > max(n, d) * np.finfo(float).eps * eigenvalues[-1]),
            radius=float(np.linalg.norm([*theta[:-1], gap])),
            side=float(np.sign(gap)),
        )

    @property
    def limit(self) -> Array | None:
        """theta at t = inf, shape (d + 1,): c + side * R / sqrt(1 + |xi|^2) * (xi, -1), c = (0, 1).

        The one point of the half sphere where phi = xi ([DR] Thm 3.3 shows convergence). None if
        ``sigma`` is not of full rank: the limit then depends on theta0 by more than R and side.
        """
        if not self.full_rank:
            return None
        gap = self.side * float(self.conditioning(self.xi))
        return np.append(gap * self.xi, 1.0 - gap)

    @property
    def rate(self) -> float:
        """4 lambda_min(sigma) / R^2, in 1 / (unit of t); 0.0 if ``sigma`` is not of full rank.

        |grad L|^2 = 4 |J^T Sigma (phi - xi)|^2 with J J^T = (I + phi phi^T) / (1 - theta2)^2, which
        is at least I / R^2; so |grad L|^2 >= 4 lambda_min / R^2 (L - L*): [DR] Thm 3.4, explicit.
        """
        return 4.0 * float(self.eigenvalues[0]) / self.radius**2 if self.full_rank else 0.0

    @property
    def sharpness_at_limit(self) -> float | None:
        """Largest eigenvalue of the Hessian at ``limit``; None if there is no ``limit``.

        (2 (1 + |xi|^2) / R^2) lambda_max(Sigma^1/2 (I + xi xi^T) Sigma^1/2), for noisy targets too.
        The Hessian is 2 J^T Sigma J plus (2/n) sum_i e_i Hess(phi.x_i); the second part is linear
        in sum_i e_i x_i, which vanishes at xi by the normal equations, though the e_i do not.
        """
        if not self.full_rank:
            return None
        return 2.0 * _curvature(self.sigma, self.xi) / self.radius**2

    def loss_bound(self, t: ArrayLike) -> Array:
        """Upper bound of the loss at times t (any shape): L* + (L(0) - L*) exp(-rate t)."""
        return self.minimal_loss + self.initial_excess * np.exp(-self.rate * _times(t))

    def conditioning(self, phi: ArrayLike) -> Array:
        """|1 - theta2| = R / sqrt(1 + |phi|^2) on the flow, for phi (..., d)."""
        points = _points(phi, self.xi.size)
        return np.asarray(self.radius / np.sqrt(1.0 + np.sum(points**2, axis=-1)))


def critical_radius(step_size: float, sigma: ArrayLike, xi: ArrayLike) -> float:
    """Radius below which GD cannot settle at the flow's limit: the sharpness exceeds 2 / eta.

    sqrt(eta (1 + |xi|^2) lambda_max(Sigma^1/2 (I + xi xi^T) Sigma^1/2)); in one dimension
    sqrt(eta m) (1 + xi^2). A larger radius is necessary for settling, and no separation: a run that
    starts inside may be thrown outward, since every update adds eta^2 |grad L|^2 to R^2.

    Parameters
    ----------
    step_size : float
        eta of GD, positive.
    sigma : array_like, shape (d, d), or float
        Second moment of the inputs; in one dimension the mean square m.
    xi : array_like, shape (d,), or float
        Least-squares solution.

    Raises
    ------
    ProblemError
        For shapes that do not match or values out of range.
    """
    moment, target = _checked_moment(sigma, xi)
    return float(np.sqrt(_positive("step_size", step_size) * _curvature(moment, target)))


def reduced_field(phi: ArrayLike, sigma: ArrayLike, xi: ArrayLike, radius: float) -> Array:
    """Time derivative of phi = theta1 / (1 - theta2) along the gradient flow.

    dphi/dt = -(2 (1 + |phi|^2) / R^2) (I + phi phi^T) Sigma (phi - xi): with J = (I, phi) / (1 -
    theta2) the derivative of phi, dtheta/dt = -2 J^T Sigma (phi - xi) and dphi/dt = J dtheta/dt;
    then J J^T = (I + phi phi^T) / (1 - theta2)^2, and (1 - theta2)^2 = R^2 / (1 + |phi|^2).

    Parameters
    ----------
    phi : array_like, shape (..., d)
        Points.
    sigma, xi
        As for :func:`critical_radius`.
    radius : float
        R, positive.

    Returns
    -------
    ndarray, shape (..., d)

    Raises
    ------
    ProblemError
        For shapes that do not match or values out of range.
    """
    moment, target = _checked_moment(sigma, xi)
    points = _points(phi, target.size)
    slope = (points - target) @ moment
    along = np.sum(points * slope, axis=-1, keepdims=True)
    square = (1.0 + np.sum(points**2, axis=-1, keepdims=True)) / _positive("radius", radius) ** 2
    return np.asarray(-2.0 * square * (slope + points * along))


def time_of(phi: ArrayLike, phi0: float, mean_square: float, xi: float, radius: float) -> Array:
    """Time at which the one-dimensional flow that starts at phi0 passes phi.

    The flow dphi/dt = -(2m / R^2) (1 + phi^2)^2 (phi - xi) separates. With q = 1 + xi^2 partial
    fractions give (2m / R^2) t = F(phi0) - F(phi),

        F(phi) = (log|phi - xi| - log(1 + phi^2) / 2 - xi atan(phi)) / q^2
                 - (xi atan(phi) + (xi phi - 1) / (1 + phi^2)) / (2q).

    For large phi the terms of F cancel (from phi0 = 1e3 to 500, five digits are left), so the
    same integral is taken by Gauss quadrature of its positive integrand, to rounding error.

    Parameters
    ----------
    phi : array_like, any shape
        Points between phi0 and xi.
    phi0, xi : float
        Initial value and least-squares slope.
    mean_square, radius : float
        m = mean of x^2 and R, positive.

    Returns
    -------
    ndarray, shape of phi
        Infinite at xi.

    Raises
    ------
    ProblemError
        For values out of range, or a phi that the flow never passes.
    """
    start, target = _scalar("phi0", phi0), _scalar("xi", xi)
    rate = 2.0 * _positive("mean_square", mean_square) / _positive("radius", radius) ** 2
    points = _array("phi", phi)
    low, high = min(start, target), max(start, target)
    if np.any((points < low) | (points > high)):
        raise ProblemError(f"phi must lie between phi0 and xi, in [{low:g}, {high:g}].")
    times = np.where(points == start, 0.0, np.inf)
    between = (points != start) & (points != target)
    if np.any(between):
        times[between] = Arc.between(start, target).clock_at(points[between]) / rate
    return times


def exact_trajectory(t: ArrayLike, theta0: ArrayLike, mean_square: float, xi: float) -> Array:
    """The one-dimensional flow itself: theta at times t, by inverting :func:`time_of`.

    The error is that of rounding t and R a few times, from a start next to the singular point to
    times at which phi - xi underflows.

    Parameters
    ----------
    t : array_like, any shape
        Times >= 0.
    theta0 : array_like, shape (2,)
        Initial parameters (theta1, theta2), theta2 != 1.
    mean_square, xi : float
        m = mean of x^2, positive, and the least-squares slope.

    Returns
    -------
    ndarray, shape t.shape + (2,)

    Raises
    ------
    ProblemError
        For wrong shapes or values out of range.
    """
    times, theta, target = _times(t), _checked_theta(theta0, 1), _scalar("xi", xi)
    mean = _positive("mean_square", mean_square)
    gap = 1.0 - theta[1]
    radius, phi0 = np.hypot(theta[0], gap), float(theta[0] / gap)
    if phi0 == target:
        return np.broadcast_to(theta, (*times.shape, 2)).copy()
    sine, cosine = Arc.between(phi0, target).direction_at(2.0 * mean / radius**2 * times)
    signed_radius = np.copysign(radius, gap)
    return np.stack([signed_radius * sine, 1.0 - signed_radius * cosine], axis=-1)


def _curvature(sigma: Array, xi: Array) -> float:
    """(1 + |xi|^2) lambda_max(Sigma^1/2 (I + xi xi^T) Sigma^1/2), by K^T Sigma K, K = (I, xi)."""
    k = np.column_stack([np.eye(xi.size), xi])
    return float((1.0 + xi @ xi) * np.linalg.eigvalsh(k.T @ sigma @ k)[-1])


def _checked_data(x: ArrayLike, y: ArrayLike, theta0: ArrayLike) -> tuple[Array, Array, Array]:
    inputs, targets = _array("x", x), _array("y", y)
    if inputs.ndim != 2 or inputs.size == 0:
        raise ProblemError(
            f"x has shape {inputs.shape}; it must be (samples, features), not empty."
        )
    if targets.shape != inputs.shape[:1]:
        raise ProblemError(
            f"y has shape {targets.shape}; it must be {inputs.shape[:1]}, one target a row of x."
        )
    return inputs, targets, _checked_theta(theta0, inputs.shape[1])


def _checked_theta(theta0: ArrayLike, dim: int) -> Array:
    theta = _array("theta0", theta0)
    if theta.shape != (dim + 1,):
        raise ProblemError(
            f"theta0 has shape {theta.shape}; it must be ({dim + 1},), theta1 and then theta2."
        )
    if theta[-1] == 1.0:
        raise ProblemError(
            "theta2 = 1 is the singular point of a linear DEQ: it has no output there; "
            "start from another theta2."
        )
    return theta


def _checked_moment(sigma: ArrayLike, xi: ArrayLike) -> tuple[Array, Array]:
    moment, target = np.atleast_2d(_array("sigma", sigma)), np.atleast_1d(_array("xi", xi))
    if target.ndim != 1 or moment.shape != (target.size, target.size):
        raise ProblemError(
            f"sigma has shape {moment.shape} and xi {target.shape}; they must be (d, d) and (d,)."
        )
    return moment, target


def _points(phi: ArrayLike, dim: int) -> Array:
    points = _array("phi", phi)
    if points.shape[-1:] != (dim,):
        raise ProblemError(f"phi has shape {points.shape}; its last axis must be {dim}.")
    return points


def _times(t: ArrayLike) -> Array:
    times = _array("t", t)
    if np.any(times < 0.0):
        raise ProblemError(f"t is {times.min():g}; it must be >= 0, where the closed forms hold.")
    return times


def _positive(name: str, value: float) -> float:
    number = _scalar(name, value)
    if number <= 0.0:
        raise ProblemError(f"{name} is {number:g}; it must be positive.")
    return number


def _scalar(name: str, value: float) -> float:
    number = _array(name, value)
    if number.ndim:
        raise ProblemError(f"{name} has shape {number.shape}; it must be one number.")
    return float(number)


def _array(name: str, value: ArrayLike) -> Array:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ProblemError(f"{name} cannot be read as an array of numbers: {error}.") from error
    if not np.all(np.isfinite(array)):
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ProblemError(
            f"{name} is {array[index]} at index {index}; every value must be finite."
        )
    return array
