"""Where a run came to, and what may be measured there within a budget of time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gflow.flow_run import FlowOptions
from gflow.flows import flow_field
from gflow.integrators.base import Breakdown, Field, Halt, Method
from gflow.integrators.meter import Meter
from gflow.integrators.registry import METHODS
from gflow.integrators.stiffness import fastest_rates
from gflow.integrators.trajectory import Trajectory
from gflow.models.base import Equilibrium
from gflow.problem import Problem

FOLLOWED = 32
"""Saves over which an equilibrium is followed to the last one, where there may be several."""
LAST_STEPS = 20


class Cause(StrEnum):
    """Why a run did not end well; empty where it did, or where that was not found."""

    NONE = ""
    STIFF = "stiff"
    ACCURACY = "accuracy"
    FIXED_STEP = "fixed_step"
    UNSTABLE = "unstable"
    SINGULAR = "singular"
    DISCONTINUOUS = "discontinuous"
    ROUNDING = "rounding"
    EQUILIBRIUM_LOST = "equilibrium_lost"
    NONFINITE_SAMPLE = "nonfinite_sample"
    NONFINITE = "nonfinite"
    DIVERGED = "diverged"


Finding = tuple[Cause, str]
"""A cause and a sentence, which may be empty."""


@dataclass
class Scene:
    """A run that ended, and its field, which may be evaluated until the deadline.

    Attributes
    ----------
    problem : Problem
    options : FlowOptions
    trajectory : Trajectory
    place : int
        The save that is looked at: the last one, or the first without a finite loss.
    deadline : float
        Of :func:`time.perf_counter`.
    """

    problem: Problem
    options: FlowOptions
    trajectory: Trajectory
    place: int
    deadline: float

    @property
    def t(self) -> float:
        """When that was."""
        return float(self.trajectory.t[self.place])

    @property
    def state(self) -> Tensor:
        """The state there, of a flow of second order with the velocity."""
        return self.trajectory.theta[self.place]

    @property
    def method(self) -> Method:
        """The method at the end."""
        return METHODS[self.trajectory.method.rpartition(" then ")[2]]

    @cached_property
    def field(self) -> Field:
        """The field of a lone trajectory, its warm start that of the end where it matters."""
        field = Meter(flow_field(self.options.law, self.problem), self.deadline).field
        if field.memory is not None:
            field.memory.restore(self._warm)
        return field

    def theta(self, state: Tensor) -> Tensor:
        """The parameters (P,) of a state."""
        return state[: self.problem.n_parameters]

    def value(self, state: Tensor, t: float | None = None) -> Tensor | None:
        """The field there, None where it has no value."""
        try:
            return self.field(self.t if t is None else t, state)
        except Breakdown:
            return None

    def equilibrium(self, state: Tensor) -> Equilibrium:
        """The fixed points there, from those of the save where there may be several."""
        return self.problem.model.equilibrium(self.theta(state), self.problem.x, self._warm)

    @cached_property
    def _warm(self) -> Tensor | None:
        """The warm start at the save, followed there; None where every equilibrium is the only."""
        model, x = self.problem.model, self.problem.x
        saves = self.trajectory.theta[: self.place + 1, : self.problem.n_parameters]
        if len(saves) == 1 or not bool(model.followed(saves).any()):
            return None
        warm: Tensor | None = None
        for place in np.unique(np.linspace(0, len(saves) - 1, FOLLOWED).astype(int)):
            found = model.equilibrium(saves[place], x, warm)
            warm = found.preactivation if bool(found.valid) else warm
        return warm

    @cached_property
    def rate(self) -> float:
        """The fastest rate |lambda| of the field at the end, NaN where it is not known."""
        return self.rate_at(self.t, self.state)

    def rate_at(self, t: float, state: Tensor) -> float:
        """The same elsewhere."""
        try:
            rates = fastest_rates(self.field.lone, np.array([t]), state[None])
        except Halt:
            return math.nan
        return math.nan if rates is None else float(rates[0])

    @cached_property
    def step(self) -> float:
        """Median of the last accepted steps, half of all at most, or the last attempt; or NaN."""
        table = self.trajectory.log.table
        accepted = table[table[:, 3] > 0, 1]
        steps = accepted[-min(LAST_STEPS, (len(accepted) + 1) // 2) :]
        steps = steps if len(steps) else table[-1:, 1]
        return float(np.median(steps)) if len(steps) else math.nan

    def loss(self, state: Tensor) -> float:
        """The loss there; NaN where there is none."""
        found = self.equilibrium(state)
        return float(self.problem.loss_at(found)) if bool(found.valid) else math.nan

    def slopes(self, state: Tensor) -> Tensor | None:
        """The slope of the fixed-point equation (n,) at each sample, where the model has one."""
        found = self.equilibrium(state)
        return self.problem.model.sample_conditioning(found) if bool(found.valid) else None


def name_sample(problem: Problem, index: int) -> str:
    """A sample by its index, counted after any hold-out, with the input that the model is given."""
    values = problem.x[index].flatten()
    told = ", ".join(f"{float(value):.4g}" for value in values[:3])
    more = ", ..." if len(values) > 3 else ""
    return f"training sample {index} (input {told}{more})"


def finite(value: Tensor) -> bool:
    """Whether all of it is."""
    return bool(torch.isfinite(value).all())
