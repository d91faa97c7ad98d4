"""Gauges of trajectories at points that follow each other, each look begun from the last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from gflow.diagnostics.pointwise import POINTWISE
from gflow.diagnostics.rows import followed, row_parts
from gflow.diagnostics.spectrum import forms_hessians, sharpness_at
from gflow.models.base import Equilibrium
from gflow.problem import CHUNK, Problem


@dataclass(frozen=True)
class Look:
    """What is seen at points of some trajectories, a row each.

    Attributes
    ----------
    theta : Tensor, shape (K, P)
    values : Tensor, shape (K, M)
        Of the measures; NaN where they are not known.
    warm : Tensor, shape (K, ...)
        The equilibria's warm start.
    vectors : Tensor, shape (K, P)
        Eigenvectors of the sharpness where it was found by products, else NaN.
    """

    theta: Tensor
    values: Tensor
    warm: Tensor
    vectors: Tensor

    def select(self, rows: Any) -> Look:
        """Some of the rows."""
        return Look(*(getattr(self, field.name)[rows] for field in fields(self)))

    def put(self, rows: Tensor, other: Look) -> None:
        """Put another look's rows in the place of some; values that it does not know stay."""
        known = torch.where(other.values.isnan(), self.values[rows], other.values)
        self.theta[rows], self.values[rows] = other.theta, known
        self.warm[rows], self.vectors[rows] = other.warm, other.vectors

    def of_size(self, size: int) -> Look:
        """A table of so many rows, all unknown."""
        found = (getattr(self, field.name) for field in fields(self))
        return Look(*(one.new_full((size, *one.shape[1:]), torch.nan) for one in found))

    def copy(self) -> dict[str, Tensor]:
        """Copies of the attributes by name."""
        return {field.name: getattr(self, field.name).clone() for field in fields(self)}


class Gauges:
    """Some measures of a problem, or of a stack of problems.

    Parameters
    ----------
    problem : Problem
        Row i is trajectory i's.
    names : sequence of str
        Keys of :data:`gflow.diagnostics.pointwise.POINTWISE`, and ``sharpness``.
    """

    def __init__(self, problem: Problem, names: Sequence[str]) -> None:
        self.problem, self.names = problem, tuple(names)

    def look(
        self, theta: Tensor, rows: Tensor, before: Look | None, names: Sequence[str] | None = None
    ) -> Look:
        """What is seen at points (K, P) of the trajectories (K,), those of one in their order.

        Parameters
        ----------
        theta : Tensor, shape (K, P)
        rows : Tensor of int, shape (K,)
        before : Look or None
            The looks before (K,), from which equilibria and eigenvectors are followed.
        names : sequence of str, optional
            Some of the measures; by default all.
        """
        names = self.names if names is None else names
        looks: list[Look] = []
        latest: dict[int, Look] = {}
        for part, solved, begin, owner in self._equilibria(theta, rows, before, names, latest):
            looks.append(_seen(part, solved, begin, names))
            if len(solved.valid) == 1 and bool(solved.valid):
                latest[owner] = looks[-1]
        return Look(*(torch.cat([getattr(one, f.name) for one in looks]) for f in fields(Look)))

    def _equilibria(
        self,
        theta: Tensor,
        rows: Tensor,
        before: Look | None,
        names: Sequence[str],
        latest: Mapping[int, Look],
    ) -> Iterator[tuple[Problem, Equilibrium, Look | None, int]]:
        """Parts of the points with their equilibria, the looks before, and the last one's owner.

        Of one point, with the latest look at its trajectory, where each is to begin there.
        """
        spectral = "sharpness" in names
        by_products = spectral and not forms_hessians(self.problem)
        cost = CHUNK if by_products else theta.shape[-1] if spectral else 1
        seen = 0
        for part, points in row_parts(self.problem, theta, rows, cost):
            owners = rows[seen : seen + len(points)].tolist()
            begin = None if before is None else before.select(slice(seen, seen + len(points)))
            seen += len(points)
            if begin is None:
                yield part, part.model.equilibrium(points, part.x), None, owners[-1]
            elif not by_products and not bool(part.model.followed(points).any()):
                yield part, part.model.equilibrium(points, part.x, begin.warm), begin, owners[-1]
            else:
                for row, owner in enumerate(owners):
                    one = part.select(torch.tensor([row], device=theta.device))
                    last = latest.get(owner, begin.select(slice(row, row + 1)))
                    solved = followed(one, last.theta, last.warm, points[row : row + 1])
                    yield one, solved, last, owner


def _seen(part: Problem, solved: Equilibrium, before: Look | None, names: Sequence[str]) -> Look:
    """What is seen at solved equilibria."""
    vectors = torch.full_like(solved.theta, torch.nan) if before is None else before.vectors
    columns = []
    for name in names:
        if name == "sharpness":
            column, vectors = sharpness_at(part, solved, vectors)
        else:
            column = POINTWISE[name](part, solved)
        columns.append(torch.where(solved.valid, column, torch.nan))
    warm, valid = solved.preactivation, solved.valid
    if before is not None:
        warm = torch.where(valid.reshape(-1, *(1 for _ in warm.shape[1:])), warm, before.warm)
    return Look(solved.theta, torch.stack(columns, dim=-1), warm, vectors)
