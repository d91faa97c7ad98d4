"""How stiff a flow is, and whether another method should take over."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import Breakdown, Field, Method, Settings, Step
from gflow.integrators.native import NativeMethod, State
from gflow.integrators.system import System

DENSE_LIMIT = 500
"""Parameters up to which a dense Jacobian is affordable."""
POWER_ITERATIONS = 20
FIRST_LOOK = 64
"""Attempts before the first look; the next ones come at twice as many each."""
LIMITED = 2.0
"""Step times rate beyond which an explicit pair's step is limited by stability."""


def fastest_rates(field: Field, t: np.ndarray, theta: Tensor) -> Tensor | None:
    """Largest |eigenvalue| of the Jacobian at each row (B, P), None if the field offers neither.

    Rows whose Jacobian is not finite have the rate NaN, and so have all where it fails.
    """
    try:
        return _rates(field, t, theta)
    except (Breakdown, RuntimeError):
        return theta.new_full((len(theta),), torch.nan)


def _rates(field: Field, t: np.ndarray, theta: Tensor) -> Tensor | None:
    if field.jacobian is not None and theta.shape[-1] <= DENSE_LIMIT:
        matrix = System(field).jacobian(t, theta)
        finite = torch.isfinite(matrix).flatten(1).all(-1)
        matrix = torch.where(finite[:, None, None], matrix, 0.0)
        solve = torch.linalg.eigvalsh if field.symmetric else torch.linalg.eigvals
        return torch.where(finite, solve(matrix).abs().amax(-1), torch.nan)
    if field.jvp is None:
        return None
    vector = torch.ones_like(theta) / math.sqrt(theta.shape[-1])
    rate = vector[:, 0]
    for _ in range(POWER_ITERATIONS):
        image = System(field).jvp(t, theta, vector)
        rate = torch.linalg.vector_norm(image, dim=-1)
        vector = image / rate.clamp(min=1e-30)[:, None]
    return rate


@dataclass(frozen=True)
class StiffnessWatch:
    """Which rows of a batch an explicit method should hand over.

    A row is handed over if stability limits its step and, at this step, more than `patience` steps
    are left to t_end.

    Attributes
    ----------
    patience : float
        About the number of steps that the other method would take, times what its steps cost more.
    """

    patience: float

    def __call__(self, field: Field, state: State, attempts: int) -> np.ndarray:
        """The rows (B,) to be handed over after so many attempts."""
        none = np.zeros(len(state.t), dtype=bool)
        if attempts < FIRST_LOOK or attempts & (attempts - 1):
            return none
        with np.errstate(divide="ignore", invalid="ignore"):
            long = (state.settings.t_end - state.t) / state.dt > self.patience
        rates = fastest_rates(field, state.t, state.theta) if long.any() else None
        if rates is None:
            return none
        return np.asarray(long & (state.dt * rates.cpu().numpy() > LIMITED))


@dataclass(frozen=True)
class SwitchingState:
    """The method in charge with its state, after so many attempts.

    Attributes
    ----------
    method : NativeMethod
    inner : State
    attempts : int
    switched : bool
        Whether the other method has taken over.
    """

    method: NativeMethod
    inner: State
    attempts: int
    switched: bool


class Switching(Method):
    """A native method for a lone flow that hands over to another once the flow is seen to be stiff.

    Parameters
    ----------
    first, other : NativeMethod
        With the same tightening.
    watch : StiffnessWatch
    """

    def __init__(self, first: NativeMethod, other: NativeMethod, watch: StiffnessWatch) -> None:
        self.first, self.other, self.watch = first, other, watch
        self.info = first.info

    def init(self, field: Field, t: float, theta: Tensor, settings: Settings) -> SwitchingState:
        """Begin with the first method."""
        return SwitchingState(self.first, self.first.init(field, t, theta, settings), 0, False)

    def step(self, field: Field, state: Any) -> tuple[SwitchingState, Step]:
        """A step of the method in charge, after which the other may take over."""
        inner, step = state.method.step(field, state.inner)
        attempts = state.attempts + len(step.attempts)
        state = replace(state, inner=inner, attempts=attempts)
        looks = range(state.attempts - len(step.attempts) + 1, attempts + 1)
        if not state.switched and any(self.watch(field.lone, inner, k)[0] for k in looks):
            settings = replace(inner.settings, first_step=float(inner.dt[0]))
            begun = self.other.init(field, float(inner.t[0]), inner.theta[0], settings)
            state = SwitchingState(self.other, begun, attempts, True)
        return state, step

    def label(self, state: Any) -> str:
        """Both names once the other has taken over."""
        names = self.first.info.name, self.other.info.name
        return " then ".join(names) if state.switched else names[0]
