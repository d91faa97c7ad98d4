"""Gradients of a vector DEQ and their derivatives, all analytic.

With J = D W, D = diag(sigma'(s)), e = dL/dyhat and q = C^T e, the adjoint a of a sample solves
(I - J^T) a = q, or follows a_{k+1} = L (J^T a_k + q) + (1 - L) a_k for a series (see
:mod:`gflow.equilibrium.adjoint`); with w = D a the gradient is

    sum w z^T (W), sum w x^T (U), sum w (b), sum e z^T (C), sum e (c).

Along a direction (dW, dU, db, dC, dc), with t = dW z + dU x + db: dz = (I - J)^-1 D t,
ds = W dz + t, dyhat = C dz + dC z + dc, de = L'' dyhat, dq = C^T de + dC^T e, and
(I - J^T) da = dq + dW^T D a + W^T D' a with D' = diag(sigma''(s) ds); a series is differentiated
term by term. Samples are rows below, so that every product stands the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gflow.equilibrium.adjoint import Backward
from gflow.equilibrium.linear import SWEEP_FROM, TOLERANCE, solve_linear
from gflow.losses import Bend
from gflow.models.activations import Activation
from gflow.models.vector_hessian import exact_hessian, loss_blocks
from gflow.models.vector_layout import Layout
from gflow.models.vector_state import NUMBERS, Factors, VectorEquilibrium, times
from gflow.models.vector_track import system, track_adjoint

UNUSABLE = 1e-6
"""A larger residual of an adjoint is no rounding: the gradient is NaN rather than wrong."""


@dataclass(frozen=True)
class Differentiation:
    """How the linear systems of a vector DEQ are solved.

    Attributes
    ----------
    layout : Layout
    activation : Activation
    method : str
        ``auto``, ``direct``, ``gmres`` or ``fixed_point``.
    tolerance : float or None
        Of the iterative ones.
    """

    layout: Layout
    activation: Activation
    method: str
    tolerance: float | None

    def gradient(
        self, equilibrium: VectorEquilibrium, x: Tensor, first: Tensor, backward: Backward
    ) -> Tensor:
        """The gradient (..., P) that a backward gives for the cotangent `first` (..., n, o)."""
        z = equilibrium.z
        w = equilibrium.slope * self._adjoints(equilibrium, first, backward)[-1]
        return self.layout.join(
            {"W": w.mT @ z, "U": w.mT @ x, "b": w.sum(-2), "C": first.mT @ z, "c": first.sum(-2)}
        )

    def tangent(
        self,
        equilibrium: VectorEquilibrium,
        x: Tensor,
        first: Tensor,
        second: Bend,
        backward: Backward,
        vector: Tensor,
    ) -> Tensor:
        """Its derivative along a vector (..., P), or along k of them (k, ..., P)."""
        blocks, step = equilibrium.blocks, self.layout.direction(vector)
        z, slope = equilibrium.z, equilibrium.slope
        push = z @ step.W.mT + step.drive(x)
        dz = self._solve(equilibrium, slope * push, False)
        ds = dz @ blocks.W.mT + push
        dy = dz @ blocks.C.mT + step.read(z)
        many = vector.ndim > equilibrium.theta.ndim
        de = torch.stack([second(one) for one in dy]) if many else second(dy)
        dq = de @ blocks.C + first @ step.C
        turn = self.activation.jet(equilibrium.activated, 2)[2] * ds

        def change(a: Tensor) -> Tensor:
            return (turn * a) @ blocks.W + (slope * a) @ step.W + dq

        states = self._adjoints(equilibrium, first, backward)
        if backward.exact:
            da = self._solve(equilibrium, change(states[-1]), True)
        else:
            da, damping = torch.zeros_like(dz), backward.damping
            for a in states[:-1]:
                da = damping * ((slope * da) @ blocks.W + change(a)) + (1.0 - damping) * da
        w, dw = slope * states[-1], slope * da + turn * states[-1]
        return self.layout.join(
            {
                "W": dw.mT @ z + w.mT @ dz,
                "U": dw.mT @ x,
                "b": dw.sum(-2),
                "C": de.mT @ z + first.mT @ dz,
                "c": de.sum(-2),
            }
        )

    def matrix(
        self,
        equilibrium: VectorEquilibrium,
        x: Tensor,
        first: Tensor,
        second: Bend,
        backward: Backward,
    ) -> Tensor:
        """The derivative (..., P, P).

        Column by column, in chunks of bounded memory, unless
        :mod:`gflow.models.vector_hessian` can have it at once.
        """
        pairs = equilibrium.z[..., 0].numel() * (sum(equilibrium.blocks.U.shape[-2:]) + 1) ** 2
        apart = backward.exact and pairs <= NUMBERS
        blocks = loss_blocks(second, first) if apart else None
        factors = None if blocks is None else self.factors(equilibrium)
        if blocks is not None and factors is not None:
            adjoint = self._adjoints(equilibrium, first, backward)[-1]
            return exact_hessian(
                self.layout, self.activation, equilibrium, factors, x, first, blocks, adjoint
            )
        theta = equilibrium.theta
        size = theta.shape[-1]
        units = torch.eye(size).to(theta).reshape(size, *(1,) * (theta.ndim - 1), size)
        units = units.expand(size, *theta.shape)
        together = max(1, NUMBERS // (8 * equilibrium.z.numel()))
        columns = [
            self.tangent(equilibrium, x, first, second, backward, part)
            for part in torch.split(units, together)
        ]
        return torch.cat(columns).movedim(0, -1)

    def _adjoints(
        self, equilibrium: VectorEquilibrium, first: Tensor, backward: Backward
    ) -> list[Tensor]:
        """The adjoint a, last, after the terms of its series if it has one."""
        known = equilibrium.workspace.adjoints.get(backward.name)
        if known is not None and torch.equal(known[0], first):
            return known[1]
        q = first @ equilibrium.blocks.C
        if backward.exact:
            states = [self._solve(equilibrium, q, True)]
        else:
            states, damping = [torch.zeros_like(q)], backward.damping
            for _ in range(backward.terms):
                pulled = (equilibrium.slope * states[-1]) @ equilibrium.blocks.W
                states.append(damping * (pulled + q) + (1.0 - damping) * states[-1])
        equilibrium.workspace.adjoints[backward.name] = first, states
        return states

    def factors(self, equilibrium: VectorEquilibrium) -> Factors | None:
        """LU of I - J, kept for further solves; None if it is too large to keep."""
        space = equilibrium.workspace
        if space.factors is None:
            size = equilibrium.z.shape[-1]
            if equilibrium.slope.numel() * size <= NUMBERS:
                space.factors = Factors.of(system(equilibrium.blocks.W, equilibrium.slope))
        return space.factors

    def _solve(self, equilibrium: VectorEquilibrium, right: Tensor, transpose: bool) -> Tensor:
        """(I - J)^-1 or its transpose, applied to (..., n, m) or to k of them (k, ..., n, m).

        A gradient asks for one solve and may sweep; whoever differentiates it asks for many.
        """
        many = right.ndim > equilibrium.z.ndim
        size, space = right.shape[-1], equilibrium.workspace
        if self.method == "direct" or (
            self.method == "auto" and (size < SWEEP_FROM or space.factors or not transpose)
        ):
            factors = self.factors(equilibrium)
            if factors is not None:
                solved = factors.solve(right, transpose)
                return solved if many else self._told(equilibrium, right, solved, transpose)
        if many:
            return torch.stack([self._solve(equilibrium, one, transpose) for one in right])
        return self._told(
            equilibrium, right, self._iterated(equilibrium, right, transpose), transpose
        )

    def _iterated(self, equilibrium: VectorEquilibrium, right: Tensor, transpose: bool) -> Tensor:
        count, size = right.shape[-2:]
        weights = equilibrium.blocks.W
        weights = weights if weights.ndim == 2 else weights.reshape(-1, size, size)
        slope = equilibrium.slope.expand_as(equilibrium.z).reshape(-1, size)

        def product(v: Tensor, rows: Tensor) -> Tensor:
            some = slope if len(rows) == len(slope) else slope[rows]
            if transpose:
                return times(weights.mT, some * v, rows, count)
            return some * times(weights, v, rows, count)

        def matrix(rows: Tensor) -> Tensor:
            own = weights if weights.ndim == 2 else weights[rows // count]
            jacobian = slope[rows][..., None] * own
            return jacobian.mT if transpose else jacobian

        start, allowed = None, self.tolerance or TOLERANCE[right.dtype]
        if self.method == "auto" and transpose:
            start, near = track_adjoint(equilibrium.blocks.W, equilibrium.slope, right, allowed)
            if near:
                return start
            start = torch.where(torch.isfinite(start), start, 0.0).reshape(-1, size)
        found = solve_linear(
            product,
            right.expand_as(equilibrium.z).reshape(-1, size),
            method=self.method,
            matrix=matrix,
            tolerance=allowed,
            start=start,
        )
        return found.solution.reshape(equilibrium.z.shape)

    def _told(
        self, equilibrium: VectorEquilibrium, right: Tensor, solved: Tensor, transpose: bool
    ) -> Tensor:
        """The solution with its residual noted, NaN where that is large."""
        weights, slope = equilibrium.blocks.W, equilibrium.slope
        image = (slope * solved) @ weights if transpose else slope * (solved @ weights.mT)
        missed = torch.linalg.vector_norm(right - solved + image, dim=-1)
        size = torch.linalg.vector_norm(right, dim=-1)
        residual = torch.where(missed == 0, 0.0, missed / size).amax(-1)
        space = equilibrium.workspace
        if transpose and space.adjoint_residual is None:
            space.adjoint_residual = residual
        allowed = max(UNUSABLE, 2.0 * (self.tolerance or 0.0))
        usable = missed <= allowed * (size + torch.linalg.vector_norm(solved, dim=-1))
        return torch.where(usable.all(-1)[..., None, None], solved, torch.nan)
