"""Batches whose rows may belong to different problems, in parts of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

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
    """The same with the equilibria solved; NaN where lost."""
    for part, points in row_parts(problem, theta, rows, cost):
        yield part, part.model.equilibrium(points, part.x)


def row_dissipation(problem: Problem, theta: Tensor, rows: Tensor) -> Tensor:
    """The dissipation (K,) of each row's problem."""
    found = [part.dissipation(points) for part, points in row_parts(problem, theta, rows)]
    return torch.cat(found)
