"""The gradient flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor

from gflow.compiled.kernel import Kernel
from gflow.flows.base import Flow, none
from gflow.flows.point import Point
from gflow.models.base import Model, Moments
from gflow.problem import Problem


@dataclass(frozen=True)
class GradientFlow(Flow):
    """dtheta/dt = -g(theta), g the gradient that the problem's backward gives.

    Its Jacobian is minus the Hessian, hence symmetric, only for the exact backward. The discrete
    counterpart is gradient descent, theta - eta g, which it agrees with to first order in eta.
    """

    form: ClassVar[str] = "gradient"
    plain: ClassVar[bool] = True

    @classmethod
    def read(cls, arguments: str) -> Self:
        """No arguments."""
        none(arguments)
        return cls()

    @property
    def name(self) -> str:
        """As it is written."""
        return "gradient"

    def symmetric(self, problem: Problem) -> bool:
        """For the exact backward."""
        return problem.backward.exact

    def kernel(self, model: Model, moments: Moments) -> Kernel | None:
        """Where the model has one."""
        if type(self) is not GradientFlow:  # another class may have another rate
            return None
        return model.kernel(moments, self.weight_decay)

    def rate(self, point: Point, t: Any, state: Tensor) -> Tensor:
        """-g."""
        return -point.gradient

    def jacobian(self, point: Point, t: Any, state: Tensor) -> Tensor:
        """-H."""
        return -point.jacobian()

    def jvp(self, point: Point, t: Any, state: Tensor, vector: Tensor) -> Tensor:
        """-H v."""
        return -point.jvp(vector)
