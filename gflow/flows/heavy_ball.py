"""The heavy ball: gradient descent with momentum in continuous time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from gflow.flows.base import SecondOrder, check_number
from gflow.flows.point import Point


@dataclass(frozen=True)
class HeavyBall(SecondOrder):
    """m theta'' + theta' + grad L = 0 from rest: a ball of mass m with friction 1.

    Polyak 1964 (Some methods of speeding up the convergence of iteration methods, eq. 9); that
    gradient descent with momentum follows it at a mass of the order of its step size is in
    Kovachki & Stuart 2021 (Continuous time analysis of momentum methods, JMLR 22).

    The discrete counterpart is theta_{k+1} = theta_k + beta (theta_k - theta_{k-1}) - alpha g with
    beta = m / (m + eta) and alpha = eta (1 - beta), which is m times the second difference quotient
    plus the first plus g, equal to zero; so its clock is t = eta k, and m -> 0 gives gradient
    descent. Momentum beta at learning rate alpha is eta = alpha / (1 - beta) and
    m = eta beta / (1 - beta). It agrees with the flow to first order in eta at a fixed mass.

    Parameters
    ----------
    mass : float
        m, positive.
    """

    mass: float

    form: ClassVar[str] = "heavy_ball:MASS, MASS > 0"

    def __post_init__(self) -> None:
        """Check the mass."""
        super().__post_init__()
        check_number("mass", self.mass)

    @classmethod
    def read(cls, arguments: str) -> Self:
        """The mass."""
        return cls(float(arguments))

    @property
    def name(self) -> str:
        """As it is written."""
        return f"heavy_ball:{self.mass:.12g}"

    def coefficients(self, t: Any, like: Tensor) -> tuple[Tensor, Tensor]:
        """1 / m, twice."""
        both = torch.full_like(like[..., :1], 1.0 / self.mass)
        return both, both

    def update(
        self, point: Point, k: int, step_sizes: Tensor, theta: Tensor, motion: Tensor
    ) -> tuple[Tensor, Tensor]:
        """m (v_{k+1} - v_k) / eta + v_{k+1} + g = 0 and theta_{k+1} = theta_k + eta v_{k+1}.

        This is the above for one eta, and means the same where it varies.
        """
        velocity = (self.mass * motion - step_sizes * point.gradient) / (self.mass + step_sizes)
        return theta + step_sizes * velocity, velocity
