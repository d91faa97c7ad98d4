"""Flows on a problem, by name: vector fields and their discrete counterparts.

========================= ========================================================================
``gradient``              theta' = -g, the gradient flow; gradient descent
``heavy_ball:MASS``       MASS theta'' + theta' = -g; gradient descent with momentum
``nesterov``              theta'' + (3 / t) theta' = -g; Nesterov's method, at t = k sqrt(eta)
``modified:ETA``          theta' = -grad (L + (ETA / 4) |grad L|^2); gradient descent of that ETA
``natural:LAMBDA``        theta' = -(G + LAMBDA I)^-1 g; damped Gauss-Newton
``scaled:BLOCK=RATE,...`` theta_B' = -RATE_B g_B for blocks of parameters; the same in descent
========================= ========================================================================

In Python a flow may also be an object, such as ``Preconditioned(matrix)``. A new one is one file
and one line of :data:`FLOWS`.
"""

from __future__ import annotations

from dataclasses import replace

from gflow.errors import ProblemError
from gflow.flows.base import Flow
from gflow.flows.field import flow_field
from gflow.flows.gradient import GradientFlow
from gflow.flows.heavy_ball import HeavyBall
from gflow.flows.modified import ModifiedFlow
from gflow.flows.natural import NaturalFlow
from gflow.flows.nesterov import Nesterov
from gflow.flows.preconditioned import Preconditioned
from gflow.integrators.base import Field
from gflow.problem import Problem
from gflow.wording import did_you_mean

__all__ = [
    "FLOWS",
    "Flow",
    "GradientFlow",
    "HeavyBall",
    "ModifiedFlow",
    "NaturalFlow",
    "Nesterov",
    "Preconditioned",
    "flow_field",
    "gradient_flow",
    "parse_flow",
]

FLOWS: dict[str, type[Flow]] = {
    "gradient": GradientFlow,
    "heavy_ball": HeavyBall,
    "nesterov": Nesterov,
    "modified": ModifiedFlow,
    "natural": NaturalFlow,
    "scaled": Preconditioned,
}


def parse_flow(flow: str | Flow, weight_decay: float = 0.0) -> Flow:
    """Read a flow's name, such as ``heavy_ball:0.5``.

    Raises
    ------
    ProblemError
        If there is none of that name, or its numbers or the weight decay are out of range.
    """
    if isinstance(flow, Flow):
        return replace(flow, weight_decay=weight_decay) if weight_decay else flow
    kind, colon, arguments = str(flow).partition(":")
    if kind not in FLOWS:
        raise ProblemError(f'flow "{flow}" is unknown{did_you_mean(kind, FLOWS)}')
    try:
        found = FLOWS[kind].read(arguments if arguments else colon)
    except (ValueError, ProblemError):
        raise ProblemError(f'flow is "{flow}"; it must be {FLOWS[kind].form}.') from None
    return replace(found, weight_decay=weight_decay)


def gradient_flow(problem: Problem) -> Field:
    """The field of the gradient flow dtheta/dt = -g(theta) on a problem."""
    return flow_field(GradientFlow(), problem)
