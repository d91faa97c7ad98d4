"""What sees a run's accepted steps, and where a run is asked to end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from scipy.optimize import brentq
from torch import Tensor

from gflow.integrators.base import Breakdown, Step
from gflow.integrators.trajectory import evaluate_steps
from gflow.status import Status


class Observer(Protocol):
    """Sees every accepted step, in order."""

    def observe(self, step: Step, nfe: int) -> None:
        """Called once per accepted step; `nfe` counts the field evaluations so far."""


@dataclass(frozen=True)
class Target:
    """A stopping rule that the trajectory itself meets.

    Attributes
    ----------
    status : Status
    excess : callable
        ``(t, theta) -> float``; the run ends where it first becomes <= 0, located on the dense
        output.
    """

    status: Status
    excess: Callable[[float, Tensor], float]

    def is_met(self, t: float, theta: Tensor) -> bool:
        """Whether the excess has a value and it is <= 0."""
        try:
            return self.excess(t, theta) <= 0
        except Breakdown:
            return False


def cut(step: Step, target: Target) -> Step:
    """End the step where the target's excess falls to zero."""

    def theta_at(t: float) -> Tensor:
        return evaluate_steps([step], torch.tensor([t], dtype=torch.float64))[0]

    def excess(t: float) -> float:
        value = target.excess(t, theta_at(t))
        return 1.0 if math.isnan(value) else value  # not met

    if target.is_met(step.t0, step.theta0):
        return step
    span = step.t1 - step.t0
    t = float(brentq(excess, step.t0, step.t1, xtol=1e-9 * span))
    if excess(t) > 0:
        t = min(t + 2e-9 * span, step.t1)
    return replace(step, t1=t, theta1=theta_at(t))
