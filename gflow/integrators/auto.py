"""Choosing a method, and saying why."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gflow.compiled.kernel import Kernel
from gflow.errors import MethodError
from gflow.integrators.base import Field, Method
from gflow.integrators.bursts import Offer, offer
from gflow.integrators.explicit import ExplicitPair
from gflow.integrators.native import NativeMethod
from gflow.integrators.registry import METHODS, resolve
from gflow.integrators.stiffness import DENSE_LIMIT, StiffnessWatch, Switching, fastest_rates

STIFF = 500.0
"""Rate times length of the interval beyond which explicit steps are limited by stability."""
TIGHT = 1e-7
"""Tolerances below this are left to methods of high order, stiff or not."""
STABLE = 3.5
"""Step times rate at which tsit5 leaves its region of stability."""
ACCURATE = 1e-4
"""Tolerances below this cost fewer gradients by rkc4 than by rkc2."""
LARGE = 50
"""Parameters beyond which exponentials of unsymmetric matrices cost more than implicit steps.

Where the flow is not stiff, those beyond which Hessians do.
"""
FACTORISED = 200
"""Parameters beyond which LSODA's occasional factors cost less than eigenvectors at each step."""
WATCHED = "auto:tsit5"
"""Names what ``auto`` takes where a flow does not begin stiff: tsit5 until it turns stiff."""
COMPILED = 100.0
"""Steps of compiled C that cost as much as one of PyTorch."""
LOGGED = 2**22
"""Attempts that the step log of an ensemble may hold for that: 256 MB, padded to the longest."""
MANY = 64
"""Rows from which an exponential step costs several explicit ones: eigenvalues come one by one."""


@dataclass(frozen=True)
class EnsembleChoice:
    """A method for an ensemble, why, and which rows it hands over to which other method.

    `kernel` is the field in compiled C, where the method's steps are.
    """

    method: Method
    reason: str
    switch: StiffnessWatch | None = None
    other: NativeMethod | None = None
    kernel: Kernel | None = None


def choose(
    name: str, field: Field, theta0: Tensor, t_end: float, rtol: float
) -> tuple[Method, str]:
    """The method called `name`, or for ``auto`` one that suits the field, and the reason.

    Parameters
    ----------
    name : str
        A method's name, ``auto``, or :data:`WATCHED`, by which extended runs go on.
    field : Field
    theta0 : Tensor, shape (P,)
    t_end : float
        Length of the interval; may be infinite.
    rtol : float

    Raises
    ------
    MethodError
        If the name is unknown, or `rtol` is below what the dtype can hold.
    """
    _check_rtol(theta0, rtol)
    if str(name).lower() == WATCHED:
        return _watched(field, theta0, rtol), f"{WATCHED}, as asked"
    if str(name).lower() != "auto":
        method = resolve(name)
        return method, f"{method.info.name}, as asked"
    rates = fastest_rates(field.lone, np.zeros(1), theta0[None])
    rate = None if rates is None else float(rates[0])
    method, reason = choose_by_rate(field, theta0, t_end, rtol, rate)
    return method, f"auto chose {method.info.name}: {reason}"


def choose_ensemble(
    name: str, field: Field, theta0: Tensor, t_end: float, rtol: float, ruled: bool = False
) -> EnsembleChoice:
    """The same for rows (B, P) of a batched field.

    `ruled` says whether there are stopping rules, which steps in compiled C know nothing of.

    Raises
    ------
    MethodError
        As for :func:`choose`.
    """
    _check_rtol(theta0, rtol)
    wanted, pair = str(name).lower(), _native("tsit5")
    assert isinstance(pair, ExplicitPair)
    if wanted not in ("auto", WATCHED):
        method = resolve(name)
        choice = EnsembleChoice(method, f"{method.info.name}, as asked")
        if method is not pair:
            return choice
    found = Offer(None, "") if ruled else offer(pair, field, theta0, t_end)
    if wanted in ("auto", WATCHED):
        compiled = found.kernel is not None
        choice = _choose_ensemble(wanted, field, theta0, t_end, rtol, compiled)
    if choice.method is not pair:
        return choice
    return replace(choice, reason=choice.reason + found.note, kernel=found.kernel)


def _choose_ensemble(
    wanted: str, field: Field, theta0: Tensor, t_end: float, rtol: float, compiled: bool
) -> EnsembleChoice:
    """What ``auto`` takes, by whether the steps of tsit5 are compiled C."""
    rows, size = theta0.shape
    patience, (other, watch) = _patience(rows, rtol), _other(field, theta0, rtol)
    if compiled:
        patience, most = _more(patience, rows), _more(watch.patience, rows)
        watch = replace(watch, patience=most)
    pair = _native("tsit5")
    if wanted == WATCHED:
        return EnsembleChoice(pair, f"{WATCHED}, as asked", watch, other)
    if rtol < TIGHT and size <= LARGE and rows < MANY and field.jacobian and field.smooth:
        reason = f"rtol {rtol:g} asks for high order, and {rows} x {size} parameters allow it"
        return EnsembleChoice(other, f"auto chose {other.info.name}: {reason}")
    rates = fastest_rates(field, np.zeros(len(theta0)), theta0)
    known = None if rates is None else rates[torch.isfinite(rates)]
    if known is None or not len(known):
        return EnsembleChoice(
            pair, "auto chose native:tsit5: every trajectory has its own step", watch, other
        )
    rate = float(known.median())
    steps = rate * t_end / STABLE if rate > 0 else 0.0
    measured = f"stability asks tsit5 for {steps:,.0f} steps of half of the trajectories to t_end"
    if math.isfinite(t_end) and steps > patience:
        name = other.info.name
        return EnsembleChoice(other, f"auto chose {name}: stiff ({measured})")
    judged = f"not stiff as a whole ({measured})" if math.isfinite(t_end) else "t_end is infinite"
    reason = f"{judged}; {other.info.name} takes over where it is stiff"
    return EnsembleChoice(pair, f"auto chose native:tsit5: {reason}", watch, other)


def choose_by_rate(
    field: Field, theta0: Tensor, t_end: float, rtol: float, rate: float | None
) -> tuple[Method, str]:
    """What ``auto`` takes for a lone flow of this fastest rate (None: unknown), and why."""
    size = theta0.numel()
    on_host = theta0.device.type == "cpu" and theta0.dtype == torch.float64 and size <= DENSE_LIMIT
    if rate is None:
        if on_host:
            reason = "the field offers no Jacobian, and LSODA finds stiffness itself"
            return METHODS["scipy:LSODA"], reason
        return _watched(field, theta0, rtol), f"no Jacobian is known and P = {size} is large"
    if math.isnan(rate):
        return _watched(field, theta0, rtol), "the stiffness could not be measured at the start"
    stiffness = rate * t_end if rate > 0 else 0.0
    measured = f"fastest rate {rate:.3g}, t_end infinite"
    if math.isfinite(t_end):
        measured = f"fastest rate {rate:.3g} times t_end {t_end:.3g} is {stiffness:.3g}"
    if stiffness <= STIFF:
        reason = f"not stiff ({measured}, at most {STIFF:g})"
        tight = f"{reason} and rtol {rtol:g} asks for high order"
        if rtol < TIGHT and size <= LARGE and field.smooth:
            return _native("expcol8"), tight
        if rtol < TIGHT and on_host:
            return METHODS["scipy:LSODA"], tight
        return _watched(field, theta0, rtol), reason
    if on_host and not field.symmetric and size > LARGE:
        return METHODS["scipy:LSODA"], f"stiff ({measured}) and the Jacobian is not symmetric"
    if on_host and size > FACTORISED:
        reason = f"stiff ({measured}) and P = {size} makes eigenvectors dearer than factors"
        return METHODS["scipy:LSODA"], reason
    other, _ = _other(field, theta0, rtol)
    why = "allows the exact Jacobian" if size <= DENSE_LIMIT else "is too many for a dense one"
    return other, f"stiff ({measured}) and P = {size} {why}"


def _other(field: Field, theta0: Tensor, rtol: float) -> tuple[NativeMethod, StiffnessWatch]:
    """The native method for stiff flows, and when it should take over."""
    if field.jacobian is None or theta0.shape[-1] > DENSE_LIMIT:
        name = "rkc4" if rtol < ACCURATE and field.smooth else "rkc2"
        return _native(name), StiffnessWatch(_steps(rtol))
    if field.smooth and theta0.dtype == torch.float64:
        return _native("expcol8"), StiffnessWatch(5.0 * rtol**-0.125)
    many = theta0.ndim == 2 and len(theta0) >= MANY
    return _native("exprb43"), StiffnessWatch(_steps(rtol) * (2.0 if many else 1.0))


def _steps(rtol: float) -> float:
    """What a method of order 4 was seen to take."""
    return 5.0 * float(rtol**-0.25)


def _patience(rows: int, rtol: float) -> float:
    """Steps of tsit5 that cost as much as a whole flow by an exponential method."""
    return _steps(rtol) * (6.0 if rows >= MANY else 1.5)


def _more(patience: float, rows: int) -> float:
    """The steps that cost as much where they are compiled, of as many rows as may be logged."""
    return max(patience, min(COMPILED * patience, LOGGED / rows))


def _watched(field: Field, theta0: Tensor, rtol: float) -> Method:
    other, watch = _other(field, theta0, rtol)
    return Switching(_native("tsit5"), other, watch)


def _native(name: str) -> NativeMethod:
    method = METHODS[f"native:{name}"]
    assert isinstance(method, NativeMethod)
    return method


def smallest_rtol(dtype: torch.dtype) -> float:
    """The smallest relative tolerance that theta of this type can hold."""
    return 1e-13 if dtype == torch.float64 else 1e-5


def _check_rtol(theta0: Tensor, rtol: float) -> None:
    floor = smallest_rtol(theta0.dtype)
    if not floor <= rtol < 1:
        raise MethodError(
            f"rtol is {rtol:g}; in {str(theta0.dtype).removeprefix('torch.')} it must be at least "
            f"{floor:g} and below 1."
        )
