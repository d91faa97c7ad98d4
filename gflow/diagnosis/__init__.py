"""What was wrong with a run that did not end well: a word, and a sentence with measured numbers.

The status says how a run ended; the diagnosis why, from a look at the point that it came to. That
costs at most two Jacobians of the field or 40 products with it, 40 evaluations and, of a model that
may have several equilibria, 32 solves along the saves; no more than about a second beside the
slowest of these. Where they fail, or take longer, it says less; it never raises.
docs/verdicts.md tells what the words mean.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from gflow.diagnosis.descents import judged
from gflow.diagnosis.samples import find_lost, find_nonfinite
from gflow.diagnosis.scene import Cause, Finding, Scene
from gflow.diagnosis.steps import find_diverged, find_short_steps
from gflow.flow_run import FlowOptions
from gflow.integrators.trajectory import Trajectory
from gflow.problem import Problem
from gflow.status import Status

__all__ = ["Cause", "diagnosed", "diagnosed_all", "judged"]

SECONDS = 1.0
"""Of one run, and of all runs of an ensemble together."""
MEMBERS = 20
"""Members of an ensemble that are looked at; of the others the status alone gives the word."""

FINDERS = {
    Status.EQUILIBRIUM_LOST: find_lost,
    Status.NONFINITE: find_nonfinite,
    Status.NONFINITE_START: find_nonfinite,
    Status.DIVERGED: find_diverged,
    Status.STEP_LIMIT: find_short_steps,
    Status.WALL_LIMIT: find_short_steps,
    Status.METHOD_FAILED: find_short_steps,
    Status.STEP_UNDERFLOW: find_short_steps,
}
KNOWN = {
    Status.EQUILIBRIUM_LOST: Cause.EQUILIBRIUM_LOST,
    Status.NONFINITE: Cause.NONFINITE,
    Status.NONFINITE_START: Cause.NONFINITE,
    Status.DIVERGED: Cause.DIVERGED,
    Status.ROUNDING: Cause.ROUNDING,
}
"""What a status says by itself."""
UNAWARE = (Status.STEP_LIMIT, Status.WALL_LIMIT, Status.STEP_UNDERFLOW, Status.METHOD_FAILED)
"""Failures that a loss which was not finite before them explains better."""


def diagnosed(
    problem: Problem,
    options: FlowOptions,
    trajectory: Trajectory,
    losses: np.ndarray | None = None,
    seconds: float = SECONDS,
) -> Trajectory:
    """A trajectory with its diagnosis: the word, and the sentence after its message.

    One that ended as asked, or in steps too short or too many, but had no finite loss at a save,
    has failed there.

    Parameters
    ----------
    problem : Problem
    options : FlowOptions
    trajectory : Trajectory
    losses : array, shape (T,), optional
        At its saves.
    seconds : float
        Time that may pass, after which nothing more is begun.
    """
    place = len(trajectory.t) - 1
    looked = trajectory.status.ok or trajectory.status in UNAWARE
    if losses is not None and looked and not np.isfinite(losses).all():
        place = int(np.isfinite(losses).argmin())
        trajectory = _without_loss(trajectory, place, float(losses[place]))
    if trajectory.status not in FINDERS and trajectory.status not in KNOWN:
        return trajectory
    cause, told = _finding(problem, options, trajectory, place, seconds)
    message = f"{trajectory.message} {told}" if told else trajectory.message
    return replace(trajectory, diagnosis=str(cause), message=message)


def diagnosed_all(
    problems: Sequence[Problem],
    options: FlowOptions,
    trajectories: Sequence[Trajectory],
    losses: Sequence[np.ndarray],
) -> list[Trajectory]:
    """The same of an ensemble's members, the first of those that failed in sentences."""
    deadline, found, looked = time.perf_counter() + SECONDS, list[Trajectory](), 0
    for problem, trajectory, values in zip(problems, trajectories, losses, strict=True):
        left = deadline - time.perf_counter() if looked < MEMBERS else 0.0
        found.append(diagnosed(problem, options, trajectory, values, left))
        looked += bool(found[-1].diagnosis)
    return found


def _without_loss(trajectory: Trajectory, place: int, loss: float) -> Trajectory:
    """The trajectory with the verdict on a loss that is not finite at one of its saves."""
    status = Status.NONFINITE if place else Status.NONFINITE_START
    return trajectory.ended(status, f"the loss is {loss} at t = {float(trajectory.t[place]):.6g}")


def _finding(
    problem: Problem, options: FlowOptions, trajectory: Trajectory, place: int, seconds: float
) -> Finding:
    known = KNOWN.get(trajectory.status, Cause.NONE)
    finder = FINDERS.get(trajectory.status)
    if finder is None or not seconds > 0:
        return known, ""
    scene = Scene(problem, options, trajectory, place, time.perf_counter() + seconds)
    try:
        with torch.no_grad():
            return finder(scene)
    except (Exception, KeyboardInterrupt):  # the run's own verdict and data come first
        return known, ""
