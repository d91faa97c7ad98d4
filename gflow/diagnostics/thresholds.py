"""Which events of a flow are asked for: values that a measure of the trajectory may cross."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from gflow.diagnostics.pointwise import ALWAYS
from gflow.errors import ProblemError
from gflow.problem import Problem
from gflow.wording import did_you_mean

KINDS = ("loss", "gradient_norm", "sharpness", "singular_distance", "conditioning")
"""Measures whose crossings can be located."""


@dataclass(frozen=True)
class Threshold:
    """A value of a measure whose crossings are events.

    Attributes
    ----------
    kind : str
        One of :data:`KINDS`.
    level : float
        For ``sharpness`` 2 / eta.
    """

    kind: str
    level: float


def read_events(
    events: Mapping[str, Any] | None, problem: Problem, step_sizes: Sequence[float] | None = None
) -> tuple[Threshold, ...]:
    """Read the events that a user asks for.

    Parameters
    ----------
    events : mapping or None
        Any of :data:`KINDS` to a positive number or several. Those of ``sharpness`` are step sizes
        eta, whose threshold is 2 / eta (Cohen et al. 2021, arXiv 2103.00065); True means the step
        sizes of the descents. None and False ask for nothing.
    problem : Problem
        Whose model may give no ``singular_distance`` or ``conditioning``.
    step_sizes : sequence of float, optional
        Of the descents beside the flow, if there are any.

    Raises
    ------
    ProblemError
        If a key is unknown, a value is none, or the model has no such measure.
    """
    if events is not None and not isinstance(events, Mapping):
        raise ProblemError(f'events is {events!r}; it must be a mapping such as {{"loss": 1e-3}}.')
    found: list[Threshold] = []
    for kind, given in (events or {}).items():
        if kind not in KINDS:
            raise ProblemError(f"events.{kind} is unknown{did_you_mean(kind, KINDS)}")
        if given is None or given is False:
            continue
        if kind not in (*ALWAYS, "sharpness", *problem.model.diagnostics):
            raise ProblemError(
                f"events.{kind} has no meaning here: {problem.model!r} has no {kind}. Leave it out."
            )
        if kind == "sharpness" and given is True:
            given = _of_descents(step_sizes)
        found += [Threshold(kind, _level(kind, value)) for value in _several(kind, given)]
    return tuple(dict.fromkeys(found))


def _of_descents(step_sizes: Sequence[float] | None) -> Sequence[float]:
    if step_sizes is None:
        raise ProblemError(
            "events.sharpness is True, which means the step sizes of the descents, and there are "
            "none; give the step sizes themselves, such as 0.01."
        )
    return step_sizes


def _several(kind: str, given: Any) -> list[float]:
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
    values = list(given) if several else [given]
    for value in values:
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            what = "a step size" if kind == "sharpness" else "a value"
            raise ProblemError(
                f"events.{kind} is {given!r}; it must be {what}, a positive finite number, or "
                "several."
            )
    return [float(value) for value in values]


def _level(kind: str, value: float) -> float:
    return 2.0 / value if kind == "sharpness" else value
