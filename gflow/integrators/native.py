"""What the native methods share: a batch of trajectories, each with its own time and step.

For authors of a native method
------------------------------
1. A method works on rows: theta (B, P), one trajectory a row, each at its own time t (B,) with its
   own trial step dt (B,). Data stays in tensors on its device; times, steps and error ratios stay
   in arrays on the host; what a step transfers there is the ratios, and whether every row has a
   value at its end.
2. :meth:`NativeMethod.prepare` returns the cache at accepted points, a mapping of tensors and
   arrays with the rows first. :meth:`NativeMethod.attempt` makes one trial step of every row from
   it, and never judges the error: it returns a :class:`Trial`.
3. A field is called through :class:`System`. Rows where it has no value hold NaN; their trial is
   then rejected and repeated with a smaller step.
4. A :class:`State` holds tensors, arrays and numbers alone: saved and loaded, it goes on bit for
   bit. The field's warm start is part of it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import Attempt, Breakdown, Field, Method, Settings, Step
from gflow.integrators.control import Controller
from gflow.integrators.norms import error_ratios, scaled_norm
from gflow.integrators.system import System, column
from gflow.status import Status

Cache = Mapping[str, Any]
Dense = Callable[[Tensor, Tensor], Tensor]
"""Rows (M,) and fractions of their steps (M,) to theta (M, P)."""

STRETCH = 1.01
"""A step that would leave less than this part of itself to the end goes to the end."""


@dataclass(frozen=True)
class State:
    """A batch of trajectories between two steps.

    Attributes
    ----------
    t, dt : array, shape (B,)
        Times, and the steps to be tried next.
    theta : Tensor, shape (B, P)
    ratio : array, shape (B,)
        Error ratio of the last accepted step.
    retrying : array of bool, shape (B,)
        Whether the last attempt was rejected.
    cache : mapping
        The method's own, rows first.
    memory : Tensor or None
        The field's warm start.
    branch : Tensor or None, shape (B,)
        The field's labels of the rows, which no step may change; None for a lone trajectory.
    settings : Settings
    """

    t: np.ndarray
    dt: np.ndarray
    theta: Tensor
    ratio: np.ndarray
    retrying: np.ndarray
    cache: Cache
    memory: Tensor | None
    branch: Tensor | None
    settings: Settings

    def select(self, rows: np.ndarray) -> State:
        """The state of some rows."""
        index = torch.as_tensor(rows, device=self.theta.device)
        return replace(
            self,
            t=self.t[rows],
            dt=self.dt[rows],
            theta=self.theta.mT[:, index].mT,
            ratio=self.ratio[rows],
            retrying=self.retrying[rows],
            cache={name: select(value, rows, index) for name, value in self.cache.items()},
            memory=None if self.memory is None else self.memory[index],
            branch=None if self.branch is None else self.branch[index],
        )


def select(value: Any, rows: np.ndarray, index: Tensor) -> Any:
    """Some rows of a tensor or an array; anything else is shared by all rows."""
    if isinstance(value, np.ndarray):
        return value[rows]
    return value[index] if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Trial:
    """One trial step of every row.

    Attributes
    ----------
    theta : Tensor, shape (B, P)
        Where the steps lead.
    error : Tensor, shape (B, P)
        Estimate of the error there.
    dense : callable
        Dense output within the steps.
    stages : Any
        What :meth:`NativeMethod.renew` wants to know of the trial.
    linear_solves : int
        Krylov spaces that were built.
    """

    theta: Tensor
    error: Tensor
    dense: Dense
    stages: Any = None
    linear_solves: int = 0


@dataclass(frozen=True)
class BatchStep:
    """One attempt of every row: those accepted lead from t0 to t1.

    Attributes
    ----------
    t0, t1, ratio : array, shape (B,)
    accepted : array of bool, shape (B,)
    theta0, theta1 : Tensor, shape (B, P)
    dense : callable
    linear_solves : int
    """

    t0: np.ndarray
    t1: np.ndarray
    ratio: np.ndarray
    accepted: np.ndarray
    theta0: Tensor
    theta1: Tensor
    dense: Dense
    linear_solves: int


class NativeMethod(Method):
    """A method of our own; see the module's contract."""

    controller: Controller

    @abstractmethod
    def prepare(self, system: System, t: np.ndarray, theta: Tensor) -> Cache:
        """The cache at accepted points; ``"value"`` holds the field there."""

    @abstractmethod
    def attempt(
        self, system: System, t: np.ndarray, dt: np.ndarray, theta: Tensor, state: State
    ) -> Trial:
        """One trial step of size dt (B,) of every row, from the state's cache."""

    def renew(self, system: System, step: BatchStep, trial: Trial, state: State) -> Cache:
        """The next cache, given which rows were accepted; by default prepared anew."""
        t, theta = accepted_points(step)
        return self.prepare(system, t, theta)

    def start(
        self,
        field: Field,
        t: np.ndarray,
        theta: Tensor,
        settings: Settings,
        first_steps: np.ndarray | None = None,
    ) -> State:
        """The state of a batch at times (B,) and rows (B, P), with first trial steps (B,)."""
        system = System(field)
        theta = theta.mT.contiguous().mT  # one parameter of all rows after the other
        cache = self.prepare(system, t, theta)
        rows = len(t)
        if first_steps is not None:
            dt = first_steps
        elif settings.first_step is None:
            dt = _first_step(system, t, theta, cache, settings, self.controller)
        else:
            dt = np.full(rows, settings.first_step, dtype=np.float64)
        return State(
            t,
            dt,
            theta,
            np.ones(rows),
            np.zeros(rows, dtype=bool),
            cache,
            None if field.memory is None else field.memory.value,
            field.branch(theta) if field.batched and field.branch is not None else None,
            settings,
        )

    def advance(self, field: Field, state: State) -> tuple[State, BatchStep]:
        """One attempt of every row, accepted or not."""
        system, settings = System(field), state.settings
        if field.memory is not None:
            field.memory.restore(state.memory)
        left = settings.t_end - state.t
        last = STRETCH * state.dt >= left
        dt = np.where(last, left, state.dt)
        trial = self.attempt(system, state.t, dt, state.theta, state)
        ratio = error_ratios(trial.error, state.theta, trial.theta, settings)
        if state.branch is not None and field.branch is not None:
            jumped = field.branch(trial.theta) != state.branch
            ratio = np.where(jumped.cpu().numpy(), np.nan, ratio)
        step = BatchStep(
            state.t,
            np.where(last, settings.t_end, state.t + dt),
            ratio,
            ratio <= 1.0,
            state.theta,
            trial.theta,
            trial.dense,
            trial.linear_solves,
        )
        cache = state.cache
        if step.accepted.any():
            cache = self.renew(system, step, trial, state)
            if field.batched:  # a lone field has raised
                step, cache = _checked(step, cache, state.cache)
        factor = self.controller.factors(step.ratio, state.ratio, state.retrying)
        t, theta = accepted_points(step)
        return State(
            t,
            dt * factor,
            theta,
            np.where(step.accepted, np.maximum(step.ratio, 1e-4), state.ratio),
            ~step.accepted,
            cache,
            _warm(field, state.memory, step.accepted),
            state.branch,
            settings,
        ), step

    def init(self, field: Field, t: float, theta: Tensor, settings: Settings) -> State:
        """The state of a lone trajectory."""
        return self.start(field.lone, np.array([t]), theta[None], settings)

    def step(self, field: Field, state: Any) -> tuple[State, Step]:
        """Attempts of a lone trajectory until one is accepted."""
        lone = field.lone
        attempts: list[Attempt] = []
        solves = 0
        while True:
            before = state
            state, step = self.advance(lone, before)
            t0, t1, ratio = float(step.t0[0]), float(step.t1[0]), float(step.ratio[0])
            accepted = bool(step.accepted[0])
            attempts.append(Attempt(t0, t1 - t0, ratio, accepted))
            solves += step.linear_solves
            if accepted and not t1 > t0:
                raise Breakdown(Status.STEP_UNDERFLOW, "the step does not advance t")
            if accepted:
                return state, lone_step(step, 0, tuple(attempts), solves)
            if t0 + float(state.dt[0]) <= t0 + 4 * np.spacing(t0):
                raise Breakdown(Status.STEP_UNDERFLOW, "the error test fails at the smallest step")


def lone_step(step: BatchStep, row: int, attempts: tuple[Attempt, ...], solves: int) -> Step:
    """An accepted row of a batch as a step of its own."""
    t0, t1 = float(step.t0[row]), float(step.t1[row])

    def interpolate(times: Tensor) -> Tensor:
        theta = step.theta0
        x = ((times - t0) / (t1 - t0)).to(theta)
        return step.dense(torch.full(x.shape, row, device=theta.device), x)

    return Step(t0, t1, step.theta0[row], step.theta1[row], interpolate, attempts, solves)


def _warm(field: Field, before: Tensor | None, accepted: np.ndarray) -> Tensor | None:
    """The field's warm start; of rows that were not accepted that from before the attempt."""
    after = None if field.memory is None else field.memory.value
    if after is None or before is None or before.shape != after.shape or accepted.all():
        return after
    if len(accepted) == 1:
        return before
    rows = torch.as_tensor(accepted, device=after.device)
    return torch.where(rows.reshape(-1, *(1 for _ in after.shape[1:])), after, before)


def accepted_points(step: BatchStep) -> tuple[np.ndarray, Tensor]:
    """Times and rows after an attempt: the new ones where accepted."""
    if step.accepted.all():
        return step.t1, step.theta1
    where = torch.as_tensor(step.accepted, device=step.theta0.device)[:, None]
    return np.where(step.accepted, step.t1, step.t0), torch.where(where, step.theta1, step.theta0)


def merge(step: BatchStep, new: Tensor, old: Tensor) -> Tensor:
    """Rows of `new` where the step was accepted, of `old` elsewhere."""
    if step.accepted.all():
        return new
    where = torch.as_tensor(step.accepted, device=new.device)
    return torch.where(where.reshape(-1, *(1 for _ in new.shape[1:])), new, old)


def _checked(step: BatchStep, cache: Cache, old: Cache) -> tuple[BatchStep, Cache]:
    """The attempt with those rows rejected too whose field has no value where they lead."""
    if math.isfinite(float(cache["value"].sum())):  # no look at the rows, which costs more
        return step, cache
    whole = torch.isfinite(cache["value"]).all(-1).cpu().numpy() | ~step.accepted
    ratio = np.where(whole, step.ratio, np.nan)
    step = replace(step, ratio=ratio, accepted=step.accepted & whole)
    return step, {name: _kept(step, value, old[name]) for name, value in cache.items()}


def _kept(step: BatchStep, new: Any, old: Any) -> Any:
    if isinstance(new, np.ndarray):
        return np.where(step.accepted, new, old)
    return merge(step, new, old)


def _first_step(
    system: System,
    t: np.ndarray,
    theta: Tensor,
    cache: Cache,
    settings: Settings,
    controller: Controller,
) -> np.ndarray:
    """First trial steps (B,) from the sizes of f and its change (Hairer et al. 1993, II.4)."""
    value = cache["value"]
    scale = settings.atol + settings.rtol * theta.abs()
    size, speed = scaled_norm(theta, scale), scaled_norm(value, scale)
    tiny = np.minimum(1e-6, 1e-3 * (settings.t_end - t))
    small = np.where((size < 1e-5) | (speed < 1e-5), tiny, 0.01 * size / np.maximum(speed, 1e-300))
    small = np.minimum(small, settings.t_end - t)
    with np.errstate(all="ignore"):
        bend = scaled_norm(_change(system, t, theta, cache, small), scale)
    bend = np.where(np.isfinite(bend), bend, 0.0)
    fastest = np.maximum(speed, bend)
    order = controller.error_order
    aimed = np.where(
        fastest <= 1e-15,
        np.maximum(tiny, 1e-3 * small),
        (0.01 / np.maximum(fastest, 1e-300)) ** (1.0 / order),
    )
    dt: np.ndarray = np.minimum(np.minimum(100 * small, aimed), settings.t_end - t)
    return dt


def _change(
    system: System, t: np.ndarray, theta: Tensor, cache: Cache, after: np.ndarray
) -> Tensor:
    """Rate (B, P) at which the field changes along itself: J f + df/dt, or by a difference."""
    value: Tensor = cache["value"]
    if "eigenvalues" in cache:
        vectors: Tensor = cache["eigenvectors"]
        along = cache["eigenvalues"][..., None] * (vectors.mT @ value[..., None])
        change = (vectors @ along)[..., 0]
    elif "jacobian" in cache:
        change = (cache["jacobian"] @ value[..., None])[..., 0]
    else:
        width = column(after, theta)
        return (system.value(t + after, theta + width * value) - value) / width
    total: Tensor = change + cache["change"] if "change" in cache else change
    return total
