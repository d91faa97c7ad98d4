"""Batches whose rows may belong to different problems, in parts of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gflow.flows import Flow
from gflow.flows.point import Point
from gflow.models.base import Equilibrium
from gflow.problem import CHUNK, Problem


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
    problem: Problem, theta: Tensor, rows: Tensor, cost: int = 1
) -> Iterator[tuple[Problem, Equilibrium]]:
    """The same with the equilibria solved; NaN where lost.

    Thetas are taken as points of runs, in their order: where one may have several equilibria, it is
    followed from the run's point before.
    """
    before = _Before()
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
            point = points[row : row + 1]
            solved = one.model.equilibrium(point, one.x, before.of(owner))
            before.keep(owner, solved)
            yield one, solved


class _Before:
    """The last equilibrium of a run that was reached."""

    def __init__(self) -> None:
        self._owner, self._warm = -1, torch.empty(0)

    def of(self, owner: int) -> Tensor | None:
        """The warm start of a run's next point."""
        return self._warm if owner == self._owner else None

    def keep(self, owner: int, solved: Equilibrium) -> None:
        """Remember a run's last point, unless it has no equilibrium."""
        if bool(solved.valid[-1]):
            self._owner, self._warm = owner, solved.preactivation[-1:]


def row_dissipation(flow: Flow, problem: Problem, states: Tensor, rows: Tensor) -> Tensor:
    """The rate (K,) at which each row's loss falls along the flow."""
    theta, found, seen = states[..., : problem.n_parameters], [], 0
    for part, solved in row_equilibria(problem, theta, rows, flow.cost(problem)):
        here = states[seen : seen + len(solved.theta)]
        point = Point(part, solved.theta, flow.weight_decay, solved)
        found.append(flow.dissipation(point, here))
        seen += len(here)
    return torch.cat(found)
