"""Schedules of step sizes.

Update k + 1 of K has the step size eta s((k + 1/2) / K): s is a function of the share u of the
updates, and the clock goes on by each one's own step size, so that it stays the flow's. K is the
largest number whose clock does not pass t_end.

===================== ==================================================================
``constant``          s = 1
``linear``            s = 1 - u
``cosine``            s = (1 + cos(pi u)) / 2 (Loshchilov & Hutter 2017, SGDR, eq. 5)
``warmup:F``          s = min(1, u / F): rises over the first share F of the updates
``step:F:FACTOR``     s = FACTOR^floor(u / F): a factor after each share F of the updates
``inverse:F``         s = 1 / (1 + u / F)
===================== ==================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gflow.errors import ProblemError

FORMS = "constant, linear, cosine, warmup:F, step:F:FACTOR or inverse:F (F and FACTOR in (0, 1])"


@dataclass(frozen=True)
class Schedule:
    """A schedule of step sizes.

    Attributes
    ----------
    name : str
        As it was written.
    scale : callable
        s: shares of the updates (K,) to factors (K,), positive for shares within (0, 1).
    mean : float
        Integral of s from 0 to 1.
    """

    name: str
    scale: Callable[[np.ndarray], np.ndarray]
    mean: float


def parse_schedule(text: str) -> Schedule:
    """Read a schedule's name.

    Raises
    ------
    ProblemError
        If it is none.
    """
    kind, *arguments = str(text).split(":")
    try:
        numbers = [float(argument) for argument in arguments]
        if all(0 < number <= 1 for number in numbers):
            return Schedule(text, *SCHEDULES[kind](*numbers))
    except (KeyError, ValueError, TypeError):
        pass
    raise ProblemError(f'schedule is "{text}"; it must be {FORMS}.')


Shape = tuple[Callable[[np.ndarray], np.ndarray], float]


def _constant() -> Shape:
    return np.ones_like, 1.0


def _linear() -> Shape:
    return lambda u: 1.0 - u, 0.5


def _cosine() -> Shape:
    return lambda u: (1.0 + np.cos(np.pi * u)) / 2.0, 0.5


def _warmup(share: float) -> Shape:
    return lambda u: np.minimum(1.0, u / share), 1.0 - share / 2.0


def _step(share: float, factor: float) -> Shape:
    whole = math.floor(1.0 / share)
    heights = factor ** np.arange(whole + 1)
    mean = share * heights[:-1].sum() + (1.0 - whole * share) * heights[-1]
    return lambda u: factor ** np.floor(u / share), float(mean)


def _inverse(share: float) -> Shape:
    return lambda u: 1.0 / (1.0 + u / share), share * math.log1p(1.0 / share)


SCHEDULES: dict[str, Callable[..., Shape]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "warmup": _warmup,
    "step": _step,
    "inverse": _inverse,
}
