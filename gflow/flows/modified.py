"""The modified flow, which gradient descent of one step size follows to second order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor

from gflow.errors import ProblemError
from gflow.flows.base import Flow, check_number
from gflow.flows.point import Point
from gflow.problem import Problem


@dataclass(frozen=True)
class ModifiedFlow(Flow):
    """dtheta/dt = -grad (L + (eta / 4) |grad L|^2) = -g - (eta / 2) H g.

    Barrett & Dherin 2021 (Implicit gradient regularization, arXiv 2009.11162, Theorem 3.1), by
    backward error analysis (Hairer, Lubich & Wanner 2006, Geometric numerical integration, IX.1).
    Gradient descent of step size eta, its discrete counterpart, agrees with it to second order in
    eta; of other step sizes to first.

    The Jacobian's part D_g H is a difference of Hessians along g, or of their products, see
    :meth:`gflow.flows.point.Point.derivative`; the rest of it and the field are exact.

    Parameters
    ----------
    step_size : float
        eta, positive.
    """

    step_size: float

    form: ClassVar[str] = "modified:ETA, ETA > 0"
    plain: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the step size."""
        super().__post_init__()
        check_number("step_size", self.step_size)

    @classmethod
    def read(cls, arguments: str) -> Self:
        """The step size."""
        return cls(float(arguments))

    @property
    def name(self) -> str:
        """As it is written."""
        return f"modified:{self.step_size:.12g}"

    def on(self, problem: Problem) -> Flow:
        """Refuse any backward but the exact one, whose field alone is a gradient."""
        if not problem.backward.exact:
            raise ProblemError(
                f'flow "{self.name}" needs the exact backward, not "{problem.backward.name}": it '
                "is the gradient of L + (eta/4) |grad L|^2."
            )
        return self

    def symmetric(self, problem: Problem) -> bool:
        """Minus a Hessian."""
        return True

    def rate(self, point: Point, t: Any, state: Tensor) -> Tensor:
        """-g - (eta / 2) H g."""
        return -(point.gradient + self.step_size / 2 * point.jvp(point.gradient))

    def jacobian(self, point: Point, t: Any, state: Tensor) -> Tensor:
        """-H - (eta / 2) (H H + D_g H)."""
        hessian = point.jacobian()
        bent = point.derivative(lambda near: near.jacobian(), point.gradient)
        return -(hessian + self.step_size / 2 * (hessian @ hessian + bent))

    def jvp(self, point: Point, t: Any, state: Tensor, vector: Tensor) -> Tensor:
        """The product of that with a vector."""
        once = point.jvp(vector)
        bent = point.derivative(lambda near: near.jvp(vector), point.gradient)
        return -(once + self.step_size / 2 * (point.jvp(once) + bent))

    def update(
        self, point: Point, k: int, step_sizes: Tensor, theta: Tensor, motion: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradient descent."""
        return theta - step_sizes * point.gradient, motion
