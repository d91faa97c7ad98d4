"""Batches whose rows may belong to different problems, in parts of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from gflow.flows import Flow
from gflow.flows.point import Point
from gflow.models.base import Equilibrium
from gflow.problem import CHUNK, Problem

STEPS = 4
"""Into how many the way from one point of a run to the next is cut to follow an equilibrium."""


def row_parts(
    problem: Problem, theta: Tensor, rows: Tensor, cost: int = 1
) -> Iterator[tuple[Problem, Tensor]]:
    """Parts of a batch, each with the problem of its rows.

    Parameters
    ----------
    problem : Problem
        A stack of problems, or the one of all rows.
    theta : Tensor, shape (K, P)
    rows : Tensor of int, shape (K,)
        The stack's row that each theta belongs to.
    cost : int
        What is to be formed, in numbers for each of the problem's width.
    """
    copied = problem.model.dim if problem.own_inputs else 0
    size = max(1, CHUNK // (problem.width * (cost + copied)))
    for part, chosen in zip(torch.split(theta, size), torch.split(rows, size), strict=True):
        yield problem.select(chosen), part


def row_equilibria(
    problem: Problem,
    theta: Tensor,
    rows: Tensor,
    cost: int = 1,
    jumps: bool = False,
    before: Before | None = None,
) -> Iterator[tuple[Problem, Equilibrium]]:
    """The same with the equilibria solved; NaN where lost.

    Thetas are taken as points of runs, in their order: where one may have several equilibria, it is
    followed from the run's point before. The runs of gradient descent may jump between branches.
    """
    before = before or Before(jumps)
    seen = 0
    for part, points in row_parts(problem, theta, rows, cost):
        owners = rows[seen : seen + len(points)]
        seen += len(points)
        if not bool(part.model.followed(points).any()):
            solved = part.model.equilibrium(points, part.x)
            before.keep(int(owners[-1]), solved)
            yield part, solved
            continue
        for row, owner in enumerate(owners.tolist()):
            one = part.select(torch.tensor([row], device=theta.device))
            solved = before.follow(one, points[row : row + 1], owner)
            before.keep(owner, solved)
            yield one, solved


class Before:
    """The last equilibrium of a run that was reached, from which the next ones are.

    Parameters
    ----------
    jumps : bool
        Whether the run may jump between branches, as descents may.
    """

    def __init__(self, jumps: bool) -> None:
        self._jumps, self._owner = jumps, -1
        self._last: tuple[Tensor, Tensor] | None = None

    def follow(self, problem: Problem, theta: Tensor, owner: int) -> Equilibrium:
        """The equilibrium at theta (1, P) on the branch of the run's last."""
        if owner != self._owner or self._last is None:
            return problem.model.equilibrium(theta, problem.x)
        if self._jumps:
            return problem.model.equilibrium(theta, problem.x, self._last[1])
        return followed(problem, *self._last, theta)

    def keep(self, owner: int, solved: Equilibrium) -> None:
        """Remember a run's last point, unless it has no equilibrium."""
        if bool(solved.valid[-1]):
            self._owner, self._last = owner, (solved.theta[-1:], solved.preactivation[-1:])


def followed(problem: Problem, start: Tensor, warm: Tensor, theta: Tensor) -> Equilibrium:
    """The equilibrium at theta (1, P) that continues one at `start`, in steps if one misses it."""
    solved, found = _continued(problem, theta, warm)
    if found or not bool(torch.isfinite(theta).all()):
        return solved
    for step in range(1, STEPS + 1):
        between = theta if step == STEPS else torch.lerp(start, theta, step / STEPS)
        solved, found = _continued(problem, between, warm)
        if not found:
            break
        warm = solved.preactivation
    return solved if found else replace(solved, valid=torch.zeros_like(solved.valid))


def _continued(problem: Problem, theta: Tensor, warm: Tensor) -> tuple[Equilibrium, bool]:
    """The equilibrium at theta (1, P) from a warm start, and whether it is on the same branch."""
    solved = problem.model.equilibrium(theta, problem.x, warm)
    continued = problem.model.continued(solved, warm)
    return solved, bool(solved.valid) and (continued is None or bool(continued))


def row_dissipation(flow: Flow, problem: Problem, states: Tensor, rows: Tensor) -> Tensor:
    """The rate (K,) at which each row's loss falls along the flow."""
    theta, found, seen = states[..., : problem.n_parameters], [], 0
    for part, solved in row_equilibria(problem, theta, rows, flow.cost(problem)):
        here = states[seen : seen + len(solved.theta)]
        point = Point(part, solved.theta, flow.weight_decay, solved)
        found.append(flow.dissipation(point, here))
        seen += len(here)
    return torch.cat(found)
