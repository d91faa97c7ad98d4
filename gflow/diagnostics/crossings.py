"""Events of a flow that do not end it: where measures of the trajectory cross given values.

Gauges are evaluated at the ends of accepted steps and, in steps longer than :data:`BRIEF` of the
time they lead to, as exponential methods take them, at :data:`WITHIN` too. Where a measure is on
the other side of a threshold than at the point before, the crossing is located on the dense output
by Brent's method, to 1e-9 of the step. Two crossings of one threshold between neighbouring points
are missed; so is what the dense output does not show.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from gflow.diagnostics.measures import Gauges, Look
from gflow.diagnostics.thresholds import Threshold
from gflow.integrators.base import Step
from gflow.integrators.native import BatchStep
from gflow.problem import Problem

BRIEF = 0.01
"""Steps up to this part of the time at which they end are looked at only there."""
WITHIN = (0.2, 0.4, 0.6, 0.8)
"""Where longer steps are looked at beside their ends."""
MOST = 1000
"""Crossings of a kind that are located and kept for a trajectory; further ones are counted."""
XTOL = 1e-9
"""To which part of the piece of a step a crossing is located."""
LARGEST = 1e300
"""What Brent's method is given where a measure is infinite."""

Dense = Callable[[np.ndarray, np.ndarray], Tensor]
"""Places (K,) among the rows and fractions of their steps (K,) to states (K, Q)."""


@dataclass(frozen=True)
class Crossing:
    """Where a trajectory crosses a threshold.

    Attributes
    ----------
    kind : str
    level : float
    direction : int
        1 if the measure rises there, -1 if it falls.
    time, loss : float
    """

    kind: str
    level: float
    direction: int
    time: float
    loss: float


@dataclass(frozen=True)
class _Piece:
    """A part of a step of one trajectory, from fraction a to b, and the look at its beginning."""

    index: int
    begin: Look
    a: float
    b: float
    state: Callable[[float], Tensor]
    t0: float
    t1: float


class Crossings:
    """Observer of a flow, or of a batch of flows, that locates its events.

    Parameters
    ----------
    problem : Problem
        Row i is trajectory i's.
    thresholds : sequence of Threshold
    size : int
        Number of trajectories.

    Attributes
    ----------
    found : list of list of Crossing
        Of each trajectory, in the order in which they were located.
    counts : array of int, shape (size, M)
        Crossings of each measure in all, those beyond :data:`MOST` too.
    """

    def __init__(self, problem: Problem, thresholds: Sequence[Threshold], size: int = 1) -> None:
        names = list(dict.fromkeys(("loss", *(one.kind for one in thresholds))))
        self._gauges = Gauges(problem, names)
        self._thresholds = tuple(thresholds)
        self._column = [names.index(one.kind) for one in thresholds]
        self._levels = np.array([one.level for one in thresholds])
        self._seen = np.zeros(size, dtype=bool)
        self._last: Look | None = None
        self.found: list[list[Crossing]] = [[] for _ in range(size)]
        self.counts = np.zeros((size, len(names)), dtype=np.int64)

    def observe(self, step: Step, nfe: int) -> None:
        """Look at a step of the only trajectory."""
        self.observe_one(0, step)

    def observe_one(self, index: int, step: Step) -> None:
        """Look at a step of one trajectory."""

        def dense(places: np.ndarray, x: np.ndarray) -> Tensor:
            t = torch.from_numpy(step.t0 + x * (step.t1 - step.t0))
            return step.interpolate(t.to(step.theta0.device))

        times = np.array([[step.t0, step.t1]])
        self._scan(np.array([index]), times, step.theta0[None], step.theta1[None], dense)

    def observe_batch(self, ids: np.ndarray, rows: np.ndarray, step: BatchStep, nfe: int) -> None:
        """Look at the accepted rows of a batch's attempt."""

        def dense(places: np.ndarray, x: np.ndarray) -> Tensor:
            index = torch.as_tensor(rows[places], device=step.theta0.device)
            return step.dense(index, torch.as_tensor(x).to(step.theta0))

        times = np.stack([step.t0[rows], step.t1[rows]], axis=-1)
        index = torch.as_tensor(rows, device=step.theta0.device)
        self._scan(ids[rows], times, step.theta0[index], step.theta1[index], dense)

    def alone(self, index: int) -> _Alone:
        """The observer of a trajectory that goes on alone."""
        return _Alone(self, index)

    def clean(self) -> bool:
        """Whether nothing waits: every step is looked at once."""
        return True

    def state(self) -> dict[str, Any]:
        """What has been found, and the last look."""
        return {
            "found": [[list(astuple(one)) for one in each] for each in self.found],
            "counts": self.counts.copy(),
            "seen": self._seen.copy(),
            "last": None if self._last is None else self._last.copy(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.found = [[Crossing(*one) for one in each] for each in state["found"]]
        self.counts, self._seen = state["counts"].copy(), state["seen"].copy()
        last = state["last"]
        self._last = None if last is None else Look(**Look(**last).copy())

    def _scan(
        self, indices: np.ndarray, times: np.ndarray, theta0: Tensor, theta1: Tensor, dense: Dense
    ) -> None:
        """Look at steps of some trajectories, from times[:, 0] and theta0 to times[:, 1]."""
        self._begin(indices, theta0)
        assert self._last is not None
        long = np.flatnonzero(times[:, 1] - times[:, 0] > BRIEF * times[:, 1])
        levels = [(x, long) for x in WITHIN if len(long)] + [(1.0, np.arange(len(indices)))]
        state = theta1
        if len(long):
            within = dense(np.tile(long, len(WITHIN)), np.repeat(WITHIN, len(long)))
            state = torch.cat([within, theta1])
        places = np.concatenate([rows for _, rows in levels])
        rows = torch.as_tensor(indices[places], device=theta1.device)
        looks = self._gauges.look(self._theta(state), rows, self._last.select(rows))
        before, seen = np.zeros(len(indices)), 0
        for x, here in levels:
            look = looks.select(slice(seen, seen + len(here)))
            seen += len(here)
            self._compare(indices, times, here, look, before, x, dense)
            before[here] = x

    def _begin(self, indices: np.ndarray, theta0: Tensor) -> None:
        """Look where trajectories begin that have not been seen."""
        fresh = np.flatnonzero(~self._seen[indices])
        if not len(fresh):
            return
        rows = torch.as_tensor(indices[fresh], device=theta0.device)
        look = self._gauges.look(
            self._theta(theta0[torch.as_tensor(fresh, device=theta0.device)]), rows, None
        )
        if self._last is None:
            self._last = look.of_size(len(self._seen))
        self._last.put(rows, look)
        self._seen[indices[fresh]] = True

    def _compare(
        self,
        indices: np.ndarray,
        times: np.ndarray,
        places: np.ndarray,
        look: Look,
        before: np.ndarray,
        x: float,
        dense: Dense,
    ) -> None:
        """Locate what was crossed since the look before, by the fraction x of the steps."""
        assert self._last is not None
        rows = torch.as_tensor(indices[places], device=look.theta.device)
        last = self._last.select(rows)
        old, new = self._excess(last), self._excess(look)
        known = ~(np.isnan(old) | np.isnan(new))
        for k, j in zip(*np.nonzero(known & ((old > 0) != (new > 0))), strict=True):
            place, begin = places[k], last.select(slice(k, k + 1))
            within = functools.partial(_one, dense, place)
            ends = float(before[place]), x, within, *times[place].tolist()
            piece = _Piece(int(indices[place]), begin, *ends)
            self._cross(piece, int(j), float(old[k, j]), float(new[k, j]))
        self._last.put(rows, look)

    def _cross(self, piece: _Piece, j: int, old: float, new: float) -> None:
        """Count a crossing of threshold j, and locate it."""
        threshold, column = self._thresholds[j], self._column[j]
        self.counts[piece.index, column] += 1
        if self.counts[piece.index, column] > MOST:
            return
        x = self._locate(piece, threshold, old, new)
        time, loss = piece.t0 + x * (piece.t1 - piece.t0), self._at(piece, x, "loss")
        direction = 1 if new > old else -1
        crossing = Crossing(threshold.kind, threshold.level, direction, time, loss)
        self.found[piece.index].append(crossing)

    def _locate(self, piece: _Piece, threshold: Threshold, old: float, new: float) -> float:
        """The fraction of the step at which the threshold is crossed."""

        def excess(x: float) -> float:
            if x in (piece.a, piece.b):
                return old if x == piece.a else new
            value = self._at(piece, x, threshold.kind) - threshold.level
            return new if math.isnan(value) else min(max(value, -LARGEST), LARGEST)

        return float(brentq(excess, piece.a, piece.b, xtol=XTOL * (piece.b - piece.a)))

    def _at(self, piece: _Piece, x: float, name: str) -> float:
        """A measure within a piece."""
        theta = self._theta(piece.state(x))
        rows = torch.tensor([piece.index], device=theta.device)
        return float(self._gauges.look(theta, rows, piece.begin, [name]).values[0, 0])

    def _excess(self, look: Look) -> np.ndarray:
        """Values less the thresholds (K, J)."""
        values = look.values[:, self._column].double().cpu().numpy()
        return np.asarray(np.clip(values - self._levels, -LARGEST, LARGEST))

    def _theta(self, state: Tensor) -> Tensor:
        return state[..., : self._gauges.problem.n_parameters]


def _one(dense: Dense, place: int, x: float) -> Tensor:
    """The state at a fraction of one step."""
    return dense(np.array([place]), np.array([x]))


@dataclass(frozen=True)
class _Alone:
    """Observer of one trajectory of a batch."""

    crossings: Crossings
    index: int

    def observe(self, step: Step, nfe: int) -> None:
        """Look at its step."""
        self.crossings.observe_one(self.index, step)
