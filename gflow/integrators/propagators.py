"""How phi-functions of h J act on vectors: by eigenvectors or by an exponential.

An exponential integrator adds terms ``coefficient * x^k phi_k(x h J) v``, k = 1..K, at the nodes x
of its step h. A propagator holds J and h for a batch of rows; it maps vectors to coordinates in
which this is cheap. Vectors are (B, P), or (m, B, P) where there is one for each of m nodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gflow.compiled.jacobi import eigenpairs_in_c
from gflow.integrators.phi import phi_functions, phi_products
from gflow.integrators.system import System, plain

Numbers = Any
"""An array on the host, a tensor elsewhere."""
Term = tuple[int, float, Any]
"""Order k, coefficient and coordinates of one term."""
Place = int | list[int]
"""A node by its index, or several of them."""


@dataclass(frozen=True)
class Nodes:
    """What an exponential method asks of a propagator.

    Attributes
    ----------
    at : tuple of float
        The fractions of the step at which it evaluates terms; the last is 1.
    highest : int
        The highest order of its terms.
    """

    at: tuple[float, ...]
    highest: int


class Propagator(Protocol):
    """J and h of a batch of rows; `short` says that it could not serve steps so long."""

    solves: int
    short: bool

    def into(self, vector: Tensor) -> Any:
        """Coordinates of vectors."""

    def out(self, coordinates: Any) -> Tensor:
        """The vectors of coordinates."""

    def advance(self, terms: Sequence[Term], place: int) -> Any:
        """Sum of the terms at a node of the step."""

    def remainder(self, difference: Tensor, increment: Any) -> Any:
        """Coordinates of h (difference - J increment)."""

    def dense(self, terms: Sequence[Term], rows: Tensor, x: Tensor) -> Tensor:
        """Sum of the terms at the fractions x (M,) of the steps of rows (M,), shape (M, P)."""


class DensePropagator(Propagator, Protocol):
    """One that has the Jacobian as a matrix: several nodes cost it little more than one."""

    def advance(self, terms: Sequence[Term], place: Place) -> Any:
        """Sum of the terms at a node of the step, or at several."""


def linearised(
    system: System,
    t: np.ndarray,
    theta: Tensor,
    dense: bool = True,
    value: Tensor | None = None,
) -> dict[str, Tensor]:
    """The field at points (B, P) (``value``), its time derivative (``change``), if it has one.

    If `dense`, also what :func:`dense_propagator` needs of the Jacobian, whatever the step. The
    value may be known.
    """
    cache: dict[str, Tensor] = {}
    if value is None:
        value = system.value(t, theta)
    if dense:
        jacobian = system.jacobian(t, theta)
        if system.field.symmetric:
            cache["eigenvalues"], cache["eigenvectors"] = eigenpairs(jacobian)
        else:
            cache["jacobian"] = jacobian
    change = system.time_derivative(t, theta, value)
    return cache | {"value": value} | ({} if change is None else {"change": change})


def dense_propagator(cache: Mapping[str, Any], width: Tensor, nodes: Nodes) -> DensePropagator:
    """The propagator for what :func:`linearised` returned and steps h (B, 1)."""
    if "jacobian" in cache:
        return MatrixPropagator(cache["jacobian"], width, nodes)
    return EigenPropagator(cache["eigenvalues"], cache["eigenvectors"], width, nodes)


def eigenpairs(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of symmetric matrices (B, P, P); NaN where one is not finite."""
    compiled = eigenpairs_in_c(matrix)
    if compiled is not None:
        return compiled
    if math.isfinite(float(matrix.sum())):
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors
    finite = torch.isfinite(matrix).flatten(1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], matrix, 0.0))
    return torch.where(finite[:, None], values, torch.nan), vectors


class EigenPropagator:
    """By the eigenvectors of symmetric Jacobians: every phi-function is diagonal.

    Coordinates are arrays on the host, whose small operations cost a third of PyTorch's, and
    tensors elsewhere.

    Parameters
    ----------
    values : Tensor, shape (B, P)
    vectors : Tensor, shape (B, P, P)
    width : Tensor, shape (B, 1)
        The steps h.
    nodes : Nodes
    """

    solves, short = 0, False

    def __init__(self, values: Tensor, vectors: Tensor, width: Tensor, nodes: Nodes) -> None:
        self._vectors, self._width, own = plain(vectors), plain(width), plain(values)
        self._z, self._highest = self._width * own, nodes.highest
        self._at = plain(values.new_tensor(nodes.at))[:, None, None]

    @cached_property
    def _phi(self) -> Numbers:
        """x^k phi_k at the nodes."""
        found = phi_functions(self._at * self._z, self._highest)
        _scale_by_powers(found, self._at)
        return found

    def into(self, vector: Tensor) -> Numbers:
        """Coordinates along the eigenvectors."""
        return _turned(plain(vector), self._vectors)

    def out(self, coordinates: Numbers) -> Tensor:
        """Back to the parameters."""
        return torch.as_tensor(_turned(coordinates, self._vectors.swapaxes(-1, -2)))

    def advance(self, terms: Sequence[Term], place: Place) -> Numbers:
        """Sum of the terms, elementwise."""
        return _summed(self._phi[:, place], terms)

    def remainder(self, difference: Tensor, increment: Numbers) -> Numbers:
        """The Jacobian is a factor a coordinate."""
        return self._width * self.into(difference) - self._z * increment

    def dense(self, terms: Sequence[Term], rows: Tensor, x: Tensor) -> Tensor:
        """The same at any fraction."""
        where, column = plain(rows), plain(x)[:, None]
        phi = phi_functions(column * self._z[where], self._highest)
        _scale_by_powers(phi, column)
        total = _summed(phi, [(order, factor, v[where]) for order, factor, v in terms])
        if len(self._vectors) == 1:
            return torch.as_tensor(total @ self._vectors[0].swapaxes(-1, -2))
        return torch.as_tensor((self._vectors[where] @ total[..., None])[..., 0])


class MatrixPropagator:
    """By exponentials of augmented matrices, for Jacobians that are not symmetric.

    Parameters
    ----------
    jacobian : Tensor, shape (B, P, P)
    width : Tensor, shape (B, 1)
        The steps h.
    nodes : Nodes
    """

    solves, short = 0, False

    def __init__(self, jacobian: Tensor, width: Tensor, nodes: Nodes) -> None:
        self._scaled, self._width = width[:, :, None] * jacobian, width
        self._at = jacobian.new_tensor(nodes.at)

    def into(self, vector: Tensor) -> Tensor:
        """Vectors are their own coordinates."""
        return vector

    out = into

    def advance(self, terms: Sequence[Term], place: Place) -> Tensor:
        """Sum of the terms by one exponential a node."""
        x = self._at[place][..., None, None]
        sources = _sources(terms, x)
        return phi_products(x[..., None] * self._scaled, sources)

    def remainder(self, difference: Tensor, increment: Tensor) -> Tensor:
        """One product with the matrix."""
        product = _turned(increment, self._scaled.mT)
        return torch.addcmul(-product, self._width, difference)

    def dense(self, terms: Sequence[Term], rows: Tensor, x: Tensor) -> Tensor:
        """One exponential a fraction."""
        sources = _sources([(order, factor, v[rows]) for order, factor, v in terms], x[:, None])
        return phi_products(x[:, None, None] * self._scaled[rows], sources)


def _turned(vector: Numbers, matrix: Numbers) -> Numbers:
    """Vectors (B, P) or (m, B, P) times the matrices (B, P, P) of their rows."""
    if vector.ndim == 2:
        return (vector[:, None] @ matrix)[:, 0]
    return (vector.swapaxes(0, 1) @ matrix).swapaxes(0, 1)


def _scale_by_powers(phi: Numbers, x: Numbers) -> None:
    """Multiply phi_k by x^k in place."""
    power = x
    for row in phi:
        row *= power
        power = power * x


def _summed(phi: Numbers, terms: Sequence[Term]) -> Numbers:
    order, factor, coordinates = terms[0]
    with np.errstate(over="ignore", invalid="ignore"):
        total = factor * phi[order - 1] * coordinates
        for order, factor, coordinates in terms[1:]:
            if isinstance(total, Tensor):
                total.addcmul_(phi[order - 1], coordinates, value=factor)
            else:
                total += factor * phi[order - 1] * coordinates
    return total


def _sources(terms: Sequence[Term], x: Tensor) -> Tensor:
    """The vectors w_k = sum of coefficient * x^k v of the terms of order k, stacked (.., K, P)."""
    highest = max(order for order, _, _ in terms)
    zero = torch.zeros_like(x * terms[0][2])
    sums = [zero] * highest
    for order, factor, vector in terms:
        sums[order - 1] = sums[order - 1] + factor * x**order * vector
    return torch.stack(sums, dim=-2)
