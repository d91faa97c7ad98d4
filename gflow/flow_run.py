"""One flow: from a problem and options to a trajectory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gflow.diagnostics.energy import EnergyAudit
from gflow.errors import ProblemError
from gflow.flows import FLOWS
from gflow.integrators.auto import choose
from gflow.integrators.base import Settings, Step
from gflow.integrators.driver import Observer, integrate_field
from gflow.integrators.trajectory import Trajectory
from gflow.problem import Problem
from gflow.stopping import read_stop
from gflow.times import save_times


@dataclass(frozen=True)
class Progress:
    """What a progress callback is told from time to time.

    Attributes
    ----------
    fraction : float
        Part of the clock that has passed; NaN if t_end is infinite.
    t : float
    loss, gradient_norm : float
    dt : float
        Last step size; NaN for a descent.
    nfe : int
        Field evaluations; for a descent 0.
    what : str
        ``"flow"`` or ``"descent"``.
    """

    fraction: float
    t: float
    loss: float
    gradient_norm: float
    dt: float
    nfe: int
    what: str


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True)
class FlowOptions:
    """How a flow is integrated: the arguments of :func:`gflow.integrate`."""

    t_end: float
    method: str
    rtol: float
    atol: float
    times: int | Sequence[float]
    spacing: str
    step_size: float | None
    stop: Mapping[str, Any] | None
    flow: str


def run_flow(
    problem: Problem,
    start: Tensor,
    options: FlowOptions,
    progress: ProgressCallback | None = None,
    audit: EnergyAudit | None = None,
    landings: Sequence[float] | None = None,
) -> tuple[Trajectory, str]:
    """Integrate one flow.

    Parameters
    ----------
    problem : Problem
    start : Tensor, shape (P,)
    options : FlowOptions
    progress : callable, optional
    audit : EnergyAudit, optional
        Observes the flow.
    landings : sequence of float, optional
        Times at which the trajectory's path will be evaluated; it is kept only if they are given.

    Returns
    -------
    trajectory : Trajectory
    reason : str
        Why this method.
    """
    if options.flow not in FLOWS:
        raise ProblemError(f'flow "{options.flow}" is unknown; there is {", ".join(FLOWS)}.')
    if not (options.t_end > 0 and not math.isnan(options.t_end)):
        raise ProblemError(f"t_end is {options.t_end}; it must be positive.")
    field = FLOWS[options.flow](problem)
    stop = read_stop(options.stop, problem, field, options.rtol, options.atol, options.t_end)
    method, reason = choose(options.method, field, start, options.t_end, options.rtol)
    later = math.isinf(options.t_end) and isinstance(options.times, int)
    times = None if later else save_times(options.times, options.t_end, options.spacing)
    observers: list[Observer] = [] if audit is None else [audit]
    if progress is not None:
        observers.append(_Reporter(problem, options.t_end, progress))
    trajectory = integrate_field(
        field,
        start,
        method,
        Settings(options.t_end, options.rtol, options.atol, options.step_size),
        None if times is None else torch.from_numpy(times),
        targets=stop.targets,
        max_steps=stop.max_steps,
        wall_seconds=stop.wall_seconds,
        observers=observers,
        dense=landings is not None or later,
        landings=landings or (),
    )
    if later:
        trajectory = trajectory.resaved(
            lambda end: torch.from_numpy(save_times(options.times, end, options.spacing))
        )
    return trajectory, reason


class Ticker:
    """Says at most five times a second that it is time to report."""

    INTERVAL = 0.2

    def __init__(self) -> None:
        self._next = time.perf_counter()

    def due(self) -> bool:
        """Whether the interval has passed; if so, the next one begins."""
        now = time.perf_counter()
        if now < self._next:
            return False
        self._next = now + self.INTERVAL
        return True


class _Reporter:
    """Observer that tells a progress callback about the flow."""

    def __init__(self, problem: Problem, t_end: float, progress: ProgressCallback) -> None:
        self._problem, self._t_end, self._progress = problem, t_end, progress
        self._ticker = Ticker()

    def observe(self, step: Step, nfe: int) -> None:
        """Report, if it is time."""
        if not self._ticker.due():
            return
        loss, norm = loss_and_norm(self._problem, step.theta1)
        fraction = step.t1 / self._t_end if math.isfinite(self._t_end) else math.nan
        dt = step.t1 - step.t0
        self._progress(Progress(fraction, step.t1, loss, norm, dt, nfe, "flow"))


def loss_and_norm(problem: Problem, theta: Tensor) -> tuple[float, float]:
    """Loss and gradient norm at one theta (P,); NaN where the equilibrium is lost."""
    loss, gradient = problem.loss_and_gradient(theta[None])
    return float(loss[0]), float(torch.linalg.vector_norm(gradient[0]))
