"""The loss's curvature at a point: what it allows gradient descent, and the flow's time scales."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigs
from torch import Tensor

from gflow.diagnostics.spectrum import product_at
from gflow.eigen import top_eigenpairs
from gflow.integrators.stiffness import DENSE_LIMIT
from gflow.problem import EXACT, Problem

FLAT = 1e-7
"""Part of the largest eigenvalue up to which another one counts as zero."""


@dataclass(frozen=True, eq=False)
class Point:
    """A point of a flow.

    Attributes
    ----------
    t : float
    theta : ndarray, shape (P,)
    loss, gradient_norm : float
        The norm is that of the gradient which the backward gives.
    eigenvalues : ndarray, shape (P,)
        Of the loss's Hessian, ascending; beyond 500 parameters the smallest and the largest alone.
    rates : ndarray, shape (P,)
        Eigenvalues of the gradient's Jacobian, by which the flow contracts and gradient descent
        multiplies (by 1 - eta rate): those of the Hessian, for the exact backward. Beyond 500
        parameters the extremes, as there; for another backward the two of largest modulus.
    """

    t: float
    theta: np.ndarray
    loss: float
    gradient_norm: float
    eigenvalues: np.ndarray
    rates: np.ndarray

    @property
    def sharpness(self) -> float:
        """Largest eigenvalue of the Hessian."""
        return float(self.eigenvalues[-1])

    @property
    def smallest(self) -> float:
        """Smallest eigenvalue of the Hessian; 0.0 if it is zero but for rounding."""
        value = float(self.eigenvalues[0])
        return 0.0 if abs(value) <= self._zero else value

    @property
    def negative(self) -> int | None:
        """Number of negative eigenvalues of the Hessian; None if not all are known."""
        return int((self.eigenvalues < -self._zero).sum()) if self._counted else None

    @property
    def flat(self) -> int | None:
        """Number of eigenvalues of the Hessian that are zero; None if not all are known."""
        return int((abs(self.eigenvalues) <= self._zero).sum()) if self._counted else None

    @property
    def exact(self) -> bool:
        """Whether the gradient is the loss's, so that the rates are the Hessian's eigenvalues."""
        return self.rates is self.eigenvalues

    @property
    def slowest_rate(self) -> float | None:
        """Smallest positive real part of the rates; None if there is none or it is not known."""
        real = np.real(self.rates)
        positive = real[real > FLAT * abs(self.rates).max()]
        known = len(real) == len(self.theta) or (self.exact and self.smallest > 0)
        return float(positive.min()) if known and len(positive) else None

    @property
    def largest_step(self) -> float:
        """Largest stable step size of gradient descent here, see :func:`largest_steps`."""
        return float(largest_steps(self.rates))

    @property
    def _counted(self) -> bool:
        return len(self.eigenvalues) == len(self.theta) or self.smallest > 0

    @property
    def _zero(self) -> float:
        return FLAT * float(abs(self.eigenvalues).max())


@dataclass(frozen=True)
class TimeScales:
    """How fast a flow approaches its limit: 1 / (eigenvalue there), of those that are positive.

    A mode of eigenvalue lambda decays as exp(-lambda t), its part of the loss twice as fast.

    Attributes
    ----------
    fastest, slowest : float
        1 / lambda_max and 1 / lambda_min.
    loss_time : float
        1 / (2 lambda_min), in which the slowest mode's loss falls by a factor e.
    loss_updates : float
        Updates of gradient descent for that, at half the largest stable step.
    """

    fastest: float
    slowest: float
    loss_time: float
    loss_updates: float

    @property
    def stiffness(self) -> float:
        """lambda_max / lambda_min."""
        return self.slowest / self.fastest

    @classmethod
    def at(cls, limit: Point) -> TimeScales | None:
        """Those at a limit; None if no eigenvalue is positive, or not all are known.

        An update multiplies the slowest mode by 1 - eta lambda_min, its loss by the square, so that
        the factor e takes -1 / (2 log(1 - eta lambda_min)) updates, at least one. At eta =
        1 / lambda_max, where no mode overshoots, that is about kappa / 2 with kappa = lambda_max /
        lambda_min; twice that step, where it would be kappa / 4, never damps the fastest mode.
        """
        slowest, fastest = limit.slowest_rate, float(np.real(limit.rates).max())
        if slowest is None:
            return None
        shrink = -math.log1p(-min(0.5 * limit.largest_step * slowest, 1.0 - 1e-15))
        return cls(1.0 / fastest, 1.0 / slowest, 0.5 / slowest, max(1.0, 0.5 / shrink))


def point_of(problem: Problem, t: float, theta: Tensor) -> Point:
    """Inspect one point theta (P,).

    Raises
    ------
    EquilibriumError
        If the model has no output there.
    """
    loss, gradient = problem.loss_and_gradient(theta)
    eigenvalues = (
        _extremes(problem, theta[None])[0]
        if problem.n_parameters > DENSE_LIMIT
        else _eigenvalues(problem.jacobian(theta, EXACT), True)
    )
    exact = problem.backward.exact
    return Point(
        t,
        theta.cpu().numpy(),
        float(loss),
        float(torch.linalg.vector_norm(gradient)),
        eigenvalues,
        eigenvalues if exact else rates_along(problem, theta[None])[0],
    )


def rates_along(problem: Problem, theta: Tensor) -> np.ndarray:
    """The rates of :class:`Point` at thetas (T, P), NaN where the model has no output.

    Their shape is (T, P), or (T, 2) beyond 500 parameters.
    """
    exact = problem.backward.exact
    if problem.n_parameters <= DENSE_LIMIT:
        return _eigenvalues(problem.jacobian(theta), exact)
    if exact:
        return _extremes(problem, theta)
    return np.array([_leading(problem, row) for row in theta])


def largest_steps(rates: np.ndarray) -> np.ndarray:
    """Largest step sizes (...) at which no mode that decays in the flow grows in descent.

    |1 - eta mu| < 1 for a rate mu with Re mu > 0 asks eta < 2 Re mu / |mu|^2: for the exact
    backward 2 / sharpness (Cohen et al. 2021, arXiv 2103.00065). Infinite if no rate is positive,
    NaN where they are.

    Parameters
    ----------
    rates : ndarray, shape (..., K)
    """
    size = abs(rates)
    decays = np.real(rates) > FLAT * size.max(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(decays, 2.0 * np.real(rates) / size**2, np.inf).min(-1)
    return np.where(np.isnan(size).any(-1), np.nan, steps)


def _eigenvalues(matrix: Tensor, symmetric: bool) -> np.ndarray:
    """Of matrices (..., P, P), sorted; NaN where they are not finite."""
    finite = torch.isfinite(matrix).all(-1).all(-1)[..., None]
    matrix = torch.where(finite[..., None], matrix, 0.0)
    solve = torch.linalg.eigvalsh if symmetric else torch.linalg.eigvals
    values = torch.where(finite, solve(matrix), torch.nan)
    return np.sort(values.cpu().numpy(), axis=-1)


def _extremes(problem: Problem, thetas: Tensor) -> np.ndarray:
    """The Hessian's smallest and largest eigenvalues (T, 2) at thetas (T, P), by its products.

    NaN where the model has no output; each search begins with what the one before has found.
    """
    table = np.full((len(thetas), 2), np.nan)
    guesses = [thetas[:0], thetas[:0]]
    for row, theta in enumerate(thetas):
        product = product_at(problem, theta)
        for end, smallest in enumerate((True, False)):
            pair = top_eigenpairs(product, guesses[end], 1, smallest=smallest, rtol=1e-6, most=2000)
            table[row, end] = float(pair.values[0])
            guesses[end] = pair.vectors if math.isfinite(table[row, end]) else guesses[end]
    return table


def _leading(problem: Problem, theta: Tensor) -> np.ndarray:
    """The two eigenvalues of largest modulus of the gradient's Jacobian."""
    product = product_at(problem, theta, problem.backward)

    def apply(vector: np.ndarray) -> np.ndarray:
        return np.asarray(product(torch.as_tensor(vector.ravel()).to(theta)).cpu().numpy())

    first = np.cos(np.arange(1, len(theta) + 1)).astype(theta.cpu().numpy().dtype)
    if not np.isfinite(apply(first)).all():  # which would not be for Arnoldi's method to see
        return np.full(2, np.nan)
    operator = LinearOperator((len(theta),) * 2, matvec=apply, dtype=first.dtype)
    return np.asarray(eigs(operator, 2, which="LM", v0=first, tol=1e-6, return_eigenvectors=False))
