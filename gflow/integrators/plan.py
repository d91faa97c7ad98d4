"""How a batch is integrated, who looks on, and where its trajectories begin and end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from gflow.compiled.kernel import Kernel
from gflow.integrators.base import Field, Settings
from gflow.integrators.driver import Observer, Target
from gflow.integrators.native import BatchStep, NativeMethod, State
from gflow.status import Status


class BatchObserver(Protocol):
    """Sees every attempt of a batch, and the steps of trajectories that left it."""

    def observe_batch(self, ids: np.ndarray, rows: np.ndarray, step: BatchStep, nfe: int) -> None:
        """Which trajectories the batch holds, and the rows of the attempt that were accepted."""

    def alone(self, index: int) -> Observer:
        """The observer of one trajectory that goes on alone."""


@dataclass(frozen=True)
class Ended:
    """Where a trajectory left its batch, why, and the step that it would have tried next.

    `warm` is the field's warm start there, `reason` what there is to say of the status.
    """

    status: Status
    t: float
    theta: Tensor
    dt: float
    warm: Tensor | None = None
    reason: str = ""


Switch = Callable[[Field, State, int], np.ndarray]
"""Field, state and attempts so far to a mask (B,) of the rows that another method should take."""


@dataclass(frozen=True)
class Plan:
    """How a batch is integrated.

    Attributes
    ----------
    method : NativeMethod
    settings : Settings
        The user's tolerances.
    lone : callable
        The field of one trajectory by its index.
    targets : callable, optional
        The stopping rules of one trajectory by its index.
    met : callable, optional
        ``(indices (B,), t (B,), theta (B, P)) -> (B,) bool``: which trajectories meet a rule there.
    switch : callable, optional
        Which rows go on with `other`.
    other : NativeMethod, optional
    max_steps : int
    wall_seconds : float
    observer : BatchObserver, optional
    kernel : Kernel, optional
        The field as compiled C for an explicit pair, where there are no rules.
    """

    method: NativeMethod
    settings: Settings
    lone: Callable[[int], Field]
    targets: Callable[[int], Sequence[Target]] | None = None
    met: Callable[[np.ndarray, np.ndarray, Tensor], np.ndarray] | None = None
    switch: Switch | None = None
    other: NativeMethod | None = None
    max_steps: int = 1_000_000
    wall_seconds: float = math.inf
    observer: BatchObserver | None = None
    kernel: Kernel | None = None


@dataclass(frozen=True)
class Origin:
    """Where some trajectories begin a part of their way: indices, times, rows and first steps.

    `size` is the largest |theta| of each where its whole way began, `warm` the field's warm start.
    """

    ids: np.ndarray
    t: np.ndarray
    theta: Tensor
    size: np.ndarray
    dt: np.ndarray | None = None
    warm: Tensor | None = None
