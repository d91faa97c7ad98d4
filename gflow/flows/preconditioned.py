"""The gradient flow in a fixed metric, such as one with time scales of its own for each block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from gflow.errors import ProblemError
from gflow.flows.base import Flow, check_number
from gflow.flows.point import Point
from gflow.problem import Problem
from gflow.wording import did_you_mean


@dataclass(frozen=True, eq=False)
class Preconditioned(Flow):
    """dtheta/dt = -M g with a fixed symmetric positive definite M.

    Its Jacobian -M H is not symmetric, but for the exact backward similar to the symmetric
    -M^1/2 H M^1/2: its eigenvalues are real. The discrete counterpart is theta - eta M g, which
    agrees to first order in eta.

    Parameters
    ----------
    matrix : array or mapping
        M (P, P), or its diagonal (P,); or the rates of blocks of parameters, dtheta_B/dt =
        -rate_B g_B, those not named having the rate 1. A block is a parameter's name up to its
        first bracket, such as ``theta1`` or ``W``.
    """

    matrix: Any

    form: ClassVar[str] = "scaled:BLOCK=RATE,..., every RATE > 0"

    def __post_init__(self) -> None:
        """Check the matrix, or the rates.

        Raises
        ------
        ProblemError
            If it is not symmetric and positive definite, or they are not positive.
        """
        super().__post_init__()
        if isinstance(self.matrix, Mapping):
            for block, rate in self.matrix.items():
                check_number(f"the rate of {block}", rate)
        else:
            object.__setattr__(self, "matrix", _checked(self.matrix))

    @classmethod
    def read(cls, arguments: str) -> Self:
        """The rates of blocks."""
        pairs = [part.split("=") for part in arguments.split(",")]
        rates = {block.strip(): float(rate) for block, rate in pairs}
        if len(rates) < len(pairs):
            raise ValueError(arguments)
        return cls(rates)

    @property
    def name(self) -> str:
        """As it is written, ``preconditioned`` for a matrix."""
        if not isinstance(self.matrix, Mapping):
            return "preconditioned"
        rates = (f"{block}={rate:.12g}" for block, rate in self.matrix.items())
        return f"scaled:{','.join(rates)}"

    def on(self, problem: Problem) -> Flow:
        """With the matrix on the problem's device.

        Raises
        ------
        ProblemError
            If there is no such block, or the matrix has another size.
        """
        size = problem.n_parameters
        if isinstance(self.matrix, Mapping):
            return replace(self, matrix=_diagonal(self.matrix, problem))
        if self.matrix.shape[0] != size:
            shape = tuple(self.matrix.shape)
            raise ProblemError(
                f"the matrix of a preconditioned flow has shape {shape}; the problem has {size} "
                f"parameters, so it must be ({size}, {size}) or ({size},)."
            )
        here = self.matrix.to(dtype=problem.dtype, device=problem.device)
        return self if here is self.matrix else replace(self, matrix=here)

    def symmetric(self, problem: Problem) -> bool:
        """Where M is a multiple of the identity."""
        diagonal = self.matrix if self.matrix.ndim == 1 else self.matrix.diagonal()
        uniform = bool((diagonal == diagonal[0]).all())
        return problem.backward.exact and uniform and self.matrix.count_nonzero() == len(diagonal)

    def rate(self, point: Point, t: Any, state: Tensor) -> Tensor:
        """-M g."""
        return -self._times(point.gradient)

    def jacobian(self, point: Point, t: Any, state: Tensor) -> Tensor:
        """-M H."""
        return -self._times(point.jacobian().mT).mT

    def jvp(self, point: Point, t: Any, state: Tensor, vector: Tensor) -> Tensor:
        """-M H v."""
        return -self._times(point.jvp(vector))

    def _times(self, vectors: Tensor) -> Tensor:
        """M times each of the vectors (..., P)."""
        found: Tensor = vectors * self.matrix if self.matrix.ndim == 1 else vectors @ self.matrix
        return found


def blocks(names: Iterable[str]) -> list[str]:
    """The block of each parameter: its name up to the first bracket."""
    return [name.partition("[")[0] for name in names]


def _diagonal(rates: Mapping[str, float], problem: Problem) -> Tensor:
    known = blocks(problem.model.parameter_names)
    for block in rates:
        if block not in known:
            hint = did_you_mean(block, known)
            raise ProblemError(f'"{block}" is no block of the parameters{hint}')
    diagonal = [rates.get(block, 1.0) for block in known]
    return torch.tensor(diagonal, dtype=problem.dtype, device=problem.device)


def _checked(matrix: Any) -> Tensor:
    try:
        given = matrix if isinstance(matrix, Tensor) else np.asarray(matrix, dtype=np.float64)
        found = torch.as_tensor(given).detach().clone()
    except (TypeError, ValueError) as error:
        raise ProblemError(f"matrix cannot be read as an array of numbers: {error}.") from None
    if found.ndim == 1 and len(found) and bool(((found > 0) & (found < torch.inf)).all()):
        return found
    square = found.ndim == 2 and found.shape[0] == found.shape[1] > 0
    if square and torch.allclose(found, found.mT) and int(torch.linalg.cholesky_ex(found)[1]) == 0:
        return found
    raise ProblemError(
        f"matrix has shape {tuple(found.shape)}; it must be symmetric and positive definite, or a "
        "vector of positive numbers, its diagonal."
    )
