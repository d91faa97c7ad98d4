"""Named problems with exact solutions, on which methods are tested and their honesty is measured.

All are non-expansive: two trajectories never move apart, so a method's global error stays of the
order of its tolerance if its local errors do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gflow.integrators.base import Field


@dataclass(frozen=True)
class Case:
    """An initial-value problem with its solution.

    Attributes
    ----------
    name : str
    field : Field
    theta0 : Tensor, shape (P,)
    t_end : float
    exact : callable
        Maps times (k,) to theta (k, P).
    """

    name: str
    field: Field
    theta0: Tensor
    t_end: float
    exact: Callable[[Tensor], Tensor]

    def ratio(self, times: Tensor, theta: Tensor, rtol: float, atol: float) -> Tensor:
        """RMS over parameters of error / (atol + rtol |theta|), shape (k,)."""
        exact = self.exact(times)
        return (((theta - exact) / (atol + rtol * exact.abs())) ** 2).mean(-1).sqrt()


def decay(slowest: float = 1e-3, fastest: float = 1e3, t_end: float = 10.0) -> Case:
    """theta_i' = -lambda_i theta_i with seven rates, equally spaced in the logarithm."""
    rates = torch.logspace(math.log10(slowest), math.log10(fastest), 7, dtype=torch.float64)
    return Case(
        "decay",
        Field(lambda t, y: -rates * y, jacobian=lambda t, y: -torch.diag(rates), symmetric=True),
        torch.ones(7, dtype=torch.float64),
        t_end,
        lambda t: torch.exp(-rates * t[:, None]),
    )


def cubic(t_end: float = 10.0) -> Case:
    """theta_i' = -theta_i^3, the gradient flow of sum theta_i^4/4; algebraic decay."""
    start = torch.tensor([0.3, 1.0, 3.0, -10.0], dtype=torch.float64)
    return Case(
        "cubic",
        Field(lambda t, y: -(y**3), jacobian=lambda t, y: -3 * torch.diag(y * y), symmetric=True),
        start,
        t_end,
        lambda t: start / torch.sqrt(1 + 2 * start**2 * t[:, None]),
    )


def tracking(rate: float = 20.0, t_end: float = 10.0) -> Case:
    """theta' = -rate (theta - cos t) - sin t: a target that moves (Prothero & Robinson 1974)."""
    start = torch.tensor([1.0, 2.0], dtype=torch.float64)

    def field(t: float, y: Tensor) -> Tensor:
        return -rate * (y - math.cos(t)) - math.sin(t)

    return Case(
        "tracking",
        Field(
            field,
            jacobian=lambda t, y: -rate * torch.eye(2, dtype=y.dtype),
            time_derivative=lambda t, y: torch.full_like(y, -rate * math.sin(t) - math.cos(t)),
            symmetric=True,
        ),
        start,
        t_end,
        lambda t: torch.cos(t)[:, None] + (start - 1) * torch.exp(-rate * t)[:, None],
    )


def valley(rate: float = 1000.0, drift: float = 0.1, t_end: float = 9.0) -> Case:
    """The flow down a narrow valley that turns: stiff, and its eigenvectors turn along the way.

    The potential is rate (r - 1)^2 / 2 - drift phi in polar coordinates, so that r' = -rate (r - 1)
    and phi' = drift / r^2. With r = 1 + d exp(-rate t) and u = exp(rate t), the angle is
    (drift / rate) (log(u + d) + d / (u + d)) but for a constant.
    """
    radius, angle = 1.3, 0.35
    start = radius * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)

    def polar(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r = torch.linalg.vector_norm(y)
        outward = y / r
        return r, outward, torch.stack([-outward[1], outward[0]])

    def field(t: float, y: Tensor) -> Tensor:
        r, outward, along = polar(y)
        return -rate * (r - 1) * outward + drift / r * along

    def jacobian(t: float, y: Tensor) -> Tensor:
        r, outward, along = polar(y)
        mixed = torch.outer(outward, along)
        bent = rate * (r - 1) / r * torch.outer(along, along) + drift / r**2 * (mixed + mixed.T)
        return -rate * torch.outer(outward, outward) - bent

    def exact(t: Tensor) -> Tensor:
        gap = (radius - 1) * torch.exp(-rate * t)
        # log(u + d) + d / (u + d), with u = exp(rate t) taken out of the logarithm
        turned = rate * t + torch.log1p(gap) + gap / (1 + gap)
        begun = math.log(radius) + (radius - 1) / radius
        phi = angle + drift / rate * (turned - begun)
        return (1 + gap)[:, None] * torch.stack([torch.cos(phi), torch.sin(phi)], dim=-1)

    return Case("valley", Field(field, jacobian=jacobian, symmetric=True), start, t_end, exact)


CASES: tuple[Callable[[], Case], ...] = (decay, cubic, tracking)
"""The problems of the reliability contract's rule on tolerances."""
