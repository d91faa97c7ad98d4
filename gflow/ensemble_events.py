"""The located events of an ensemble, whose flows are integrated in groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gflow.diagnostics.crossings import Crossing, Crossings
from gflow.diagnostics.thresholds import Threshold
from gflow.problem import Problem


class EnsembleEvents:
    """Gives every group of flows its observer, and collects what they find.

    Parameters
    ----------
    thresholds : sequence of Threshold
    size : int
        Trajectories of the ensemble.
    """

    def __init__(self, thresholds: Sequence[Threshold], size: int) -> None:
        self.thresholds = tuple(thresholds)
        self._size = size
        self._groups: list[tuple[list[int], Crossings]] = []

    def observer(self, indices: list[int], problem: Problem) -> Crossings:
        """The observer of some flows, row i of `problem` being that of indices[i]."""
        crossings = Crossings(problem, self.thresholds, len(indices))
        self._groups.append((indices, crossings))
        return crossings

    @property
    def found(self) -> list[list[Crossing]]:
        """The events of each trajectory."""
        every: list[list[Crossing]] = [[] for _ in range(self._size)]
        for indices, crossings in self._groups:
            for index, found in zip(indices, crossings.found, strict=True):
                every[index] = found
        return every

    @property
    def counts(self) -> np.ndarray:
        """How many there were (B,), kept or not."""
        every = np.zeros(self._size, dtype=np.int64)
        for indices, crossings in self._groups:
            every[indices] = crossings.counts.sum(-1)
        return every
