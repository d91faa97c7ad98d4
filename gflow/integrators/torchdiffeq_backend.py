"""torchdiffeq's methods behind gflow's contract, one attempt at a time.

torchdiffeq offers no step object: its adaptive solvers are driven here through the function that
makes one attempt, so that rejected steps are logged, a failed stage loses nothing, and no assertion
of the library ends a run. Its adaptive methods judge a step by the RMS norm.
"""

from __future__ import annotations

import bisect
import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchdiffeq._impl.odeint import SOLVERS

from gflow.errors import MethodError
from gflow.integrators.base import (
    Attempt,
    Breakdown,
    Field,
    Method,
    MethodInfo,
    Settings,
    Step,
    hermite,
    uniform_grid,
)
from gflow.status import Status

_NOT_CONVERGED = "Functional iteration did not converge"


class _Function:
    """A field as torchdiffeq calls it; the last value is kept, for the step that begins there."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self._last: tuple[float, Tensor, Tensor] | None = None

    def __call__(self, t: Tensor | float, theta: Tensor, perturb: object = None) -> Tensor:
        at = float(t)
        if self._last is None or self._last[0] != at or self._last[1] is not theta:
            self._last = at, theta, self.field(at, theta)
        return self._last[2]

    def callback_step(self, *_: object) -> None:
        """Nothing to do; torchdiffeq calls it."""

    callback_accept_step = callback_reject_step = callback_step


@dataclass(frozen=True)
class _Adaptive:
    """A solver, its Runge-Kutta state and the error ratio of the last attempt."""

    solver: Any
    rk: Any
    ratio: list[float]
    settings: Settings


@dataclass(frozen=True)
class TorchdiffeqAdaptive(Method):
    """An adaptive explicit Runge-Kutta method of torchdiffeq."""

    info: MethodInfo

    def init(self, field: Field, t: float, theta: Tensor, settings: Settings) -> _Adaptive:
        """Evaluate the field and choose the first step (Hairer, Norsett & Wanner, II.4)."""
        ratio: list[float] = [math.nan]

        def norm(scaled: Tensor) -> Tensor:
            value = scaled.abs().pow(2).mean().sqrt()
            ratio[0] = float(value)
            return value

        solver = SOLVERS[_short(self.info)](
            func=_Function(field),
            y0=theta,
            rtol=settings.rtol,
            atol=settings.atol,
            norm=norm,
            first_step=settings.first_step,
        )
        solver._before_integrate(torch.tensor([t], dtype=torch.float64, device=theta.device))
        return _Adaptive(solver, solver.rk_state, ratio, settings)

    def step(self, field: Field, state: _Adaptive) -> tuple[_Adaptive, Step]:
        """Attempt steps until one is accepted."""
        rk, attempts = state.rk, list[Attempt]()
        t0, theta0 = float(rk.t1), rk.y1
        limit, proposed = _next_landing(state.settings, t0), float(rk.dt)
        while True:
            dt = limit - t0 if float(rk.dt) > (1 - 1e-10) * (limit - t0) else float(rk.dt)
            if not dt > 4 * math.ulp(t0):
                raise Breakdown(
                    Status.STEP_UNDERFLOW, f"the step {float(rk.dt):.3g} is below rounding"
                )
            rk = state.solver._adaptive_step(rk._replace(dt=rk.dt.new_tensor(dt)))
            accepted = float(rk.t1) > t0
            attempts.append(Attempt(t0, dt, state.ratio[0], accepted))
            if accepted:
                break
        # The end of a clipped step may miss its limit by rounding.
        t1 = limit if dt == limit - t0 else float(rk.t1)
        coefficients = torch.stack(list(rk.interp_coeff), -1)

        def interpolate(times: Tensor) -> Tensor:
            x = ((times - t0) / (t1 - t0)).to(theta0.dtype)
            powers = x[:, None] ** torch.arange(coefficients.shape[-1], device=x.device)
            return powers @ coefficients.T

        # A step clipped to its limit tells nothing about the size of the next one.
        following = max(float(rk.dt), proposed) if len(attempts) == 1 else float(rk.dt)
        after = rk._replace(t1=rk.t1.new_tensor(t1), dt=rk.dt.new_tensor(following))
        step = Step(t0, t1, theta0, rk.y1, interpolate, tuple(attempts))
        return _Adaptive(state.solver, after, state.ratio, state.settings), step


@dataclass(frozen=True)
class _Fixed:
    """A solver (its Adams history included), the point and the number of steps taken."""

    solver: Any
    origin: float
    steps: int
    theta: Tensor
    settings: Settings


@dataclass(frozen=True)
class TorchdiffeqFixed(Method):
    """A fixed-step method of torchdiffeq, on gflow's uniform grid t = t0 + k step_size.

    If the interval is no multiple of the step, the step is shortened so that it is one: a last
    short step would spoil the coefficients of the Adams methods.
    """

    info: MethodInfo

    def init(self, field: Field, t: float, theta: Tensor, settings: Settings) -> _Fixed:
        """No evaluation.

        Raises
        ------
        MethodError
            If `settings.step_size` is None.
        """
        if settings.step_size is None:
            raise MethodError(
                f"{self.info.name} is a fixed-step method and needs step_size, e.g. half of "
                "1/sharpness; or take an adaptive method such as auto."
            )
        solver = SOLVERS[_short(self.info)](
            func=_Function(field), y0=theta, rtol=settings.rtol, atol=settings.atol
        )
        return _Fixed(solver, t, 0, theta, settings)

    def step(self, field: Field, state: _Fixed) -> tuple[_Fixed, Step]:
        """One step."""
        origin, settings = state.origin, state.settings
        assert settings.step_size is not None
        h, count = uniform_grid(settings.step_size, settings.t_end - origin)
        t0 = origin + state.steps * h
        t1 = state.settings.t_end if state.steps + 1 == count else origin + (state.steps + 1) * h
        like = state.theta
        clock = torch.tensor([t0, h, t1], dtype=torch.float64, device=like.device)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=_NOT_CONVERGED)
            try:
                change, f0 = state.solver._step_func(state.solver.func, *clock, like)
            except UserWarning as warning:
                if not str(warning).startswith(_NOT_CONVERGED):
                    raise
                reason = f"torchdiffeq says: {str(warning).rstrip('.')}"
                raise Breakdown(Status.METHOD_FAILED, reason, retry=False) from None
        theta = like + change
        dense = hermite(t0, t1, like, theta, f0, _slope(state.solver.func, t1, theta, change / h))
        step = Step(t0, t1, like, theta, dense, (Attempt(t0, h, math.nan, True),))
        return _Fixed(state.solver, origin, state.steps + 1, theta, state.settings), step


def _short(info: MethodInfo) -> str:
    return info.name.partition(":")[2]


def _next_landing(settings: Settings, t: float) -> float:
    """The next time to step onto; landings next to `t` or to the end are passed over."""
    place = bisect.bisect_right(settings.landings, t + 16 * math.ulp(t))
    landing = min([*settings.landings[place : place + 1], settings.t_end])
    near_end = landing >= settings.t_end - 16 * math.ulp(settings.t_end)
    return settings.t_end if near_end else landing


def _slope(function: _Function, t: float, theta: Tensor, otherwise: Tensor) -> Tensor:
    """The field at the end of a step; where it has no value, the step's mean slope."""
    try:
        return function(t, theta)
    except Breakdown:
        return otherwise


def _adaptive(
    name: str,
    order: int,
    dense_order: int,
    evaluations: float,
    advice: str,
    source: str,
    **measured: Any,
) -> TorchdiffeqAdaptive:
    return TorchdiffeqAdaptive(
        MethodInfo(
            f"torchdiffeq:{name}",
            order,
            dense_order,
            True,
            False,
            True,
            advice,
            source,
            evaluations,
            **measured,
        )
    )


def _fixed(
    name: str, order: int | None, evaluations: float, advice: str, source: str
) -> TorchdiffeqFixed:
    dense = None if order is None else min(order, 3)
    return TorchdiffeqFixed(
        MethodInfo(
            f"torchdiffeq:{name}", order, dense, False, False, True, advice, source, evaluations
        )
    )


_ADAMS = "fixed step far below 1/sharpness: high order, small stability region"

TORCHDIFFEQ_METHODS: tuple[Method, ...] = (
    _adaptive(
        "dopri8",
        8,
        4,
        13,
        "tight tolerances, not stiff, on any device",
        "Prince & Dormand 1981",
        lands=True,
    ),
    _adaptive("dopri5", 5, 4, 6, "not stiff, on any device", "Dormand & Prince 1980"),
    _adaptive(
        "bosh3",
        3,
        1,
        3,
        "loose tolerances, on any device",
        "Bogacki & Shampine 1989",
        lands=True,
        tightening=0.03,
    ),
    _adaptive(
        "fehlberg2", 2, 1, 2, "very loose tolerances", "Fehlberg 1969", lands=True, tightening=0.005
    ),
    _adaptive("adaptive_heun", 2, 1, 1, "very loose tolerances", "Heun 1900"),
    _fixed(
        "euler",
        1,
        1,
        "gradient descent as an integrator: step_size is the learning rate",
        "Euler 1768",
    ),
    _fixed("midpoint", 2, 2, "fixed step", "Runge 1895"),
    _fixed("heun2", 2, 2, "fixed step", "Heun 1900"),
    _fixed("heun3", 3, 3, "fixed step", "Heun 1900"),
    _fixed("rk4", 4, 4, "fixed step, the classic of hand-written loops", "Kutta 1901 (3/8 rule)"),
    _fixed(
        "explicit_adams",
        None,
        1,
        _ADAMS,
        "Bashforth & Adams 1883",
    ),
    _fixed(
        "implicit_adams",
        None,
        2,
        _ADAMS,
        "Moulton 1926",
    ),
)
