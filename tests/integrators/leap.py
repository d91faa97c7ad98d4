"""A method small enough to foretell what the driver makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from gflow.integrators.base import Attempt, Field, Method, MethodInfo, Step

START = torch.tensor([1.0, 2.0], dtype=torch.float64)


def leap_info(**changes):
    known = {
        "name": "test:leap",
        "order": 1,
        "dense_order": 1,
        "adaptive": True,
        "implicit": False,
        "any_device": True,
        "advice": "tests",
        "source": "here",
        "evaluations": 1,
    }
    return MethodInfo(**(known | changes))


@dataclass(frozen=True)
class Leap(Method):
    """Euler's method with steps that grow from `first_step` on, and linear dense output."""

    info: MethodInfo = field(default_factory=leap_info)
    growth: float = 1.0
    solves: int = 0

    def init(self, field, t, theta, settings):
        return t, theta, settings.first_step or 0.1, settings

    def step(self, field, state):
        t, theta, dt, settings = state
        t1 = min(t + dt, settings.t_end)
        theta1 = theta + (t1 - t) * field(t, theta)
        field(t1, theta1)

        def interpolate(times):
            return theta + ((times - t) / (t1 - t)).to(theta.dtype)[:, None] * (theta1 - theta)

        attempts = (Attempt(t, 2 * dt, 3.0, False), Attempt(t, t1 - t, 0.5, True))
        step = Step(t, t1, theta, theta1, interpolate, attempts, self.solves)
        return (t1, theta1, self.growth * dt, settings), step


CONSTANT = Field(lambda t, y: torch.tensor([1.0, -2.0], dtype=torch.float64))
"""Leap is exact for it: theta = (1 + t, 2 - 2 t)."""
