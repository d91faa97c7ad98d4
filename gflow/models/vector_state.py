"""The fixed-point map of a vector DEQ on rows of samples, and its solved equilibrium."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gflow.models.activations import Activation
from gflow.models.base import Equilibrium
from gflow.models.vector_layout import Blocks

NUMBERS = 2**23
"""Numbers of the matrices I - J (n, m, m) that are kept; beyond, they are formed in chunks."""


def times(matrix: Tensor, vectors: Tensor, rows: Tensor | None, count: int) -> Tensor:
    """The matrix of each vector's theta times the vector, (K, m).

    Parameters
    ----------
    matrix : Tensor, shape (m, m) or (B, m, m)
    vectors : Tensor, shape (K, m)
    rows : Tensor or None, shape (K,)
        Sample i of theta j is row j count + i; None for all of them in order.
    count : int
        Samples n of each theta.
    """
    if matrix.ndim == 2:
        return vectors @ matrix.mT
    size, total = matrix.shape[-1], len(matrix) * count
    if rows is None or len(rows) == total:
        return (vectors.reshape(-1, count, size) @ matrix.mT).reshape(-1, size)
    if len(rows) * size <= total:
        return (matrix[rows // count] @ vectors[..., None])[..., 0]
    scattered = vectors.new_zeros(total, size)
    scattered[rows] = vectors
    return (scattered.reshape(-1, count, size) @ matrix.mT).reshape(-1, size)[rows]


class FixedPointMap:
    """z -> sigma(W z + drive) for the rows of all samples of all thetas.

    Parameters
    ----------
    weights : Tensor, shape (m, m) or (B, m, m)
    drive : Tensor, shape (n, m) or (B, n, m)
    activation : Activation
    """

    def __init__(self, weights: Tensor, drive: Tensor, activation: Activation) -> None:
        self.weights, self.activation, self.count = weights, activation, drive.shape[-2]
        self.drive = drive.reshape(-1, drive.shape[-1])

    def preactivation(self, z: Tensor, rows: Tensor) -> Tensor:
        """s = W z + drive."""
        drive = self.drive if len(rows) == len(self.drive) else self.drive[rows]
        return times(self.weights, z, rows, self.count) + drive

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        """sigma(s)."""
        return self.activation(self.preactivation(z, rows))

    def jacobian(self, z: Tensor, rows: Tensor) -> Tensor:
        """diag(sigma'(s)) W, shape (K, m, m)."""
        slope = self.activation.jet(self.preactivation(z, rows), 1)[1]
        weights = self.weights if self.weights.ndim == 2 else self.weights[rows // self.count]
        return slope[..., None] * weights


@dataclass(frozen=True)
class Factors:
    """LU of I - J, one for each sample, or for all samples of a theta alike.

    Attributes
    ----------
    lu : Tensor, shape (..., n, m, m) or (..., 1, m, m)
    pivots : Tensor of int32, shape (..., n, m) or (..., 1, m)
    """

    lu: Tensor
    pivots: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Factors:
        """Factorise; singular matrices give solutions that are not finite."""
        lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        return cls(lu, pivots)

    def solve(self, right: Tensor, transpose: bool) -> Tensor:
        """Solutions for right-hand sides (e, ..., n, m) or (..., n, m), e of them at once."""
        extra = right.ndim - (self.lu.ndim - 1)
        columns = right.movedim(0, -1) if extra else right[..., None]
        if self.lu.shape[-3] == 1:  # shared: the samples are columns too
            wide = columns.movedim(-3, -1).flatten(-2)
            solved: Tensor = torch.linalg.lu_solve(
                self.lu[..., 0, :, :], self.pivots[..., 0, :], wide, adjoint=transpose
            )
            columns = solved.reshape(*solved.shape[:-1], -1, right.shape[-2]).movedim(-1, -3)
        else:
            columns = torch.linalg.lu_solve(self.lu, self.pivots, columns, adjoint=transpose)
        solution: Tensor = columns.movedim(-1, 0) if extra else columns.squeeze(-1)
        return solution

    def sign(self) -> Tensor:
        """The sign of each determinant, (..., n) or (..., 1); 0 if singular, NaN if not finite."""
        order = torch.arange(1, self.lu.shape[-1] + 1).to(self.pivots)
        swaps = (self.pivots != order).sum(-1)
        signs: Tensor = self.lu.diagonal(dim1=-2, dim2=-1).sign().prod(-1)
        return signs.mul(1 - 2 * (swaps % 2))


@dataclass
class Workspace:
    """What was worked out at an equilibrium and may be wanted again.

    Attributes
    ----------
    factors : Factors, optional
    adjoints : dict
        Cotangent and adjoint by the name of the backward.
    adjoint_residual : Tensor, optional, shape (...)
        Largest relative residual of the adjoint equations that were solved, over the samples.
    """

    factors: Factors | None = None
    adjoints: dict[str, tuple[Tensor, list[Tensor]]] = field(default_factory=dict)
    adjoint_residual: Tensor | None = None


@dataclass(frozen=True)
class VectorEquilibrium(Equilibrium):
    """Equilibria z of all samples; ``preactivation``, the warm start, holds z itself.

    Attributes
    ----------
    blocks : Blocks
    activated : Tensor, shape (..., n, m)
        s = W z + U x + b.
    gap : Tensor, shape (..., n)
        max |z - sigma(s)| of each sample.
    workspace : Workspace
    """

    blocks: Blocks
    activated: Tensor
    gap: Tensor
    workspace: Workspace

    @property
    def z(self) -> Tensor:
        """The equilibria (..., n, m)."""
        return self.preactivation


def lost_rows(solved: VectorEquilibrium, reached: Tensor, sign: Tensor) -> list[tuple[Tensor, str]]:
    """Each theta without a valid equilibrium, and the sentence that names its worst sample.

    `reached` (..., n) tells which samples did, `sign` (...) the smallest sign of det(I - J).
    """
    count, size = reached.shape[-1], solved.theta.shape[-1]
    rows = zip(
        solved.theta.reshape(-1, size),
        reached.reshape(-1, count),
        solved.gap.reshape(-1, count),
        sign.reshape(-1),
        strict=True,
    )
    return [
        (theta.clone(), _sentence(there, gap, float(det)))
        for theta, there, gap, det in rows
        if not (bool(there.all()) and det > 0)
    ]


def _sentence(reached: Tensor, gap: Tensor, sign: float) -> str:
    if bool(reached.all()):
        return (
            f"det(I - J) is {'negative' if sign < 0 else 'zero'} at a sample: the equilibrium "
            "found there is on no branch that begins at W = 0"
        )
    worst = int(torch.nan_to_num(gap, nan=torch.inf).argmax())
    return (
        f"{int((~reached).sum())} of {len(reached)} samples did not reach a fixed point, the worst "
        f"sample {worst} with a residual of {float(gap[worst]):.2g}"
    )
