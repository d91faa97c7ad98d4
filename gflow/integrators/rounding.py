"""Whether rounding, and no longer the method, makes the steps of a run short.

A tolerance below what rounding leaves of the field does not stop a native method: its error
estimate then holds rounding alone, which falls with the step no faster than the step itself, and
the steps stay so short that no end is in sight. Such a run is told apart by trying steps that it
does not take: rounding changes the estimate at random where start and step are changed by almost
nothing, and does not fall at the method's order where the step is quartered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import Breakdown, Field, Method
from gflow.integrators.native import NativeMethod, State
from gflow.integrators.norms import scaled_norm
from gflow.integrators.system import System

FIRST_LOOK, FIRST_LOOK_ENDLESS = 512, 4096
"""Attempts before the first look, by whether t_end is finite; the next ones come at twice as many
each. A look costs two dozen attempts at most, where the first signs are of rounding."""
STEPS = 3
"""At how many points in succession the estimate must be rounding: at one, a kink may look alike."""
LIMITING = 0.01
"""Estimated error, in tolerances, below which it does not keep a step short."""
AHEAD = 16.0
"""Only a run that has more than this times as many steps before it as behind it is looked at."""
NUDGE = 4.0
"""Relative change of theta in a probe, in units of the rounding."""
SHORTER = (0.99, 0.98)
"""Steps of the probes: a smooth estimate changes by less than a sixth."""
APART = 0.3
"""Mean relative distance of the estimates of two probes from which they are rounding."""
QUARTER = 0.25
LONGEST = 16
"""How often a step is quadrupled in search of one whose error is the method's own."""
ENOUGH = 3.0
"""What atol must exceed the rounding by."""
COARSEST = 0.01
"""An atol above this part of theta is no advice."""


def due(before: int, attempts: int) -> bool:
    """Whether a look falls between two numbers of attempts."""
    return attempts >= FIRST_LOOK and before.bit_length() != attempts.bit_length()


def native_state(state: Any) -> State | None:
    """The state of a native method, whether it goes alone or has been switched to."""
    found = getattr(state, "inner", state)
    return found if isinstance(found, State) else None


def lone_reason(field: Field, method: Method, state: Any, attempts: int, t_before: float) -> str:
    """Why rounding keeps a lone run's steps short; empty if it does not, or nothing is known."""
    holder, used = native_state(state), getattr(state, "method", method)
    if holder is None or not isinstance(used, NativeMethod):
        return ""
    found = is_rounding(field, used, holder, attempts, np.array([t_before]))[0]
    return explain(field, used, holder)[0] if found else ""


class Looks:
    """Looks at a batch, at least after each power of two of attempts.

    Parameters
    ----------
    ids : array, shape (B,)
        Increasing numbers of its trajectories.
    t : array, shape (B,)
        Where they begin.
    """

    def __init__(self, ids: np.ndarray, t: np.ndarray) -> None:
        self._ids, self._before = ids, t.copy()

    def __call__(
        self,
        field: Field,
        method: NativeMethod,
        state: State,
        ids: np.ndarray,
        attempts: int,
    ) -> tuple[np.ndarray, list[str]]:
        """Rows (K,) of those that are left whose steps rounding keeps short, and why."""
        found = np.zeros(len(ids), dtype=bool)
        if attempts & (attempts - 1):
            return found, []
        places = np.searchsorted(self._ids, ids)
        before, self._before[places] = self._before[places], state.t
        if due(attempts - 1, attempts):
            found = is_rounding(field, method, state, attempts, before)
        return found, explain(field, method, state) if found.any() else []


def is_rounding(
    field: Field, method: NativeMethod, state: State, attempts: int, t_before: np.ndarray
) -> np.ndarray:
    """Rows (B,) whose steps rounding keeps short, with no end in sight.

    Parameters
    ----------
    field : Field
        Not metered: what is tried here is no part of the run. Its warm start is left as it was.
    method : NativeMethod
    state : State
    attempts : int
        So far.
    t_before : array, shape (B,)
        When half of them had been made.
    """
    endless = math.isinf(state.settings.t_end)
    if not field.smooth or (endless and attempts < FIRST_LOOK_ENDLESS):
        return np.zeros(len(state.t), dtype=bool)
    with np.errstate(all="ignore"):
        ahead: np.ndarray = 0.5 * (state.settings.t_end - state.t) / (state.t - t_before)
    noisy: np.ndarray = ahead > AHEAD
    sizes = np.zeros(len(state.t))
    try:
        with _untouched(field):
            for _ in range(STEPS):
                if not noisy.any():
                    break
                found, size = _estimates_are_noise(field, method, state)
                noisy, sizes = noisy & found, np.maximum(sizes, size)
                state, _ = method.advance(field, state)
    except (Breakdown, RuntimeError):
        return np.zeros(len(state.t), dtype=bool)
    limiting: np.ndarray = noisy & (sizes >= LIMITING)
    return limiting


def _estimates_are_noise(
    field: Field, method: NativeMethod, state: State
) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose error estimates are random, and do not fall at the method's order; their size."""
    errors = [_error(field, method, state)]
    for index, part in enumerate(SHORTER):
        errors.append(_error(field, method, _nudged(field, method, state, index), part))
    scale = state.settings.atol + state.settings.rtol * state.theta.abs()
    sizes = [scaled_norm(error, scale) for error in errors]
    short = scaled_norm(_error(field, method, state, QUARTER), scale)
    steepest = QUARTER ** (-0.5 * (1 + method.controller.error_order))
    pairs = ((0, 1), (0, 2), (1, 2))
    with np.errstate(all="ignore"):
        apart = [
            scaled_norm(errors[i] - errors[j], scale) / np.maximum(sizes[i], sizes[j])
            for i, j in pairs
        ]
        return (np.mean(apart, axis=0) >= APART) & (sizes[0] < steepest * short), sizes[0]


def _nudged(field: Field, method: NativeMethod, state: State, index: int) -> State:
    """The state at a theta that differs by rounding, to either side in turn."""
    theta = state.theta
    signs = 1.0 - 2.0 * ((torch.arange(theta.shape[-1], device=theta.device) + index) % 2)
    moved = theta * (1.0 + NUDGE * torch.finfo(theta.dtype).eps * signs.to(theta))
    return replace(state, theta=moved, cache=method.prepare(System(field), state.t, moved))


def _error(field: Field, method: NativeMethod, state: State, part: float = 1.0) -> Tensor:
    """The error estimate (B, P) of a part of the next step."""
    if field.memory is not None:
        field.memory.restore(state.memory)
    return method.attempt(System(field), state.t, part * state.dt, state.theta, state).error


def explain(field: Field, method: NativeMethod, state: State) -> list[str]:
    """The rounding in the error estimates of rows that it stops, and what atol would exceed it.

    The step is quadrupled until its error grows at the method's order: what it is just before is
    rounding still.
    """
    steepest = QUARTER ** (-0.5 * (1 + method.controller.error_order))
    with _untouched(field), np.errstate(all="ignore"):
        last = first = largest = _largest(_error(field, method, state))
        going = np.ones(len(first), dtype=bool)
        for power in range(1, LONGEST):
            going &= state.dt * QUARTER**-power <= state.settings.t_end - state.t
            if not going.any():
                break
            try:
                last, before = _largest(_error(field, method, state, QUARTER**-power)), last
            except (Breakdown, RuntimeError):
                break
            going &= last <= steepest * before
            largest = np.where(going, np.maximum(largest, last), largest)
    wanted = np.maximum(ENOUGH * largest / method.info.tightening, state.settings.atol)
    hopeless = ~(wanted <= COARSEST * _largest(state.theta))
    return [
        f"the estimated error of a step of {dt:.3g}, {error:.2g}, is rounding and keeps steps "
        + ("short, whatever the tolerance" if coarse else f"short; {_holds(atol)}")
        for dt, error, atol, coarse in zip(state.dt, first, wanted, hopeless, strict=True)
    ]


def _holds(atol: float) -> str:
    return f"this problem can hold atol = {10.0 ** math.ceil(math.log10(atol)):.0e}"


def _largest(error: Tensor) -> np.ndarray:
    largest: np.ndarray = error.abs().amax(-1).cpu().numpy().astype(np.float64)
    return largest


@contextmanager
def _untouched(field: Field) -> Iterator[None]:
    """Leave the field's memory as it was."""
    memory = field.memory
    kept = None if memory is None else (memory.value, memory.last)
    try:
        yield
    finally:
        if memory is not None and kept is not None:
            memory.value, memory.last = kept
