"""What an integration leaves behind: saves, dense output, the step log and the verdict."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import Attempt, Step
from gflow.status import Status

if TYPE_CHECKING:
    from gflow.integrators.snapshot import Snapshot

SNAP = 1e-12
"""Fraction of a step within which a time counts as the step's end."""


@dataclass(frozen=True)
class LoggedStep:
    """One attempt, and the totals after the accepted step that it led to."""

    attempt: Attempt
    nfe: int
    hessians: int
    linear_solves: int
    jvps: int = 0


LOG_COLUMNS = (
    "t",
    "dt",
    "error_ratio",
    "accepted",
    "nfe",
    "hessians",
    "linear_solves",
    "jvps",
)


class StepLog(Sequence[LoggedStep]):
    """Every attempt of a trajectory, kept as a table.

    Parameters
    ----------
    table : array, shape (K, 8)
        One row an attempt, the columns of :data:`LOG_COLUMNS`.
    """

    def __init__(self, table: np.ndarray) -> None:
        self.table = table.reshape(-1, len(LOG_COLUMNS))

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> LoggedStep: ...

    @overload
    def __getitem__(self, index: slice) -> StepLog: ...

    def __getitem__(self, index: int | slice) -> LoggedStep | StepLog:
        if isinstance(index, slice):
            return StepLog(self.table[index])
        t, dt, ratio, accepted, nfe, hessians, solves, jvps = self.table[index].tolist()
        attempt = Attempt(t, dt, ratio, bool(accepted))
        return LoggedStep(attempt, int(nfe), int(hessians), int(solves), int(jvps))

    @classmethod
    def of(cls, entries: Sequence[LoggedStep]) -> StepLog:
        """The table of some attempts."""
        rows = [
            (
                *(e.attempt.t, e.attempt.dt, e.attempt.error_ratio, e.attempt.accepted),
                *(e.nfe, e.hessians, e.linear_solves, e.jvps),
            )
            for e in entries
        ]
        return cls(np.array(rows, dtype=np.float64))

    def followed_by(self, later: StepLog) -> StepLog:
        """One log of both: the later one's totals go on from here."""
        table = later.table.copy()
        if len(self) and len(table):
            table[:, 4:] += self.table[-1, 4:]
        return StepLog(np.concatenate([self.table, table]))

    @property
    def accepted(self) -> int:
        """Number of accepted steps."""
        return int(self.table[:, 3].sum())


@dataclass
class Path:
    """Dense output of a whole trajectory, callable at any time of it."""

    steps: list[Step] = field(default_factory=list)

    def observe(self, step: Step, nfe: int) -> None:
        """Keep the step."""
        self.steps.append(step)

    def __call__(self, times: Tensor) -> Tensor:
        """Theta at times (k,) within the trajectory, shape (k, P)."""
        return evaluate_steps(self.steps, times)


@dataclass(frozen=True)
class Trajectory:
    """What an integration produced, whether or not it reached its end.

    Attributes
    ----------
    t : Tensor, shape (T,)
        The saved times; the last one is where the run ended.
    theta : Tensor, shape (T, P)
    status : Status
    message : str
        The verdict in sentences.
    reason : str
        What the method or the field had to say of it.
    log : StepLog
    nfe, hessians, linear_solves, jvps : int
    wall_seconds : float
    method : str
    path : Path or None
        Dense output, if asked for.
    snapshot : Snapshot or None
        Where the run can go on, if it was kept on disk as it went.
    diagnosis : str
        A word of :mod:`gflow.diagnosis` on why it did not end well.
    """

    t: Tensor
    theta: Tensor
    status: Status
    message: str
    reason: str
    log: StepLog
    nfe: int
    hessians: int
    linear_solves: int
    jvps: int
    wall_seconds: float
    method: str
    path: Path | None = None
    snapshot: Snapshot | None = None
    diagnosis: str = ""

    @property
    def handover(self) -> str:
        """What to add to the reason for a method that handed over to another."""
        other = self.method.partition(" then ")[2]
        return (
            f"; its steps came to be limited by stability, and {other} took over" if other else ""
        )

    @property
    def accepted(self) -> int:
        """Number of accepted steps."""
        return self.log.accepted

    @property
    def rejected(self) -> int:
        """Number of rejected steps."""
        return len(self.log) - self.accepted

    def ended(self, status: Status, reason: str) -> Trajectory:
        """The same with another verdict."""
        dt = float(self.log.table[-1, 1]) if len(self.log) else math.nan
        t, counts = float(self.t[-1]), (self.accepted, len(self.log))
        told = verdict(status, reason, t, *counts, dt, self.nfe)
        return replace(self, status=status, reason=reason, message=told)

    def resaved(self, times: Callable[[float], Tensor]) -> Trajectory:
        """The same trajectory saved at times chosen from where it ended; needs its path."""
        end = float(self.t[-1])
        if self.path is None or not end > 0:
            return self
        chosen = times(end)
        return replace(self, t=chosen, theta=self.path(chosen))

    def repeated(self, again: Trajectory) -> Trajectory:
        """The verdict of this one with the saves of a second integration, whose work is added."""
        return replace(
            self,
            t=again.t,
            theta=again.theta,
            path=again.path,
            nfe=self.nfe + again.nfe,
            hessians=self.hessians + again.hessians,
            linear_solves=self.linear_solves + again.linear_solves,
            jvps=self.jvps + again.jvps,
            wall_seconds=self.wall_seconds + again.wall_seconds,
        )


def verdict(
    status: Status, reason: str, t: float, accepted: int, attempts: int, dt: float, nfe: int
) -> str:
    """The verdict in sentences; `dt` is the last step tried."""
    last = f", last dt = {dt:.3g}" if attempts else ""
    came = "It has come to" if status is Status.RUNNING else "It ended at"
    where = (
        f"{came} t = {t:.6g} after {accepted} steps "
        f"({attempts - accepted} rejected{last}) and {nfe} field evaluations"
    )
    return f"{status.sentence} {where}{': ' + reason if reason else ''}."


class Saver:
    """Evaluates the requested times on the dense output of each step."""

    def __init__(self, times: Tensor, theta0: Tensor, t0: float = 0.0) -> None:
        self._times = times[times > t0]
        self._host = self._times.tolist()
        self._saved = 0
        self.t = [times.new_full((1,), t0)]
        self.theta = [theta0[None]]

    def observe(self, step: Step, nfe: int) -> None:
        """Save what falls into the step."""
        first, last = self._saved, bisect_right(self._host, step.t1, lo=self._saved)
        if last == first:
            return
        self._saved = last
        due, slack = self._times[first:last], SNAP * (step.t1 - step.t0)
        if self._host[first] > step.t0 + slack and self._host[last - 1] < step.t1 - slack:
            theta = step.interpolate(due.to(step.theta0.device))
        else:
            theta = evaluate_steps([step], due)
        self._append(due, theta)

    def finish(self, t: float, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Everything so far, with the last point if it is not a save already."""
        saved, states = self.joined(self.pieces)
        if not t > float(saved[-1]):
            return saved, states
        return torch.cat([saved, saved.new_tensor([t])]), torch.cat([states, theta[None]])

    @property
    def pieces(self) -> int:
        """How many pieces there are so far."""
        return len(self.t)

    def joined(self, pieces: int) -> tuple[Tensor, Tensor]:
        """The first pieces as one."""
        return torch.cat(self.t[:pieces]), torch.cat(self.theta[:pieces])

    def restore(self, saved_t: Tensor, saved_theta: Tensor, t: float) -> None:
        """Go on at t with what has been saved up to there."""
        self.t, self.theta = [saved_t], [saved_theta]
        self._saved = bisect_right(self._host, t)

    def _append(self, t: Tensor, theta: Tensor) -> None:
        self.t.append(t)
        self.theta.append(theta)


def evaluate_steps(steps: Sequence[Step], times: Tensor) -> Tensor:
    """Dense output at times (k,), exact at the ends of steps."""
    ends = torch.tensor([step.t1 for step in steps], dtype=torch.float64)
    place = torch.searchsorted(ends, times).clamp(max=len(steps) - 1)
    theta = steps[0].theta0.new_empty(len(times), steps[0].theta0.shape[-1])
    for index in torch.unique(place).tolist():
        step, here = steps[index], place == index
        x = (times[here] - step.t0) / (step.t1 - step.t0)
        inside = (x > SNAP) & (x < 1 - SNAP)
        values = torch.where((x >= 0.5).to(theta.device)[:, None], step.theta1, step.theta0)
        if bool(inside.any()):
            values[inside] = step.interpolate(times[here][inside].to(theta.device))
        theta[here] = values
    return theta
