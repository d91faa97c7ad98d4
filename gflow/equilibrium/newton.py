"""Newton's iteration for z = f(z) on many samples, with backtracking and a fall-back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gflow.equilibrium.accelerators import Scheme
from gflow.equilibrium.linear import NUMBERS, RESTART, solve_linear

Map = Callable[[Tensor, Tensor], Tensor]
"""Points (K, m) and the indices of their samples (K,) to values (K, m)."""
Matrix = Callable[[Tensor, Tensor], Tensor]
"""The same to matrices (K, m, m)."""

DECREASE = 1e-4
"""Share of the decrease that Newton's linear model promises which a step must give (Armijo)."""
SHORTEST = 2.0**-8
"""A shorter step along Newton's direction is given up for half a step of z <- f(z)."""
FORCING = 1e-4
"""Relative residual of Newton's equation when GMRES solves it."""


class Newton(Scheme):
    """Steps t p with (I - J) p = f(z) - z, t halved until the largest gap falls.

    One pass evaluates a trial point of every sample: those that accept theirs get a new direction,
    the others a shorter step. Where the direction cannot be had or no step along it helps, half a
    step of z <- f(z) is taken without conditions.

    Parameters
    ----------
    function : callable
        The map f.
    jacobian : callable or None
        Its derivative, for LU; None to take forward differences.
    krylov : bool
        Solve by GMRES, products by differences, rather than LU.
    """

    def __init__(self, function: Map, jacobian: Matrix | None, *, krylov: bool) -> None:
        self._function, self._jacobian, self._krylov = function, jacobian, krylov
        self._state: tuple[Tensor, ...] | None = None

    def stuck(self, residual: Tensor, count: int) -> Tensor:
        """Only a start that is not finite; later the step is shortened."""
        return torch.isinf(residual) if count == 1 else torch.zeros_like(residual, dtype=torch.bool)

    def keep(self, going: Tensor) -> None:
        """Drop the others' anchors."""
        if self._state is not None:
            self._state = tuple(entry[going] for entry in self._state)

    def advance(self, z: Tensor, gap: Tensor, rows: Tensor) -> Tensor:
        """The next trial points."""
        size = gap.abs().amax(-1)
        if self._state is None:
            direction, forced = self._direction(z, gap, rows)
            self._state = z, gap, size, direction, torch.ones_like(size), forced
            return z + direction
        anchor, base, before, direction, length, forced = self._state
        accepted = torch.where(forced, size < torch.inf, size <= (1 - DECREASE * length) * before)
        length = torch.where(accepted, 1.0, 0.5 * length)
        moved = accepted[:, None]
        anchor, base = torch.where(moved, z, anchor), torch.where(moved, gap, base)
        before = torch.where(accepted, size, before)
        if bool(accepted.all()):
            direction, forced = self._direction(z, gap, rows)
        else:
            lost = (length < SHORTEST) & ~forced
            length = torch.where(lost, 1.0, length)
            direction, forced = torch.where(lost[:, None], 0.5 * base, direction), forced | lost
            found = self._direction(z[accepted], gap[accepted], rows[accepted])
            direction[accepted], forced[accepted] = found
        self._state = anchor, base, before, direction, length, forced
        return anchor + length[:, None] * direction

    def _direction(self, z: Tensor, gap: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Newton's direction, or half the gap and True where there is none."""
        solve = self._by_gmres if self._krylov else self._by_lu
        each = z.shape[1] * (2 * RESTART if self._krylov else z.shape[1])
        size = max(1, NUMBERS // each)
        parts = zip(*(torch.split(entry, size) for entry in (z, gap, rows)), strict=True)
        direction = torch.cat([solve(*part) for part in parts])
        failed = ~torch.isfinite(direction).all(-1)
        return torch.where(failed[:, None], 0.5 * gap, direction), failed

    def _by_lu(self, z: Tensor, gap: Tensor, rows: Tensor) -> Tensor:
        given = self._jacobian
        matrix = self._differences(z, gap, rows) if given is None else given(z, rows)
        direction, info = torch.linalg.solve_ex(torch.eye(z.shape[1]).to(z) - matrix, gap)
        return torch.where((info == 0)[:, None], direction, torch.nan)

    def _by_gmres(self, z: Tensor, gap: Tensor, rows: Tensor) -> Tensor:
        def product(vector: Tensor, some: Tensor) -> Tensor:
            point, length = z[some], vector.abs().amax(-1, keepdim=True)
            step = _step(point) / torch.where(length > 0, length, 1.0)
            ahead = self._function(point + step * vector, rows[some])
            return (ahead - point - gap[some]) / step

        found = solve_linear(
            product, gap, method="gmres", tolerance=FORCING, max_iterations=2 * RESTART
        )
        useful = found.residual < 1.0  # else it is no direction of descent
        return torch.where(useful[:, None], found.solution, torch.nan)

    def _differences(self, z: Tensor, gap: Tensor, rows: Tensor) -> Tensor:
        """df/dz (K, m, m) by forward differences, in one call of f on K m points."""
        count, size = z.shape
        step = _step(z)
        points = z[:, None, :] + step[..., None] * torch.eye(size).to(z)
        ahead = self._function(points.reshape(-1, size), rows.repeat_interleave(size))
        change = ahead.reshape(count, size, size) - (z + gap)[:, None, :]
        return change.mT / step[..., None]


def _step(z: Tensor) -> Tensor:
    """Length (K, 1) of a forward difference."""
    root: Tensor = torch.finfo(z.dtype).eps ** 0.5 * (1.0 + z.abs().amax(-1, keepdim=True))
    return root
