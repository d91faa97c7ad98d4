"""What descents leave behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gflow.descent.clock import Clock
from gflow.status import Status


@dataclass(frozen=True)
class Descent:
    """Descents at S step sizes, each with up to R records.

    Attributes
    ----------
    step_sizes : ndarray, shape (S,)
    update : ndarray of int, shape (S, R)
        Number of updates made when recorded; -1 pads.
    theta : Tensor, shape (S, R, P)
        NaN pads.
    squared_updates : Tensor, shape (S, R)
        sum_{j<k} |eta_j g_j|^2, g the vector that each update of gradient descent used; the drift
        of R^2. NaN for other updates.
    status : list of Status, length S
    message : list of str, length S
    wall_seconds : float
    clock : ndarray or None, shape (S, R)
        Time of every record; None if it is eta k.
    """

    step_sizes: np.ndarray
    update: np.ndarray
    theta: Tensor
    squared_updates: Tensor
    status: list[Status]
    message: list[str]
    wall_seconds: float
    clock: np.ndarray | None = None

    @property
    def time(self) -> np.ndarray:
        """Time of every record, shape (S, R); NaN pads."""
        if self.clock is not None:
            return self.clock
        return np.where(self.update >= 0, self.update * self.step_sizes[:, None], math.nan)


class Recorder:
    """Fills the padded arrays of a descent.

    Parameters
    ----------
    clocks : sequence of Clock
    theta0 : Tensor, shape (P,)
    records : int
    spacing : str
    """

    def __init__(self, clocks: Sequence[Clock], theta0: Tensor, records: int, spacing: str) -> None:
        self.clocks = clocks
        self.planned = [clock.recorded(records, spacing) for clock in clocks]
        shape = (len(clocks), max(len(u) for u in self.planned))
        self.next = [0] * len(clocks)
        self.update = np.full(shape, -1, dtype=np.int64)
        self.theta = theta0.new_full((*shape, theta0.numel()), math.nan)
        self.squared = theta0.new_full(shape, math.nan)

    def record(self, row: int, k: int, theta: Tensor, squared: Tensor) -> None:
        """Store one iterate of one step size."""
        column = self.next[row]
        self.update[row, column] = k
        self.theta[row, column] = theta
        self.squared[row, column] = squared
        self.next[row] += 1

    def due(self, row: int, k: int) -> bool:
        """Whether update `k` of a step size is to be recorded."""
        column = self.next[row]
        return column < len(self.planned[row]) and int(self.planned[row][column]) == k

    def done(self, row: int) -> bool:
        """Whether all of a step size's updates are recorded."""
        return self.next[row] == len(self.planned[row])

    def horizon(self, rows: Sequence[int]) -> int:
        """The next update at which any of the rows is due."""
        return min(int(self.planned[row][self.next[row]]) for row in rows)

    @property
    def last(self) -> int:
        """The most updates that any step size makes."""
        return max(clock.updates for clock in self.clocks)

    @property
    def time(self) -> np.ndarray:
        """Time of every record (S, R)."""
        pairs = zip(self.clocks, self.update, strict=True)
        return np.stack([clock.time(updates) for clock, updates in pairs])
