"""The natural-gradient flow: gradient descent in the metric of the model's outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from gflow.errors import ProblemError
from gflow.flows.base import Flow, check_number
from gflow.flows.point import Point
from gflow.problem import EXACT, Problem

DENSE = 500
"""Parameters up to which systems are solved by Cholesky factors, beyond by conjugate gradients."""
AFFORDABLE = 64
"""Parameters up to which the Jacobian is offered as a matrix: it takes 4 P products more."""
TOLERANCE = 1e-12
"""Residual of conjugate gradients relative to the right side; or 100 eps, if that is more."""
ITERATIONS = 2000


@dataclass(frozen=True)
class NaturalFlow(Flow):
    """dtheta/dt = -(G + lambda I)^-1 g with Gauss-Newton matrix G = (1/n) sum_i J_i^T l_i'' J_i.

    J_i is the Jacobian of the model's output at sample i and l_i'' the Hessian of its loss there:
    for the mean squared error G = (2/n) J^T J. For losses that are minus a log-likelihood, such as
    cross_entropy and logistic, G is the Fisher matrix (Amari 1998, Natural gradient works
    efficiently in learning, eq. 2.3; Martens 2020, New insights and perspectives on the natural
    gradient method, sect. 9.2). It is formed by the exact backward, g by the problem's.

    The Jacobian is -(G + lambda I)^-1 (H + D G [f]) with f the field, where D_v G [f] is a
    difference of products along v, see :meth:`gflow.flows.point.Point.derivative`. At a minimum it
    is similar to a symmetric matrix, but not symmetric. The discrete counterpart is damped
    Gauss-Newton, theta - eta (G + lambda I)^-1 g, which agrees to first order in eta.

    Parameters
    ----------
    damping : float
        lambda; 0 only where G is regular.
    """

    damping: float

    form: ClassVar[str] = "natural:LAMBDA, LAMBDA >= 0"
    fallible: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the damping."""
        super().__post_init__()
        check_number("damping", self.damping, least=0.0)

    @classmethod
    def read(cls, arguments: str) -> Self:
        """The damping."""
        return cls(float(arguments))

    @property
    def name(self) -> str:
        """As it is written."""
        return f"natural:{self.damping:.12g}"

    def on(self, problem: Problem) -> Flow:
        """Refuse a loss without a model's outputs."""
        if not problem.n_samples:
            raise ProblemError(
                f'flow "{self.name}" needs a model on data; give the objective a metric and take '
                'the flow "gradient".'
            )
        return self

    def dense(self, problem: Problem) -> bool:
        """For few parameters."""
        return problem.n_parameters <= AFFORDABLE

    def cost(self, problem: Problem) -> int:
        """P, where G is formed."""
        return problem.n_parameters if problem.n_parameters <= DENSE else 1

    def rate(self, point: Point, t: Any, state: Tensor) -> Tensor:
        """-(G + lambda I)^-1 g."""
        return point.once("natural", lambda: -self._solve(point, point.gradient))

    def jacobian(self, point: Point, t: Any, state: Tensor) -> Tensor:
        """Column by column, as the products."""
        rate, theta = self.rate(point, t, state), point.theta
        basis = torch.eye(theta.shape[-1], dtype=theta.dtype, device=theta.device)
        changes = [_change(point, axis.expand_as(theta), rate) for axis in basis]
        return -self._solve(point, point.jacobian() + torch.stack(changes, dim=-1), many=True)

    def jvp(self, point: Point, t: Any, state: Tensor, vector: Tensor) -> Tensor:
        """-(G + lambda I)^-1 (H v + D_v G f)."""
        change = _change(point, vector, self.rate(point, t, state))
        return -self._solve(point, point.jvp(vector) + change)

    def fault(self, point: Point) -> str:
        """That the metric is singular."""
        if bool(torch.isfinite(self.rate(point, 0.0, point.theta)).all()):
            return ""
        return (
            f"G + {self.damping:g} I of the natural gradient is singular or could not be solved "
            "with; raise LAMBDA in natural:LAMBDA"
        )

    def _solve(self, point: Point, right: Tensor, many: bool = False) -> Tensor:
        if point.theta.shape[-1] > DENSE:
            return conjugate_gradients(
                lambda v: gauss_newton_product(point, v) + self.damping * v, right
            )
        factor = point.once("factor", lambda: self._factor(point))
        if many:
            return torch.cholesky_solve(right, factor)
        return torch.cholesky_solve(right[..., None], factor)[..., 0]

    def _factor(self, point: Point) -> Tensor:
        """Cholesky's factor (..., P, P), NaN where the matrix is singular to rounding."""
        metric = gauss_newton(point)
        size, eps = metric.shape[-1], torch.finfo(metric.dtype).eps
        eye = torch.eye(size, dtype=metric.dtype, device=metric.device)
        bad = ~torch.isfinite(metric).all(-1).all(-1)
        metric = torch.where(bad[..., None, None], eye, metric + self.damping * eye)
        factor, info = torch.linalg.cholesky_ex(metric)
        pivots = factor.diagonal(dim1=-2, dim2=-1)
        bad |= (info != 0) | (pivots.amin(-1) ** 2 <= 10 * size * eps * pivots.amax(-1) ** 2)
        return torch.where(bad[..., None, None], torch.nan, factor)


def gauss_newton(point: Point) -> Tensor:
    """The Gauss-Newton matrix (..., P, P): the loss's Hessian without what its slope multiplies."""
    problem, at = point.problem, point.equilibrium
    second = problem.loss_function.curvature(at.output, problem.y)
    return problem.model.pullback_jacobian(
        at, problem.x, torch.zeros_like(at.output), second, EXACT
    )


def gauss_newton_product(point: Point, vector: Tensor) -> Tensor:
    """Its product (..., P) with a vector."""
    problem, at = point.problem, point.equilibrium
    second = problem.loss_function.curvature(at.output, problem.y)
    return problem.model.pullback_jvp(
        at, problem.x, torch.zeros_like(at.output), second, EXACT, vector
    )


def conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """Solve symmetric positive definite systems, one a row of (..., P); NaN where that fails."""
    found, residual = torch.zeros_like(right), right
    direction, square = residual, _dot(residual, residual)
    goal = max(TOLERANCE, 100 * torch.finfo(right.dtype).eps) ** 2 * square
    for _ in range(ITERATIONS):
        left = square > goal
        if not bool(left.any()):
            break
        image = product(direction)
        curvature = _dot(direction, image)
        step = torch.where(left, square / torch.where(left, curvature, 1.0), 0.0)
        found, residual = found + step * direction, residual - step * image
        before, square = square, torch.where(left, _dot(residual, residual), square)
        direction = residual + square / torch.where(left, before, 1.0) * direction
    return torch.where(square <= goal, found, torch.nan)


def _change(point: Point, vector: Tensor, along: Tensor) -> Tensor:
    """D_v G times a fixed vector."""
    return point.derivative(lambda near: gauss_newton_product(near, along), vector)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(-1, keepdim=True)
