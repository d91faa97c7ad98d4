"""Updates at many step sizes at once: theta <- theta - eta g, or those of another flow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gflow.descent.clock import Records, clocks
from gflow.descent.record import Descent, Recorder
from gflow.flows import Flow, parse_flow
from gflow.flows.point import Point
from gflow.problem import Problem
from gflow.status import Status


class DescentKeeper(Protocol):
    """Keeps descents on disk as they go."""

    def due(self) -> bool:
        """Whether it is time."""

    def keep(self, descent: Descent) -> None:
        """Keep what there is so far; its state is where the descents can go on."""


REPORT = 0.2
"""Seconds between two reports of progress."""

DIVERGED = 1e10
"""Growth of |theta| (relative to 1 + |theta0|) at which a descent counts as diverged."""


def gradient_descent(
    problem: Problem,
    theta0: Tensor,
    step_sizes: Sequence[float],
    t_end: float,
    records: Records = 200,
    spacing: str = "linear",
    wall_seconds: float = math.inf,
    progress: Callable[[float, Tensor], None] | None = None,
    *,
    flow: Flow | str = "gradient",
    schedule: str = "constant",
    keeper: DescentKeeper | None = None,
    state: Mapping[str, Any] | None = None,
) -> Descent:
    """Run a flow's discrete counterpart at all step sizes together; finished ones leave the batch.

    Parameters
    ----------
    problem : Problem
        Its ``backward`` decides the gradient.
    theta0 : Tensor, shape (P,)
    step_sizes : sequence of float
        The learning rates eta; each makes floor(t_end / eta) updates.
    t_end : float
        On the flow's clock, for gradient descent t = eta k.
    records : int or sequence of float
        How many iterates to store per step size, the first and the last among them, or at which
        times.
    spacing : str
        Of a count: ``linear`` or ``log`` in t, with a schedule in the update number.
    wall_seconds : float
        Budget of wall-clock time for all of them.
    progress : callable, optional
        Called with (fraction done, theta of one running descent) from time to time.
    flow : Flow or str
        See :mod:`gflow.flows`; by default gradient descent.
    schedule : str
        See :mod:`gflow.descent.schedule`.
    keeper : DescentKeeper, optional
        Keeps the descents on disk as they go.
    state : mapping, optional
        Go on from there, bit for bit: the state of a descent with the same arguments.

    Returns
    -------
    Descent
        A step size that diverges or loses its equilibrium ends alone, with its status.

    Raises
    ------
    ProblemError
        If a step size is not positive and finite, none of its updates fits into t_end, or the flow
        or the schedule is none.
    """
    began = time.perf_counter()
    flow = parse_flow(flow)
    recorder = Recorder(clocks(step_sizes, t_end, flow, schedule), theta0, records, spacing)
    run = _Run(problem, theta0, flow.on(problem), recorder)
    run.began = began
    if state is not None:
        run.restore(state)
    try:
        with torch.no_grad():
            run.loop(began + wall_seconds, progress, keeper)
    except KeyboardInterrupt:
        run.stop_all(Status.INTERRUPTED)
    return run.result()


class _Run:
    """The running step sizes: rows of a batch that shrinks."""

    def __init__(self, problem: Problem, theta0: Tensor, flow: Flow, recorder: Recorder) -> None:
        self.problem, self.flow, self.recorder = problem, flow, recorder
        self.limit = DIVERGED * (1.0 + float(theta0.abs().max()))
        count = len(recorder.clocks)
        self.rows = list(range(count))
        self.theta = theta0.expand(count, -1).clone()
        self.motion = torch.zeros_like(self.theta)
        audited = flow.plain and not flow.weight_decay
        self.squared = theta0.new_full((count,), 0.0 if audited else math.nan)
        self.steady = all(clock.constant for clock in recorder.clocks)
        self.etas = self._sizes(0)
        self.warm: Tensor | None = None
        self.k = 0
        self.branch = int(problem.model.branch(theta0))
        self.jumped: dict[int, int] = {}
        self.status = [Status.T_END] * count
        self.message = [""] * count
        self.began, self.seconds = time.perf_counter(), 0.0
        self.mark: dict[str, Any] = {}
        self.together: dict[str, Any] = {}

    def loop(
        self,
        deadline: float,
        progress: Callable[[float, Tensor], None] | None,
        keeper: DescentKeeper | None,
    ) -> None:
        """Update until every row has left."""
        self._record()
        while self.rows:
            if keeper is not None:
                self.mark = self._marked()
                if Status.T_END not in self._ended():
                    self.together = self.mark
                if keeper.due():
                    keeper.keep(self.so_far())
            look = min(deadline, time.perf_counter() + REPORT)
            for _ in range(self.recorder.horizon(self.rows) - self.k):
                if not self._update() or time.perf_counter() > look:
                    break
            self._record()
            if self.rows and time.perf_counter() > deadline:
                self.stop_all(Status.WALL_LIMIT)
            if self.rows and progress is not None:
                progress(self.k / self.recorder.last, self.theta[0])

    def _update(self) -> bool:
        """One update of every row; False if a row left."""
        flow, etas = self.flow, self.etas if self.steady else self._sizes(self.k)
        look = flow.look(self.k, self.theta, self.motion)
        theta = look[0] if len(self.rows) == 1 else look
        point = Point(self.problem, theta, flow.weight_decay, self.warm)
        valid = point.equilibrium.valid
        bad = ~valid | (theta.abs().amax(-1) > self.limit)
        if bool(bad.any()):
            self._drop_failed(bad.reshape(-1), valid.reshape(-1), look)
            return False
        moved, motion = flow.update(point, self.k, etas, self.theta, self.motion)
        if flow.fallible and not bool(torch.isfinite(moved).all()):
            self._drop_faulty(torch.isfinite(moved).all(-1))
            return False
        self.warm = point.equilibrium.preactivation
        step = etas * point.gradient
        self.squared = self.squared + (step * step).sum(-1)
        self.theta, self.motion, self.k = moved, motion, self.k + 1
        return True

    def _sizes(self, k: int) -> Tensor:
        """Step sizes (S, 1) of update k + 1."""
        sizes = [self.recorder.clocks[row].size(k) for row in self.rows]
        return self.theta.new_tensor(sizes)[:, None]

    def _record(self) -> None:
        done = []
        for place, row in enumerate(self.rows):
            if self.recorder.due(row, self.k):
                self.recorder.record(row, self.k, self.theta[place], self.squared[place])
                self._note_branch(row, self.theta[place])
                if self.recorder.done(row):
                    self._end(row, Status.T_END)
                    done.append(place)
        self._leave(done)

    def _note_branch(self, row: int, theta: Tensor) -> None:
        """A descent may jump between branches of solutions; no flow can."""
        branch = int(self.problem.model.branch(theta))
        if branch not in (0, self.branch):
            self.jumped.setdefault(row, self.k)

    def _drop_failed(self, bad: Tensor, valid: Tensor, look: Tensor) -> None:
        failed = [place for place in range(len(self.rows)) if bool(bad[place])]
        for place in failed:
            theta = look[place]
            diverged = bool(valid[place]) or not bool(torch.isfinite(theta).all())
            reason = "" if diverged else self.problem.model.explain_loss_of_equilibrium(theta)
            status = Status.DIVERGED if diverged else self.problem.model.lost
            self._end(self.rows[place], status, reason, place)
        self._leave(failed)

    def _drop_faulty(self, whole: Tensor) -> None:
        failed = [place for place in range(len(self.rows)) if not bool(whole[place])]
        for place in failed:
            point = Point(self.problem, self.theta[place], self.flow.weight_decay)
            self._end(self.rows[place], Status.NONFINITE, self.flow.fault(point), place)
        self._leave(failed)

    def _end(self, row: int, status: Status, reason: str = "", place: int | None = None) -> None:
        """Note why a row ends; a failed one keeps its last iterate as a record."""
        recorded = int(self.recorder.update[row].max())
        if place is not None and self.k > recorded:
            self.recorder.record(row, self.k, self.theta[place], self.squared[place])
        self.status[row] = status
        detail = f": {reason}" if reason else ""
        if row in self.jumped:
            detail += f"; by update {self.jumped[row]} it had left the start's branch of solutions"
        self.message[row] = f"{status.sentence} It ended at update {self.k}{detail}."

    def _ended(self) -> list[Status]:
        return [status for row, status in enumerate(self.status) if row not in self.rows]

    def _marked(self) -> dict[str, Any]:
        """Where the rows are: references, and copies of what is short."""
        return {
            "rows": list(self.rows),
            "k": self.k,
            "theta": self.theta,
            "motion": self.motion,
            "squared": self.squared,
            "warm": self.warm,
            "jumped": [[row, k] for row, k in self.jumped.items()],
            "status": [str(status) for status in self.status],
            "message": list(self.message),
            "recorded": list(self.recorder.next),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where the rows were."""
        self.rows, self.k = list(state["rows"]), state["k"]
        self.theta, self.motion = state["theta"], state["motion"]
        self.squared, self.warm = state["squared"], state["warm"]
        self.jumped = dict(state["jumped"])
        self.status = [Status(name) for name in state["status"]]
        self.message = list(state["message"])
        self.seconds = state["seconds"]
        self.recorder.restore(state["recorded"], state["records"], self.k)
        self.together = dict(state["together"])
        self.etas = self._sizes(self.k if not self.steady else 0)

    def result(self) -> Descent:
        """The descents as they are, with the state that they can go on from."""
        recorder = self.recorder
        seconds = self.seconds + time.perf_counter() - self.began
        state = {
            **self.mark,
            "records": recorder.tables(),
            "seconds": seconds,
            "together": self.together,
        }
        return Descent(
            np.array([clock.step_size for clock in recorder.clocks]),
            recorder.update,
            recorder.theta,
            recorder.squared,
            self.status,
            self.message,
            seconds,
            recorder.time,
            state if self.mark else None,
        )

    def so_far(self) -> Descent:
        """The descents up to now; those that run say so."""
        found = self.result()
        running = set(self.rows)
        states = [Status.RUNNING if i in running else s for i, s in enumerate(self.status)]
        told = [
            f"{Status.RUNNING.sentence} It has come to update {self.k}." if i in running else text
            for i, text in enumerate(self.message)
        ]
        return replace(found, status=states, message=told)

    def stop_all(self, status: Status) -> None:
        """End every running row."""
        for place, row in enumerate(self.rows):
            self._end(row, status, place=place)
        self.rows = []

    def _leave(self, places: Sequence[int]) -> None:
        if not places:
            return
        keep = [place for place in range(len(self.rows)) if place not in places]
        self.rows = [self.rows[place] for place in keep]
        self.theta, self.motion = self.theta[keep], self.motion[keep]
        self.etas, self.squared = self.etas[keep], self.squared[keep]
        if self.warm is not None and keep:
            self.warm = self.warm[keep[0]] if len(keep) == 1 else self.warm[keep]
