"""Choosing a method, and saying why."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gflow.errors import MethodError
from gflow.integrators.base import Breakdown, Field, Method
from gflow.integrators.registry import METHODS, resolve

DENSE_LIMIT = 500
"""Parameters up to which a dense Jacobian is affordable."""
STIFF = 500.0
"""Rate times length of the interval beyond which explicit steps are limited by stability."""
POWER_ITERATIONS = 20


def choose(
    name: str, field: Field, theta0: Tensor, t_end: float, rtol: float
) -> tuple[Method, str]:
    """The method called `name`, or for ``auto`` one that suits the field, and the reason.

    Parameters
    ----------
    name : str
        A method's name or ``auto``.
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
    floor = 1e-13 if theta0.dtype == torch.float64 else 1e-5
    if not floor <= rtol < 1:
        raise MethodError(
            f"rtol is {rtol:g}; in {str(theta0.dtype).removeprefix('torch.')} it must be at least "
            f"{floor:g} and below 1."
        )
    if str(name).lower() != "auto":
        method = resolve(name)
        return method, f"{method.info.name}, as asked"
    chosen, reason = _auto(field, theta0, t_end, rtol)
    return METHODS[chosen], f"auto chose {chosen}: {reason}"


def _auto(field: Field, theta0: Tensor, t_end: float, rtol: float) -> tuple[str, str]:
    size = theta0.numel()
    explicit = _explicit(theta0, rtol)
    try:
        rate = _fastest_rate(field, theta0)
    except (Breakdown, RuntimeError):
        return explicit, "the stiffness could not be measured at the start"
    if rate is None:
        if size <= DENSE_LIMIT:
            return "scipy:LSODA", "the field offers no Jacobian, and LSODA finds stiffness itself"
        return explicit, f"no Jacobian is known and P = {size} is too many for a dense one"
    stiffness = rate * t_end if rate > 0 else 0.0
    measured = f"fastest rate {rate:.3g} times t_end {t_end:.3g} is {stiffness:.3g}"
    if stiffness <= STIFF:
        return explicit, f"not stiff ({measured}, at most {STIFF:g})"
    if size <= DENSE_LIMIT:
        return "scipy:LSODA", f"stiff ({measured}) and P = {size} allows the exact Jacobian"
    return explicit, (
        f"stiff ({measured}) but P = {size} exceeds {DENSE_LIMIT}, too many for a dense Jacobian; "
        f"stability will cost about {2 * stiffness:.2g} field evaluations"
    )


def _explicit(theta0: Tensor, rtol: float) -> str:
    on_host = theta0.device.type == "cpu" and theta0.dtype == torch.float64
    if on_host and theta0.numel() <= DENSE_LIMIT:
        return "scipy:DOP853" if rtol < 1e-4 else "scipy:RK45"
    return "torchdiffeq:dopri5"


def _fastest_rate(field: Field, theta: Tensor) -> float | None:
    """Largest |eigenvalue| of the Jacobian at the start, None if the field offers neither form."""
    if field.jacobian is not None and theta.numel() <= DENSE_LIMIT:
        matrix = field.jacobian(0.0, theta)
        if not bool(torch.isfinite(matrix).all()):
            raise RuntimeError("the Jacobian is not finite")
        values = torch.linalg.eigvalsh(matrix) if field.symmetric else torch.linalg.eigvals(matrix)
        return float(values.abs().max())
    if field.jvp is None:
        return None
    vector = torch.ones_like(theta) / math.sqrt(theta.numel())
    rate = 0.0
    for _ in range(POWER_ITERATIONS):
        image = field.jvp(0.0, theta, vector)
        rate = float(torch.linalg.vector_norm(image))
        if not math.isfinite(rate):
            raise RuntimeError("the Jacobian is not finite")
        if rate == 0:
            break
        vector = image / rate
    return rate
