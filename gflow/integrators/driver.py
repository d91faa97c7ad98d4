"""The loop around every method: saves, stopping rules, budgets, retries and the verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from gflow.integrators.base import Attempt, Breakdown, Field, Halt, Method, Settings, Step
from gflow.integrators.meter import Meter, finite
from gflow.integrators.rest import Rest
from gflow.integrators.trajectory import (
    LoggedStep,
    Path,
    Saver,
    StepLog,
    Trajectory,
    evaluate_steps,
)
from gflow.status import Status

SHRINK = 0.25
"""Factor on the reach of a failed attempt for the next first step."""
STILL, BRIEF = 1e-14, 1e-9
"""Parts of theta and of the time passed below both of which a step is not worth trying again."""
MAX_RETRIES = 400
"""Failed attempts of one run after which the verdict is given."""
FOREVER = 1e30
"""Time beyond which a trajectory counts as stationary: y' = -y^3 has come to rounding by then."""
BLOW_UP = 1e10
"""Growth of |theta| (relative to 1 + |theta0|) at which a trajectory counts as diverged."""
GROWING = 1e4
"""The same, where a trajectory ends in a failure."""


class Observer(Protocol):
    """Sees every accepted step, in order."""

    def observe(self, step: Step, nfe: int) -> None:
        """Called once per accepted step; `nfe` counts the field evaluations so far."""


@dataclass(frozen=True)
class Target:
    """A stopping rule that the trajectory itself meets.

    Attributes
    ----------
    status : Status
    excess : callable
        ``(t, theta) -> float``; the run ends where it first becomes <= 0, located on the dense
        output.
    """

    status: Status
    excess: Callable[[float, Tensor], float]

    def is_met(self, t: float, theta: Tensor) -> bool:
        """Whether the excess has a value and it is <= 0."""
        try:
            return self.excess(t, theta) <= 0
        except Breakdown:
            return False


class _Run:
    """One integration: the accepted point, the log and the loop."""

    def __init__(
        self,
        field: Field,
        t0: float,
        theta0: Tensor,
        method: Method,
        settings: Settings,
        size: float | None,
    ) -> None:
        self.method, self.settings = method, settings
        self.size = float(theta0.abs().max()) if size is None else size
        self.t, self.theta = t0, theta0
        self.log: list[LoggedStep] = []
        self.linear_solves = self.retries = 0
        self.label = method.info.name
        self.raw = field
        self.branch = None if field.branch is None else int(field.branch(theta0))
        self.warm = self._memory()

    def loop(
        self,
        meter: Meter,
        targets: Sequence[Target],
        max_steps: int,
        observers: Sequence[Observer],
    ) -> tuple[Status, str]:
        """Step until a verdict is due."""
        state, first_step = None, self.settings.first_step
        endless = math.isinf(self.settings.t_end)
        rest = Rest(np.array([self.t]), self.theta[None], self.settings) if endless else None
        try:
            if met := self._met(targets):
                return met, ""
            while self.t < self.settings.t_end:
                if not self.t < FOREVER:  # a batch let go of it there
                    return Status.STALLED, f"it has come to t = {self.t:.3g}"
                if len(self.log) >= max_steps:
                    return Status.STEP_LIMIT, ""
                meter.furthest = self.t
                try:
                    if state is None:
                        state = self._init(meter.field, first_step)
                    state, step = self.method.step(meter.field, state)
                    warm = self._memory()
                    self._check_branch(step)
                    if not step.t1 < FOREVER:
                        return Status.STALLED, f"the next step leads to t = {step.t1:.3g}"
                    status, step = self._locate(targets, step)
                    self._accept(step, meter, observers)
                    self.warm = warm
                    self.label = self.method.label(state)
                except Breakdown as breakdown:
                    if self.raw.memory is not None:
                        self.raw.memory.restore(self.warm)
                    retry = self._retry(breakdown, meter.furthest)
                    if retry is None:
                        return self._verdict(breakdown)
                    state, first_step = None, retry
                    continue
                if status is not None:
                    return status, ""
                if self._growth() > BLOW_UP:
                    return Status.DIVERGED, f"|theta| grew by a factor of {self._growth():.3g}"
                if rest is not None and rest(np.array([self.t]), self.theta[None])[0]:
                    return Status.STALLED, ""
        except Halt as halt:
            return halt.status, ""
        except KeyboardInterrupt:
            return Status.INTERRUPTED, ""
        return Status.T_END, ""

    def _init(self, field: Field, first_step: float | None) -> Any:
        left = self.settings.t_end - self.t
        first = None if first_step is None else min(first_step, left)
        return self.method.init(field, self.t, self.theta, replace(self.settings, first_step=first))

    def _memory(self) -> Tensor | None:
        return None if self.raw.memory is None else self.raw.memory.value

    def _accept(self, step: Step, meter: Meter, observers: Sequence[Observer]) -> None:
        self.t, self.theta = step.t1, step.theta1
        self.linear_solves += step.linear_solves
        self.log.extend(
            LoggedStep(a, meter.nfe, meter.hessians, self.linear_solves, meter.jvps)
            for a in step.attempts
        )
        for observer in observers:
            observer.observe(step, meter.nfe)

    def _check_branch(self, step: Step) -> None:
        if self.raw.branch is not None and int(self.raw.branch(step.theta1)) != self.branch:
            raise Breakdown(
                Status.EQUILIBRIUM_LOST,
                f"the step to t = {step.t1:.6g} left the branch of solutions it started on",
            )

    def _retry(self, breakdown: Breakdown, furthest: float) -> float | None:
        """The next first step, or None if a smaller step cannot help."""
        self.retries += 1
        reach = furthest - self.t
        if not reach > 0:
            reach = SHRINK * self.log[-1].attempt.dt if self.log else 0.0
        dt = SHRINK * reach
        hopeless = not breakdown.retry or not self.method.info.adaptive
        if hopeless or self.retries > MAX_RETRIES or dt <= 4 * math.ulp(self.t) or self._stays(dt):
            return None
        attempt = Attempt(self.t, reach, math.nan, False)
        last = self.log[-1] if self.log else LoggedStep(attempt, 0, 0, 0)
        self.log.append(replace(last, attempt=attempt))
        return dt

    def _dead(self) -> bool:
        """Whether the field has no value at the accepted point itself."""
        return math.isinf(self._speed())

    def _speed(self) -> float:
        """Largest |dtheta/dt| at the accepted point, infinite where the field has no value."""
        try:
            return float(finite(self.raw(self.t, self.theta), self.t, "field").abs().max())
        except Breakdown:
            return math.inf

    def _stays(self, dt: float) -> bool:
        """Whether a step of dt, short as it is, would not move theta, or cannot be made."""
        speed = self._speed()
        still = dt * speed <= STILL * (1 + float(self.theta.abs().max()))
        return math.isinf(speed) or (still and dt <= BRIEF * self.t)

    def _verdict(self, breakdown: Breakdown) -> tuple[Status, str]:
        status = breakdown.status
        if status is not Status.EQUILIBRIUM_LOST and self._growth() > GROWING:
            status = Status.DIVERGED
        if status is Status.NONFINITE and self.t == 0 and self._dead():
            status = Status.NONFINITE_START
        return status, breakdown.reason

    def _growth(self) -> float:
        return float(self.theta.abs().max()) / (1.0 + self.size)

    def _met(self, targets: Sequence[Target]) -> Status | None:
        return next((x.status for x in targets if x.is_met(self.t, self.theta)), None)

    def _locate(self, targets: Sequence[Target], step: Step) -> tuple[Status | None, Step]:
        """Cut the step where the first target is met within it."""
        found: Status | None = None
        for target in targets:
            if target.is_met(step.t1, step.theta1):
                found, step = target.status, _cut(step, target)
        return found, step


def verdict(
    status: Status, reason: str, t: float, accepted: int, attempts: int, dt: float, nfe: int
) -> str:
    """The verdict in sentences; `dt` is the last step tried."""
    last = f", last dt = {dt:.3g}" if attempts else ""
    where = (
        f"It ended at t = {t:.6g} after {accepted} steps "
        f"({attempts - accepted} rejected{last}) and {nfe} field evaluations"
    )
    return f"{status.sentence} {where}{': ' + reason if reason else ''}."


def integrate_field(
    field: Field,
    theta0: Tensor,
    method: Method,
    settings: Settings,
    times: Tensor | None = None,
    *,
    targets: Sequence[Target] = (),
    max_steps: int = 1_000_000,
    wall_seconds: float = math.inf,
    observers: Sequence[Observer] = (),
    dense: bool = False,
    landings: Sequence[float] = (),
    t0: float = 0.0,
    warm: Tensor | None = None,
    size: float | None = None,
) -> Trajectory:
    """Integrate one field from t0; never raises for what happens on the way.

    Parameters
    ----------
    field : Field
    theta0 : Tensor, shape (P,)
    method : Method
        From :func:`gflow.integrators.registry.resolve`.
    settings : Settings
        The user's tolerances; they are tightened here by the method's factor.
    times : Tensor, shape (T,), optional
        Increasing save times in [0, t_end]; 0 and the end are always saved.
    targets : sequence of Target
        Stopping rules.
    max_steps : int
        Budget of attempts, accepted or not.
    wall_seconds : float
        Budget of wall-clock time, checked at every evaluation of the field.
    observers : sequence of Observer
        See every accepted step.
    dense : bool
        Keep the dense output of the whole trajectory.
    landings : sequence of float
        Times beside `times` at which dense output will be asked for: a method whose dense output
        misses its tolerance steps onto them.
    t0 : float
        Where to begin; saves up to it are left out.
    warm : Tensor, optional
        The field's warm start there.
    size : float, optional
        Largest |theta| where the trajectory began, if not in theta0: growth is relative to it.

    Returns
    -------
    Trajectory
    """
    began = time.perf_counter()
    if warm is not None and field.memory is not None:
        field.memory.restore(warm)
    times = theta0.new_zeros(1, dtype=torch.float64) if times is None else times.cpu().double()
    stops = sorted({*times.tolist(), *landings}) if method.info.lands else []
    tightened = replace(settings, landings=tuple(stops)).tightened(method.info.tightening)
    run = _Run(field, t0, theta0, method, tightened, size)
    meter = Meter(field, began + wall_seconds)
    saver, path = Saver(times, theta0, t0), Path()
    watching: list[Observer] = [saver, *([path] if dense else []), *observers]
    with torch.no_grad():
        status, reason = run.loop(meter, targets, max_steps, watching)
    t, theta = saver.finish(run.t, run.theta)
    log = StepLog.of(run.log)
    dt = run.log[-1].attempt.dt if run.log else math.nan
    return Trajectory(
        t=t,
        theta=theta,
        status=status,
        reason=reason,
        message=verdict(status, reason, run.t, log.accepted, len(log), dt, meter.nfe),
        log=log,
        nfe=meter.nfe,
        hessians=meter.hessians,
        linear_solves=run.linear_solves,
        jvps=meter.jvps,
        wall_seconds=time.perf_counter() - began,
        method=run.label,
        path=path if dense else None,
    )


def _cut(step: Step, target: Target) -> Step:
    """End the step where the target's excess falls to zero."""

    def theta_at(t: float) -> Tensor:
        return evaluate_steps([step], torch.tensor([t], dtype=torch.float64))[0]

    if target.is_met(step.t0, step.theta0):
        return step
    span = step.t1 - step.t0
    t = float(brentq(lambda t: target.excess(t, theta_at(t)), step.t0, step.t1, xtol=1e-9 * span))
    theta = theta_at(t)
    if target.excess(t, theta) > 0:
        t = min(t + 2e-9 * span, step.t1)
        theta = theta_at(t)
    return replace(step, t1=t, theta1=theta)
