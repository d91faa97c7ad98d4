"""Linear systems (I - J) v = r of many samples at once, each with its own convergence.

J is given by its products, by its matrix, or both. ``gmres`` is the adaptive simpler GMRES of
P. Jiranek, M. Rozloznik and M. H. Gutknecht, SIAM J. Matrix Anal. Appl. 30 (2008) 1483, after
H. F. Walker and L. Zhou, Numer. Linear Algebra Appl. 1 (1994) 571: no rotations, so that every
operation is a batched product. SciPy's GMRES takes one system at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gflow.equilibrium.slots import combination, inner_products
from gflow.errors import ProblemError

Product = Callable[[Tensor, Tensor], Tensor]
"""Vectors (K, m) and the indices of their samples (K,) to J v (K, m)."""

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6}
METHODS = ("direct", "gmres", "fixed_point", "auto")

SWEEP_FROM = 32
"""From this size m on, `auto` begins with ``fixed_point``, as long as it promises to converge
within m sweeps, which cost what LU does: 1,797 systems of m = 64 take 1.4 ms a sweep, 130 ms by LU
and 20 ms a step of GMRES, on one core."""
GMRES_FROM = 256
"""From this size on, `auto` prefers GMRES to LU: 300 systems that take it 25 steps take 0.20 s
instead of 0.45 s; at m = 64 LU is three times as fast."""
DIRECT_UP_TO = 1024
"""The largest size at which `auto` forms matrices where nothing else converged."""

RESTART = 50
"""Directions that GMRES keeps; at sizes up to this it is the full method."""
NUMBERS = 2**22
"""Numbers of the (K, m, m) matrices that are formed at once."""
KEPT = 0.5
"""A vector that lost more than this by orthogonalisation is made orthogonal once more."""
FALL = 0.8
"""A residual that fell below this share of the last one is the better basis vector; [nu] there."""


@dataclass(frozen=True)
class LinearSolution:
    """Where N linear solves ended.

    Attributes
    ----------
    solution : Tensor, shape (N, m)
    residual : Tensor, shape (N,)
        norm((I - J) v - r) / norm(r), evaluated at the solution: never a recursion's estimate.
    converged : Tensor of bool, shape (N,)
        Whether norm((I - J) v - r) <= tolerance (norm(r) + norm(v)); rounding v leaves as much.
    iterations : Tensor of int64, shape (N,)
        Products with J that the solution took; 0 for ``direct``.
    """

    solution: Tensor
    residual: Tensor
    converged: Tensor
    iterations: Tensor


@torch.no_grad()
def solve_linear(
    product: Product,
    right: Tensor,
    *,
    method: str = "auto",
    matrix: Tensor | Callable[[Tensor], Tensor] | None = None,
    tolerance: float | None = None,
    max_iterations: int = 200,
    start: Tensor | None = None,
) -> LinearSolution:
    """Solve (I - J) v = r for every row of `right`.

    Parameters
    ----------
    product : callable
        Maps vectors (K, m) and the indices of their samples (K,) to J v (K, m).
    right : Tensor, shape (N, m)
    method : str
        ``direct`` (batched LU), ``gmres``, ``fixed_point`` (v <- J v + r, which converges where the
        spectral radius of J is below 1) or ``auto``: LU at small sizes, else the fixed point as
        long as that is fast, then GMRES at large sizes, and LU.
    matrix : Tensor of shape (N, m, m), or callable, optional
        J, or what maps indices (K,) to J (K, m, m); else LU forms it from m products.
    tolerance : float, optional
        1e-13 in float64 and 1e-6 in float32 unless given.
    max_iterations : int
        Largest number of products, per sample.
    start : Tensor, shape (N, m), optional
        First guess; 0 unless given.

    Returns
    -------
    LinearSolution
        Failures are marked, never raised.

    Raises
    ------
    ProblemError
        If the method is unknown, or `right` is no floating-point matrix.
    """
    if method not in METHODS:
        raise ProblemError(f'linear solver is "{method}"; it must be one of {", ".join(METHODS)}.')
    if right.ndim != 2 or right.dtype not in TOLERANCE:
        raise ProblemError(
            f"right has shape {tuple(right.shape)} and dtype {right.dtype}; linear systems are "
            "solved for a (samples, size) matrix of float64 or float32."
        )
    tolerance = TOLERANCE[right.dtype] if tolerance is None else tolerance
    systems = _Systems(product, right, matrix, tolerance, start)
    if method == "auto":
        _auto(systems, right.shape[1], max_iterations)
    elif method == "direct":
        systems.direct()
    else:
        (systems.gmres if method == "gmres" else systems.sweep)(max_iterations)
    return systems.result()


def _auto(systems: _Systems, size: int, limit: int) -> None:
    if size >= SWEEP_FROM:
        systems.sweep(limit // 2, patience=size)
    if size >= GMRES_FROM:
        systems.gmres(limit)
    if size <= DIRECT_UP_TO:
        systems.direct()


class _Systems:
    """The solutions so far, and what improves those that have not converged."""

    def __init__(
        self,
        product: Product,
        right: Tensor,
        matrix: Tensor | Callable[[Tensor], Tensor] | None,
        tolerance: float,
        start: Tensor | None,
    ) -> None:
        self._product, self._matrix, self._tolerance = product, matrix, tolerance
        self.right = right.detach()
        self._size = torch.linalg.vector_norm(self.right, dim=-1)
        count = len(right)
        self.rows = torch.arange(count, device=right.device)
        self.iterations = torch.zeros(count, dtype=torch.int64, device=right.device)
        self.solution = torch.zeros_like(right) if start is None else start.detach().clone()
        self._left = self.right if start is None else self._defect(self.solution, self.rows)

    def _defect(self, v: Tensor, rows: Tensor) -> Tensor:
        return self.right[rows] - v + self._product(v, rows)

    def _allowed(self, v: Tensor, rows: Tensor) -> Tensor:
        scale: Tensor = self._size[rows] + torch.linalg.vector_norm(v, dim=-1)
        return self._tolerance * scale

    def _open(self) -> Tensor:
        """Indices of the samples whose defect is too large, and that can be solved at all."""
        defect = torch.linalg.vector_norm(self._left, dim=-1)
        done = defect <= self._allowed(self.solution, self.rows)
        return self.rows[~done & torch.isfinite(self._size)]

    def result(self) -> LinearSolution:
        """With the defects as they are at the solutions."""
        defect = torch.linalg.vector_norm(self._left, dim=-1)
        residual = torch.where(defect == 0, 0.0, defect / self._size)
        converged = defect <= self._allowed(self.solution, self.rows)
        return LinearSolution(self.solution, residual, converged, self.iterations)

    def _store(self, v: Tensor, rows: Tensor) -> None:
        self.solution[rows] = v
        if self._left is self.right:
            self._left = self.right.clone()
        self._left[rows] = self._defect(v, rows)

    def direct(self) -> None:
        """LU of the open samples, in chunks of bounded memory."""
        size = self.right.shape[1]
        identity = torch.eye(size).to(self.right)
        for rows in torch.split(self._open(), max(1, NUMBERS // size**2)):
            system = identity - self._dense(rows, identity)
            v, info = torch.linalg.solve_ex(system, self.right[rows])
            self._store(torch.where((info == 0)[:, None], v, torch.nan), rows)

    def _dense(self, rows: Tensor, identity: Tensor) -> Tensor:
        if isinstance(self._matrix, Tensor):
            return self._matrix[rows]
        if self._matrix is not None:
            return self._matrix(rows)
        size, count = len(identity), len(rows)
        columns = self._product(identity.repeat(count, 1), rows.repeat_interleave(size))
        return columns.reshape(count, size, size).mT

    def sweep(self, limit: int, patience: float = math.inf) -> None:
        """v <- J v + r, while no more than `patience` further sweeps are predicted."""
        rows, before = self._open(), None
        for _ in range(limit):
            if not len(rows):
                return
            self._store(self.solution[rows] + self._left[rows], rows)
            self.iterations[rows] += 1
            defect = torch.linalg.vector_norm(self._left[rows], dim=-1)
            allowed = self._allowed(self.solution[rows], rows)
            going = ~(defect <= allowed) & torch.isfinite(defect)
            if before is not None and patience < math.inf:
                going &= torch.log(defect / before) * patience <= torch.log(allowed / defect)
            rows, before = rows[going], defect[going]

    def gmres(self, limit: int) -> None:
        """Cycles from the true defect, as long as each at least halves it."""
        rows = self._open()
        while len(rows):
            before = torch.linalg.vector_norm(self._left[rows], dim=-1)
            spent = self.iterations[rows]
            length = min(RESTART, self.right.shape[1], limit - int(spent.max()))
            if length < 1:
                return
            self._cycle(rows, length)
            after = torch.linalg.vector_norm(self._left[rows], dim=-1)
            helped = after <= 0.5 * before
            still = ~(after <= self._allowed(self.solution[rows], rows))
            rows = rows[helped & still]

    def _cycle(self, rows: Tensor, length: int) -> None:
        """One cycle: directions P and their images Q = (I - J) P, orthonormal."""
        v, defect = self.solution[rows], self._left[rows]
        directions, images = v.new_zeros(length, *v.shape), v.new_zeros(length, *v.shape)
        size = torch.linalg.vector_norm(defect, dim=-1, keepdim=True)
        basis = defect / size
        for k in range(length):
            image = basis - self._product(basis, rows)
            p, q, good = _orthonormal(basis, image, directions[:k], images[:k])
            share = (q * defect).sum(-1, keepdim=True)
            v, defect = v + share * p, defect - share * q
            before, size = size, torch.linalg.vector_norm(defect, dim=-1, keepdim=True)
            self.iterations[rows] += 1
            going = good & (size[:, 0] > 0.5 * self._allowed(v, rows))
            if k + 1 == length or not bool(going.any()):
                break
            if not bool(going.all()):
                self._leave(v[~going], rows[~going])
                rows, v, defect, p, q = rows[going], v[going], defect[going], p[going], q[going]
                before, size = before[going], size[going]
                directions, images = directions[:, going], images[:, going]
            directions[k], images[k] = p, q
            basis = torch.where(size <= FALL * before, defect / size, q)
        self._leave(v, rows)

    def _leave(self, v: Tensor, rows: Tensor) -> None:
        """Keep a cycle's result where it is finite."""
        finite = torch.isfinite(v).all(-1)
        self._store(v[finite], rows[finite])


def _orthonormal(
    basis: Tensor, image: Tensor, directions: Tensor, images: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The image made orthonormal to the others, and its direction with it."""
    whole = size = torch.linalg.vector_norm(image, dim=-1)
    p, q = basis, image
    for _ in range(2 if len(images) else 0):
        inner = inner_products(images, q)
        p, q = p - combination(inner, directions), q - combination(inner, images)
        before, size = size, torch.linalg.vector_norm(q, dim=-1)
        if bool((size > KEPT * before).all()):
            break
    good = size > 10 * torch.finfo(q.dtype).eps * whole
    scale = torch.where(good, 1.0 / size, 0.0)[:, None]
    return p * scale, q * scale, good
