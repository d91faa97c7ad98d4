"""Vector fields on a problem, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gflow.integrators.base import Breakdown, Field
from gflow.problem import Problem
from gflow.status import Status


def gradient_flow(problem: Problem) -> Field:
    """The gradient flow dtheta/dt = -g(theta), g the gradient that the problem's backward gives.

    Its Jacobian is minus the Hessian, hence symmetric, only for the exact backward. The fixed point
    is warm-started from the previous evaluation: a field serves one trajectory.
    """
    warm: list[Tensor | None] = [None]

    def function(t: float, theta: Tensor) -> Tensor:
        evaluation = problem.evaluate(theta, warm[0])
        if not bool(evaluation.equilibrium.valid):
            reason = problem.model.explain_loss_of_equilibrium(theta)
            raise Breakdown(Status.EQUILIBRIUM_LOST, f"{reason}, at t = {t:.6g}")
        warm[0] = evaluation.equilibrium.preactivation
        return -evaluation.gradient

    def jacobian(t: float, theta: Tensor) -> Tensor:
        return -problem.jacobian_at(problem.model.equilibrium(theta, problem.x, warm[0]))

    def jvp(t: float, theta: Tensor, vector: Tensor) -> Tensor:
        return -problem.jvp_at(problem.model.equilibrium(theta, problem.x, warm[0]), vector)

    return Field(
        function,
        jacobian=jacobian,
        jvp=jvp,
        symmetric=problem.backward.exact,
        branch=lambda theta: int(problem.model.branch(theta)),
    )


FLOWS: dict[str, Callable[[Problem], Field]] = {"gradient": gradient_flow}
