"""Problems of one shape evaluated together: row i of a batch belongs to problem i."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from gflow.compiled.inputs import OwnInputs
from gflow.problem import CHUNK, Problem


class ProblemStack(Problem):
    """Problems that differ in data or activation, one for each row of theta (B, P).

    Inputs have shape (B, n, d), or (n, d) where all share them; targets (B, n, ...). What takes a
    batch takes it here row by row of problems; :meth:`select` gives the stack of some rows.

    Parameters
    ----------
    problems : sequence of Problem
        Such as :func:`group_problems` puts together.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        self.model = first.model.stack([problem.model for problem in problems], first.x)
        self.loss_function, self.backward = first.loss_function, first.backward
        self.dtype, self.device = first.dtype, first.device
        self.theta_target = None
        shared = all(torch.equal(problem.x, first.x) for problem in problems[1:])
        self.inputs = first.x if shared else OwnInputs([problem.x for problem in problems])
        self.y = torch.stack([problem.y for problem in problems])

    def select(self, rows: Tensor) -> Problem:
        """The stack of some rows (K,)."""
        part = copy.copy(self)
        part.model = self.model.select(rows)
        if isinstance(self.inputs, OwnInputs):
            part.inputs = self.inputs.select(rows)
        part.y = self.y[rows]
        return part


def group_problems(problems: Sequence[Problem]) -> list[tuple[list[int], Problem]]:
    """Which problems can be evaluated together, and what evaluates them.

    Parameters
    ----------
    problems : sequence of Problem
        One a trajectory; the same object may come many times.

    Returns
    -------
    list of (indices, problem)
        Groups of bounded memory (:data:`gflow.problem.CHUNK` numbers a quantity); `problem` is the
        one that all share or a :class:`ProblemStack`.
    """
    by_key: dict[object, list[int]] = {}
    for index, problem in enumerate(problems):
        by_key.setdefault(_key(problem), []).append(index)
    groups: list[tuple[list[int], Problem]] = []
    for indices in by_key.values():
        size = max(1, CHUNK // problems[indices[0]].width)
        for start in range(0, len(indices), size):
            chosen = indices[start : start + size]
            members = [problems[index] for index in chosen]
            alike = all(member is members[0] for member in members)
            groups.append((chosen, members[0] if alike else ProblemStack(members)))
    return groups


def _key(problem: Problem) -> object:
    loss = problem.loss_function
    return (
        problem.model.family,
        loss.name if loss.stackable else problem,
        problem.n_samples,
        problem.backward,
        problem.dtype,
        problem.device,
    )
