"""Which branch an equilibrium is on: the sign of det(I - J), and whether a step was a jump."""

from __future__ import annotations

import torch
from torch import Tensor

from gflow.models.activations import Activation
from gflow.models.vector_adjoint import Differentiation
from gflow.models.vector_state import NUMBERS, Factors, VectorEquilibrium
from gflow.models.vector_theory import margin, regular_at
from gflow.models.vector_track import SHARED_FROM, system

SHORT = 1e-5
"""Moves below this part of z are no jumps."""
UNEXPLAINED = 0.8
"""Part of a move that terms of second order may make up: 1 for a jump, none for a short step."""


def branch_sign(
    solved: VectorEquilibrium, activation: Activation, differentiation: Differentiation
) -> Tensor:
    """Smallest sign of det(I - J) over the samples, shape (...); 1 for a regular identity."""
    if activation.name == "identity":
        factors = solved.workspace.factors
        assert factors is not None
        regular: Tensor = factors.sign().abs()[..., 0]
        return regular
    weights, slope = solved.blocks.W, solved.slope
    certified = (margin(weights, activation) > 0).expand(solved.valid.shape)
    if bool(certified.all()):
        return certified.to(slope)
    large = slope.shape[-1] >= SHARED_FROM
    factors = None if large else differentiation.factors(solved)
    if factors is not None:
        return factors.sign().amin(-1)
    positive = certified[..., None] | regular_at(weights, slope, activation)
    signs = positive.to(slope)
    signs[~positive] = _signs_of(solved, torch.nonzero(~positive))
    return signs.amin(-1)


def _signs_of(solved: VectorEquilibrium, places: Tensor) -> Tensor:
    """Signs of det(I - J) at some samples, by LU in chunks."""
    signs = [solved.slope.new_empty(0)]
    for part in torch.split(places, max(1, NUMBERS // solved.slope.shape[-1] ** 2)):
        *lead, sample = part.T
        weights = solved.blocks.W[tuple(lead)] if solved.blocks.W.ndim > 2 else solved.blocks.W
        slope = solved.slope[(*lead, sample)]
        signs.append(Factors.of(system(weights, slope[..., None, :])).sign()[..., 0])
    return torch.cat(signs)


def is_near(
    weights: Tensor,
    activated: Tensor,
    slope: Tensor,
    z: Tensor,
    start: Tensor,
    activation: Activation,
) -> Tensor:
    """Mask (..., n): whether equilibria z lie on the branch of a start, an equilibrium nearby.

    With d = z - start, the start misses the equation by r = sigma(s(start)) - start = (I - J) d
    but for terms in d^2. On a branch that goes on r is most of it; where the branch ends at a fold
    and the solver jumps to another, r is what theta has moved, almost nothing, and (I - J) d not.

    Parameters
    ----------
    weights : Tensor, shape (..., m, m)
    activated, slope, z, start : Tensor, shape (..., n, m)
        s and sigma'(s) at z, z, and the start.
    activation : Activation
    """
    moved = z - start
    pushed = moved @ weights.mT
    missed = activation(activated - pushed) - start
    explained = moved - slope * pushed
    apart, size = (torch.linalg.vector_norm(v, dim=-1) for v in (explained - missed, explained))
    short = torch.linalg.vector_norm(moved, dim=-1) <= SHORT * (1.0 + z.abs().amax(-1))
    near: Tensor = short | (apart <= UNEXPLAINED * size)
    return near
