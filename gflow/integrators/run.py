"""One integration: the accepted point, the log, the loop, and where it can go on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import Attempt, Breakdown, Field, Halt, Method, Settings, Step
from gflow.integrators.meter import Meter, finite
from gflow.integrators.rest import Rest
from gflow.integrators.rounding import due, lone_reason
from gflow.integrators.snapshot import Continuing, Snapshot, kept_state, with_settings
from gflow.integrators.target import Observer, Target, cut
from gflow.integrators.trajectory import LoggedStep, Saver, StepLog, Trajectory, verdict
from gflow.status import Status

SHRINK = 0.25
"""Factor on the reach of a failed attempt for the next first step."""
STILL, BRIEF = 1e-14, 1e-9
"""Parts of theta and of the time passed below both of which a step is not worth trying again."""
LOST = 1e-7
"""The part of theta where it is an equilibrium that is lost, which is dear to find out."""
PATIENT, HOPELESS = 4096, 30.0
"""Attempts after which a run is ended whose pace asks for so many times max_steps to t_end."""
MAX_RETRIES, MOVING = 400, 0.01
"""Failed attempts of one run after which the verdict is given, unless as many attempts, the last
ones, passed this part of the time: along a ridge every other step is too long for an exponential.
"""
FOREVER = 1e30
"""Time beyond which a trajectory counts as stationary: y' = -y^3 has come to rounding by then."""
BLOW_UP = 1e10
"""Growth of |theta| (relative to 1 + |theta0|) at which a trajectory counts as diverged."""
GROWING = 1e4
"""The same, where a trajectory ends in a failure."""


@dataclass(frozen=True)
class _Mark:
    """What tells a snapshot from what has come since: references and counts, cheap at any step."""

    t: float
    theta: Tensor
    state: Any
    attempts: int
    linear_solves: int
    retries: int
    counts: tuple[int, int, int]
    saved: int
    warm: Tensor | None
    rest: Mapping[str, Any] | None
    observers: list[dict[str, Any]]


class Run:
    """One integration: the accepted point, the log and the loop."""

    def __init__(
        self,
        field: Field,
        t0: float,
        theta0: Tensor,
        method: Method,
        settings: Settings,
        size: float | None,
        meter: Meter,
        saver: Saver,
        observers: Sequence[Observer],
    ) -> None:
        self.method, self.settings = method, settings
        self.meter, self.saver, self.observers = meter, saver, [saver, *observers]
        self.continuing = [one for one in self.observers if isinstance(one, Continuing)]
        self.size = float(theta0.abs().max()) if size is None else size
        self.t, self.theta = t0, theta0
        self.log: list[LoggedStep] = []
        self.linear_solves = self.retries = 0
        self.label = method.info.name
        self.raw = field
        self.branch = None if field.branch is None else int(field.branch(theta0))
        self.warm = self._memory()
        self.state: Any = None
        self.first_step = settings.first_step
        endless = math.isinf(settings.t_end)
        self.rest = Rest(np.array([t0]), theta0[None], settings) if endless else None
        self.marking = False
        self.mark: _Mark | None = None
        self.seconds = 0.0

    def loop(
        self,
        targets: Sequence[Target],
        max_steps: int,
        report: Callable[[], None] | None = None,
    ) -> tuple[Status, str]:
        """Step until a verdict is due; `report` is called after every step."""
        meter, state, first_step = self.meter, self.state, self.first_step
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
                    self._accept(step)
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
                if over := self._over(state, len(step.attempts), max_steps):
                    return over
                if report is not None:
                    self._note(state)
                    report()
        except Halt as halt:
            return halt.status, ""
        except KeyboardInterrupt:
            return Status.INTERRUPTED, ""
        return Status.T_END, ""

    def _init(self, field: Field, first_step: float | None) -> Any:
        left = self.settings.t_end - self.t
        first = None if first_step is None else min(first_step, left)
        return self.method.init(field, self.t, self.theta, replace(self.settings, first_step=first))

    def _over(self, state: Any, new: int, most: int) -> tuple[Status, str] | None:
        """The verdict on a run that need not go on after `new` more attempts."""
        if self._growth() > BLOW_UP:
            return Status.DIVERGED, f"|theta| grew by a factor of {self._growth():.3g}"
        if self.rest is not None and self.rest(np.array([self.t]), self.theta[None])[0]:
            return Status.STALLED, ""
        return self._hopeless(state, new, most)

    def _hopeless(self, state: Any, new: int, most: int) -> tuple[Status, str] | None:
        """The verdict on steps that stay too short to go on, now and then looked for."""
        attempts = len(self.log)
        if not due(attempts - new, attempts):
            return None
        before = self.log[attempts // 2].attempt.t
        advanced = self.t - before
        told = f"half of all attempts, the last ones, passed a time of {advanced:.2g} only"
        if advanced <= BRIEF * self.t:
            return Status.STEP_UNDERFLOW, told
        ahead = (self.settings.t_end - self.t) / advanced * (attempts / 2)
        if attempts >= PATIENT and HOPELESS * most < ahead < math.inf:
            return Status.STEP_LIMIT, f"{told}, and t_end is {ahead:.2g} such attempts away"
        reason = lone_reason(self.raw.lone, self.method, state, attempts, before)
        return (Status.ROUNDING, reason) if reason else None

    def _memory(self) -> Tensor | None:
        return None if self.raw.memory is None else self.raw.memory.value

    def _accept(self, step: Step) -> None:
        meter = self.meter
        self.t, self.theta = step.t1, step.theta1
        self.linear_solves += step.linear_solves
        self.log.extend(
            LoggedStep(a, meter.nfe, meter.hessians, self.linear_solves, meter.jvps)
            for a in step.attempts
        )
        for observer in self.observers:
            observer.observe(step, meter.nfe)

    def _note(self, state: Any) -> None:
        """Note where the run could go on, if it could from here."""
        if not (self.marking and self.t < self.settings.t_end):
            return
        if not all(one.clean() for one in self.continuing):
            return
        meter, rest = self.meter, self.rest
        self.mark = _Mark(
            self.t,
            self.theta,
            kept_state(state),
            len(self.log),
            self.linear_solves,
            self.retries,
            (meter.nfe, meter.hessians, meter.jvps),
            self.saver.pieces,
            self.warm,
            None if rest is None else rest.state(),
            [one.state() for one in self.continuing],
        )

    def snapshot(self, seconds: float) -> Snapshot | None:
        """Where the run can go on, after so many seconds in all."""
        mark = self.mark
        if mark is None:
            return None
        log = self.log[: mark.attempts]
        t, theta = self.saver.joined(mark.saved)
        return Snapshot(
            mark.t,
            mark.theta,
            mark.state,
            log[-1].attempt.dt,
            StepLog.of(log).table,
            mark.linear_solves,
            mark.retries,
            mark.counts,
            t,
            theta,
            mark.warm,
            self.branch,
            self.size,
            mark.rest,
            mark.observers,
            seconds,
        )

    def go_on(self, snapshot: Snapshot) -> None:
        """Continue a run of the same field, method and observers."""
        self.t, self.theta = snapshot.t, snapshot.theta
        self.log = list(StepLog(snapshot.log))
        self.linear_solves, self.retries = snapshot.linear_solves, snapshot.retries
        self.meter.nfe, self.meter.hessians, self.meter.jvps = snapshot.counts
        self.branch, self.size, self.warm = snapshot.branch, snapshot.size, snapshot.warm
        if self.raw.memory is not None:
            self.raw.memory.restore(snapshot.warm)
        if snapshot.state is None:
            self.first_step = snapshot.dt
        else:
            self.state = with_settings(snapshot.state, self.settings)
            self.label = self.method.label(self.state)
        if self.rest is not None and snapshot.rest is not None:
            self.rest.restore(snapshot.rest)
        self.saver.restore(snapshot.saved_t, snapshot.saved_theta, snapshot.t)
        for observer, state in zip(self.continuing, snapshot.observers, strict=True):
            observer.restore(state)
        self.seconds = snapshot.seconds
        self._note(self.state)

    def trajectory(self, status: Status, reason: str, began: float) -> Trajectory:
        """What there is so far."""
        t, theta = self.saver.finish(self.t, self.theta)
        log, meter = StepLog.of(self.log), self.meter
        dt = self.log[-1].attempt.dt if self.log else math.nan
        seconds = self.seconds + time.perf_counter() - began
        return Trajectory(
            t=t,
            theta=theta,
            status=status,
            reason=reason,
            message=verdict(status, reason, self.t, log.accepted, len(log), dt, meter.nfe),
            log=log,
            nfe=meter.nfe,
            hessians=meter.hessians,
            linear_solves=self.linear_solves,
            jvps=meter.jvps,
            wall_seconds=seconds,
            method=self.label,
            snapshot=self.snapshot(seconds),
        )

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
        if self.retries > MAX_RETRIES:
            hopeless |= self.t - self.log[-MAX_RETRIES].attempt.t <= MOVING * self.t
        if hopeless or dt <= 4 * math.ulp(self.t):
            return None
        lost = breakdown.status is Status.EQUILIBRIUM_LOST
        if self._stays(dt, LOST if lost else STILL):
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

    def _stays(self, dt: float, part: float) -> bool:
        """Whether a step of dt, short as it is, would not move theta, or cannot be made."""
        speed = self._speed()
        still = dt * speed <= part * (1 + float(self.theta.abs().max()))
        return math.isinf(speed) or (still and dt <= BRIEF * self.t)

    def _verdict(self, breakdown: Breakdown) -> tuple[Status, str]:
        if breakdown.status is Status.STEP_UNDERFLOW:
            breakdown = self._ahead() or breakdown
        status = breakdown.status
        if status is not Status.EQUILIBRIUM_LOST and self._growth() > GROWING:
            status = Status.DIVERGED
        if status is Status.NONFINITE and self.t == 0 and self._dead():
            status = Status.NONFINITE_START
        return status, breakdown.reason

    def _ahead(self) -> Breakdown | None:
        """Why the field has no value just ahead, if it has none: steps underflow before such."""
        try:
            rate = finite(self.raw(self.t, self.theta), self.t, "field")
            near = LOST * (1 + float(self.theta.abs().max()))
            brief = min(BRIEF * self.t, near / max(float(rate.abs().max()), 1e-300))
            finite(self.raw(self.t + brief, self.theta + brief * rate), self.t, "field")
        except Breakdown as found:
            return found
        return None

    def _growth(self) -> float:
        return float(torch.linalg.vector_norm(self.theta, math.inf)) / (1.0 + self.size)

    def _met(self, targets: Sequence[Target]) -> Status | None:
        return next((x.status for x in targets if x.is_met(self.t, self.theta)), None)

    def _locate(self, targets: Sequence[Target], step: Step) -> tuple[Status | None, Step]:
        """Cut the step where the first target is met within it."""
        found: Status | None = None
        for target in targets:
            if (ended := cut(step, target)) is not None:
                found, step = target.status, ended
        return found, step
