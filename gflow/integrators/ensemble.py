"""Many trajectories at once by native methods: batches, hand-overs and ways gone on alone."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import Field
from gflow.integrators.batch import Batch
from gflow.integrators.driver import verdict
from gflow.integrators.plan import BatchObserver, Ended, Origin, Plan
from gflow.integrators.saves import Saves
from gflow.integrators.trajectory import LOG_COLUMNS, StepLog, Trajectory
from gflow.status import Status

__all__ = ["BatchObserver", "Plan", "integrate_ensemble"]


def integrate_ensemble(field: Field, theta0: Tensor, times: Tensor, plan: Plan) -> list[Trajectory]:
    """Integrate a batch of trajectories from t = 0; never raises for what happens on the way.

    Parameters
    ----------
    field : Field
        Batched; row i is trajectory i.
    theta0 : Tensor, shape (B, P)
    times : Tensor, shape (T,)
        Increasing save times, shared by all.
    plan : Plan

    Returns
    -------
    list of Trajectory
        ``nfe``, ``hessians`` and ``jvps`` count evaluations of the batch while the trajectory was
        in it.
    """
    began = time.perf_counter()
    deadline = began + plan.wall_seconds
    saves = Saves(times, theta0)
    size = theta0.abs().amax(-1).cpu().numpy()
    origin = Origin(np.arange(len(theta0)), np.zeros(len(theta0)), theta0, size)
    batches = []
    with torch.no_grad():
        batch = Batch(field, origin, saves, plan, deadline)
        batch.run()
        batches.append(batch)
        if batch.moved:
            assert plan.other is not None
            batches.append(_moved(field, batch, plan, deadline))
            batches[-1].run()
        finals = _Finals(batches, saves, plan)
        trajectories = [finals.trajectory(i) for i in range(len(theta0))]
    seconds = time.perf_counter() - began
    return [replace(t, wall_seconds=seconds) for t in trajectories]


def _moved(field: Field, batch: Batch, plan: Plan, deadline: float) -> Batch:
    """The rows that another method takes over, where they left."""
    assert plan.other is not None
    ids = np.array(sorted(batch.moved))
    ends = [batch.moved[int(i)] for i in ids]
    origin = Origin(
        ids,
        np.array([end.t for end in ends]),
        torch.stack([end.theta for end in ends]),
        batch.origin.size[ids],
        np.array([end.dt for end in ends]),
        _stacked([end.warm for end in ends]),
    )
    if field.select is not None:
        field = field.select(torch.as_tensor(ids, device=origin.theta.device))
    later = replace(
        plan,
        method=plan.other,
        switch=None,
        other=None,
        kernel=None,
        max_steps=max(0, plan.max_steps - batch.attempts),
    )
    return Batch(field, origin, batch.saves, later, deadline)


def _stacked(warm: Sequence[Tensor | None]) -> Tensor | None:
    known = [one for one in warm if one is not None]
    return torch.stack(known) if len(known) == len(warm) else None


class _Finals:
    """Puts each trajectory together from the batches that it went through and its way alone."""

    def __init__(self, batches: Sequence[Batch], saves: Saves, plan: Plan) -> None:
        self.batches, self.saves, self.plan = batches, saves, plan
        self.logs = [batch.logs() for batch in batches]
        self.grid = torch.from_numpy(saves.grid)
        self.interrupted = any(batch.interrupted for batch in batches)

    def trajectory(self, index: int) -> Trajectory:
        """The whole of one trajectory."""
        parts, names = [], []
        for batch, logs in zip(self.batches, self.logs, strict=True):
            if index in logs:
                parts.append(logs[index])
                names.append(batch.plan.method.info.name)
        log = reduce(StepLog.followed_by, parts) if parts else _NOTHING
        last = self.batches[-1] if index in self.batches[0].moved else self.batches[0]
        method = " then ".join(names) or last.plan.method.info.name
        if index not in last.alone:
            end = last.ended[index]
            return self._assembled(index, end, end.reason, log, method)
        if self.interrupted and index not in last.located:
            end = replace(last.alone[index], status=Status.INTERRUPTED)
            return self._assembled(index, end, "", log, method)
        return self._alone(index, last, log, method)

    def _alone(self, index: int, batch: Batch, log: StepLog, method: str) -> Trajectory:
        """Add the way alone of a trajectory that left its batch in trouble or at a rule."""
        end, later = batch.alone[index], batch.located.get(index)
        if later is None:
            later = batch.go_on(index, self.plan.max_steps - len(log))
        self.interrupted |= later.status is Status.INTERRUPTED
        place = torch.searchsorted(self.grid, later.t).clamp(max=len(self.grid) - 1)
        saved = (self.grid[place] == later.t) & (later.t > end.t)
        self.saves.theta[index, place[saved].to(self.saves.device)] = later.theta[saved]
        final = Ended(later.status, float(later.t[-1]), later.theta[-1], 0.0)
        work = (later.nfe, later.hessians, later.linear_solves, later.jvps)
        # What came after the last attempt stands in no log.
        total = tuple(a + b for a, b in zip(_work(log), work, strict=True))
        log = log.followed_by(later.log)
        return self._assembled(index, final, later.reason, log, method, total)

    def _assembled(
        self,
        index: int,
        end: Ended,
        reason: str,
        log: StepLog,
        method: str,
        work: tuple[int, ...] | None = None,
    ) -> Trajectory:
        count = int(np.searchsorted(self.saves.grid, end.t, side="right"))
        t, theta = self.grid[:count], self.saves.theta[index, :count]
        if count == 0 or self.saves.grid[count - 1] < end.t:
            t = torch.cat([t, self.grid.new_tensor([end.t])])
            theta = torch.cat([theta, end.theta[None]])
        nfe, hessians, solves, jvps = _work(log) if work is None else work
        dt = float(log.table[-1, 1]) if len(log) else math.nan
        message = verdict(end.status, reason, end.t, log.accepted, len(log), dt, nfe)
        return Trajectory(
            t=t,
            theta=theta,
            status=end.status,
            message=message,
            reason=reason,
            log=log,
            nfe=nfe,
            hessians=hessians,
            linear_solves=solves,
            jvps=jvps,
            wall_seconds=math.nan,
            method=method,
        )


_NOTHING = StepLog(np.empty((0, len(LOG_COLUMNS))))


def _work(log: StepLog) -> tuple[int, ...]:
    """Evaluations, Jacobians, solves and products up to the last attempt."""
    return tuple(int(n) for n in log.table[-1, 4:]) if len(log) else (0, 0, 0, 0)
