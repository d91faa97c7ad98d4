"""Solvers that find the equilibrium of a DEQ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Jet = tuple[Tensor, ...]

NEAR = 1e-3
"""A longer last step would leave its own rounding in the root."""


@dataclass(frozen=True)
class Root:
    """Where a vectorised root search ended.

    Attributes
    ----------
    point : Tensor
        The roots, the shape of the start.
    jet : tuple of Tensor
        What the residual function returned beside residual and slope at `point`.
    converged : bool
        Whether every element met its tolerance.
    iterations : int
        Evaluations of the residual.
    """

    point: Tensor
    jet: Jet
    converged: bool
    iterations: int


def tracking_newton(
    jet: Callable[[Tensor], Jet],
    newton_step: Callable[[Tensor, Jet], Tensor],
    start: Tensor,
    bend: float,
    tolerance: float,
    known: Jet | None = None,
    max_iterations: int = 7,
) -> Root | None:
    """Root near a good first guess by plain Newton, without a last evaluation that only checks.

    After a step ds the residual is at most ``bend * ds^2`` by Taylor's theorem; where that is
    within the tolerance the iteration ends.

    Parameters
    ----------
    jet : callable
        Maps points (..., n) to what the residual and its slope are made of, and the caller wants.
    newton_step : callable
        Maps points and their jets to residual / slope.
    start : Tensor, shape (..., n)
    bend : float
        Half of the largest second derivative of the residual.
    tolerance : float
        Residual, or step, that counts as zero.
    known : tuple of Tensor, optional
        The jet at `start`.
    max_iterations : int

    Returns
    -------
    Root or None
        None if the guess was not good enough, or something is not finite.
    """
    point, found = start, jet(start) if known is None else known
    for iteration in range(1, max_iterations + 1):
        step = newton_step(point, found)
        size = float(step.abs().amax())
        if not math.isfinite(size):
            return None
        if size <= tolerance:
            return Root(point, found, True, iteration)
        point = point - step
        found = jet(point)
        if size <= NEAR and bend * size * size <= tolerance:
            return Root(point, found, True, iteration + 1)
    return None


def safeguarded_newton(
    residual: Callable[[Tensor], tuple[Tensor, Tensor, Jet]],
    start: Tensor,
    bracket: tuple[Tensor, Tensor],
    slope_min: Tensor,
    slope_max: Tensor,
    tolerance: Callable[[Tensor], Tensor],
    max_iterations: int = 100,
    unguarded: int = 3,
) -> Root:
    """Root of a monotone scalar function, elementwise, by Newton within a bracket.

    A function whose slope stays within ``[slope_min, slope_max]``, of one sign, has its root
    between ``s - F(s)/slope_min`` and ``s - F(s)/slope_max``: every point gives a rigorous bracket,
    and the Newton point of `s` lies within the bracket of `s`. Brackets are therefore only
    intersected once `unguarded` Newton steps did not suffice; from then on a Newton point outside
    the intersection is replaced by its midpoint.

    Parameters
    ----------
    residual : callable
        Maps points (..., n) to the residual F, its slope F' and a tuple kept for the caller.
    start : Tensor, shape (..., n)
        First guess; moved into the bracket.
    bracket : tuple of Tensor, broadcastable to `start`
        Two points, in any order, with the root between them.
    slope_min, slope_max : Tensor, broadcastable to `start`
        Bounds of F', of one sign.
    tolerance : callable
        Maps points to the residual that counts as zero there.
    max_iterations : int
        Limit of residual evaluations.
    unguarded : int
        Newton steps before the brackets are intersected.

    Returns
    -------
    Root
    """
    low, high = torch.minimum(*bracket), torch.maximum(*bracket)
    point = torch.minimum(torch.maximum(start, low), high)
    for iteration in range(1, max_iterations + 1):
        value, slope, jet = residual(point)
        if bool((value.abs() <= tolerance(point)).all()):
            return Root(point, jet, True, iteration)
        candidate = point - value / slope
        if iteration >= unguarded:
            near, far = point - value / slope_max, point - value / slope_min
            below, above = torch.minimum(near, far), torch.maximum(near, far)
            low, high = torch.maximum(low, below), torch.minimum(high, above)
            outside = (candidate < low) | (candidate > high)
            candidate = torch.where(outside, 0.5 * (low + high), candidate)
        point = candidate
    value, slope, jet = residual(point)
    converged = bool((value.abs() <= tolerance(point)).all())
    return Root(point, jet, converged, max_iterations + 1)
