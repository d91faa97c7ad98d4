"""What descents leave behind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from gflow.descent.clock import Clock, Records
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
    state : mapping or None
        Where the descents can go on, as plain data, if they were kept on disk as they went.
    """

    step_sizes: np.ndarray
    update: np.ndarray
    theta: Tensor
    squared_updates: Tensor
    status: list[Status]
    message: list[str]
    wall_seconds: float
    clock: np.ndarray | None = None
    state: Mapping[str, Any] | None = None

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
    records : int or sequence of float
    spacing : str
    """

    def __init__(
        self, clocks: Sequence[Clock], theta0: Tensor, records: Records, spacing: str
    ) -> None:
        self.clocks = clocks
        self.planned = [clock.recorded(records, spacing) for clock in clocks]
        self._theta0 = theta0
        self._clear()

    def _clear(self) -> None:
        shape = (len(self.clocks), max(len(u) for u in self.planned))
        self.next = [0] * len(self.clocks)
        self.update = np.full(shape, -1, dtype=np.int64)
        self.theta = self._theta0.new_full((*shape, self._theta0.numel()), math.nan)
        self.squared = self._theta0.new_full(shape, math.nan)

    def record(self, row: int, k: int, theta: Tensor, squared: Tensor) -> None:
        """Store one iterate of one step size."""
        column = self.next[row]
        self.update[row, column] = k
        self.theta[row, column] = theta
        self.squared[row, column] = squared
        self.next[row] += 1

    def tables(self) -> dict[str, Any]:
        """All records."""
        return {"update": self.update, "theta": self.theta, "squared": self.squared}

    def restore(self, recorded: Sequence[int], tables: Mapping[str, Any], k: int) -> None:
        """Go back to update k and the first records of each row, so many.

        What was recorded stays, though another plan may have chosen other updates up to there.
        """
        done = [tables["update"][row, :count] for row, count in enumerate(recorded)]
        pairs = zip(done, self.planned, strict=True)
        self.planned = [np.concatenate([made, plan[plan > k]]) for made, plan in pairs]
        self._clear()
        for row, count in enumerate(recorded):
            self.update[row, :count] = done[row]
            self.theta[row, :count] = tables["theta"][row, :count]
            self.squared[row, :count] = tables["squared"][row, :count]
        self.next = list(recorded)

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
