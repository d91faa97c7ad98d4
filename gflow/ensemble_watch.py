"""What sees an ensemble run: several observers as one, and the report of its progress."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gflow.flow_run import Progress, ProgressCallback, Ticker
from gflow.integrators.base import Step
from gflow.integrators.driver import Observer
from gflow.integrators.ensemble import BatchObserver
from gflow.integrators.native import BatchStep
from gflow.integrators.saves import Saves
from gflow.integrators.trajectory import Path
from gflow.problem import Problem


@dataclass(frozen=True)
class Watch:
    """Several observers of a batch as one."""

    observers: Sequence[BatchObserver]

    def observe_batch(self, ids: np.ndarray, rows: np.ndarray, step: BatchStep, nfe: int) -> None:
        """Tell all of them."""
        for observer in self.observers:
            observer.observe_batch(ids, rows, step, nfe)

    def alone(self, index: int) -> Observer:
        """All of them on one trajectory."""
        return _LoneWatch([observer.alone(index) for observer in self.observers])


@dataclass(frozen=True)
class _LoneWatch:
    observers: Sequence[Observer]

    def observe(self, step: Step, nfe: int) -> None:
        for observer in self.observers:
            observer.observe(step, nfe)


class BatchPath:
    """Observer that keeps every step of a batch, for saves that are placed once it has ended.

    Parameters
    ----------
    theta0 : Tensor, shape (B, Q)
        The states that the flows begin with.
    """

    def __init__(self, theta0: Tensor) -> None:
        self._theta0 = theta0
        self._steps: list[tuple[np.ndarray, np.ndarray, BatchStep]] = []
        self._alone: dict[int, Path] = {}

    def observe_batch(self, ids: np.ndarray, rows: np.ndarray, step: BatchStep, nfe: int) -> None:
        """Keep the accepted rows' steps."""
        self._steps.append((ids, rows, step))

    def alone(self, index: int) -> Path:
        """The path of a trajectory that goes on alone."""
        return self._alone.setdefault(index, Path())

    def __call__(self, times: Tensor) -> Tensor:
        """States (B, T, Q) at increasing times (T,), NaN beyond a trajectory's end."""
        saves = Saves(times, self._theta0)
        for ids, rows, step in self._steps:
            saves.record(ids, rows, step)
        for index, path in self._alone.items():
            if path.steps:
                within = (times > path.steps[0].t0) & (times <= path.steps[-1].t1)
                saves.theta[index, within.to(saves.device)] = path(times[within])
        return saves.theta


@dataclass(frozen=True)
class Share:
    """A progress callback for some flows, which are a part of the whole.

    Attributes
    ----------
    callback : callable
        Told about the whole.
    before : int
        Flows that are done.
    count : int
        Flows that report here.
    total : int
        All flows.
    """

    callback: ProgressCallback
    before: int
    count: int
    total: int

    def __call__(self, progress: Progress) -> None:
        """Report the part of all clocks that has passed."""
        fraction = (self.before + self.count * progress.fraction) / self.total
        self.callback(replace(progress, fraction=fraction))


class BatchReporter:
    """Observer that tells a progress callback about a batch: means over what moved last.

    Parameters
    ----------
    problem : Problem
        Row i is trajectory i's.
    size : int
        Trajectories.
    t_end : float
    progress : callable
    """

    def __init__(
        self, problem: Problem, size: int, t_end: float, progress: ProgressCallback
    ) -> None:
        self._problem, self._t_end, self._progress = problem, t_end, progress
        self._reached = np.zeros(size)
        self._ticker = Ticker()

    def observe_batch(self, ids: np.ndarray, rows: np.ndarray, step: BatchStep, nfe: int) -> None:
        """Report, if it is time."""
        self.report(ids[rows], step.t0[rows], step.t1[rows], step.theta1[rows], nfe)

    def alone(self, index: int) -> Observer:
        """The reporter of a trajectory that goes on alone."""
        return _LoneReporter(self, np.array([index]))

    def report(
        self, indices: np.ndarray, t0: np.ndarray, t1: np.ndarray, theta: Tensor, nfe: int
    ) -> None:
        """Report steps of some trajectories, if it is time."""
        self._reached[indices] = t1
        if not self._ticker.due():
            return
        part = self._problem.select(torch.as_tensor(indices, device=theta.device))
        evaluation = part.evaluate(theta[:, : part.n_parameters])
        loss = float(part.loss_at(evaluation.equilibrium).nanmean())
        norm = float(torch.linalg.vector_norm(evaluation.gradient, dim=-1).nanmean())
        t = float(self._reached.mean())
        fraction = t / self._t_end if math.isfinite(self._t_end) else math.nan
        dt = float(np.median(t1 - t0))
        self._progress(Progress(fraction, t, loss, norm, dt, nfe, "flow"))


@dataclass(frozen=True)
class _LoneReporter:
    reporter: BatchReporter
    index: np.ndarray

    def observe(self, step: Step, nfe: int) -> None:
        t0, t1 = np.array([step.t0]), np.array([step.t1])
        self.reporter.report(self.index, t0, t1, step.theta1[None], nfe)
