"""Stopping rules of a flow beside t_end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.errors import ProblemError
from gflow.integrators.base import Field
from gflow.integrators.driver import Target
from gflow.problem import Evaluation, Problem
from gflow.status import Status
from gflow.wording import did_you_mean

Measure = Callable[[Any, Tensor], Tensor]
"""Times (...) and states (..., Q) to values (...); theta is the first P numbers of a state."""

KEYS = ("loss", "gradient_norm", "steady_state", "max_steps", "wall_seconds")
MAX_STEPS = 1_000_000
"""Budget of attempted steps unless ``max_steps`` is given."""


@dataclass(frozen=True)
class Stop:
    """Targets that the trajectory meets, and budgets that it may use up."""

    targets: tuple[Target, ...]
    max_steps: int = MAX_STEPS
    wall_seconds: float = math.inf


def read_stop(
    stop: Mapping[str, Any] | None,
    problem: Problem,
    field: Field,
    rtol: float,
    atol: float,
    t_end: float,
) -> Stop:
    """Read the user's stopping rules.

    Parameters
    ----------
    stop : mapping or None
        ``loss`` and ``gradient_norm``: end where they fall to this value, located on the dense
        output; both are those of the problem, without weight decay. Every step is looked at where
        it ends and, if it is longer than a hundredth of the time it leads to, at four points
        within: what is below the value only between two of these is missed, as along a flow of
        second order that oscillates. ``steady_state``: end where the RMS of
        (dtheta/dt) / (atol + rtol |theta|) falls to this value (True means 1): theta moves by less
        than its tolerance per unit of time, and so does the velocity if there is one.
        ``max_steps`` and ``wall_seconds`` are budgets: using one up is a failure.
    problem : Problem
    field : Field
    rtol, atol : float
        Tolerances of the flow.
    t_end : float
        May be infinite only if a rule is given.

    Raises
    ------
    ProblemError
        If a key is unknown, a value is not positive, or an infinite flow has no rule.
    """
    if stop is not None and not isinstance(stop, Mapping):
        raise ProblemError(f'stop is {stop!r}; it must be a mapping such as {{"loss": 1e-6}}.')
    for key, value in (stop or {}).items():
        _check(key, value)
    given = _given(stop)
    if math.isinf(t_end) and not given:
        raise ProblemError(
            f"t_end is infinite; give a stopping rule, one of {', '.join(KEYS)}, or a finite t_end."
        )

    rules = _rules(problem, field, rtol, atol)
    targets = tuple(_target(*rules[key], given[key]) for key in rules if key in given)
    return Stop(
        targets,
        int(given.get("max_steps", MAX_STEPS)),
        float(given.get("wall_seconds", math.inf)),
    )


class RowRules:
    """Which trajectories of a batch meet a rule; says no where the rule has no value.

    Parameters
    ----------
    stop : mapping or None
        As for :func:`read_stop`, which checks it.
    problem : Problem
        Row i is trajectory i's.
    field : Field
        Of all trajectories.
    rtol, atol : float
    """

    def __init__(
        self,
        stop: Mapping[str, Any] | None,
        problem: Problem,
        field: Field,
        rtol: float,
        atol: float,
    ) -> None:
        self._problem, self._field = problem, field
        self._tolerances = rtol, atol
        self._given = _given(stop)
        self._indices: np.ndarray | None = None
        self._rules: list[tuple[Measure, float]] = []

    def __call__(self, indices: np.ndarray, t: np.ndarray, theta: Tensor) -> np.ndarray:
        """Mask (B,) for the trajectories (B,) at times (B,) and states (B, Q)."""
        if indices is not self._indices:
            self._rules = self._of(torch.as_tensor(indices, device=theta.device))
            self._indices = indices
        met = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
        for measure, threshold in self._rules:
            met |= measure(t, theta) <= threshold
        return met.cpu().numpy()

    def _of(self, rows: Tensor) -> list[tuple[Measure, float]]:
        field = self._field if self._field.select is None else self._field.select(rows)
        rules = _rules(self._problem.select(rows), field, *self._tolerances)
        return [(rules[key][1], self._given[key]) for key in rules if key in self._given]


class _Probe:
    """Evaluates a problem once per state for all rules, warm-started along the trajectory."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._last: tuple[Tensor, Evaluation] | None = None

    def __call__(self, state: Tensor) -> Evaluation:
        if self._last is None or self._last[0] is not state:
            warm = None if self._last is None else self._last[1].equilibrium.preactivation
            theta = state[..., : self._problem.n_parameters]
            self._last = state, self._problem.evaluate(theta, warm)
        return self._last[1]


def _rules(
    problem: Problem, field: Field, rtol: float, atol: float
) -> dict[str, tuple[Status, Measure]]:
    probe = _Probe(problem)

    def loss(t: Any, state: Tensor) -> Tensor:
        return problem.loss_at(probe(state).equilibrium)

    def norm(t: Any, state: Tensor) -> Tensor:
        size: Tensor = torch.linalg.vector_norm(probe(state).gradient, dim=-1)
        return size

    def speed(t: Any, state: Tensor) -> Tensor:
        scaled = field.function(t, state) / (atol + rtol * state.abs())
        return scaled.pow(2).mean(-1).sqrt()

    return {
        "loss": (Status.LOSS, loss),
        "gradient_norm": (Status.GRADIENT_NORM, norm),
        "steady_state": (Status.STEADY_STATE, speed),
    }


def _target(status: Status, measure: Measure, threshold: float) -> Target:
    return Target(status, lambda t, theta: float(measure(t, theta)) - threshold)


def _given(stop: Mapping[str, Any] | None) -> dict[str, float]:
    """The rules that are switched on."""
    found = (stop or {}).items()
    return {key: float(value) for key, value in found if value is not None and value is not False}


def _check(key: str, value: Any) -> None:
    if key not in KEYS:
        raise ProblemError(f"stop.{key} is unknown{did_you_mean(key, KEYS)}")
    if value is None or value is False or (key == "steady_state" and value is True):
        return
    number = isinstance(value, Real) and not isinstance(value, bool)
    whole = number and (key != "max_steps" or float(value).is_integer())
    if not whole or not value > 0:
        kind = "a positive integer" if key == "max_steps" else "a positive number"
        raise ProblemError(f"stop.{key} is {value!r}; it must be {kind}.")
