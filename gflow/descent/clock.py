"""The clock of a descent: how many updates fit, when each one is, and which are recorded."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gflow.descent.schedule import Schedule, parse_schedule
from gflow.errors import ProblemError
from gflow.flows import Flow, parse_flow
from gflow.times import is_count, save_times

MOST = 2.0**62
"""Updates that a descent may have, to be counted in 64 bits."""
LONGEST = 10**8
"""Updates of a descent with a schedule, whose step sizes are kept."""
Records = int | Sequence[float]
"""How many iterates are stored, or their times."""
SLACK = 1 + 1e-12
"""Factor on t_end within which the last update may end."""


class Clock:
    """The updates of one step size.

    Parameters
    ----------
    step_size : float
        eta.
    t_end : float
    tick : float, optional
        The time of an update; by default eta.
    schedule : Schedule, optional
        By default constant.

    Attributes
    ----------
    updates : int
        K, how many of them end by `t_end`.

    Raises
    ------
    ProblemError
        If there is none, or more than can be counted.
    """

    def __init__(
        self,
        step_size: float,
        t_end: float,
        tick: float | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        self.step_size, self.tick = step_size, step_size if tick is None else tick
        self.t_end = t_end
        self._sizes: np.ndarray | None = None
        updates = t_end * SLACK / (self.tick * (schedule.mean if schedule else 1.0))
        varies = schedule is not None and schedule.name != "constant"
        if updates > (LONGEST if varies else MOST):
            count = "kept" if varies else "counted"
            raise ProblemError(
                f"step size {step_size:g} makes {updates:.3g} updates until t_end = {t_end:g}; "
                f"that is more than can be {count}. Raise the step size or lower t_end."
            )
        self.updates = math.floor(updates)
        if schedule is not None and varies:
            self._sizes = _sizes(step_size, t_end, self.updates, schedule)
            self.updates = len(self._sizes)
            self._times = np.concatenate([[0.0], np.cumsum(self._sizes)])
        if self.updates < 1:
            raise ProblemError(
                f"step size {step_size:g} exceeds t_end = {t_end:g}; no update fits. "
                "Lower the step size or raise t_end."
            )

    @property
    def constant(self) -> bool:
        """Whether every update has the same step size."""
        return self._sizes is None

    def size(self, k: int) -> float:
        """Step size of update k + 1."""
        return self.step_size if self._sizes is None else float(self._sizes[k])

    def time(self, updates: np.ndarray) -> np.ndarray:
        """The time after so many updates; NaN where they are negative."""
        known = self.tick * updates if self._sizes is None else self._times[updates]
        return np.where(updates >= 0, known, math.nan)

    def recorded(self, records: Records, spacing: str) -> np.ndarray:
        """Updates to record, 0 and the last among them.

        Those nearest to times, or to a count of times up to t_end; with a schedule a count is one
        of updates.
        """
        if not is_count(records):
            return self._nearest(save_times(records, math.inf, spacing))
        assert isinstance(records, int | np.integer)
        if records < 2:
            raise ProblemError(
                f"records is {records}; at least 2 are needed, the start and the end."
            )
        if self.constant:
            return self._nearest(save_times(records, self.t_end, spacing))
        wanted = save_times(records, float(self.updates), spacing)
        return np.unique(np.rint(wanted).astype(np.int64))

    def _nearest(self, times: np.ndarray) -> np.ndarray:
        if self._sizes is None:
            wanted = np.minimum(times / self.tick, self.updates + 1.0)
            nearest = np.rint(wanted).astype(np.int64)
        else:
            middles = (self._times[1:] + self._times[:-1]) / 2
            nearest = np.searchsorted(middles, times[times <= self._times[-1]])
        return np.union1d(nearest[nearest <= self.updates], [0, self.updates])


def clocks(
    step_sizes: Sequence[float], t_end: float, flow: Flow | str, schedule: str
) -> list[Clock]:
    """The clock of each step size.

    Raises
    ------
    ProblemError
        If a step size is not positive and finite, none of its updates fits into t_end, or the
        flow's counterpart has no schedules.
    """
    flow, shape = parse_flow(flow), parse_schedule(schedule)
    if shape.name != "constant" and not flow.scheduled:
        raise ProblemError(
            f'flow "{flow.name}" has no schedule of step sizes, its updates count on one; leave '
            f'schedule = "{shape.name}" out.'
        )
    etas = _checked(step_sizes, t_end)
    return [Clock(eta, t_end, flow.clock(eta), shape) for eta in etas]


def record_times(
    step_sizes: Sequence[float],
    t_end: float,
    records: Records,
    spacing: str,
    flow: Flow | str = "gradient",
    schedule: str = "constant",
) -> list[float]:
    """Every time at which :func:`gflow.descent.gradient_descent` will record, increasing.

    Raises
    ------
    ProblemError
        As there.
    """
    times: set[float] = set()
    for clock in clocks(step_sizes, t_end, flow, schedule):
        times.update(clock.time(clock.recorded(records, spacing)).tolist())
    return sorted(times)


def _sizes(step_size: float, t_end: float, updates: int, schedule: Schedule) -> np.ndarray:
    """Step sizes of the most updates whose sum does not pass t_end; `updates` is about right."""

    def of(count: int) -> np.ndarray:
        return step_size * schedule.scale((np.arange(count) + 0.5) / max(count, 1))

    while of(updates + 1).sum() <= t_end * SLACK:
        updates += 1
    while of(updates).sum() > t_end * SLACK:
        updates -= 1
    return of(updates)


def _checked(step_sizes: Sequence[float], t_end: float) -> list[float]:
    if not 0 < t_end < math.inf:
        raise ProblemError(f"t_end of a descent is {t_end:g}; it must be positive and finite.")
    try:
        etas = [float(eta) for eta in np.atleast_1d(np.asarray(step_sizes, dtype=np.float64))]
    except (TypeError, ValueError):
        raise ProblemError(f"step_sizes is {step_sizes!r}; it must be a list of numbers.") from None
    bad = [eta for eta in etas if not 0 < eta < math.inf]
    if bad or not etas:
        raise ProblemError(f"step_sizes is {list(etas)}; it must hold positive finite numbers.")
    if len(set(etas)) < len(etas):
        raise ProblemError(f"step_sizes is {etas}; a step size is given twice.")
    return etas
