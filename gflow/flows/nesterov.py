"""The ordinary differential equation of Nesterov's accelerated gradient method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from gflow.flows.base import SecondOrder, halves, none
from gflow.flows.point import Point


@dataclass(frozen=True)
class Nesterov(SecondOrder):
    """theta'' + (3 / t) theta' + grad L = 0 from rest.

    Su, Boyd & Candes 2016 (A differential equation for modeling Nesterov's accelerated gradient
    method, JMLR 17, eq. 3; its Theorem 3 bounds L - L* by 2 |theta0 - theta*|^2 / t^2 for convex
    losses). The solution is regular at t = 0, where theta'' = -g / 4: there the field and its
    derivatives are those along it.

    The discrete counterpart is Nesterov's method of 1983 as in their eq. 1: x_{k+1} = y_k - eta
    g(y_k), y_k = x_k + (k - 1) / (k + 2) (x_k - x_{k-1}). Its clock is t = k sqrt(eta), and it
    agrees with the flow to first order in sqrt(eta).
    """

    form: ClassVar[str] = "nesterov"
    autonomous: ClassVar[bool] = False
    scheduled: ClassVar[bool] = False

    @classmethod
    def read(cls, arguments: str) -> Self:
        """No arguments."""
        none(arguments)
        return cls()

    @property
    def name(self) -> str:
        """As it is written."""
        return "nesterov"

    def coefficients(self, t: Any, like: Tensor) -> tuple[Tensor, Tensor]:
        """3 / t and 1; at t = 0 none and 1/4, which is what is left of g by then."""
        time = _column(t, like)
        begun = time > 0
        friction = torch.where(begun, 3.0 / torch.where(begun, time, 1.0), 0.0)
        return friction, torch.where(begun, 1.0, 0.25).to(time)

    def time_derivative(self, t: Any, state: Tensor) -> Tensor:
        """(0, 3 v / t^2); zero at t = 0, as along the solution."""
        velocity = halves(state)[1]
        friction, _ = self.coefficients(t, velocity)
        return torch.cat([torch.zeros_like(velocity), friction**2 / 3.0 * velocity], dim=-1)

    def clock(self, step_size: float) -> float:
        """sqrt(eta)."""
        return math.sqrt(step_size)

    def look(self, k: int, theta: Tensor, motion: Tensor) -> Tensor:
        """y_k; the motion is x_k - x_{k-1}."""
        return theta + (k - 1) / (k + 2) * motion

    def update(
        self, point: Point, k: int, step_sizes: Tensor, theta: Tensor, motion: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x_{k+1}, and how far that is from x_k."""
        moved = point.theta - step_sizes * point.gradient
        return moved, moved - theta


def _column(t: Any, like: Tensor) -> Tensor:
    """Times (...) as (..., 1) beside a tensor."""
    return torch.as_tensor(t, dtype=like.dtype, device=like.device)[..., None]
