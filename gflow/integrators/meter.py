"""Counting what a run evaluates, and refusing what is not finite."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gflow.integrators.base import Breakdown, Field, Halt
from gflow.status import Status


class Meter:
    """Counts evaluations, keeps the deadline and refuses values that are not finite.

    Rows of a batch are not refused: what is not finite there is the method's to reject.
    """

    def __init__(self, field: Field, deadline: float) -> None:
        self.nfe = self.hessians = self.jvps = 0
        self.furthest = -math.inf
        self._field, self._deadline = field, deadline
        self.field = replace(
            field,
            function=self._function,
            jacobian=None if field.jacobian is None else self._jacobian,
            jvp=None if field.jvp is None else self._jvp,
            many=None if field.many is None else self._many,
        )

    @property
    def raw(self) -> Field:
        """The field itself, of which nothing is counted."""
        return self._field

    def on(self, field: Field) -> Meter:
        """A meter of another field that goes on counting."""
        other = Meter(field, self._deadline)
        other.nfe, other.hessians, other.jvps = self.nfe, self.hessians, self.jvps
        return other

    def spend(self, evaluations: int) -> None:
        """Count evaluations that were made elsewhere."""
        self.nfe += evaluations

    def _function(self, t: Any, theta: Tensor) -> Tensor:
        self.check_deadline()
        self.nfe += 1
        if theta.ndim > 1:
            return self._field(t, theta)
        self.furthest = max(self.furthest, t)
        return finite(self._field(t, theta), t, "field")

    def _many(self, t: Any, theta: Tensor) -> Tensor:
        assert self._field.many is not None
        self.check_deadline()
        self.nfe += len(theta)
        self.furthest = max(self.furthest, *t.tolist())
        return self._field.many(t, theta)

    def _jacobian(self, t: Any, theta: Tensor) -> Tensor:
        assert self._field.jacobian is not None
        self.check_deadline()
        self.hessians += 1
        value = self._field.jacobian(t, theta)
        return value if theta.ndim > 1 else finite(value, t, "Jacobian")

    def _jvp(self, t: Any, theta: Tensor, vector: Tensor) -> Tensor:
        assert self._field.jvp is not None
        self.check_deadline()
        self.jvps += 1
        value = self._field.jvp(t, theta, vector)
        return value if theta.ndim > 1 else finite(value, t, "Jacobian")

    def check_deadline(self) -> None:
        """Halt the run if its time is over."""
        if time.perf_counter() > self._deadline:
            raise Halt(Status.WALL_LIMIT)


def finite(value: Tensor, t: float, what: str) -> Tensor:
    """The value itself.

    Raises
    ------
    Breakdown
        If an element is not finite; it names the first.
    """
    # A finite sum needs no look at the elements, which costs three times as much.
    if math.isfinite(float(value.sum())) or bool(torch.isfinite(value).all()):
        return value
    place = int(torch.nonzero(~torch.isfinite(value.flatten()))[0])
    bad = float(value.flatten()[place])
    raise Breakdown(Status.NONFINITE, f"component {place} of the {what} is {bad} at t = {t:.6g}")
