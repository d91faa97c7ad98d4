"""The contract of a flow: a vector field on any problem, with the iteration that it is a limit of.

For authors of a flow
---------------------
1. A flow is an immutable object that knows no problem; :meth:`Flow.on` binds it to one and refuses
   what it cannot serve. :func:`gflow.flows.field.flow_field` makes the field of the two.
2. Everything is asked at a :class:`gflow.flows.point.Point`, whose gradient, Jacobian and products
   include the weight decay. All shapes have any leading dimensions, rows of a batch; times are then
   arrays.
3. The state of a flow of second order is (theta, velocity), 2 P numbers; integrators see states,
   everything else sees theta, ``state[..., :P]``.
4. ``jacobian`` and ``jvp`` are those of ``rate``, and ``symmetric`` says yes only where the
   Jacobian is symmetric everywhere: methods that use its eigenvectors rely on it.
5. ``update`` is the discrete counterpart: on the clock that ``clock`` gives, it tends to the flow
   as the step size falls.
6. Where a flow has no value it holds NaN, and ``fault`` says why.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from gflow.compiled.kernel import Kernel
from gflow.errors import ProblemError
from gflow.flows.point import Point
from gflow.models.base import Model, Moments
from gflow.problem import Problem


@dataclass(frozen=True)
class Flow(ABC):
    """A vector field on any problem.

    Attributes
    ----------
    weight_decay : float
        lambda of L + (lambda / 2) |theta|^2, whose gradient the flow follows in place of L's.
    """

    weight_decay: float = field(default=0.0, kw_only=True)

    form: ClassVar[str]
    """How its name is written."""
    second_order: ClassVar[bool] = False
    """Whether its state is (theta, velocity)."""
    autonomous: ClassVar[bool] = True
    scheduled: ClassVar[bool] = True
    """Whether the step sizes of its updates may vary."""
    plain: ClassVar[bool] = False
    """Whether its updates are those of gradient descent."""
    fallible: ClassVar[bool] = False
    """Whether it may have no value where the loss has one."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises
        ------
        ProblemError
            If one is out of range.
        """
        check_number("weight_decay", self.weight_decay, least=0.0)

    @classmethod
    @abstractmethod
    def read(cls, arguments: str) -> Self:
        """The flow whose name ends in these arguments.

        Raises
        ------
        ValueError or ProblemError
            If they are none.
        """

    @property
    @abstractmethod
    def name(self) -> str:
        """As it is written."""

    def on(self, problem: Problem) -> Flow:
        """The flow with what it needs to know of a problem.

        Raises
        ------
        ProblemError
            If it has no meaning there.
        """
        return self

    def symmetric(self, problem: Problem) -> bool:
        """Whether the Jacobian is symmetric."""
        return False

    def dense(self, problem: Problem) -> bool:
        """Whether the Jacobian is affordable as a matrix."""
        return True

    def kernel(self, model: Model, moments: Moments) -> Kernel | None:
        """The field as C on rows, from what the exact gradient needs to know of the data."""
        return None

    def cost(self, problem: Problem) -> int:
        """What an evaluation forms, in numbers for each of the problem's width."""
        return 1

    def start(self, theta0: Tensor) -> Tensor:
        """The state at t = 0."""
        return theta0

    @abstractmethod
    def rate(self, point: Point, t: Any, state: Tensor) -> Tensor:
        """The field, of the state's shape."""

    @abstractmethod
    def jacobian(self, point: Point, t: Any, state: Tensor) -> Tensor:
        """Its Jacobian, with one more dimension."""

    @abstractmethod
    def jvp(self, point: Point, t: Any, state: Tensor, vector: Tensor) -> Tensor:
        """The Jacobian's product with a vector of the state's shape."""

    def time_derivative(self, t: Any, state: Tensor) -> Tensor:
        """The field's derivative in t at a fixed state; zero unless it says otherwise."""
        return torch.zeros_like(state)

    def fault(self, point: Point) -> str:
        """Why the flow has no value at one theta (P,) where the loss has; empty if it has."""
        return ""

    def dissipation(self, point: Point, state: Tensor) -> Tensor:
        """The loss's rate of decrease -grad L . dtheta/dt (...) at a state; NaN where lost."""
        rate = self.on(point.problem).rate(point, 0.0, state)
        return -(point.loss_gradient * rate).sum(-1)

    def clock(self, step_size: float) -> float:
        """The time that an update of this step size takes."""
        return step_size

    def look(self, k: int, theta: Tensor, motion: Tensor) -> Tensor:
        """Where update k + 1 evaluates the gradient."""
        return theta

    def update(
        self, point: Point, k: int, step_sizes: Tensor, theta: Tensor, motion: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update k + 1 of the discrete counterpart; of a flow of first order Euler's step.

        Parameters
        ----------
        point : Point
            Where :meth:`look` said.
        k : int
            Updates made.
        step_sizes : Tensor, shape (S, 1)
        theta : Tensor, shape (S, P)
        motion : Tensor, shape (S, P)
            What the updates carry on beside theta; zero at first.

        Returns
        -------
        theta, motion : Tensor, shape (S, P)
        """
        return theta + step_sizes * self.rate(point, 0.0, point.theta), motion


class SecondOrder(Flow):
    """theta'' + a(t) theta' + b(t) grad L = 0 from rest, as a field of (theta, velocity)."""

    second_order = True

    @abstractmethod
    def coefficients(self, t: Any, like: Tensor) -> tuple[Tensor, Tensor]:
        """a and b, broadcastable to velocities (..., P) like `like`."""

    def start(self, theta0: Tensor) -> Tensor:
        """Theta at rest."""
        return torch.cat([theta0, torch.zeros_like(theta0)], dim=-1)

    def rate(self, point: Point, t: Any, state: Tensor) -> Tensor:
        """(v, -a v - b g)."""
        velocity = halves(state)[1]
        friction, force = self.coefficients(t, velocity)
        return torch.cat([velocity, -(friction * velocity + force * point.gradient)], dim=-1)

    def jacobian(self, point: Point, t: Any, state: Tensor) -> Tensor:
        """[[0, I], [-b H, -a I]]."""
        size = state.shape[-1] // 2
        friction, force = self.coefficients(t, state)
        eye = torch.eye(size, dtype=state.dtype, device=state.device)
        found = state.new_zeros(*state.shape, 2 * size)
        found[..., :size, size:] = eye
        found[..., size:, :size] = -force[..., None] * point.jacobian()
        found[..., size:, size:] = -friction[..., None] * eye
        return found

    def jvp(self, point: Point, t: Any, state: Tensor, vector: Tensor) -> Tensor:
        """(dv, -b H dtheta - a dv)."""
        along, change = halves(vector)
        friction, force = self.coefficients(t, state)
        return torch.cat([change, -(force * point.jvp(along) + friction * change)], dim=-1)

    def dissipation(self, point: Point, state: Tensor) -> Tensor:
        """-grad L . v (...)."""
        return -(point.loss_gradient * halves(state)[1]).sum(-1)


def halves(state: Tensor) -> tuple[Tensor, Tensor]:
    """Theta and velocity of a state (..., 2 P)."""
    size = state.shape[-1] // 2
    return state[..., :size], state[..., size:]


def check_number(name: str, value: Any, least: float | None = None) -> None:
    """Check that a number is positive, or at least `least`, and finite.

    Raises
    ------
    ProblemError
        If not.
    """
    kind = "a positive finite number" if least is None else f"a finite number of at least {least:g}"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (value > 0 if least is None else value >= least) or value == math.inf:
        raise ProblemError(f"{name} is {value!r}; it must be {kind}.")


def none(arguments: str) -> None:
    """Check that a name has no arguments."""
    if arguments:
        raise ValueError(arguments)
