"""The field of a flow on a problem, as integrators call it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gflow.compiled.kernel import Kernel
from gflow.flows.base import Flow
from gflow.flows.point import Point
from gflow.integrators.base import Breakdown, Field, Memory
from gflow.models.base import Equilibrium, Moments
from gflow.problem import Problem
from gflow.status import Status

JUMPED = (
    "the branch of the equilibrium that the flow has followed ends at a fold, and what is found "
    "there lies on another one"
)


def flow_field(flow: Flow, problem: Problem) -> Field:
    """The vector field of a flow on a problem.

    The fixed point is warm-started from the field's memory: a field serves one trajectory, or one
    batch.

    Raises
    ------
    ProblemError
        If the flow has no meaning for the problem.
    """
    return _Motion(flow.on(problem), problem).field()


def _where_reached(point: Point, rate: Tensor) -> Tensor:
    """The rates, NaN where the fixed point jumped; where it does not exist they are NaN already."""
    if point.reached is point.equilibrium.valid:
        return rate
    jumped = point.equilibrium.valid & ~point.reached
    return rate.masked_fill(jumped[..., None], torch.nan) if bool(jumped.any()) else rate


def _is_finite(rate: Tensor) -> bool:
    return math.isfinite(float(rate.sum())) or bool(torch.isfinite(rate).all())


class _Motion:
    """The callables of a field, and the point that they share."""

    def __init__(self, flow: Flow, problem: Problem, moments: Moments | None = None) -> None:
        self.flow, self.problem, self.memory = flow, problem, Memory()
        self._moments = moments

    def field(self) -> Field:
        flow, problem = self.flow, self.problem
        return Field(
            self.value,
            jacobian=self.jacobian if flow.dense(problem) else None,
            jvp=self.jvp,
            time_derivative=None if flow.autonomous else flow.time_derivative,
            symmetric=flow.symmetric(problem),
            branch=lambda state: problem.model.branch(self._theta(state)),
            autonomous=flow.autonomous,
            smooth=problem.model.smooth,
            batched=True,
            memory=self.memory,
            select=lambda rows: self.rows(rows).field(),
            many=self.many,
            kernel=self.kernel,
        )

    def rows(self, rows: Tensor) -> _Motion:
        """The same on some rows of a stack of problems."""
        part = self.problem.select(rows)
        if self._moments is None or part is self.problem:
            return _Motion(self.flow, part, self._moments)
        square, mixed = self._moments
        shared = square.ndim == 2
        return _Motion(self.flow, part, (square if shared else square[rows], mixed.mT[:, rows].mT))

    def value(self, t: Any, state: Tensor) -> Tensor:
        if state.ndim == 2 and self._moments is None:
            self._moments = self.problem.moments()
        point = self._point(state)
        if state.ndim == 1 and not bool(point.reached):
            reason = JUMPED
            if not bool(point.equilibrium.valid):
                reason = self.problem.model.explain_loss_of_equilibrium(point.theta)
            raise Breakdown(self.problem.model.lost, f"{reason}, at t = {t:.6g}")
        rate = self.flow.rate(point, t, state)
        if self.flow.fallible and state.ndim == 1 and (reason := self.flow.fault(point)):
            raise Breakdown(Status.NONFINITE, f"{reason}, at t = {t:.6g}")
        self._check_adjoint(point, t, rate)
        if point.solved:
            self.memory.value = point.equilibrium.preactivation
            rate = _where_reached(point, rate)
        return rate

    def _check_adjoint(self, point: Point, t: Any, found: Tensor) -> None:
        """Tell what has no value since an adjoint equation was not solved."""
        problem, model = self.problem, self.problem.model
        if point.theta.ndim > 1 or not model.one_by_one or _is_finite(found):
            return
        slope = problem.loss_function.slope(point.equilibrium.output, problem.y)
        reason = model.explain_loss_of_adjoint(point.equilibrium)
        if reason and _is_finite(slope):
            raise Breakdown(model.lost, f"{reason}, at t = {t:.6g}")

    def many(self, t: Any, state: Tensor) -> Tensor:
        theta = self._theta(state)
        point = Point(self.problem, theta, self.flow.weight_decay, self.memory.value)
        self.memory.value = point.equilibrium.preactivation
        return _where_reached(point, self.flow.rate(point, t, state))

    def kernel(self) -> Kernel | None:
        if self._moments is None:
            self._moments = self.problem.moments()
        known = self._moments
        return None if known is None else self.flow.kernel(self.problem.model, known)

    def jacobian(self, t: Any, state: Tensor) -> Tensor:
        point = self._point(state)
        found = self.flow.jacobian(point, t, state)
        self._check_adjoint(point, t, found)
        return found

    def jvp(self, t: Any, state: Tensor, vector: Tensor) -> Tensor:
        point = self._point(state)
        found = self.flow.jvp(point, t, state, vector)
        self._check_adjoint(point, t, found)
        return found

    def _theta(self, state: Tensor) -> Tensor:
        return state[..., : self.problem.n_parameters] if self.flow.second_order else state

    def _point(self, state: Tensor) -> Point:
        """One for all that is asked at the same tensor in succession."""
        memory = self.memory
        if memory.last is None or memory.last[0] is not state:
            warm: Tensor | Equilibrium | None = memory.value
            if memory.last is not None:
                last: Point = memory.last[1]
                if last.solved and last.equilibrium.preactivation is warm:
                    warm = last.equilibrium
            moments = self._moments if state.ndim == 2 else None
            point = Point(self.problem, self._theta(state), self.flow.weight_decay, warm, moments)
            memory.last = state, point
        found: Point = memory.last[1]
        return found
