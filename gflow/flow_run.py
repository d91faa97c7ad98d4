"""One flow: from a problem and options to a trajectory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.diagnostics.energy import EnergyAudit
from gflow.errors import MethodError, ProblemError
from gflow.flows import Flow, flow_field, parse_flow
from gflow.integrators.auto import choose
from gflow.integrators.base import Method, Settings, Step, uniform_grid
from gflow.integrators.driver import Observer, integrate_field
from gflow.integrators.snapshot import Keeper, Snapshot
from gflow.integrators.trajectory import Trajectory
from gflow.problem import Problem
from gflow.status import Status
from gflow.stopping import read_stop
from gflow.times import is_count, save_times

MOST_STEPS = 10**10
"""Fixed steps that no run comes to the end of: days of them."""


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
    """How a flow is integrated: the arguments of :func:`gflow.integrate`, and the first step."""

    t_end: float
    method: str
    rtol: float
    atol: float
    times: int | Sequence[float]
    spacing: str
    step_size: float | None
    stop: Mapping[str, Any] | None
    flow: str | Flow
    weight_decay: float = 0.0
    first_step: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers, and the flow's name.

        Raises
        ------
        ProblemError
            If one is no number or out of range, or there is no such flow.
        """
        _check("t_end", self.t_end, "a positive number", lambda v: v > 0)
        _check("rtol", self.rtol, "a number between 0 and 1", lambda v: 0 < v < 1)
        _check("atol", self.atol, "a positive finite number", lambda v: 0 < v < math.inf)
        if self.step_size is not None:
            _check("step_size", self.step_size, "a positive finite number", _is_finite_step)
        if self.saves() is None:
            save_times(self.times, 1.0, self.spacing)
        _ = self.law

    @cached_property
    def law(self) -> Flow:
        """The flow, weight decay included."""
        return parse_flow(self.flow, self.weight_decay)

    def saves(self) -> np.ndarray | None:
        """The times of the saves; None if they are placed once the end of the flow is known."""
        if math.isinf(self.t_end) and is_count(self.times):
            return None
        return save_times(self.times, self.t_end, self.spacing)

    def size(self, starts: Sequence[Tensor]) -> float:
        """Bytes of the states that will be saved; NaN if their number is not known yet."""
        saves = self.saves()
        state = self.law.start(starts[0]).numel()
        return math.nan if saves is None else 8.0 * len(saves) * state * len(starts)


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
        Of the flow's states, (theta, velocity) for a flow of second order.
    reason : str
        Why this method.
    """
    flow = FlowRun(problem, start, options)
    observers: list[Observer] = [] if audit is None else [audit]
    trajectory = flow.whole(observers, progress, landings)
    return trajectory, flow.reason + trajectory.handover


class FlowRun:
    """One flow with its method and rules, ready to be integrated.

    Parameters
    ----------
    problem : Problem
    start : Tensor, shape (P,)
    options : FlowOptions
    chosen : (Method, str), optional
        The method and the reason, if it has been chosen before.

    Attributes
    ----------
    reason : str
        Why this method.
    times : array or None
        The saves; None if they are placed once the end is known.
    """

    def __init__(
        self,
        problem: Problem,
        start: Tensor,
        options: FlowOptions,
        chosen: tuple[Method, str] | None = None,
    ) -> None:
        self.field, self.start = flow_field(options.law, problem), options.law.start(start)
        tolerances = options.rtol, options.atol
        self.stop = read_stop(options.stop, problem, self.field, *tolerances, options.t_end)
        if chosen is None:
            found = choose(options.method, self.field, self.start, options.t_end, options.rtol)
            self.method, self.reason = found[0], found[1] + step_note(found[0], options)
        else:
            self.method, self.reason = chosen
        self.settings = Settings(options.t_end, *tolerances, options.step_size, options.first_step)
        self.times = options.saves()
        self._problem, self._options = problem, options

    def whole(
        self,
        observers: Sequence[Observer],
        progress: ProgressCallback | None,
        landings: Sequence[float] | None = None,
        keeper: Keeper | None = None,
        snapshot: Snapshot | None = None,
    ) -> Trajectory:
        """Integrate, and place the saves if they wait for the end.

        Parameters
        ----------
        observers : sequence of Observer
        progress : callable, optional
        landings : sequence of float, optional
            Times at which the trajectory's path will be evaluated; it is kept only if they are
            given.
        keeper : Keeper, optional
            Keeps the flow on disk as it goes.
        snapshot : Snapshot, optional
            Where the flow goes on.
        """
        options, watching = self._options, list(observers)
        if progress is not None:
            watching.append(Reporter(self._problem, options.t_end, progress))
        trajectory = self.run(watching, landings, keeper, snapshot)
        end = float(trajectory.t[-1])
        if self.times is None and end > 0:
            saves = save_times(options.times, end, options.spacing)
            trajectory = self.resaved(trajectory, torch.from_numpy(saves), landings)
        return trajectory

    def run(
        self,
        observers: Sequence[Observer] = (),
        landings: Sequence[float] | None = None,
        keeper: Keeper | None = None,
        snapshot: Snapshot | None = None,
    ) -> Trajectory:
        """Integrate; the path is kept for `landings`, and where the saves are yet to be placed."""
        return integrate_field(
            self.field,
            self.start,
            self.method,
            self.settings,
            None if self.times is None else torch.from_numpy(self.times),
            targets=self.stop.targets,
            max_steps=self.stop.max_steps,
            wall_seconds=self.stop.wall_seconds,
            observers=observers,
            dense=landings is not None or self.times is None,
            landings=landings or (),
            keeper=keeper,
            snapshot=snapshot,
        )

    def resaved(
        self, trajectory: Trajectory, saves: Tensor, landings: Sequence[float] | None = None
    ) -> Trajectory:
        """A trajectory with a path at other saves, the last of which is its end.

        A method that must step onto its saves integrates a second time.
        """
        if self.method.info.lands:
            again = integrate_field(
                self.field,
                self.start,
                self.method,
                replace(self.settings, t_end=float(trajectory.t[-1])),
                saves,
                dense=landings is not None,
                landings=landings or (),
            )
            if again.status is Status.T_END:
                return trajectory.repeated(again)
        return trajectory.resaved(lambda _: saves)


def step_note(method: Method, options: FlowOptions) -> str:
    """What became of `step_size`, to be added to the reason."""
    if options.step_size is None:
        return ""
    if method.info.adaptive:
        raise MethodError(
            f"{method.info.name} chooses its own steps; leave step_size out, or take a fixed-step "
            "method such as rk4."
        )
    h, count = uniform_grid(options.step_size, options.t_end)
    stops = any(value not in (None, False) for value in (options.stop or {}).values())
    if count > MOST_STEPS and not stops:
        raise MethodError(
            f"step_size = {options.step_size:g} asks for {count:.3g} steps to t_end = "
            f"{options.t_end:g}; take a larger one, or give a stop such as max_steps."
        )
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


class Reporter:
    """Observer that tells a progress callback about the flow."""

    def __init__(self, problem: Problem, t_end: float, progress: ProgressCallback) -> None:
        self._problem, self._t_end, self._progress = problem, t_end, progress
        self._ticker = Ticker()

    def observe(self, step: Step, nfe: int) -> None:
        """Report, if it is time."""
        if not self._ticker.due():
            return
        theta = step.theta1[: self._problem.n_parameters]
        loss, norm = loss_and_norm(self._problem, theta)
        fraction = step.t1 / self._t_end if math.isfinite(self._t_end) else math.nan
        dt = step.t1 - step.t0
        self._progress(Progress(fraction, step.t1, loss, norm, dt, nfe, "flow"))


def loss_and_norm(problem: Problem, theta: Tensor) -> tuple[float, float]:
    """Loss and gradient norm at one theta (P,); NaN where the equilibrium is lost."""
    loss, gradient = problem.loss_and_gradient(theta[None])
    return float(loss[0]), float(torch.linalg.vector_norm(gradient[0]))
