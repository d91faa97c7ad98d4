"""Forward passes of a module in pieces of bounded size, and derivatives of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gflow.equilibrium.adjoint import Backward
from gflow.equilibrium.implicit import EXACT
from gflow.equilibrium.layer import Pass
from gflow.models.module_function import ModuleFunction, derivatives, derivatives_along


@dataclass(frozen=True)
class Piece:
    """A forward pass of some rows of theta on some samples, and its graph.

    Attributes
    ----------
    rows, samples : slice
    leaf : Tensor, shape (r, P)
    output : Tensor, shape (r, s, o)
    inner : Pass
        What its DEQ layers were told, and told.
    at_once : int
        Cotangents that may be pulled back together.
    """

    rows: slice
    samples: slice
    leaf: Tensor
    output: Tensor
    inner: Pass
    at_once: int

    def pull(self, cotangent: Tensor, backward: Backward, create_graph: bool = False) -> Tensor:
        """The vector-Jacobian product (r, P) that a backward gives."""
        self.inner.backward = backward
        pulled = derivatives(self.output, [self.leaf], cotangent, create_graph=create_graph)[0]
        if not create_graph:
            return pulled
        with torch.enable_grad():
            # Zero times theta: what is linear in theta has a second derivative too.
            return pulled + 0.0 * self.leaf

    def push(self, slope: Tensor, backward: Backward, along: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives along directions (K, r, P): of the pullback of a fixed slope, of the outputs.

        Reverse mode twice: a vector-Jacobian product is linear in its cotangent, and its derivative
        in that the Jacobian-vector product. For the exact backward the pullback is the gradient of
        <slope, y>, whose Jacobian is symmetric; for others that takes one derivative more.
        """
        dual = slope.clone().requires_grad_()
        pulled = self.pull(dual, EXACT, create_graph=True)
        if backward.exact:
            moved, change = self._each(pulled, [dual, self.leaf], along)
            return change, moved
        (moved,) = self._each(pulled, [dual], along)
        co = torch.zeros_like(self.leaf, requires_grad=True)
        approximate = self.pull(slope, backward, create_graph=True)
        self.inner.backward = EXACT  # what the pullback is a function of has its own derivative
        (transposed,) = derivatives(approximate, [self.leaf], co, create_graph=True)
        (change,) = self._each(transposed, [co], along)
        return change, moved

    def pull_each(self, cotangents: Tensor, backward: Backward) -> Tensor:
        """Vector-Jacobian products (K, r, P) with cotangents (K, r, s, o)."""
        self.inner.backward = backward
        return self._each(self.output, [self.leaf], cotangents)[0]

    def _each(self, outputs: Tensor, inputs: list[Tensor], along: Tensor) -> list[Tensor]:
        return derivatives_along(outputs, inputs, along, self.at_once)


def passes(
    function: ModuleFunction,
    theta: Tensor,
    x: Tensor,
    own_inputs: bool,
    starts: Tensor | None,
    chunk: int,
    graph: bool,
) -> Iterator[Piece]:
    """Forward passes of all rows of theta on all samples, at most `chunk` of both at once.

    Parameters
    ----------
    function : ModuleFunction
    theta : Tensor, shape (R, P)
    x : Tensor, shape (n, ...), or (R, n, ...) if rows have their own inputs
    own_inputs : bool
    starts : Tensor or None, shape (R, n, M)
        First guesses of fixed points.
    chunk : int
    graph : bool
        Whether outputs carry their graph.
    """
    count = x.shape[1] if own_inputs else x.shape[0]
    width = 1 if function.by_rows else max(1, chunk // count)
    for rows in _slices(len(theta), width):
        for samples in _slices(count, chunk):
            inner = Pass(starts=None if starts is None else starts[rows, samples].flatten(0, 1))
            leaf = theta[rows].clone().requires_grad_(graph)
            with torch.set_grad_enabled(graph), inner:
                inputs = x[rows, samples] if own_inputs else x[samples]
                output = function(leaf, inputs, own_inputs)
            at_once = 1 if inner.points else max(1, chunk // output[..., 0].numel())
            yield Piece(rows, samples, leaf, output, inner, at_once)


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
