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

BRIEF = 0.01
"""Steps up to this part of the time at which they end are looked at only there."""
WITHIN = (0.03, 0.1, 0.3, 0.6)
"""Where longer steps are looked at beside their ends: they may be ten times as long as the last."""


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
        ``(t, theta) -> float``; the run ends where it first becomes <= 0 at the ends of steps or,
        in those longer than :data:`BRIEF` of the time they lead to, at :data:`WITHIN`; located on
        the dense output.
    """

    status: Status
    excess: Callable[[float, Tensor], float]

    def is_met(self, t: float, theta: Tensor) -> bool:
        """Whether the excess has a value and it is <= 0."""
        try:
            return self.excess(t, theta) <= 0
        except Breakdown:
            return False


def cut(step: Step, target: Target) -> Step | None:
    """The step up to where the target's excess first falls to zero; None if it does not."""
    span, before = step.t1 - step.t0, step.t0
    within = [step.t0 + x * span for x in WITHIN] if span > BRIEF * step.t1 else []
    for t in (*within, step.t1):
        theta = step.theta1 if t == step.t1 else _theta_at(step, t)
        if target.is_met(t, theta):
            if before == step.t0 and target.is_met(step.t0, step.theta0):  # nothing to be located
                return step if t == step.t1 or target.is_met(step.t1, step.theta1) else None
            return _located(step, target, before, t)
        before = t
    return None


def _theta_at(step: Step, t: float) -> Tensor:
    return evaluate_steps([step], torch.tensor([t], dtype=torch.float64))[0]


def _located(step: Step, target: Target, before: float, after: float) -> Step:
    """The step up to where the excess falls to zero between two times of it."""

    def excess(t: float) -> float:
        value = target.excess(t, _theta_at(step, t))
        return 1.0 if math.isnan(value) else value  # not met

    span = after - before
    t = float(brentq(excess, before, after, xtol=1e-9 * span))
    if excess(t) > 0:
        t = min(t + 2e-9 * span, after)
    return replace(step, t1=t, theta1=_theta_at(step, t))
