"""One theta, or rows of them, and what a flow asks of the loss there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from gflow.models.base import Equilibrium, Moments
from gflow.problem import EXACT, Problem


class Point:
    """Derivatives of L + (weight_decay / 2) |theta|^2 at theta, formed when they are asked for.

    The problem's backward forms those of L. Fixed point and gradient are kept.

    Parameters
    ----------
    problem : Problem
        One, or a stack whose row i belongs to ``theta[i]``.
    theta : Tensor, shape (..., P)
    weight_decay : float
    warm : Tensor or Equilibrium, optional
        A first guess of the fixed point; where it was solved for this theta, the fixed point.
    moments : optional
        What the exact gradient needs to know of the data, if that is less than all of it.
    """

    def __init__(
        self,
        problem: Problem,
        theta: Tensor,
        weight_decay: float = 0.0,
        warm: Tensor | Equilibrium | None = None,
        moments: Moments | None = None,
    ) -> None:
        self.problem, self.theta, self.weight_decay = problem, theta, weight_decay
        self._warm, self._moments = warm, moments
        self._kept: dict[str, Tensor] = {}

    @cached_property
    def equilibrium(self) -> Equilibrium:
        """The solved fixed point."""
        if isinstance(self._warm, Equilibrium) and self._given:
            return self._warm
        return self.problem.model.equilibrium(self.theta, self.problem.x, self._warm)

    @cached_property
    def reached(self) -> Tensor:
        """Whether the fixed point (...) exists, on the branch of the warm start."""
        found = self.equilibrium
        if self._warm is None or found is self._warm:
            return found.valid
        continued = self.problem.model.continued(found, self._warm)
        return found.valid if continued is None else found.valid & continued

    @property
    def solved(self) -> bool:
        """Whether the fixed point was asked for."""
        return "equilibrium" in self.__dict__

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient (..., P)."""
        if self._moments is not None:
            found = self.problem.model.gradient_from_moments(self.theta, self._moments)
        else:
            found = self._fitted()
        return found + self.weight_decay * self.theta if self.weight_decay else found

    @property
    def _given(self) -> bool:
        """Whether the warm start is the fixed point."""
        return isinstance(self._warm, Equilibrium) and self._warm.theta is self.theta

    def _fitted(self) -> Tensor:
        """The gradient from the data, with the fixed point where that is still to be solved."""
        if self.theta.ndim > 1 and not (self.solved or self._given):
            both = self.problem.fit(self.theta, self._warm)
            if both is not None:
                self.equilibrium, gradient = both
                return gradient
        return self.problem.gradient_at(self.equilibrium)

    @cached_property
    def loss_gradient(self) -> Tensor:
        """The exact gradient (..., P) of L alone, whatever the backward."""
        if self.problem.backward.exact and not self.weight_decay:
            return self.gradient
        return self.problem.gradient_at(self.equilibrium, EXACT)

    def jacobian(self) -> Tensor:
        """Jacobian (..., P, P) of the gradient."""
        found = self.problem.jacobian_at(self.equilibrium)
        if self.weight_decay:
            size = found.shape[-1]
            found = found + self.weight_decay * torch.eye(
                size, dtype=found.dtype, device=found.device
            )
        return found

    def jvp(self, vector: Tensor) -> Tensor:
        """The product (..., P) of that Jacobian with a vector."""
        found = self.problem.jvp_at(self.equilibrium, vector)
        return found + self.weight_decay * vector if self.weight_decay else found

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What `make` returns, made only the first time."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def derivative(self, function: Callable[[Point], Tensor], vector: Tensor) -> Tensor:
        """Derivative of a function of a point along a vector (..., P), by four values of it.

        The central difference of order 4 with steps h of eps^(1/4) (1 + |theta|) / 2: where the
        function varies on scales s its relative error is about (h / s)^4 + eps / h, in float64
        some 1e-11 at s = 1 and 1e-8 at s = 0.01.
        """
        length = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        size = torch.linalg.vector_norm(self.theta, dim=-1, keepdim=True)
        step = torch.finfo(self.theta.dtype).eps ** 0.25 * (1.0 + size) / 2.0
        away = step * vector / torch.where(length > 0, length, 1.0)
        one, two = (self._across(function, k * away) for k in (1.0, 2.0))
        rate: Tensor = length / (12.0 * step)
        wide = rate.reshape(*rate.shape, *(1 for _ in one.shape[rate.ndim :]))
        return (8.0 * one - two) * wide

    def _across(self, function: Callable[[Point], Tensor], away: Tensor) -> Tensor:
        """Difference of a function from one side of the point to the other."""
        ahead, behind = (
            function(Point(self.problem, theta, self.weight_decay, self.equilibrium))
            for theta in (self.theta + away, self.theta - away)
        )
        return ahead - behind
