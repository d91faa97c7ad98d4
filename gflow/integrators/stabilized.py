"""Stabilised explicit methods: stiff flows at the price of the root of their stiffness.

The Jacobian's eigenvalues are to be near the negative real axis, as a gradient flow's are on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import Field, MethodInfo, Settings
from gflow.integrators.control import Controller
from gflow.integrators.native import (
    BatchStep,
    Cache,
    Dense,
    NativeMethod,
    State,
    Trial,
    merge,
)
from gflow.integrators.spectral_radius import first_direction, spectral_radius, unit
from gflow.integrators.system import System, column

MARGIN = 1.02
"""Factor on every estimate of the spectral radius."""
TREND = 1.2
"""Largest growth since the last estimate that is taken to go on until the next."""
LASTING, FRESH = 60, 15
"""Evaluations that an estimate serves, and those after which a rejection calls it in doubt."""
ROUNDING = 1e-4
"""Rounding errors within a step grow as the square of the number of stages, to this at most."""


@dataclass(frozen=True)
class Ending:
    """How a trial step ended.

    Attributes
    ----------
    value : Tensor, shape (B, P)
        The field at the end.
    change : Tensor, shape (B, P)
        Its difference to the last stage's: where a mode grows within the step, this shows it.
    evaluations : int
        Of the trial.
    """

    value: Tensor
    change: Tensor
    evaluations: int


class StabilizedMethod(NativeMethod):
    """What stabilised methods share: stages for the spectral radius, which follows the trajectory.

    The radius is estimated anew after `LASTING` evaluations, and after a rejection unless it is
    fresh; where one row needs it, all rows get it. A trial's `stages` is an :class:`Ending`.

    Attributes
    ----------
    degrees : array
        The numbers of stages on offer, increasing.
    reaches : array
        Where stability ends on the negative real axis for each.
    """

    degrees: np.ndarray
    reaches: np.ndarray

    def stages(self, dt: np.ndarray, state: State) -> int:
        """The number of stages that all rows need."""
        need = float((dt * state.cache["radius"]).max())
        place = min(int(np.searchsorted(self.reaches, need)), len(self.reaches) - 1)
        return int(self.degrees[place])

    def prepare(self, system: System, t: np.ndarray, theta: Tensor) -> Cache:
        """The field and the spectral radius at the start."""
        value = system.value(t, theta)
        radius, direction = spectral_radius(system, t, theta, value, first_direction(value))
        return {
            "value": value,
            "change": torch.zeros_like(value),
            "radius": MARGIN * radius,
            "estimate": radius,
            "direction": direction,
            "age": np.zeros(len(t), dtype=np.int64),
        }

    def advance(self, field: Field, state: State) -> tuple[State, BatchStep]:
        """One attempt of every row, no longer than the most stages can be stable for."""
        if (state.cache["age"] >= np.where(state.retrying, FRESH, LASTING)).any():
            state = _estimated_anew(field, state)
        longest = self.reach(state.theta.dtype) / np.maximum(state.cache["radius"], 1e-300)
        return super().advance(field, replace(state, dt=np.minimum(state.dt, longest)))

    def reach(self, dtype: torch.dtype) -> float:
        """Largest product of step and spectral radius: that of the most stages that are exact."""
        exact = self.degrees <= (ROUNDING / torch.finfo(dtype).eps) ** 0.5
        return float(self.reaches[exact].max())

    def renew(self, system: System, step: BatchStep, trial: Trial, state: State) -> Cache:
        """The field at the end of the accepted steps."""
        old, ending = state.cache, trial.stages
        return {
            **old,
            "value": merge(step, ending.value, old["value"]),
            "change": merge(step, ending.change, old["change"]),
            "age": old["age"] + ending.evaluations,
        }


def _estimated_anew(field: Field, state: State) -> State:
    """The state with a new spectral radius, from the last direction and what grows now."""
    if field.memory is not None:
        field.memory.restore(state.memory)
    old, system = state.cache, System(field)
    direction = unit(old["direction"]) + unit(old["change"])
    radius, direction = spectral_radius(system, state.t, state.theta, old["value"], direction)
    with np.errstate(over="ignore"):
        growth = np.clip(radius / np.maximum(old["estimate"], 1e-300), 1.0, TREND)
    new = {
        "radius": MARGIN * growth * radius,
        "estimate": radius,
        "direction": direction,
        "age": np.zeros_like(old["age"]),
    }
    return replace(state, cache={**old, **new})


DAMPING = 2 / 13
FEWEST, MOST = 2, 500


@cache
def rkc2_coefficients(stages: int) -> tuple[tuple[float, ...], ...]:
    """Rows (mu, nu, mu~, gamma~, c) of stages 1, ..., s.

    Sommeijer, Shampine & Verwer 1998, equations (2.1) to (2.4), by the recurrences of Chebyshev's
    polynomials and their derivatives; c_1 is the node that the first stage has as an Euler step.
    """
    w0 = 1.0 + DAMPING / stages**2
    value, slope, bend = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for j in range(2, stages + 1):
        value.append(2 * w0 * value[-1] - value[-2])
        slope.append(2 * value[j - 1] + 2 * w0 * slope[-1] - slope[-2])
        bend.append(4 * slope[j - 1] + 2 * w0 * bend[-1] - bend[-2])
    w1 = slope[-1] / bend[-1]
    b = [bend[2] / slope[2] ** 2] * 2 + [bend[j] / slope[j] ** 2 for j in range(2, stages + 1)]
    rows = [(0.0, 0.0, b[1] * w1, 0.0, b[1] * w1)]
    for j in range(2, stages + 1):
        weight = 2 * b[j] * w1 / b[j - 1]
        rest = -(1 - b[j - 1] * value[j - 1]) * weight
        node = w1 * bend[j] / slope[j]
        rows.append((2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], weight, rest, node))
    return tuple(rows)


def rkc2_reaches() -> np.ndarray:
    """(w0 + 1) T_s''(w0) / T_s'(w0), about 0.653 (s + 1)^2, for all numbers of stages.

    From T_s(cosh u) = cosh su and Chebyshev's differential equation.
    """
    s = np.arange(FEWEST, MOST + 1)
    w0, u = 1 + DAMPING / s**2, 2 * np.arcsinh((DAMPING / 2) ** 0.5 / s)
    ratio = (s * np.sinh(u) / np.tanh(s * u) - w0) / np.sinh(u) ** 2
    return np.asarray((w0 + 1) * ratio)


class RKC2(StabilizedMethod):
    """The second-order Runge-Kutta-Chebyshev method of Sommeijer, Shampine & Verwer (1998).

    Notes
    -----
    The estimate of a step's error is of order h^3 and the error of the trajectory of order h^2, so
    a textbook's control, which holds the first to the tolerance, leaves a trajectory as far off as
    the power 2/3 of the tolerance. Here the first is held to the power 3/2 of the tolerance; see
    :func:`_strictness`.
    """

    degrees = np.arange(FEWEST, MOST + 1)
    reaches = rkc2_reaches()
    controller = Controller(3)

    def __init__(self, info: MethodInfo) -> None:
        self.info = info

    def attempt(
        self, system: System, t: np.ndarray, dt: np.ndarray, theta: Tensor, state: State
    ) -> Trial:
        """The recursion, on the stages' distances from theta."""
        first, width = state.cache["value"], column(dt, theta)
        rows = rkc2_coefficients(self.stages(dt, state))
        euler = width * first
        before, now = torch.zeros_like(theta), rows[0][2] * euler
        for (*_, node), (mu, nu, weight, rest, _) in pairwise(rows):
            value = system.value(t + node * dt, theta + now)
            new = (mu * now).add_(before, alpha=nu).add_(euler, alpha=rest)
            before, now = now, new.addcmul_(width, value, value=weight)
        end = theta + now
        last = system.value(t + dt, end)
        error = (-0.8 * now).addcmul_(width, first + last, value=0.4)
        error *= _strictness(theta, end, state.settings)
        dense = hermite_rows(theta, now, euler, width * last)
        return Trial(end, error, dense, Ending(last, last - value, len(rows)))


STRICT_BELOW = 2e-2
"""Tolerance, relative to theta, below which the control is stricter than a textbook's.

On the problems of :mod:`gflow.integrators.testbed`, from 1e-3 to 1e-6, the error is then up to 2.3
times the tolerance between steps and 0.9 times at the end; it goes as this to the power -1/3.
"""


def _strictness(theta: Tensor, end: Tensor, settings: Settings) -> Tensor:
    """Factor (B, 1) on the estimate: the root of `STRICT_BELOW` over the tolerance.

    The tolerance is that of the whole vector, |atol + rtol |theta|| / |theta|, a pure number that
    goes with atol and rtol alike, whichever of them counts.
    """
    size = torch.maximum(theta.abs(), end.abs())
    allowed = torch.linalg.vector_norm(settings.atol + settings.rtol * size, dim=-1, keepdim=True)
    whole = torch.linalg.vector_norm(size, dim=-1, keepdim=True)
    factor: Tensor = (STRICT_BELOW * whole / allowed).clamp(min=1.0).sqrt()
    return factor


def hermite_rows(theta: Tensor, change: Tensor, speed0: Tensor, speed1: Tensor) -> Dense:
    """Cubic Hermite interpolants of steps from their starts, changes and h f at both ends."""

    def dense(rows: Tensor, x: Tensor) -> Tensor:
        x, moved = x[:, None], change[rows]
        bend = (1 - x) * (speed0[rows] - moved) + x * (moved - speed1[rows])
        return theta[rows] + x * moved + x * (1 - x) * bend

    return dense


RKC2_METHOD = RKC2(
    MethodInfo(
        name="native:rkc2",
        order=2,
        dense_order=2,
        adaptive=True,
        implicit=False,
        any_device=True,
        advice="stiff flows of many parameters, from gradients alone; not for tight tolerances",
        source="Sommeijer, Shampine & Verwer (1998)",
        evaluations=10,
    )
)
