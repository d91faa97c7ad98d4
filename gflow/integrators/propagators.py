"""How phi-functions of h J act on vectors: by eigenvectors or by an exponential.

An exponential integrator adds terms ``coefficient * x^k phi_k(x h J) v``, k = 1..4, at a fraction x
of the step h. A propagator holds J and h for a batch of rows; it maps vectors (B, P) to coordinates
in which this is cheap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gflow.integrators.phi import HIGHEST, phi_arrays, phi_functions, phi_products

Array = NDArray[Any]
Term = tuple[int, float, Any]
"""Order k, coefficient and coordinates of one term."""


class Propagator(Protocol):
    """J and h of a batch of rows; `short` says that it could not serve steps so long."""

    solves: int
    short: bool

    def into(self, vector: Tensor) -> Any:
        """Coordinates of a vector (B, P)."""

    def out(self, coordinates: Any) -> Tensor:
        """The vector (B, P) of coordinates."""

    def advance(self, terms: Sequence[Term], x: float) -> Any:
        """Sum of the terms at the fraction x of the step, one of 1/2 and 1."""

    def remainder(self, difference: Tensor, increment: Any) -> Any:
        """Coordinates of h (difference (B, P) - J increment)."""

    def dense(self, terms: Sequence[Term], rows: Tensor, x: Tensor) -> Tensor:
        """Sum of the terms at the fractions x (M,) of the steps of rows (M,), shape (M, P)."""


def eigenpairs(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of symmetric matrices (B, P, P); NaN where one is not finite."""
    if math.isfinite(float(matrix.sum())):
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors
    finite = torch.isfinite(matrix).flatten(1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], matrix, 0.0))
    return torch.where(finite[:, None], values, torch.nan), vectors


class EigenPropagator:
    """By the eigenvectors of symmetric Jacobians: every phi-function is diagonal.

    Parameters
    ----------
    values : Tensor, shape (B, P)
    vectors : Tensor, shape (B, P, P)
    width : Tensor, shape (B, 1)
        The steps h.
    """

    solves, short = 0, False

    def __init__(self, values: Tensor, vectors: Tensor, width: Tensor) -> None:
        self.vectors, self._width = vectors, width
        self.z = width * values
        both = phi_functions(torch.stack([self.z, 0.5 * self.z]))
        self._phi = {1.0: both[:, 0], 0.5: both[:, 1]}

    def into(self, vector: Tensor) -> Tensor:
        """Coordinates along the eigenvectors."""
        return (vector[:, None, :] @ self.vectors)[:, 0]

    def out(self, coordinates: Tensor) -> Tensor:
        """Back to the parameters."""
        return (self.vectors @ coordinates[:, :, None])[:, :, 0]

    def advance(self, terms: Sequence[Term], x: float) -> Tensor:
        """Sum of the terms, elementwise."""
        phi = self._phi[x]
        order, factor, coordinates = terms[0]
        total: Tensor = (factor * x**order) * phi[order - 1] * coordinates
        for order, factor, coordinates in terms[1:]:
            total = torch.addcmul(total, phi[order - 1], coordinates, value=factor * x**order)
        return total

    def remainder(self, difference: Tensor, increment: Tensor) -> Tensor:
        """The Jacobian is a factor a coordinate."""
        return torch.addcmul(self.into(self._width * difference), self.z, increment, value=-1)

    def dense(self, terms: Sequence[Term], rows: Tensor, x: Tensor) -> Tensor:
        """The same at any fraction."""
        phi = phi_functions(x[:, None] * self.z[rows])
        total = torch.zeros_like(phi[0])
        for order, factor, coordinates in terms:
            weight = factor * x[:, None] ** order * phi[order - 1]
            total = torch.addcmul(total, weight, coordinates[rows])
        return (self.vectors[rows] @ total[:, :, None])[:, :, 0]


class LonePropagator:
    """The same for one row on the CPU, by numpy: its small operations cost a third of torch's.

    Parameters
    ----------
    values : Tensor, shape (1, P)
    vectors : Tensor, shape (1, P, P)
    width : Tensor, shape (1, 1)
    """

    solves, short = 0, False

    def __init__(self, values: Tensor, vectors: Tensor, width: Tensor) -> None:
        self._vectors, self._width = vectors[0].numpy(), float(width)
        self._z = self._width * values[0].numpy()
        both = phi_arrays(np.stack([self._z, 0.5 * self._z]))
        self._phi = {1.0: both[:, 0], 0.5: both[:, 1]}

    def into(self, vector: Tensor) -> Array:
        """Coordinates along the eigenvectors."""
        coordinates: Array = vector[0].numpy() @ self._vectors
        return coordinates

    def out(self, coordinates: Array) -> Tensor:
        """Back to the parameters."""
        return torch.from_numpy(self._vectors @ coordinates)[None]

    def advance(self, terms: Sequence[Term], x: float) -> Array:
        """Sum of the terms, elementwise."""
        return self._sum(terms, x, self._phi[x])

    def remainder(self, difference: Tensor, increment: Array) -> Array:
        """The Jacobian is a factor a coordinate."""
        return self._width * self.into(difference) - self._z * increment

    def dense(self, terms: Sequence[Term], rows: Tensor, x: Tensor) -> Tensor:
        """The same at any fraction."""
        column = x.numpy()[:, None]
        total = self._sum(terms, column, phi_arrays(column * self._z))
        return torch.from_numpy(total @ self._vectors.T)

    def _sum(self, terms: Sequence[Term], x: Any, phi: Array) -> Array:
        total = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for order, factor, coordinates in terms:
                total = total + (factor * x**order) * phi[order - 1] * coordinates
        return np.asarray(total)


class MatrixPropagator:
    """By exponentials of augmented matrices, for Jacobians that are not symmetric.

    Parameters
    ----------
    jacobian : Tensor, shape (B, P, P)
    width : Tensor, shape (B, 1)
        The steps h.
    """

    solves, short = 0, False

    def __init__(self, jacobian: Tensor, width: Tensor) -> None:
        self.scaled, self._width = width[:, :, None] * jacobian, width

    def into(self, vector: Tensor) -> Tensor:
        """Vectors are their own coordinates."""
        return vector

    out = into

    def advance(self, terms: Sequence[Term], x: float) -> Tensor:
        """Sum of the terms by one exponential."""
        return phi_products(x * self.scaled, _sources(terms, lambda v: v, x))

    def remainder(self, difference: Tensor, increment: Tensor) -> Tensor:
        """One product with the matrix."""
        product = (self.scaled @ increment[:, :, None])[:, :, 0]
        return torch.addcmul(-product, self._width, difference)

    def dense(self, terms: Sequence[Term], rows: Tensor, x: Tensor) -> Tensor:
        """One exponential a fraction."""
        sources = _sources(terms, lambda v: v[rows], x[:, None])
        return phi_products(x[:, None, None] * self.scaled[rows], sources)


def _sources(terms: Sequence[Term], pick: Any, x: Any) -> Tensor:
    """The vectors w_k = sum of coefficient * x^k v of the terms of order k, stacked (.., 4, P)."""
    zero = torch.zeros_like(pick(terms[0][2]))
    sums = [zero] * HIGHEST
    for order, factor, vector in terms:
        sums[order - 1] = sums[order - 1] + factor * x**order * pick(vector)
    return torch.stack(sums, dim=-2)
