"""When equilibria of a vector DEQ are unique, and what the flow of the linear one conserves.

*Uniqueness.* For slopes in [0, L]: two equilibria differ by v with v = D W v, D a diagonal matrix
of mean slopes, so that v^T v / L <= v^T D^-1 v = v^T W v (entries of zero slope drop out). If the
largest eigenvalue of (W + W^T) / 2 is below 1/L, then v = 0, and I - D W is regular for every such
D. For slopes of both signs, |W| < 1 / max|sigma'| makes the map contract. At given samples the same
holds with the slopes that each sample has, and then det(I - J) > 0, for it is 1 at D = 0.

*Conservation.* With the identity, M = I - W and V = (U, b), the output C M^-1 V (x, 1) + c stays
what it is under (M, V) -> (G M, G V) and (M, C) -> (M H, C H). A loss L therefore has
(dL/dM) M^T + (dL/dV) V^T = 0 and M^T (dL/dM) + C^T (dL/dC) = 0, so that its gradient flow keeps
Q = M M^T + V V^T, if W, U and b move (or W and U, and b is 0), and K = M^T M + C^T C, if W and C
do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gflow.models.activations import Activation
from gflow.models.vector_layout import Blocks

RANK = 12
"""Eigenvalues of (W + W^T) / 2 that are told apart at the samples."""


def margin(weights: Tensor, activation: Activation) -> Tensor:
    """1/L minus the bound on W (..., m, m) above, shape (...); positive: unique and regular.

    For the identity the smallest singular value of I - W, the distance to a singular one.
    """
    finite = torch.isfinite(weights).all(-1).all(-1)
    safe = torch.where(finite[..., None, None], weights, 0.0)
    if activation.name == "identity":
        found = torch.linalg.svdvals(torch.eye(weights.shape[-1]).to(safe) - safe)[..., -1]
    else:
        steepest = max(activation.steepest, -activation.slope_min)
        found = 1.0 / steepest - _reach(safe, activation)
    return torch.where(finite, found, torch.nan)


def regular_at(weights: Tensor, slope: Tensor, activation: Activation) -> Tensor:
    """For each sample whether a bound shows that det(I - J) > 0, from its slopes (..., n, m).

    It is so where D^-1 - S is positive definite, S = (W + W^T) / 2. Of S the largest eigenvalues
    are taken as they are, V A V^T + mu, the others at their maximum mu: with E = D^-1 - mu positive
    the condition becomes that of the small matrix 1 - A^1/2 V^T E^-1 V A^1/2.
    """
    if activation.slope_min < 0:
        return torch.zeros_like(slope[..., 0], dtype=torch.bool)
    finite = torch.isfinite(weights).all(-1).all(-1)[..., None, None]
    symmetric = torch.where(finite, 0.5 * (weights + weights.mT), 0.0)
    values, vectors = torch.linalg.eigh(symmetric)
    taken = min(RANK, weights.shape[-1] - 1)
    split = values.shape[-1] - taken
    rest = values[..., split - 1 : split]
    root = vectors[..., split:] * (values[..., split:] - rest).sqrt()[..., None, :]
    room = 1.0 - rest[..., None, :] * slope
    pairs = (root[..., :, :, None] * root[..., :, None, :]).flatten(-2)
    small = ((slope / room) @ pairs).unflatten(-1, (taken, taken))
    info = torch.linalg.cholesky_ex(torch.eye(taken).to(slope) - small)[1]
    regular: Tensor = (info == 0) & (room > 0).all(-1) & finite[..., 0]
    return regular


def _reach(weights: Tensor, activation: Activation) -> Tensor:
    """Largest eigenvalue of the symmetric part, or for slopes of both signs the norm."""
    if activation.slope_min < 0:
        norm: Tensor = torch.linalg.matrix_norm(weights, 2)
        return norm
    largest: Tensor = torch.linalg.eigvalsh(0.5 * (weights + weights.mT))[..., -1]
    return largest


def _input_side(blocks: Blocks) -> Tensor:
    """Q = (I - W) (I - W)^T + U U^T + b b^T, shape (..., m, m)."""
    gap = torch.eye(blocks.W.shape[-1]).to(blocks.W) - blocks.W
    bias = blocks.b[..., None]
    return gap @ gap.mT + blocks.U @ blocks.U.mT + bias @ bias.mT


def _output_side(blocks: Blocks) -> Tensor:
    """K = (I - W)^T (I - W) + C^T C, shape (..., m, m)."""
    gap = torch.eye(blocks.W.shape[-1]).to(blocks.W) - blocks.W
    return gap.mT @ gap + blocks.C.mT @ blocks.C


CONSERVED = {"Q": _input_side, "K": _output_side}
