"""One flow: from a problem and options to a trajectory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.diagnostics.energy import EnergyAudit
from gflow.errors import MethodError, ProblemError
from gflow.flows import FLOWS
from gflow.integrators.auto import choose
from gflow.integrators.base import Field, Method, Settings, Step, uniform_grid
from gflow.integrators.driver import Observer, integrate_field
from gflow.integrators.trajectory import Trajectory
from gflow.problem import Problem
from gflow.status import Status
from gflow.stopping import read_stop
from gflow.times import is_count, save_times
from gflow.wording import did_you_mean


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

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises
        ------
        ProblemError
            If one is no number or out of range.
        """
        _check("t_end", self.t_end, "a positive number", lambda v: v > 0)
        _check("rtol", self.rtol, "a number between 0 and 1", lambda v: 0 < v < 1)
        _check("atol", self.atol, "a positive finite number", lambda v: 0 < v < math.inf)
        if self.step_size is not None:
            _check("step_size", self.step_size, "a positive finite number", _is_finite_step)
        if self.saves() is None:
            save_times(self.times, 1.0, self.spacing)

    def saves(self) -> np.ndarray | None:
        """The times of the saves; None if they are placed once the end of the flow is known."""
        if math.isinf(self.t_end) and is_count(self.times):
            return None
        return save_times(self.times, self.t_end, self.spacing)


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
        raise ProblemError(f'flow "{options.flow}" is unknown{did_you_mean(options.flow, FLOWS)}')
    field = FLOWS[options.flow](problem)
    stop = read_stop(options.stop, problem, field, options.rtol, options.atol, options.t_end)
    method, reason = choose(options.method, field, start, options.t_end, options.rtol)
    reason += _step_note(method, options)
    times = options.saves()
    observers: list[Observer] = [] if audit is None else [audit]
    if progress is not None:
        observers.append(_Reporter(problem, options.t_end, progress))
    settings = Settings(options.t_end, options.rtol, options.atol, options.step_size)
    trajectory = integrate_field(
        field,
        start,
        method,
        settings,
        None if times is None else torch.from_numpy(times),
        targets=stop.targets,
        max_steps=stop.max_steps,
        wall_seconds=stop.wall_seconds,
        observers=observers,
        dense=landings is not None or times is None,
        landings=landings or (),
    )
    if times is None and float(trajectory.t[-1]) > 0:
        end = float(trajectory.t[-1])
        saves = torch.from_numpy(save_times(options.times, end, options.spacing))
        again = _landed(field, start, method, replace(settings, t_end=end), saves, landings)
        if again is not None:
            return trajectory.repeated(again), reason
        trajectory = trajectory.resaved(lambda _: saves)
    return trajectory, reason


def _landed(
    field: Field,
    start: Tensor,
    method: Method,
    settings: Settings,
    saves: Tensor,
    landings: Sequence[float] | None,
) -> Trajectory | None:
    """A second integration that steps onto the saves, for a method that needs to."""
    if not method.info.lands:
        return None
    dense = landings is not None
    again = integrate_field(
        field, start, method, settings, saves, dense=dense, landings=landings or ()
    )
    return again if again.status is Status.T_END else None


def _step_note(method: Method, options: FlowOptions) -> str:
    """What became of `step_size`, to be added to the reason."""
    if options.step_size is None:
        return ""
    if method.info.adaptive:
        raise MethodError(
            f"{method.info.name} chooses its own steps; leave step_size out, or take a fixed-step "
            "method such as rk4."
        )
    h, count = uniform_grid(options.step_size, options.t_end)
    shortened = f"; step_size {options.step_size:g} shortened to {h:.6g}, {count} of which reach "
    return "" if h == options.step_size else f"{shortened}t_end"


def _check(name: str, value: object, kind: str, holds: Callable[[float], bool]) -> None:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not holds(float(value)):  # type: ignore[arg-type]
        raise ProblemError(f"{name} is {value!r}; it must be {kind}.")


def _is_finite_step(value: float) -> bool:
    return 0 < value < math.inf


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
