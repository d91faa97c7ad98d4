"""SciPy's initial-value solvers behind gflow's contract.

RK23, RK45, DOP853, Radau and BDF judge a step by the RMS norm, LSODA by the maximum norm, which
bounds it. Radau, BDF and LSODA are given the field's Jacobian where it offers one. The error ratios
of rejected steps are known for the explicit methods only; for the others the attempts are recovered
from the times at which the field was evaluated.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.integrate import BDF, DOP853, LSODA, RK23, RK45, OdeSolver, Radau
from torch import Tensor

from gflow.integrators.base import Attempt, Breakdown, Field, Method, MethodInfo, Settings, Step
from gflow.status import Status

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class _State:
    """A live solver and what it did in the current step.

    `times` are those at which it evaluated the field; `tried` the step and the error ratio of every
    attempt, for the explicit methods; `raised` what the field raised.
    """

    solver: OdeSolver
    like: Tensor
    times: list[float]
    tried: list[tuple[float, float]]
    raised: list[Exception]


@dataclass(frozen=True)
class ScipyMethod(Method):
    """A solver class of :mod:`scipy.integrate`.

    Attributes
    ----------
    info : MethodInfo
    solver : type
        Subclass of :class:`scipy.integrate.OdeSolver`.
    stages : int
        Distinct times after the start at which one attempt of an implicit method evaluates the
        field.
    """

    info: MethodInfo
    solver: type[OdeSolver]
    stages: int

    def init(self, field: Field, t: float, theta: Tensor, settings: Settings) -> _State:
        """Build the solver; SciPy evaluates the field once or twice."""
        times: list[float] = []
        raised: list[Exception] = []
        options: dict[str, Any] = {"first_step": settings.first_step}
        if self.info.implicit and field.jacobian is not None:
            options["jac"] = _on_arrays(field.jacobian, theta, None, raised)
        with _quiet():
            solver = self.solver(
                _on_arrays(field, theta, times, raised),
                t,
                theta.detach().cpu().double().numpy(),
                settings.t_end,
                rtol=max(settings.rtol, 100 * np.finfo(float).eps),
                atol=settings.atol,
                **options,
            )
        return _State(solver, theta, times, _record_attempts(solver), raised)

    def step(self, field: Field, state: _State) -> tuple[_State, Step]:
        """One accepted step of the live solver."""
        solver, t0, theta0 = state.solver, float(state.solver.t), state.like
        state.times.clear()
        state.tried.clear()
        solves = solver.nlu
        try:
            with _quiet():
                message = solver.step()
                dense = solver.dense_output() if solver.status != "failed" else None
        except (ArithmeticError, ValueError, RuntimeError) as error:
            if error in state.raised:
                raise
            raise Breakdown(Status.METHOD_FAILED, f"SciPy says: {error}") from None
        if dense is None:
            raise Breakdown(Status.STEP_UNDERFLOW, f"SciPy says: {str(message).rstrip('.')}")
        if not solver.t > t0:
            raise Breakdown(Status.STEP_UNDERFLOW, "the back-end's step does not advance t")
        if not np.isfinite(solver.y).all():
            raise Breakdown(Status.NONFINITE, "the back-end returned a state that is not finite")
        t1, theta1 = float(solver.t), _tensor(solver.y, theta0)
        attempts = self._attempts(state, t0, t1)

        def interpolate(times: Tensor) -> Tensor:
            with np.errstate(all="ignore"):
                return _tensor(np.asarray(dense(times.cpu().numpy())).T, theta0)

        step = Step(t0, t1, theta0, theta1, interpolate, attempts, int(solver.nlu - solves))
        return replace(state, like=theta1), step

    def _attempts(self, state: _State, t0: float, t1: float) -> tuple[Attempt, ...]:
        tried = state.tried
        if not tried:
            distinct = [t for t in dict.fromkeys(state.times) if t > t0]
            ends = [t for t in distinct[self.stages - 1 :: self.stages] if t != t1]
            tried = [(end - t0, np.nan) for end in (*ends, t1)]
        last = len(tried) - 1
        return tuple(Attempt(t0, h, ratio, i == last) for i, (h, ratio) in enumerate(tried))


def _record_attempts(solver: OdeSolver) -> list[tuple[float, float]]:
    """Have an explicit Runge-Kutta solver note step and error ratio of every attempt."""
    tried: list[tuple[float, float]] = []
    estimate = getattr(solver, "_estimate_error_norm", None)
    if estimate is not None:

        def noted(stages: Array, h: float, scale: Array) -> float:
            ratio = float(estimate(stages, h, scale))
            tried.append((float(h), ratio))
            return ratio

        solver._estimate_error_norm = noted
    return tried


def _on_arrays(
    function: Callable[[float, Tensor], Tensor],
    like: Tensor,
    times: list[float] | None,
    raised: list[Exception],
) -> Callable[[float, Array], Array]:
    """A function as SciPy calls it, noting when it is called and what it raises."""

    def wrapped(t: float, y: Array) -> Array:
        if times is not None:
            times.append(float(t))
        try:
            value = function(float(t), _tensor(y, like))
        except Exception as error:
            raised.append(error)
            raise
        return value.detach().cpu().double().numpy()

    return wrapped


def _tensor(array: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(np.array(array)).to(dtype=like.dtype, device=like.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence SciPy: its warnings are judged by the driver, from states and times."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _method(
    solver: type[OdeSolver],
    order: int | None,
    dense_order: int | None,
    stages: int,
    evaluations: float,
    advice: str,
    source: str,
    **measured: Any,
) -> ScipyMethod:
    info = MethodInfo(
        name=f"scipy:{solver.__name__}",
        order=order,
        dense_order=dense_order,
        adaptive=True,
        implicit=solver in (Radau, BDF, LSODA),
        any_device=False,
        advice=advice,
        source=source,
        evaluations=evaluations,
        **measured,
    )
    return ScipyMethod(info, solver, stages)


SCIPY_METHODS: tuple[ScipyMethod, ...] = (
    _method(
        RK23, 3, 3, 1, 3, "loose tolerances, not stiff", "Bogacki & Shampine 1989", tightening=0.01
    ),
    _method(RK45, 5, 4, 1, 6, "moderate tolerances, not stiff", "Dormand & Prince 1980"),
    _method(
        DOP853,
        8,
        7,
        1,
        15,
        "tight tolerances, not stiff (where stability limits it, errors grow between steps)",
        "Hairer, Norsett & Wanner 1993",
        tightening=0.1,
    ),
    _method(Radau, 5, 3, 3, 8, "stiff, tight tolerances", "Hairer & Wanner 1996, IV.8"),
    _method(
        BDF, None, None, 1, 2, "stiff, costly gradients", "Shampine & Reichelt 1997", tightening=0.2
    ),
    _method(
        LSODA,
        None,
        None,
        1,
        2,
        "stiff or not, switches by itself",
        "Petzold 1983",
        tightening=0.3,
    ),
)
