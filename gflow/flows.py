"""Vector fields on a problem, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from gflow.integrators.base import Breakdown, Field, Memory
from gflow.models.base import Equilibrium, Moments
from gflow.problem import Problem


def gradient_flow(problem: Problem) -> Field:
    """The gradient flow dtheta/dt = -g(theta), g the gradient that the problem's backward gives.

    Its Jacobian is minus the Hessian, hence symmetric, only for the exact backward. The fixed point
    is warm-started from the field's memory: a field serves one trajectory, or one batch.
    """
    return _field(_GradientFlow(problem))


def _field(flow: _GradientFlow) -> Field:
    problem = flow.problem
    return Field(
        flow.value,
        jacobian=flow.jacobian,
        jvp=flow.jvp,
        symmetric=problem.backward.exact,
        branch=problem.model.branch,
        autonomous=True,
        smooth=problem.model.smooth,
        batched=True,
        memory=flow.memory,
        select=lambda rows: _field(flow.rows(rows)),
        many=flow.many,
    )


class _GradientFlow:
    """The callables of :func:`gradient_flow` and the equilibrium that they share."""

    def __init__(self, problem: Problem, moments: Moments | None = None) -> None:
        self.problem, self.memory = problem, Memory()
        self._moments = moments

    def rows(self, rows: Tensor) -> _GradientFlow:
        """The flow of some rows of a stack of problems."""
        part = self.problem.select(rows)
        if self._moments is None or part is self.problem:
            return _GradientFlow(part, self._moments)
        square, mixed = self._moments
        return _GradientFlow(
            part, (square if square.ndim == 2 else square[rows], mixed.mT[:, rows].mT)
        )

    def value(self, t: Any, theta: Tensor) -> Tensor:
        if theta.ndim == 2:
            if self._moments is None:
                self._moments = self.problem.moments()
            if self._moments is not None:
                return self.problem.model.gradient_from_moments(theta, self._moments).neg_()
        equilibrium = self._equilibrium(theta)
        if theta.ndim == 1 and not bool(equilibrium.valid):
            reason = self.problem.model.explain_loss_of_equilibrium(theta)
            raise Breakdown(self.problem.model.lost, f"{reason}, at t = {t:.6g}")
        self.memory.value = equilibrium.preactivation
        return -self.problem.gradient_at(equilibrium)

    def many(self, t: Any, theta: Tensor) -> Tensor:
        equilibrium = self.problem.model.equilibrium(theta, self.problem.x, self.memory.value)
        self.memory.value = equilibrium.preactivation
        return -self.problem.gradient_at(equilibrium)

    def jacobian(self, t: Any, theta: Tensor) -> Tensor:
        return -self.problem.jacobian_at(self._equilibrium(theta))

    def jvp(self, t: Any, theta: Tensor, vector: Tensor) -> Tensor:
        return -self.problem.jvp_at(self._equilibrium(theta), vector)

    def _equilibrium(self, theta: Tensor) -> Equilibrium:
        """Solved once for all that is asked at the same tensor in succession."""
        memory = self.memory
        last: Equilibrium | None = memory.last
        if last is None or last.theta is not theta:
            near = last if last is not None and last.preactivation is memory.value else memory.value
            memory.last = last = self.problem.model.equilibrium(theta, self.problem.x, near)
        return last


FLOWS: dict[str, Callable[[Problem], Field]] = {"gradient": gradient_flow}
