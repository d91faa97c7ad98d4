"""Many flows: from problems and options to trajectories, together where the method can."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gflow.diagnostics.energy import BatchAudit, EnergyAudit
from gflow.ensemble_events import EnsembleEvents
from gflow.ensemble_watch import BatchPath, BatchReporter, Share, Watch
from gflow.flow_run import FlowOptions, FlowRun, ProgressCallback, Reporter, step_note
from gflow.flows import flow_field
from gflow.integrators.auto import EnsembleChoice, choose_ensemble
from gflow.integrators.base import Field, Settings
from gflow.integrators.driver import Observer, Target, verdict
from gflow.integrators.ensemble import BatchObserver, Plan, integrate_ensemble
from gflow.integrators.native import NativeMethod
from gflow.integrators.trajectory import StepLog, Trajectory
from gflow.problem import Problem
from gflow.stacking import group_problems
from gflow.status import Status
from gflow.stopping import RowRules, read_stop
from gflow.times import save_times

Integrals = Callable[[Tensor, np.ndarray], Tensor]
"""Times (T,) and ends (K,) to dissipation integrated up to each time (K, T), NaN beyond the end."""


@dataclass(frozen=True)
class EnsembleRun:
    """What became of the flows.

    Attributes
    ----------
    times : array, shape (T,)
        The saves, shared by all.
    trajectories : list of Trajectory
        In the order of the problems, of the flow's states; each ends in its own last point, a save
        or not.
    reasons : list of str
        Why this method.
    dissipated : Tensor or None, shape (B, T)
        Dissipation integrated to each save; NaN beyond a trajectory's end. None if not audited.
    wall_seconds : float
    n_parameters : int
        P; a state has as many numbers, or more.
    """

    times: np.ndarray
    trajectories: list[Trajectory]
    reasons: list[str]
    dissipated: Tensor | None
    wall_seconds: float
    n_parameters: int

    @property
    def ends(self) -> np.ndarray:
        """Where each trajectory ended (B,)."""
        return np.array([float(one.t[-1]) for one in self.trajectories])

    @property
    def theta(self) -> Tensor:
        """The saves (B, T, P), NaN beyond a trajectory's end."""
        return self._states[..., : self.n_parameters]

    @property
    def velocity(self) -> Tensor | None:
        """The velocities (B, T, P) there, of a flow of second order."""
        found = self._states[..., self.n_parameters :]
        return found if found.shape[-1] else None

    @cached_property
    def _states(self) -> Tensor:
        counts = np.searchsorted(self.times, self.ends, side="right")
        first = self.trajectories[0].theta
        table = first.new_full((len(counts), len(self.times), first.shape[-1]), torch.nan)
        saved = torch.from_numpy(np.arange(len(self.times)) < counts[:, None]).to(table.device)
        pairs = zip(self.trajectories, counts, strict=True)
        table[saved] = torch.cat([one.theta[:count] for one, count in pairs])
        return table

    @property
    def theta_final(self) -> Tensor:
        """The last points (B, P)."""
        return torch.stack([one.theta[-1, : self.n_parameters] for one in self.trajectories])


def run_ensemble(
    problems: Sequence[Problem],
    starts: Sequence[Tensor],
    options: FlowOptions,
    progress: ProgressCallback | None = None,
    audited: bool = False,
    events: EnsembleEvents | None = None,
) -> EnsembleRun:
    """Integrate many flows; one that fails or is interrupted takes no other's result away.

    Those of one shape go together where the method is native, the others one after another.
    ``max_steps`` is a budget of each flow, ``wall_seconds`` of all. Where t_end is infinite and the
    saves are a count, every step is kept in memory until the last flow has ended.

    Parameters
    ----------
    problems : sequence of Problem
    starts : sequence of Tensor, shape (P,)
    options : FlowOptions
    progress : callable, optional
    audited : bool
        Whether to integrate the dissipation.
    events : EnsembleEvents, optional
        Locates the flows' events.

    Raises
    ------
    UsageError
        If an option is wrong.
    """
    ensemble = _Ensemble(problems, starts, options, progress, audited, events)
    for indices, problem in group_problems(problems):
        ensemble.add(indices, problem)
    return ensemble.result()


class _Ensemble:
    """The flows done so far."""

    def __init__(
        self,
        problems: Sequence[Problem],
        starts: Sequence[Tensor],
        options: FlowOptions,
        progress: ProgressCallback | None,
        audited: bool,
        events: EnsembleEvents | None,
    ) -> None:
        self.problems, self.starts, self.options = problems, starts, options
        self.progress, self.audited, self.events = progress, audited, events
        self.began = time.perf_counter()
        self.stop = read_stop(
            options.stop,
            problems[0],
            flow_field(options.law, problems[0]),
            options.rtol,
            options.atol,
            options.t_end,
        )
        self.grid = _grid(options)
        self.done: dict[int, tuple[Trajectory, str]] = {}
        self.endless: dict[int, FlowRun] = {}
        self.paths: list[tuple[list[int], BatchPath]] = []
        self.audits: list[tuple[list[int], Integrals]] = []
        self.interrupted = False

    @property
    def left(self) -> float:
        """Seconds left of the budget."""
        return max(1e-9, self.stop.wall_seconds - (time.perf_counter() - self.began))

    def add(self, indices: list[int], problem: Problem) -> None:
        """Integrate some flows, row i of `problem` being that of indices[i]."""
        options = self.options
        field = flow_field(options.law, problem)
        if field.batched and not self.interrupted:
            theta0 = options.law.start(torch.stack([self.starts[index] for index in indices]))
            ruled = bool(self.stop.targets)
            choice = choose_ensemble(
                options.method, field, theta0, options.t_end, options.rtol, ruled
            )
            if isinstance(choice.method, NativeMethod):
                self._together(indices, problem, field, theta0, choice)
                return
        for index in indices:
            self._one(index)

    def _together(
        self,
        indices: list[int],
        problem: Problem,
        field: Field,
        theta0: Tensor,
        choice: EnsembleChoice,
    ) -> None:
        reason = choice.reason + step_note(choice.method, self.options)
        observers: list[BatchObserver] = []
        if self.grid is None:
            path = BatchPath(theta0)
            observers.append(path)
            self.paths.append((indices, path))
        if self.audited:
            audit = BatchAudit(problem, lambda row: self.problems[indices[row]], self.options.law)
            observers.append(audit)
            self.audits.append((indices, audit.integrals))
        if self.events is not None:
            observers.append(self.events.observer(indices, problem))
        if self.progress is not None:
            share = Share(self.progress, len(self.done), len(indices), len(self.problems))
            reporter = BatchReporter(problem, len(indices), self.options.t_end, share)
            observers.append(reporter)
        watch = Watch(observers) if observers else None
        plan = self._plan(indices, problem, field, choice, watch)
        saves = torch.from_numpy(np.zeros(1) if self.grid is None else self.grid)
        found = integrate_ensemble(field, theta0, saves, plan)
        for index, trajectory in zip(indices, found, strict=True):
            self._keep(index, trajectory, reason)

    def _plan(
        self,
        indices: list[int],
        problem: Problem,
        field: Field,
        choice: EnsembleChoice,
        watch: Watch | None,
    ) -> Plan:
        options, tolerances = self.options, (self.options.rtol, self.options.atol)

        def lone(row: int) -> Field:
            return flow_field(options.law, self.problems[indices[row]])

        def targets(row: int) -> Sequence[Target]:
            member = self.problems[indices[row]]
            return read_stop(options.stop, member, lone(row), *tolerances, options.t_end).targets

        ruled = bool(self.stop.targets)
        assert isinstance(choice.method, NativeMethod)
        return Plan(
            choice.method,
            Settings(options.t_end, *tolerances, first_step=options.first_step),
            lone,
            targets=targets if ruled else None,
            met=RowRules(options.stop, problem, field, *tolerances) if ruled else None,
            switch=choice.switch,
            other=choice.other,
            max_steps=self.stop.max_steps,
            wall_seconds=self.left,
            observer=watch,
            kernel=choice.kernel,
        )

    def _one(self, index: int) -> None:
        """Integrate one flow by itself, unless the run was interrupted before."""
        options, problem, start = self.options, self.problems[index], self.starts[index]
        if self.interrupted:
            begun = _not_begun(options.law.start(start), options.method)
            self._keep(index, begun, "the run ended before it began")
            return
        if math.isfinite(self.stop.wall_seconds):
            options = replace(options, stop={**(options.stop or {}), "wall_seconds": self.left})
        flow = FlowRun(problem, start, options)
        observers: list[Observer] = []
        if self.audited:
            audit = EnergyAudit(problem, options.law)
            observers.append(audit)
            self.audits.append(([index], lambda times, ends: _up_to(audit, times, ends)))
        if self.events is not None:
            observers.append(self.events.observer([index], problem))
        if self.progress is not None:
            share = Share(self.progress, len(self.done), 1, len(self.problems))
            observers.append(Reporter(problem, options.t_end, share))
        if flow.times is None:
            self.endless[index] = flow
        self._keep(index, flow.run(observers), flow.reason)

    def _keep(self, index: int, trajectory: Trajectory, reason: str) -> None:
        self.done[index] = trajectory, reason + trajectory.handover
        self.interrupted |= trajectory.status is Status.INTERRUPTED

    def result(self) -> EnsembleRun:
        """Everything, in the order of the problems."""
        members, reasons = map(
            list, zip(*(self.done[i] for i in range(len(self.done))), strict=True)
        )
        grid = self.grid
        if grid is None:
            grid = self._last_grid(members)
            self._place(members, grid)
        seconds = time.perf_counter() - self.began
        size = self.problems[0].n_parameters
        run = EnsembleRun(grid, members, reasons, None, seconds, size)
        return replace(run, dissipated=self._dissipated(run)) if self.audited else run

    def _last_grid(self, trajectories: Sequence[Trajectory]) -> np.ndarray:
        """Saves up to the latest end, of those that did not stay at rest forever if there are."""
        moving = [one for one in trajectories if one.status is not Status.STALLED]
        latest = max(float(one.t[-1]) for one in moving or trajectories)
        if latest == 0:
            return np.zeros(1)
        return save_times(self.options.times, latest, self.options.spacing)

    def _place(self, members: list[Trajectory], grid: np.ndarray) -> None:
        """Save the trajectories on the grid, each up to its end."""
        saves = [torch.from_numpy(_up_to_end(grid, one)) for one in members]
        for index, flow in self.endless.items():
            if len(saves[index]) > 1:
                again = flow.resaved(members[index], saves[index])
                members[index] = replace(again, path=None)
        for indices, path in self.paths:
            for index, theta in zip(indices, path(torch.from_numpy(grid)), strict=True):
                one, t = members[index], saves[index]
                kept = torch.cat([theta[: len(t) - 1], one.theta[-1:]])
                members[index] = replace(one, t=t, theta=kept)

    def _dissipated(self, run: EnsembleRun) -> Tensor:
        table = torch.full((len(run.ends), len(run.times)), torch.nan, dtype=torch.float64)
        for indices, integrals in self.audits:
            table[indices] = integrals(torch.from_numpy(run.times), run.ends[indices])
        return table


def _grid(options: FlowOptions) -> np.ndarray | None:
    """The saves, 0 and a finite end among them; None if they are placed at the end."""
    saves = options.saves()
    if saves is None:
        return None
    ends = [0.0, options.t_end] if math.isfinite(options.t_end) else [0.0]
    return np.union1d(saves, ends)


def _up_to_end(grid: np.ndarray, trajectory: Trajectory) -> np.ndarray:
    end = float(trajectory.t[-1])
    return np.append(grid[grid < end], end)


def _up_to(audit: EnergyAudit, times: Tensor, ends: np.ndarray) -> Tensor:
    inside = times <= float(ends[0])
    found = torch.full((1, len(times)), torch.nan, dtype=torch.float64)
    found[0, inside] = audit.integral(times[inside])
    return found


def _not_begun(start: Tensor, method: str) -> Trajectory:
    status = Status.INTERRUPTED
    return Trajectory(
        t=torch.zeros(1, dtype=torch.float64),
        theta=start[None],
        status=status,
        message=verdict(status, "", 0.0, 0, 0, math.nan, 0),
        reason="",
        log=StepLog.of([]),
        nfe=0,
        hessians=0,
        linear_solves=0,
        jvps=0,
        wall_seconds=0.0,
        method=method,
    )
