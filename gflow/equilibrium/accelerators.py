"""Iterations for z = f(z) that only evaluate f; all state is per sample.

References: D. G. Anderson, J. ACM 12 (1965) 547, in the form of H. F. Walker and P. Ni, SIAM J.
Numer. Anal. 49 (2011) 1715, eq. 2.2; C. G. Broyden, Math. Comp. 19 (1965) 577, the inverse by
Sherman and Morrison.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from gflow.equilibrium.slots import combination, inner_products


class Scheme(ABC):
    """Where to evaluate f next, for K samples at a time."""

    @abstractmethod
    def advance(self, z: Tensor, gap: Tensor, rows: Tensor) -> Tensor:
        """The next points (K, m), after f(z) - z = gap was found at z."""

    @abstractmethod
    def keep(self, going: Tensor) -> None:
        """Forget the samples that are not going on."""

    def stuck(self, residual: Tensor, count: int) -> Tensor:
        """Which samples to give up after `count` evaluations; infinite residuals are failures."""
        return torch.isinf(residual)


class Damped(Scheme):
    """z <- z + t (f(z) - z), t from 1 halved whenever the gap does not fall."""

    SHORTEST = 2.0**-6

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor] | None = None

    def advance(self, z: Tensor, gap: Tensor, rows: Tensor) -> Tensor:
        """As above."""
        size = torch.linalg.vector_norm(gap, dim=-1)
        if self._last is None:
            step = torch.ones_like(size)
        else:
            before, step = self._last
            step = torch.where(size > 0.999 * before, 0.5 * step, step).clamp(min=self.SHORTEST)
        self._last = size, step
        return torch.addcmul(z, step[:, None], gap)

    def keep(self, going: Tensor) -> None:
        """Drop the others' steps."""
        if self._last is not None:
            self._last = self._last[0][going], self._last[1][going]


class Anderson(Scheme):
    """The step that would cancel as much as it can of the gap, were f linear."""

    def __init__(self, memory: int = 5) -> None:
        self._memory, self._count = memory, 0
        self._last: tuple[Tensor, Tensor] | None = None

    def advance(self, z: Tensor, gap: Tensor, rows: Tensor) -> Tensor:
        """z + g - (dZ + dG) c with c the least-squares solution of dG c = g."""
        if self._last is None:
            shape = (self._memory, *z.shape)
            self._moves, self._gaps = z.new_zeros(shape), z.new_zeros(shape)
            self._gram = z.new_zeros(len(z), self._memory, self._memory)
        else:
            self._remember(z - self._last[0], gap - self._last[1])
        self._last = z, gap
        used = min(self._count, self._memory)
        return z + gap - self._correction(gap, used) if used else z + gap

    def _remember(self, step: Tensor, change: Tensor) -> None:
        """Store a pair, scaled so that the change of the gap is a unit vector."""
        slot = self._count % self._memory
        tiny = torch.finfo(step.dtype).tiny
        scale = torch.linalg.vector_norm(change, dim=-1, keepdim=True).clamp(min=tiny)
        self._gaps[slot], self._moves[slot] = change / scale, (step + change) / scale
        inner = inner_products(self._gaps, self._gaps[slot]).mT
        self._gram[:, slot], self._gram[:, :, slot] = inner, inner
        self._count += 1

    def _correction(self, gap: Tensor, used: int) -> Tensor:
        ridge = 10 * torch.finfo(gap.dtype).eps
        gram = self._gram[:, :used, :used] + ridge * torch.eye(used).to(gap)
        right = inner_products(self._gaps[:used], gap).mT
        weights, info = torch.linalg.solve_ex(gram, right)
        weights = torch.where((info == 0)[:, None], weights, 0.0)
        correction = combination(weights.mT, self._moves[:used])
        return torch.where(torch.isfinite(correction).all(-1, keepdim=True), correction, 0.0)

    def keep(self, going: Tensor) -> None:
        """Drop the others' history."""
        if self._last is not None:
            self._last = self._last[0][going], self._last[1][going]
            self._moves, self._gaps = self._moves[:, going], self._gaps[:, going]
            self._gram = self._gram[going]


class Impatient(Anderson):
    """Gives up samples that would take too long, were the rate of late to go on.

    Parameters
    ----------
    tolerance : float
        Residual at which a sample is done.
    patience : float
        Further evaluations that are worth it.
    """

    LOOK_BACK = 4

    def __init__(self, tolerance: float, patience: float) -> None:
        super().__init__()
        self._tolerance, self._patience = tolerance, patience
        self._residuals: list[Tensor] = []

    def stuck(self, residual: Tensor, count: int) -> Tensor:
        """Whether more evaluations are predicted."""
        self._residuals = [*self._residuals[-self.LOOK_BACK :], residual]
        if count <= self.LOOK_BACK:
            return super().stuck(residual, count)
        rate = torch.log(residual / self._residuals[0]) / self.LOOK_BACK
        needed = math.log(self._tolerance) - torch.log(residual)
        return ~(rate * self._patience <= needed)

    def keep(self, going: Tensor) -> None:
        """Drop the others' history."""
        super().keep(going)
        self._residuals = [residual[going] for residual in self._residuals]


class Broyden(Scheme):
    """z <- z + H (f(z) - z), H = I + sum of u v^T, from the differences seen so far.

    After `memory` updates H starts again from I.
    """

    def __init__(self, memory: int = 30) -> None:
        self._memory, self._count = memory, 0
        self._last: tuple[Tensor, Tensor] | None = None

    def advance(self, z: Tensor, gap: Tensor, rows: Tensor) -> Tensor:
        """Update H so that it maps the last change of the gap to the step that made it."""
        if self._last is None:
            shape = (self._memory, *z.shape)
            self._left, self._right = z.new_zeros(shape), z.new_zeros(shape)
        elif self._count == self._memory:
            self._count = 0
        else:
            self._update(z - self._last[0], self._last[1] - gap)
        self._last = z, gap
        return z + self._apply(gap, self._left, self._right)

    def _update(self, step: Tensor, change: Tensor) -> None:
        mapped = self._apply(change, self._left, self._right)
        across = self._apply(step, self._right, self._left)
        left = (step - mapped) / (step * mapped).sum(-1, keepdim=True)
        usable = torch.isfinite(left).all(-1, keepdim=True)
        self._left[self._count] = torch.where(usable, left, 0.0)
        self._right[self._count] = across
        self._count += 1

    def _apply(self, vector: Tensor, left: Tensor, right: Tensor) -> Tensor:
        if not self._count:
            return vector
        inner = inner_products(right[: self._count], vector)
        return vector + combination(inner, left[: self._count])

    def keep(self, going: Tensor) -> None:
        """Drop the others' history."""
        if self._last is not None:
            self._last = self._last[0][going], self._last[1][going]
            self._left, self._right = self._left[:, going], self._right[:, going]
