"""phi-functions of h J by Krylov spaces: only products of the Jacobian with vectors are needed.

Hochbruck & Lubich, SIAM J. Numer. Anal. 34 (1997) 1911-1925; the error is estimated as by Saad,
SIAM J. Numer. Anal. 29 (1992) 209-228, equation 27. One space is built for each vector that the
method's terms are made of, and serves every order and every fraction of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gflow.integrators.phi import phi_functions, phi_products
from gflow.integrators.propagators import Nodes, Term, eigenpairs

LARGEST = 96
"""Dimension of a space beyond which a smaller step is the better way."""
LOOK = 4
"""Vectors added between two looks at the error."""
ACCURACY = 0.05
"""Error of a space's phi_1, in units of the method's tolerance."""


@dataclass(frozen=True)
class Space:
    """An orthonormal basis of a Krylov space for every row, and the Jacobian in it.

    Attributes
    ----------
    basis : Tensor, shape (m + 1, B, P)
    matrix : Tensor, shape (B, m + 1, m)
        J basis[:m] = basis matrix.
    size : Tensor, shape (B, 1)
        Length of the vector that the space was built for.
    """

    basis: Tensor
    matrix: Tensor
    size: Tensor


Combination = list[tuple[Space, Tensor]]
"""Spaces with coefficients (B, m)."""


class KrylovPropagator:
    """By Arnoldi's process with full orthogonalisation, rows in step.

    Parameters
    ----------
    apply : callable
        The Jacobian times vectors (B, P).
    symmetric : bool
        Whether it is.
    width : Tensor, shape (B, 1)
        The steps h.
    scale : Tensor, shape (B, P)
        The tolerance of each parameter.
    nodes : Nodes

    Attributes
    ----------
    short : bool
        Whether a space did not suffice; the step is then too long.
    """

    def __init__(
        self,
        apply: Callable[[Tensor], Tensor],
        symmetric: bool,
        width: Tensor,
        scale: Tensor,
        nodes: Nodes,
    ) -> None:
        self._apply, self._symmetric = apply, symmetric
        self._width, self._scale, self._nodes = width, scale, nodes
        self.short, self.solves = False, 0

    def into(self, vector: Tensor) -> Space:
        """The space of a vector, large enough for its phi_1."""
        self.solves += 1
        size = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        basis = [vector / size.clamp(min=1e-30)]
        columns: list[Tensor] = []
        most = min(LARGEST, vector.shape[-1])
        while len(columns) < most:
            stacked = torch.stack(basis)
            image = self._apply(basis[-1])
            column = torch.zeros_like(image[:, : len(basis)])
            for _ in range(2):  # once more, for orthogonality to rounding
                part = (stacked * image).sum(-1).T
                image = image - (stacked * part.T[:, :, None]).sum(0)
                column = column + part
            rest = torch.linalg.vector_norm(image, dim=-1, keepdim=True)
            found = rest > _rounding(column)  # else the space holds its image: it ends here
            columns.append(torch.cat([column, torch.where(found, rest, 0.0)], dim=-1))
            basis.append(torch.where(found, image / rest, 0.0))
            if len(columns) % LOOK == 0 or len(columns) == most:
                space = Space(torch.stack(basis), _matrix(columns), size)
                if self._suffices(space):
                    return space
        self.short = self.short or most < vector.shape[-1]
        return space

    def out(self, coordinates: Combination) -> Tensor:
        """The vector (B, P) of a combination."""
        return _sum([_product(space.basis, c) for space, c in coordinates])

    def advance(self, terms: Sequence[Term], place: int) -> Combination:
        """Coefficients of the terms in their spaces."""
        return self._combined(terms, self._nodes.at[place])

    def _combined(self, terms: Sequence[Term], x: float) -> Combination:
        found: dict[int, tuple[Space, Tensor]] = {}
        for order, factor, space in terms:
            y = factor * x**order * self._phi(space, x)[order - 1]
            known = found.get(id(space))
            found[id(space)] = (space, y if known is None else known[1] + y)
        return list(found.values())

    def remainder(self, difference: Tensor, increment: Combination) -> Space:
        """A new space; J times the increment is known from the spaces that it lies in."""
        images = [
            _product(space.basis, (space.matrix @ c[:, :, None])[:, :, 0]) for space, c in increment
        ]
        return self.into(self._width * (difference - _sum(images)))

    def dense(self, terms: Sequence[Term], rows: Tensor, x: Tensor) -> Tensor:
        """One combination a fraction."""
        parts = [
            self.out(self._combined(terms, float(fraction)))[row]
            for row, fraction in zip(rows.tolist(), x.tolist(), strict=True)
        ]
        return torch.stack(parts)

    def _suffices(self, space: Space) -> bool:
        last = space.matrix[:, -1, -1, None] * self._width
        missed = space.size * last * self._last_entry(space)
        error = torch.linalg.vector_norm(missed * space.basis[-1] / self._scale, dim=-1)
        # What has no value is not for a larger space to mend.
        return not bool((error > ACCURACY * self._scale.shape[-1] ** 0.5).any())

    def _last_entry(self, space: Space) -> Tensor:
        """|e_m^T phi_1(h H) e_1|, shape (B, 1)."""
        return (self._phi(space, 1.0)[0][:, -1:] / space.size.clamp(min=1e-30)).abs()

    def _phi(self, space: Space, x: float) -> Tensor:
        """size * phi_k(x h H) e_1 for k = 1..K, shape (K, B, m)."""
        highest = self._nodes.highest
        square = x * self._width[:, :, None] * space.matrix[:, :-1]
        if self._symmetric:
            values, vectors = eigenpairs(0.5 * (square + square.mT))
            phi: Tensor = phi_functions(values, highest) * vectors[:, 0]
            return (vectors @ phi[..., None])[..., 0] * space.size
        first = torch.zeros_like(square[:, 0])
        first[:, 0] = 1.0
        orders = torch.eye(highest, dtype=first.dtype, device=first.device)
        sources = orders[:, None, :, None] * first[:, None]
        return phi_products(square.expand(highest, *square.shape), sources) * space.size


def _rounding(column: Tensor) -> Tensor:
    """Length (B, 1) that rounding leaves of an image that lies in the space."""
    length: Tensor = torch.linalg.vector_norm(column, dim=-1, keepdim=True)
    return 4 * torch.finfo(column.dtype).eps * length


def _matrix(columns: list[Tensor]) -> Tensor:
    """Columns of growing length as a matrix (B, m + 1, m)."""
    count = len(columns)
    matrix = columns[0].new_zeros(len(columns[0]), count + 1, count)
    for j, column in enumerate(columns):
        matrix[:, : j + 2, j] = column
    return matrix


def _product(basis: Tensor, coefficients: Tensor) -> Tensor:
    """Sum_j coefficients (B, m) basis_j, shape (B, P)."""
    count = coefficients.shape[-1]
    return (coefficients.T[:, :, None] * basis[:count]).sum(0)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
