"""The outermost eigenvalues of a symmetric operator that is known by its products alone.

Lanczos's method with full orthogonalisation, from the sum of the eigenvectors of a nearby operator
where they are known, restarted from its best Ritz vectors (thick restart: Wu & Simon, SIAM J.
Matrix Anal. Appl. 22 (2000) 602-616). The images of the whole basis are kept, so that residuals are
evaluated and not inferred from a recurrence.

Products for each save along descents of an MLP (P = 661), at equal accuracy: for the largest
eigenvalue 8, :func:`scipy.sparse.linalg.eigsh` 21, its least; for 3, 5 and 10 of them 20 to 37, of
which 8 test for missed copies, ``eigsh`` 21 to 35 without a test, and block methods, which start
from all former eigenvectors, 16 to 28, 23 to 34 and 37 to 72 (:func:`scipy.sparse.linalg.lobpcg`).
``eigsh`` also copies through the host and asks for an accuracy relative to each eigenvalue: 1,200
products for a largest of 1 beside a smallest of -100, and 260 here. :func:`torch.lobpcg` wants the
matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RTOL = 1e-5
"""Residual, as a part of the largest eigenvalue, at which a pair has converged."""
PROBE = 8
"""Products of a random vector's Krylov space that a converged set of pairs has to withstand."""
MOST = 300
"""Products after which a search ends with what it has; 20 more for each pair."""
CAP = 64
"""Eigenvalues up to which their number grows by itself."""
NEW = 0.03
"""Length of the random vector that is added to a start of length one."""
_ROOM, _KEPT = 24, 8
"""Vectors that a space may have beside 2 k, and that a restart keeps beside k."""


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """The outermost eigenvalues of an operator.

    Attributes
    ----------
    values : Tensor, shape (k,)
        The outermost first; k is at most P. NaN if a product was not finite.
    vectors : Tensor, shape (k, P)
        Of length one.
    residuals : Tensor, shape (k,)
        |H v - lambda v|: an eigenvalue of H is at most this far from lambda (Parlett 1998, The
        Symmetric Eigenvalue Problem, section 4.5).
    converged : Tensor of bool, shape (k,)
        Whether the residual is as small as was asked for.
    products : int
        Products with H that it took.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: Tensor
    products: int


def top_eigenpairs(
    apply: Callable[[Tensor], Tensor],
    start: Tensor,
    k: int,
    *,
    smallest: bool = False,
    above: float = math.inf,
    rtol: float = RTOL,
    most: int = MOST,
) -> Eigenpairs:
    """The k algebraically largest eigenvalues, whatever the smallest one's magnitude.

    Parameters
    ----------
    apply : callable
        The product H v (P,) of a symmetric operator with a vector (P,).
    start : Tensor, shape (j, P)
        Guesses of eigenvectors, such as those of a nearby operator; none if j = 0.
    k : int
    smallest : bool
        The smallest eigenvalues instead, ascending.
    above : float
        See :func:`grown`.
    rtol : float
        Residual to be reached, as a part of the modulus of the largest eigenvalue (or of a
        hundredth of the largest modulus, if that is more), within what rounding allows.
    most : int
        Products to be spent, and 20 more for each pair.

    Notes
    -----
    Residuals cannot show that a pair was missed: a Krylov space holds one copy of a multiple
    eigenvalue, and one begun in an invariant space never leaves it. Every start therefore holds a
    little of a random vector, and if k > 1 a converged set is tested by other random vectors, by
    :data:`PROBE` products of the Krylov space of each, until one brings no newcomer. What such a
    test can miss is an eigenvalue that hardly exceeds the k-th, by a thousandth in a dense
    spectrum.
    """
    sign = -1.0 if smallest else 1.0
    found = _Search(lambda vector: sign * apply(vector), start, rtol, most).run(k, above)
    return Eigenpairs(
        sign * found.values, found.vectors, found.residuals, found.converged, found.products
    )


def grown(values: Tensor, k: int, above: float) -> int:
    """k, doubled up to :data:`CAP` and P while the k-th of the values known so far exceeds `above`.

    Parameters
    ----------
    values : Tensor, shape (m,)
        Descending. Ritz values will do: they lie below the eigenvalues.
    k : int
    above : float
        2 / eta, above which no eigenvalue is stable for gradient descent.
    """
    while k <= len(values) and k < CAP and float(values[k - 1]) > above:
        k = min(2 * k, CAP)
    return k


class _Space:
    """Orthonormal vectors, their images, and the operator between them."""

    def __init__(self, apply: Callable[[Tensor], Tensor], empty: Tensor) -> None:
        self._apply = apply
        self.basis = self.images = empty
        self.matrix = torch.zeros(0, 0, dtype=torch.float64)
        self.products = 0
        self._nothing = torch.finfo(empty.dtype).eps ** 0.5

    def add(self, direction: Tensor) -> bool:
        """Add what is new in a direction (P,), if there is something."""
        size = torch.linalg.vector_norm(direction)
        for _ in range(2):  # once more, for orthogonality to rounding
            direction = direction / size
            direction = direction - (self.basis @ direction) @ self.basis
            size = torch.linalg.vector_norm(direction)
            if not size > self._nothing:
                return False
        self._append(direction / size)
        return True

    def _append(self, vector: Tensor) -> None:
        image = self._apply(vector)
        self.products += 1
        self.basis = torch.cat([self.basis, vector[None]])
        self.images = torch.cat([self.images, image[None]])
        column = (self.basis @ image).to("cpu", torch.float64)
        matrix = self.matrix.new_empty(len(column), len(column))
        matrix[:-1, :-1] = self.matrix
        matrix[-1] = matrix[:, -1] = column
        self.matrix = matrix

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values (m,), descending, and the coordinates (m, m) of their vectors, row by row."""
        values, vectors = torch.linalg.eigh(self.matrix)
        return values.flip(0), vectors.T.flip(0)

    def combine(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of some coordinates (j, m), and their images."""
        mix = coordinates.to(self.basis)
        return mix @ self.basis, mix @ self.images

    def restart(self, values: Tensor, coordinates: Tensor) -> None:
        """Keep some Ritz vectors alone."""
        self.basis, self.images = self.combine(coordinates)
        self.matrix = torch.diag(values)


class _Search:
    """For the largest eigenvalues.

    `probed` counts the products of a test, -1 outside of one; `total` is the eigenvalues' sum at
    its begin.
    """

    def __init__(
        self, apply: Callable[[Tensor], Tensor], start: Tensor, rtol: float, most: int
    ) -> None:
        self.space = _Space(apply, start[:0])
        self.rtol, self.most = rtol, most
        self.eps, self.size = torch.finfo(start.dtype).eps, start.shape[-1]
        self.generator = torch.Generator().manual_seed(0)
        self.scale, self.total, self.probed = 0.0, 0.0, -1
        first = self.random()
        if len(start):
            along = start.sum(0)
            first = along / torch.linalg.vector_norm(along) + NEW * first
        self.space.add(first)

    def random(self) -> Tensor:
        """A random vector of length one."""
        drawn = torch.randn(self.size, generator=self.generator, dtype=torch.float64)
        unit: Tensor = drawn / torch.linalg.vector_norm(drawn)
        return unit.to(self.space.basis)

    def run(self, k: int, above: float) -> Eigenpairs:
        """Add vectors until all is found, or nothing more may be spent."""
        space, k = self.space, min(k, self.size)
        while bool(torch.isfinite(space.matrix).all()):
            values, coordinates = space.ritz()
            k = min(grown(values, k, above), self.size)
            vectors, images = space.combine(coordinates[:k])
            residuals = images - values[:k, None].to(vectors) * vectors
            norms = torch.linalg.vector_norm(residuals, dim=-1)
            tolerance = self._tolerance(values)
            converged = norms <= tolerance
            complete = len(converged) == k and bool(converged.all())
            self._judge(complete, float(values[:k].sum()), tolerance)
            if self._ended(k, complete):
                return Eigenpairs(values[:k].to(norms), vectors, norms, converged, space.products)
            self._make_room(k, values, coordinates)
            self._extend(residuals[~converged])
        nan = space.basis.new_full((k, self.size), torch.nan)
        return Eigenpairs(nan[:, 0], nan, nan[:, 0], nan[:, 0] == 0, space.products)

    def _tolerance(self, values: Tensor) -> float:
        self.scale = max(self.scale, float(values.abs().max()))
        wanted = self.rtol * max(abs(float(values[0])), 0.01 * self.scale)
        return max(wanted, 100 * self.eps * self.scale)

    def _judge(self, complete: bool, total: float, tolerance: float) -> None:
        """Test what is complete, and again what a test has raised: a newcomer may fit at once."""
        raised = self.probed >= PROBE and total > self.total + tolerance
        if not complete:
            self.probed = -1
        elif self.probed < 0 or raised:
            self.probed, self.total = 0, total

    def _ended(self, k: int, complete: bool) -> bool:
        found = complete and (k == 1 or self.probed >= PROBE)
        spent = self.space.products >= self.most + 20 * k
        return found or spent or len(self.space.basis) == self.size

    def _make_room(self, k: int, values: Tensor, coordinates: Tensor) -> None:
        """Restart where the space is full, but never within a test."""
        needed = PROBE if self.probed == 0 else 1
        if self.probed <= 0 and len(values) + needed > 2 * k + _ROOM:
            kept = k + _KEPT
            self.space.restart(values[:kept], coordinates[:kept])

    def _extend(self, residuals: Tensor) -> None:
        if self.probed > 0:
            added = self.space.add(self.space.images[-1])
            self.probed = self.probed + 1 if added else PROBE  # its Krylov space ends here
            return
        if self.probed < 0 and len(residuals) and self.space.add(residuals[0]):
            return
        self.space.add(self.random())
        self.probed += self.probed == 0
