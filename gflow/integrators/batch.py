"""A batch: one native method on many trajectories, until the last has left.

Every trajectory has its own time, step and verdict. One that ends leaves the batch. One that gets
into trouble (no value, no error small enough, a stopping rule met within the step, growth without
bound) leaves it too, and goes on alone from its last accepted point: there the lone driver retries,
locates and judges, so that a trajectory of an ensemble ends as it would by itself. One that met a
rule does so at once: no budget that is used up later takes its verdict away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from gflow.integrators.base import Field, Halt
from gflow.integrators.bursts import Books, Burst, Bursts
from gflow.integrators.driver import integrate_field
from gflow.integrators.explicit import ExplicitPair
from gflow.integrators.meter import Meter
from gflow.integrators.native import BatchStep, State
from gflow.integrators.plan import BatchObserver, Ended, Origin, Plan
from gflow.integrators.rest import Rest
from gflow.integrators.rounding import Looks
from gflow.integrators.saves import Saves
from gflow.integrators.target import BRIEF, WITHIN
from gflow.integrators.trajectory import LOG_COLUMNS, StepLog, Trajectory
from gflow.integrators.trouble import in_trouble
from gflow.status import Status

COMPACT = 0.9
"""The batch is made smaller when fewer than this part of its rows still run."""


class Batch:
    """One method on some of the trajectories, and what has become of them."""

    def __init__(
        self, field: Field, origin: Origin, saves: Saves, plan: Plan, deadline: float
    ) -> None:
        self.plan, self.saves = plan, saves
        self.meter, self.deadline = Meter(field, deadline), deadline
        self.field = self.meter.field
        self.ids = origin.ids
        self.size = origin.size
        self.failures = np.zeros(len(origin.ids), dtype=int)
        self.all_failures = np.zeros(len(origin.ids), dtype=int)
        self.solves = self.attempts = 0
        self.interrupted = False
        self.rest: Rest | None = None
        self.log: list[tuple[np.ndarray, np.ndarray]] = []
        self.burst_logs: dict[int, list[np.ndarray]] = {}
        self.ended: dict[int, Ended] = {}
        self.alone: dict[int, Ended] = {}
        self.located: dict[int, Trajectory] = {}
        self.moved: dict[int, Ended] = {}
        self.origin = origin
        self.looks = Looks(origin.ids, origin.t)
        self.bursts: Bursts | None = None
        if plan.kernel is not None and plan.met is None and isinstance(plan.method, ExplicitPair):
            self.bursts = Bursts(plan.method, plan.kernel)

    def run(self) -> None:
        """Step until the batch is empty or a budget is used up."""
        origin, plan = self.origin, self.plan
        self.settings = plan.settings.tightened(plan.method.info.tightening, origin.theta.dtype)
        status = Status.STEP_LIMIT
        self.state: State | None = None
        try:
            if self.field.memory is not None:
                self.field.memory.restore(origin.warm)
            self.state = plan.method.start(
                self.field, origin.t, origin.theta, self.settings, origin.dt
            )
            if math.isinf(self.settings.t_end):
                self.rest = Rest(self.state.t, self.state.theta, self.settings)
            self._begin(self.state)
            while len(self.ids) and self.attempts < plan.max_steps:
                if self.bursts is None:
                    self._advance(self.state)
                else:
                    self._burst(self.state, self.bursts)
        except Halt as halt:
            status = halt.status
        except KeyboardInterrupt:
            status, self.interrupted = Status.INTERRUPTED, True
            self.ended |= {i: replace(end, status=status) for i, end in self.moved.items()}
            self.moved = {}
        end = self.state
        t, theta = (origin.t, origin.theta) if end is None else (end.t, end.theta)
        for row, index in enumerate(self.ids):
            finished = t[row] >= self.settings.t_end
            verdict = Status.T_END if finished else status
            self.ended[int(index)] = Ended(verdict, float(t[row]), theta[row], 0.0)

    def go_on(self, index: int, max_steps: int) -> Trajectory:
        """The way alone of a trajectory that left in trouble or at a stopping rule."""
        plan, end = self.plan, self.alone[index]
        first = end.dt if math.isfinite(end.dt) and end.dt > 0 else None
        return integrate_field(
            plan.lone(index),
            end.theta,
            plan.method,
            replace(plan.settings, first_step=first),
            torch.from_numpy(self.saves.grid),
            targets=() if plan.targets is None else plan.targets(index),
            max_steps=max(0, max_steps),
            wall_seconds=max(0.0, self.deadline - time.perf_counter()),
            observers=() if plan.observer is None else (plan.observer.alone(index),),
            t0=end.t,
            warm=end.warm,
            size=float(self.origin.size[np.searchsorted(self.origin.ids, index)]),
        )

    def _locate(self, indices: np.ndarray) -> None:
        """Let those that met a rule go on to where it is met."""
        for index in indices.tolist():
            later = self.go_on(index, self.plan.max_steps - self.attempts)
            self.located[index] = later
            if later.status is Status.INTERRUPTED:
                raise KeyboardInterrupt

    def _begin(self, state: State) -> None:
        """Let go of the rows that have no value where they begin, or meet a rule there."""
        leaving = ~torch.isfinite(state.cache["value"]).all(-1).cpu().numpy()
        if self.plan.met is not None:
            leaving |= self.plan.met(self.ids, state.t, state.theta)
        gone = self.ids[leaving]
        if leaving.any():
            self._leave(leaving, state, self.alone)
            self._select(state, np.flatnonzero(~leaving))
        self._locate(gone)

    def _advance(self, before: State) -> None:
        running = before.t < self.settings.t_end
        state, step = self.plan.method.advance(self.field, before)
        self.attempts += 1
        self.solves += step.linear_solves
        accepted = step.accepted & running
        leaving = self._meeting(step, accepted)
        accepted &= ~leaving
        rows = np.flatnonzero(accepted)
        self.saves.record(self.ids, rows, step)
        self._write_log(step, running, accepted)
        self._leave(leaving, before, self.alone)
        self.state = state  # an observer may be interrupted
        if len(rows) and self.plan.observer is not None:
            self.plan.observer.observe_batch(self.ids, rows, step, self.meter.nfe)
        failed = np.isnan(step.ratio)
        self.failures = np.where(failed, self.failures + 1, 0)
        self.all_failures += failed
        met = self.ids[leaving]
        self._part(state, leaving, running, self._troubled(state))
        self._locate(met)

    def _burst(self, before: State, bursts: Bursts) -> None:
        """Many attempts of every row at once."""
        self.meter.check_deadline()
        traced = self.plan.observer is not None
        count = bursts.length(before, self.attempts, traced)
        count = min(count, self.plan.max_steps - self.attempts)
        books = Books(self.ids, self.size, self.failures, self.all_failures)
        made = self.attempts, self.meter
        found = bursts.run(before, books, self.saves, *made, count, traced)
        for index, table in zip(self.ids.tolist(), found.tables, strict=True):
            if len(table):
                self.burst_logs.setdefault(index, []).append(table)
        running = before.t < self.settings.t_end
        if running.any() and not found.most:
            raise MemoryError("no memory for the numbers of the rows")
        self.state, nfe = found.state, self.meter.nfe
        self.attempts += found.most
        self.meter.spend(found.most * bursts.pair.evaluations)
        self.failures, self.all_failures = found.failures, found.all_failures
        if self.plan.observer is not None:
            self._tell(self.plan.observer, found, bursts.pair, nfe)
        self._part(found.state, np.zeros_like(running), running, found.troubled)

    def _tell(self, observer: BatchObserver, found: Burst, pair: ExplicitPair, nfe: int) -> None:
        """Tell of every step of a burst; an interrupt is raised when all are told."""
        interrupt = None
        for number, (rows, step) in enumerate(found.steps(pair), start=1):
            try:
                if len(rows):
                    observer.observe_batch(self.ids, rows, step, nfe + number * pair.evaluations)
            except KeyboardInterrupt as raised:
                interrupt = raised
        if interrupt is not None:
            raise interrupt

    def _meeting(self, step: BatchStep, accepted: np.ndarray) -> np.ndarray:
        """Accepted rows within whose step a stopping rule is met."""
        if self.plan.met is None:
            return np.zeros(len(accepted), dtype=bool)
        met, span = np.zeros(len(accepted), dtype=bool), step.t1 - step.t0
        long = accepted & (span > BRIEF * step.t1)
        every = torch.arange(len(accepted), device=self.saves.device)
        looked = torch.as_tensor(long, device=self.saves.device)[:, None]
        for x in WITHIN if long.any() else ():
            theta = step.dense(every, torch.full_like(step.theta1[:, 0], x))
            theta = torch.where(looked, theta, step.theta0)
            met |= long & self.plan.met(self.ids, step.t0 + x * span, theta)
        met |= accepted & self.plan.met(self.ids, step.t1, step.theta1)
        return np.asarray(met)

    def _part(
        self, state: State, leaving: np.ndarray, running: np.ndarray, troubled: np.ndarray
    ) -> None:
        """Let go of the rows that leave, and of finished ones once they are many."""
        finished = state.t >= self.settings.t_end
        trouble = running & ~leaving & ~finished & troubled
        self._leave(trouble, state, self.alone)
        gone = leaving | trouble
        if self.rest is not None:
            resting = self.rest(state.t, state.theta) & running & ~gone
            self._leave(resting, state, self.ended, Status.STALLED)
            gone |= resting
        noisy, reasons = self.looks(
            self.meter.raw, self.plan.method, state, self.ids, self.attempts
        )
        rounding = noisy & running & ~gone & ~finished
        self._leave(rounding, state, self.ended, Status.ROUNDING, reasons)
        gone |= rounding
        if self.plan.switch is not None:
            moving = self.plan.switch(self.field, state, self.attempts) & ~finished & ~gone
            self._leave(moving, state, self.moved)
            gone |= moving
        keep = ~(gone | finished)
        if gone.any() or keep.sum() < COMPACT * len(keep):
            self._leave(finished & ~gone, state, self.ended)
            self._select(state, np.flatnonzero(keep))

    def _leave(
        self,
        rows: np.ndarray,
        state: State,
        where: dict[int, Ended],
        status: Status = Status.T_END,
        reasons: Sequence[str] = (),
    ) -> None:
        for row in np.flatnonzero(rows):
            t, theta, dt = float(state.t[row]), state.theta[row], float(state.dt[row])
            warm = None if state.memory is None else state.memory[row]
            reason = reasons[int(row)] if reasons else ""
            where[int(self.ids[row])] = Ended(status, t, theta, dt, warm, reason)

    def _troubled(self, state: State) -> np.ndarray:
        return in_trouble(state, self.failures, self.all_failures, self.attempts, self.size)

    def _select(self, state: State, rows: np.ndarray) -> None:
        self.state = state.select(rows)
        self.ids, self.failures, self.size = self.ids[rows], self.failures[rows], self.size[rows]
        self.all_failures = self.all_failures[rows]
        if self.rest is not None:
            self.rest.select(rows)
        if self.bursts is not None:
            self.bursts.select(rows)
        if self.field.select is not None and len(rows):
            part = self.field.select(torch.as_tensor(rows, device=state.theta.device))
            self.meter = self.meter.on(part)
            self.field = self.meter.field

    def _write_log(self, step: BatchStep, running: np.ndarray, accepted: np.ndarray) -> None:
        meter, rows = self.meter, np.flatnonzero(running)
        table = np.empty((len(rows), len(LOG_COLUMNS)))
        table[:, 0] = step.t0[rows]
        table[:, 1] = step.t1[rows] - step.t0[rows]
        table[:, 2] = step.ratio[rows]
        table[:, 3] = accepted[rows]
        table[:, 4:] = (meter.nfe, meter.hessians, self.solves, meter.jvps)
        self.log.append((self.ids[rows], table))

    def logs(self) -> dict[int, StepLog]:
        """The attempts sorted by trajectory."""
        if self.burst_logs:
            return {index: StepLog(np.concatenate(t)) for index, t in self.burst_logs.items()}
        if not self.log:
            return {}
        owners = np.concatenate([ids for ids, _ in self.log])
        tables = by_owner(owners, np.concatenate([rows for _, rows in self.log]))
        return {index: StepLog(table) for index, (table,) in tables.items()}


def by_owner(owners: np.ndarray, *tables: np.ndarray) -> dict[int, tuple[np.ndarray, ...]]:
    """Rows of tables, in their order, for each of the trajectories (K,) that own them."""
    order = np.argsort(owners, kind="stable")
    indices, starts = np.unique(owners[order], return_index=True)
    parts = [np.split(table[order], starts[1:]) for table in tables]
    return {int(index): tuple(part) for index, *part in zip(indices, *parts, strict=True)}
