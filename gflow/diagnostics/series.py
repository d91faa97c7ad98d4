"""Diagnostics along runs whose saves come one after another, each evaluated once."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.diagnostics.pointwise import evaluate_rows
from gflow.diagnostics.rows import Before
from gflow.problem import CHUNK, Problem


class Series:
    """The diagnostics along one run whose saves come one after another.

    The last one may be where the run is at the moment, which no later call has again.

    They are evaluated in blocks of so many saves as memory allows, each block once and always the
    same, so that what comes out does not depend on when it was asked for.

    Parameters
    ----------
    problem : Problem
    names : collection of str
        Keys of :data:`POINTWISE`.
    jumps : bool
        Whether the run may jump between branches, as descents may.
    """

    def __init__(self, problem: Problem, names: Collection[str], jumps: bool = False) -> None:
        self._problem, self._names = problem, names
        self._size = max(1, CHUNK // (problem.width * problem.n_parameters))
        self._start = Before(jumps)
        self._blocks: list[tuple[dict[str, Tensor], Before]] = []

    def __call__(self, theta: Tensor) -> dict[str, Tensor]:
        """The diagnostics (T,) at all saves (T, P) so far, those of earlier calls among them."""
        done = len(self._blocks) * self._size
        for block in torch.split(theta[done:-1], self._size):  # the last may not be a save
            if len(block) == self._size:
                self._blocks.append(self._evaluate(block))
        found = [values for values, _ in self._blocks]
        done = len(self._blocks) * self._size
        if done < len(theta):
            found.append(self._evaluate(theta[done:])[0])
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def _evaluate(self, theta: Tensor) -> tuple[dict[str, Tensor], Before]:
        """The diagnostics at the saves after the last block, and where they leave the run."""
        before = copy.copy(self._blocks[-1][1] if self._blocks else self._start)
        rows = torch.zeros(len(theta), dtype=torch.int64, device=theta.device)
        return evaluate_rows(self._problem, theta, rows, self._names, before), before


class Measures:
    """The pointwise diagnostics of runs, row by row, each as its saves come.

    Parameters
    ----------
    problem : Problem
    evaluation : Problem or None
        The same on the evaluation set.
    diagnostics : mapping
        The switches.
    jumps : bool
        Whether the runs are descents, which may jump between branches.
    """

    def __init__(
        self,
        problem: Problem,
        evaluation: Problem | None,
        diagnostics: Mapping[str, Any],
        jumps: bool = False,
    ) -> None:
        self._problem, self._jumps = problem, jumps
        self._names = ["loss", *(name for name, on in diagnostics.items() if on)]
        self._beside = evaluation if diagnostics.get("evaluation_loss", True) else None
        self._rows: dict[int, tuple[Series, Series | None]] = {}

    def at(self, row: int, theta: Tensor) -> dict[str, Tensor]:
        """Diagnostics (T,) at all saves (T, P) of a row so far."""
        if row not in self._rows:
            self._rows[row] = self._series()
        own, beside = self._rows[row]
        found = {} if beside is None else beside(theta)
        return own(theta) | {f"evaluation_{name}": value for name, value in found.items()}

    def of_rows(self, theta: Tensor, counts: np.ndarray) -> dict[str, Tensor]:
        """Diagnostics (S, R) at the first records, so many, of theta (S, R, P); NaN beyond."""
        tables: dict[str, Tensor] = {}
        for row, count in enumerate(counts.tolist()):
            for name, values in self.at(row, theta[row, :count]).items():
                if name not in tables:
                    tables[name] = theta.new_full(theta.shape[:-1], torch.nan)
                tables[name][row, :count] = values
        return tables

    def _series(self) -> tuple[Series, Series | None]:
        own = Series(self._problem, self._names, self._jumps)
        if self._beside is None:
            return own, None
        names = [name for name in ("loss", "accuracy") if name in self._names]
        return own, Series(self._beside, names, self._jumps)
