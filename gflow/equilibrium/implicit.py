"""Derivatives through fixed points z = f(z, x; theta), of every order.

With J = df/dz at the fixed point, the implicit function theorem gives, for a cotangent c of z,

    w = (I - J)^-T c,   dz^T c = df^T w,   df the partial derivative in x and theta.

Both z and w are functions of x and theta whose own derivatives are of the same kind: that of w is,
for a cotangent c of w, with y = (I - J)^-1 c and for fixed w and y,

    dw^T c = d<w, J y>,   and y with respect to the right-hand side.

:class:`_Root` and :class:`_Solve` are these two functions, each differentiated by the other and
itself: as often as f is, with one linear solve each time, and wrong only by what z and w were
missed by. An approximate backward (see :mod:`gflow.equilibrium.adjoint`) puts a series for w, or
iterations that are unrolled; z within them stays the exact function of x and theta, so that the
derivative of the approximate gradient is the true one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gflow.equilibrium.adjoint import Backward, parse_backward
from gflow.equilibrium.linear import LinearSolution, solve_linear
from gflow.errors import ProblemError

EXACT = parse_backward("exact")
NUMBERS = 2**22
"""Numbers of the (N, m, m) matrices that are kept at most."""
PATIENCE = 8
"""From m / this many systems at one point on, the inverses are formed."""


@dataclass(frozen=True)
class Map:
    """f at flat points z (K, m), of samples x (K, ...), with parameters in the order of `names`."""

    module: nn.Module
    names: tuple[str, ...]
    shape: tuple[int, ...]

    def __call__(self, z: Tensor, x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
        """f (K, m).

        Raises
        ------
        ProblemError
            If it has another shape than z.
        """
        given = dict(zip(self.names, parameters, strict=True))
        point = z.reshape(len(z), *self.shape)
        return self._flat(torch.func.functional_call(self.module, given, (point, x)), z)

    def now(self, z: Tensor, x: Tensor) -> Tensor:
        """The same with the parameters that the module has now, which is faster."""
        return self._flat(self.module(z.reshape(len(z), *self.shape), x), z)

    def _flat(self, value: Any, z: Tensor) -> Tensor:
        shape = (len(z), *self.shape)
        if not isinstance(value, Tensor) or value.shape != shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ProblemError(
                f"f(z, x) of a DEQLayer returned {got} for z of shape {shape}; it must return z's "
                "shape. Give DEQLayer the width that z has without the samples."
            )
        return value.reshape(z.shape)


@dataclass
class FixedMap:
    """A map at its fixed points, all held constant, and the linear solves there.

    Attributes
    ----------
    function : Map
    z : Tensor, shape (N, m)
    x : Tensor, shape (N, ...)
    parameters : sequence of Tensor
    options : dict
        Of :func:`gflow.equilibrium.linear.solve_linear`.
    judge : callable
        Told every :class:`LinearSolution`; what it returns is used as the solution.
    """

    function: Map
    z: Tensor
    x: Tensor
    parameters: Sequence[Tensor]
    options: dict[str, Any]
    judge: Callable[[LinearSolution], Tensor]
    _slopes: _Slopes | None = field(default=None, repr=False)
    _matrix: Tensor | None = field(default=None, repr=False)
    _inverse: Tensor | None = field(default=None, repr=False)
    _solves: int = field(default=0, repr=False)

    def solve(self, right: Tensor, transposed: bool) -> Tensor:
        """(I - J)^-1 or (I - J)^-T times `right` (N, m)."""
        self._solves += 1
        found = solve_linear(
            lambda v, rows: self._product(v, rows, transposed),
            right,
            matrix=lambda rows: self._matrices(rows, transposed),
            start=self._guess(right, transposed),
            **self.options,
        )
        return self.judge(found)

    def _guess(self, right: Tensor, transposed: bool) -> Tensor | None:
        """From the inverse, which pays where there are many systems at the same point."""
        size = self.z.shape[1]
        dear = self._solves * PATIENCE <= size or self.z.numel() * size > NUMBERS
        if dear or self.options["method"] not in ("auto", "direct"):
            return None
        if self._inverse is None:
            system = torch.eye(size).to(self.z) - self._matrices(slice(None), False)
            self._inverse = torch.linalg.inv_ex(system)[0]
        inverse = self._inverse.mT if transposed else self._inverse
        guess = (inverse @ right[..., None])[..., 0]
        return torch.where(torch.isfinite(guess), guess, 0.0)

    def _product(self, vector: Tensor, rows: Tensor, transposed: bool) -> Tensor:
        if self._matrix is not None:
            return (self._matrices(rows, transposed) @ vector[..., None])[..., 0]
        slopes = self._at(rows)
        return slopes.pull(vector) if transposed else slopes.push(vector)

    def _matrices(self, rows: Tensor | slice, transposed: bool) -> Tensor:
        """J (K, m, m); kept where those of all samples are not too many numbers."""
        matrix = self._matrix
        if matrix is None and self.z.numel() * self.z.shape[1] <= NUMBERS:
            every = torch.arange(len(self.z), device=self.z.device)
            self._matrix = matrix = self._at(every).matrix()
        if matrix is not None:
            matrix = matrix[rows]
        else:
            assert isinstance(rows, Tensor)
            matrix = self._at(rows).matrix()
        return matrix.mT if transposed else matrix

    def _at(self, rows: Tensor) -> _Slopes:
        """Derivatives at some samples, kept until others are asked for."""
        if self._slopes is None or not torch.equal(self._slopes.rows, rows):
            with torch.enable_grad():
                z = self.z[rows].requires_grad_()
                value = self.function(z, self.x[rows], self.parameters) + 0.0 * z
            self._slopes = _Slopes(rows, z, value)
        return self._slopes


@dataclass
class _Slopes:
    """The map at some samples, with its graph."""

    rows: Tensor
    z: Tensor
    value: Tensor
    _dual: tuple[Tensor, Tensor] | None = None

    def pull(self, vector: Tensor) -> Tensor:
        """J^T v."""
        return torch.autograd.grad(self.value, self.z, vector, retain_graph=True)[0]

    def push(self, vector: Tensor) -> Tensor:
        """J v: the transposed product is linear in its vector, and its derivative the product."""
        if self._dual is None:
            dual = torch.zeros_like(self.value, requires_grad=True)
            pulled = torch.autograd.grad(self.value, self.z, dual, create_graph=True)[0]
            self._dual = dual, pulled
        dual, pulled = self._dual
        return torch.autograd.grad(pulled, dual, vector, retain_graph=True)[0]

    def matrix(self) -> Tensor:
        """J (K, m, m)."""
        return jacobian(self.z, self.value)


def jacobian(z: Tensor, value: Tensor) -> Tensor:
    """dvalue/dz (K, m, m), sample by sample, of values (K, m) that were computed from z (K, m)."""
    rows = torch.eye(value.shape[1], dtype=z.dtype, device=z.device)
    found = [torch.autograd.grad(value, z, row.expand_as(z), retain_graph=True)[0] for row in rows]
    return torch.stack(found, dim=1)


def attach(fixed: FixedMap, backward: Callable[[], Backward], inputs: Sequence[Tensor]) -> Tensor:
    """The fixed points (N, m) as a function of x and the parameters.

    `backward` is asked when a gradient is taken.
    """
    found: Tensor = _Root.apply(fixed, backward, *inputs)  # type: ignore[no-untyped-call]
    return found


class _Root(torch.autograd.Function):
    """z as a function of x and the parameters."""

    @staticmethod
    def forward(
        ctx: Any, fixed: FixedMap, backward: Callable[[], Backward], *inputs: Tensor
    ) -> Tensor:
        ctx.fixed, ctx.chosen = fixed, backward
        ctx.save_for_backward(*inputs)
        return fixed.z.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        fixed, backward = ctx.fixed, ctx.chosen()
        attached = torch.is_grad_enabled()
        inputs = ctx.saved_tensors
        z = attach(fixed, lambda: EXACT, inputs) if attached else fixed.z
        pulled = cotangent
        if backward.exact:
            pulled = _solved(fixed, True, cotangent, [z, *inputs])
        with torch.enable_grad():
            point, *others = _aliases([z, *inputs], attached)
            if backward.unrolled:
                value = _unroll(fixed.function, backward, point, others)
            else:
                value = fixed.function(point, others[0], others[1:])
            if not (backward.exact or backward.unrolled):
                pulled = _series(backward, value, point, cotangent, attached)
            return None, None, *_partials(value, others, pulled, attached)


def _solved(fixed: FixedMap, transposed: bool, right: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    found: Tensor = _Solve.apply(fixed, transposed, right, *inputs)  # type: ignore[no-untyped-call]
    return found


class _Solve(torch.autograd.Function):
    """(I - J)^-1 or (I - J)^-T times a vector, as a function of it, z, x and the parameters."""

    @staticmethod
    def forward(
        ctx: Any, fixed: FixedMap, transposed: bool, right: Tensor, *inputs: Tensor
    ) -> Tensor:
        solution = fixed.solve(right, transposed)
        ctx.fixed, ctx.transposed = fixed, transposed
        ctx.save_for_backward(solution, *inputs)
        return solution

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        solution, *inputs = ctx.saved_tensors
        attached, transposed = torch.is_grad_enabled(), ctx.transposed
        other = _solved(ctx.fixed, not transposed, cotangent, inputs)
        left, right = (solution, other) if transposed else (other, solution)
        if not attached:
            left, right = left.detach(), right.detach()
        with torch.enable_grad():
            point, *others = _aliases(inputs, attached)
            value = ctx.fixed.function(point, others[0], others[1:]) + 0.0 * point
            rows = torch.autograd.grad(value, point, left, create_graph=True)[0]
            product = (rows * right).sum()
            return None, None, other, *_partials(product, [point, *others], None, attached)


def _aliases(inputs: Sequence[Tensor], attached: bool) -> list[Tensor]:
    """What to take partial derivatives by: what it depends on is not followed. z comes first."""
    if attached:
        return [one.view_as(one) for one in inputs]
    found = [one.detach().requires_grad_(one.requires_grad) for one in inputs]
    found[0].requires_grad_()
    return found


def _partials(
    value: Tensor, inputs: Sequence[Tensor], along: Tensor | None, attached: bool
) -> list[Tensor | None]:
    """Vector-Jacobian products with each input; None where it is constant or not used."""
    wanted = [one for one in inputs if one.requires_grad]
    if not wanted or not value.requires_grad:
        return [None] * len(inputs)
    found = iter(
        torch.autograd.grad(value, wanted, along, create_graph=attached, allow_unused=True)
    )
    return [next(found) if one.requires_grad else None for one in inputs]


def _series(
    backward: Backward, value: Tensor, point: Tensor, cotangent: Tensor, attached: bool
) -> Tensor:
    """a_K of a_{k+1} = L (J^T a_k + c) + (1 - L) a_k, a_0 = 0."""
    weight = backward.damping
    total = weight * cotangent
    for _ in range(backward.terms - 1):
        pulled = torch.autograd.grad(
            value + 0.0 * point, point, total, create_graph=attached, retain_graph=True
        )[0]
        total = weight * (pulled + cotangent) + (1.0 - weight) * total
    return total


def _unroll(function: Map, backward: Backward, point: Tensor, others: Sequence[Tensor]) -> Tensor:
    """z_K of z_{k+1} = L f(z_k) + (1 - L) z_k, from the fixed point."""
    weight = backward.damping
    for _ in range(backward.terms):
        point = weight * function(point, others[0], others[1:]) + (1.0 - weight) * point
    return point
