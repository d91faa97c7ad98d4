"""Where a run is saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gflow.errors import ProblemError

DECADES = 5
"""Decades below t_end that logarithmic spacing covers."""
MOST_LATER = 10**7
"""Saves that an extension may add."""


@dataclass(frozen=True)
class Grid:
    """So many times up to an end, equally spaced or at equal ratios, that can go on beyond it.

    Parameters
    ----------
    count : int
    spacing : str
    end : float
    """

    count: int
    spacing: str
    end: float

    def between(self, before: float, t_end: float) -> np.ndarray:
        """The times after `before`, at or after the grid's end, up to but without t_end.

        Raises
        ------
        ProblemError
            If there are too many.
        """
        if self.count < 3:
            return np.empty(0)
        *_, last, end = save_times(self.count, self.end, self.spacing)
        step = save_times(self.count, self.end)[1]
        linear = self.spacing == "linear"
        steps = (t_end - end) / step if linear else math.log(t_end / end) / math.log(end / last)
        if steps > MOST_LATER:
            raise ProblemError(
                f"t_end = {t_end:g} would add {steps:.3g} saves at the spacing so far, more than "
                f"{MOST_LATER:,}; begin anew with fewer."
            )
        ahead = np.arange(1, math.ceil(steps))
        later: np.ndarray = end + ahead * step if linear else end * (end / last) ** ahead
        return later[(later > before * (1 + 1e-9)) & (later < t_end * (1 - 1e-9))]


def save_times(
    times: int | Sequence[float] | np.ndarray, t_end: float, spacing: str = "linear"
) -> np.ndarray:
    """Times at which a flow is saved, from 0 to t_end.

    Parameters
    ----------
    times : int or sequence of float
        How many times (0 and t_end among them), or the times themselves, increasing.
    t_end : float
        Finite if `times` is a count.
    spacing : str
        For a count: ``linear``, or ``log`` for 0 and then equal ratios from 1e-5 t_end to t_end.

    Raises
    ------
    ProblemError
        If the times are no increasing numbers in [0, t_end], or the spacing is unknown.
    """
    if spacing not in ("linear", "log"):
        raise ProblemError(f'spacing is "{spacing}"; it must be linear or log.')
    if is_count(times):
        return _spaced(int(times), t_end, spacing)  # type: ignore[arg-type]
    try:
        explicit = np.array(times, dtype=np.float64)
    except (TypeError, ValueError):
        raise ProblemError(f"times is {times!r}; it must be a count or a list of times.") from None
    usable = explicit.ndim == 1 and explicit.size > 0 and bool(np.isfinite(explicit).all())
    if not usable or explicit[0] < 0 or bool((np.diff(explicit) <= 0).any()):
        raise ProblemError("times must be a count, or increasing finite times from 0 on.")
    if explicit[-1] > t_end:
        raise ProblemError(f"times ends at {explicit[-1]:g}, beyond t_end = {t_end:g}.")
    return explicit


def is_count(times: object) -> bool:
    """Whether saves are given by their number."""
    return isinstance(times, int | np.integer) and not isinstance(times, bool)


def _spaced(count: int, t_end: float, spacing: str) -> np.ndarray:
    if count < 2:
        raise ProblemError(f"times is {count}; at least 2 saves are needed, the start and the end.")
    if not math.isfinite(t_end):
        raise ProblemError("a count of times needs a finite t_end.")
    if spacing == "linear":
        return np.linspace(0.0, t_end, count)
    later = np.geomspace(t_end * 10.0**-DECADES, t_end, count - 1) if count > 2 else [t_end]
    return np.concatenate([[0.0], later])
