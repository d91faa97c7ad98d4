"""Problems and the thetas they start from, checked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gflow.errors import ProblemError
from gflow.problem import ArrayLike, Problem


def pair_starts(
    problem: Problem | Sequence[Problem], theta0: ArrayLike
) -> tuple[list[Problem], list[Tensor], bool]:
    """Match problems and starts one to one; the flag says whether it is an ensemble.

    Raises
    ------
    ProblemError
        If their numbers differ, a start is not finite, or the problems do not go together.
    """
    problems = [problem] if isinstance(problem, Problem) else list(problem)
    if not problems or not all(isinstance(one, Problem) for one in problems):
        raise ProblemError("problem must be a Problem, or a list of them that is not empty.")
    starts = _finite_start(problems[0].theta(theta0))
    if isinstance(problem, Problem) and starts.ndim == 1:
        return problems, [starts], False
    rows = list(starts) if starts.ndim == 2 else [starts] * len(problems)
    problems = problems * len(rows) if len(problems) == 1 else problems
    if len(rows) != len(problems):
        raise ProblemError(f"there are {len(problems)} problems but {len(rows)} starts.")
    if len({(p.model.parameter_names, p.dtype, p.device) for p in problems}) > 1:
        raise ProblemError(
            "the problems of an ensemble need the same parameters, dtype and device."
        )
    return problems, rows, True


def one_start(problem: Problem, theta0: ArrayLike) -> Tensor:
    """The start (P,) of one problem.

    Raises
    ------
    ProblemError
        If it is not one, or there are several problems.
    """
    if not isinstance(problem, Problem):
        raise ProblemError("problem must be one Problem here; loop over several.")
    start = _finite_start(problem.theta(theta0))
    if start.ndim != 1:
        raise ProblemError("gradient descent starts from one theta (P,); loop over several.")
    return start


def _finite_start(theta: Tensor) -> Tensor:
    if not bool(torch.isfinite(theta).all()):
        raise ProblemError("theta0 is not finite; every entry must be a number.")
    return theta
