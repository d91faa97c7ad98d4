"""What :mod:`gflow.integrators.exponential` adds up between the evaluations of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.accumulation import times_repeated
from gflow.integrators.propagators import Nodes, Propagator, Term
from gflow.integrators.system import column

NODES = Nodes((0.5, 1.0), highest=4)
HALF, FULL = 0, 1
SHARE = 0.25
"""Part of the embedded estimate, which is of order 3, that is held to the tolerance.

With all of it held, trajectories' errors from rtol 1e-3 to 1e-10 were at most 0.013 of the
tolerance on the reliability contract's problems, and 0.002 to 1 of it on flows of DEQs.
"""
REPEATED = 0.5
"""Times that the error seen at a step's end counts for each of the steps that repeat it."""


class Sums(Protocol):
    """One trial step of every row; each call but the first is given the field at the last point."""

    @property
    def solves(self) -> int:
        """Krylov spaces that were built."""

    @property
    def short(self) -> bool:
        """Whether steps so long could not be served."""

    def middle(self) -> Tensor:
        """Where the field is wanted (B, P) at half the step."""

    def whole(self, found: Tensor) -> Tensor:
        """Where it is wanted at its end."""

    def end(self, found: Tensor) -> Tensor:
        """Where the step leads."""

    def error(self, found: Tensor) -> Tensor:
        """Estimate (B, P) of the error there."""

    def dense(self, rows: Tensor, x: Tensor) -> Tensor:
        """Dense output of rows (M,) at fractions of their steps (M,), shape (M, P)."""


class PropagatedSums:
    """By a propagator, with the term for the time derivative of a field that has one.

    Parameters
    ----------
    by : Propagator
    cache : mapping
        From :func:`gflow.integrators.propagators.linearised`.
    t, dt : array, shape (B,)
    theta : Tensor, shape (B, P)
    """

    def __init__(
        self,
        by: Propagator,
        cache: Mapping[str, Tensor],
        t: np.ndarray,
        dt: np.ndarray,
        theta: Tensor,
    ) -> None:
        self._by, self._cache, self._theta = by, cache, theta
        self._value, self._t1 = cache["value"], t + dt
        self._width = column(dt, theta)
        self._start: list[Term] = [(1, 1.0, by.into(self._width * self._value))]
        self._change = None
        if "change" in cache:
            self._change = self._width * cache["change"]
            self._start.append((2, 1.0, by.into(self._width * self._change)))

    @property
    def solves(self) -> int:
        """Krylov spaces that were built."""
        return self._by.solves

    @property
    def short(self) -> bool:
        """Whether the propagator could not serve steps so long."""
        return self._by.short

    def middle(self) -> Tensor:
        """Where the field is wanted (B, P) at half the step."""
        return self._moved(self._start, HALF)

    def whole(self, found: Tensor) -> Tensor:
        """Where it is wanted at its end."""
        self._near = self._remainder(found, HALF)
        return self._moved([*self._start, (1, 1.0, self._near)], FULL)

    def end(self, found: Tensor) -> Tensor:
        """Where the step leads."""
        self._found, self._far = found, self._remainder(found, FULL)
        self._terms = [*self._start, *quartic(self._near, self._far)]
        return self._moved(self._terms, FULL)

    def error(self, found: Tensor) -> Tensor:
        """Estimate (B, P) of the error there."""
        by, gap, bent = self._by, found - self._found, quartic(self._near, self._far)
        late = by.remainder(gap, by.advance([(1, -1.0, self._near), *bent], FULL))
        missed = by.out(by.advance([(3, -2.0, late), (4, 12.0, late)], FULL))
        embedded = SHARE * by.out(by.advance(bent[2:], FULL))
        count = times_repeated(1.0, REPEATED, self._t1, self._theta, self._width, self._cache, gap)
        return torch.maximum(embedded.abs(), count * missed.abs())

    def dense(self, rows: Tensor, x: Tensor) -> Tensor:
        """Dense output of rows (M,) at fractions of their steps (M,), shape (M, P)."""
        return self._theta[rows] + self._by.dense(self._terms, rows, x)

    def _moved(self, terms: list[Term], place: int) -> Tensor:
        self._increment = self._by.advance(terms, place)
        return self._theta + self._by.out(self._increment)

    def _remainder(self, found: Tensor, place: int) -> Any:
        """D at the last point, times h."""
        difference = found - self._value
        if self._change is not None:
            difference = difference - NODES.at[place] * self._change
        return self._by.remainder(difference, self._increment)


def quartic(near: Any, far: Any) -> list[Term]:
    """The terms of D2 and D3; those of phi_4, which the embedded solution leaves out, are last."""
    return [(3, 16.0, near), (3, -2.0, far), (4, -48.0, near), (4, 12.0, far)]
