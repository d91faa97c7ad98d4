"""The dense Hessian of a vector DEQ from sums of outer products over the samples.

With V = (W, U, b), u = (z, x, 1), R = (C, c), v = (z, 1), and per sample A = (I - J)^-1 D,
T = 1 + W A, w and e as in :mod:`gflow.models.vector_adjoint`, S the loss's second derivative and
h = sigma''(s) a: a change of V moves z by A dV u and w by G dV u + A^T dW^T w, with
G = (C A)^T S (C A) + T^T diag(h) T, and one of R moves w by (C A)^T S dR v + A^T dC^T e. Hence

    d2L/dV_kl dV_k'l' = sum G_kk' u_l u_l' + w_k A_lk' u_l' + w_k' A_l'k u_l
    d2L/dV_kl dR_pj   = sum ((C A)^T S)_kp u_l v_j + A_jk e_p u_l
    d2L/dR_pj dR_p'j' = sum S_pp' v_j v_j'

where A has no rows beyond z's. These are four products of matrices with a row for each sample; the
columns one by one would cost P solves.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from gflow.losses import Bend
from gflow.models.activations import Activation
from gflow.models.vector_layout import Layout
from gflow.models.vector_state import Factors, VectorEquilibrium

SEPARABLE = 1e-9
"""Relative difference at which a loss is taken to couple the samples."""


def loss_blocks(second: Bend, first: Tensor) -> Tensor | None:
    """The loss's second derivative S (..., n, o, o), or None if it couples the samples."""
    units = torch.eye(first.shape[-1]).to(first)
    blocks = torch.stack([second(unit.expand_as(first)) for unit in units], -1)
    generator = torch.Generator().manual_seed(0)
    trial = torch.randn(first.shape, generator=generator, dtype=first.dtype).to(first)
    exact, apart = second(trial), (blocks @ trial[..., None])[..., 0]
    scale = exact.abs().amax() + apart.abs().amax()
    return None if bool((exact - apart).abs().amax() > SEPARABLE * scale) else blocks


def exact_hessian(
    layout: Layout,
    activation: Activation,
    equilibrium: VectorEquilibrium,
    factors: Factors,
    x: Tensor,
    first: Tensor,
    blocks: Tensor,
    adjoint: Tensor,
) -> Tensor:
    """The Hessian (..., P, P) where the loss has second derivatives `blocks`."""
    z, slope, parts = equilibrium.z, equilibrium.slope, equilibrium.blocks
    size = z.shape[-1]
    spread = factors.solve(torch.diag_embed(slope).movedim(-1, 0), False).movedim(0, -1)
    spread = spread.expand(*z.shape, size)  # A
    turned = torch.eye(size).to(z) + parts.W[..., None, :, :] @ spread  # T
    h = activation.jet(equilibrium.activated, 2)[2] * adjoint
    w = slope * adjoint
    read = parts.C[..., None, :, :] @ spread
    bent = read.mT @ blocks
    core = bent @ read + turned.mT @ (h[..., None] * turned)  # G
    v = pad(z, (0, 1), value=1.0)
    u = pad(torch.cat([z, x.expand(*z.shape[:-1], x.shape[-1])], -1), (0, 1), value=1.0)
    below = pad(spread, (0, 0, 0, u.shape[-1] - size))
    once = _summed(_outer(w, u), below).transpose(-3, -2)  # k, l' | l, k' -> k, l, l', k'
    once = once.transpose(-2, -1)
    m, r, o, q = size, u.shape[-1], first.shape[-1], size + 1
    lead = z.shape[:-2]
    inner = (
        _summed(core, _outer(u, u)).transpose(-3, -2).reshape(*lead, m * r, m * r)
        + once.reshape(*lead, m * r, m * r)
        + once.reshape(*lead, m * r, m * r).mT
    )
    cross = _summed(bent, _outer(u, v)).transpose(-3, -2)
    held = _summed(pad(spread, (0, 0, 0, 1)), _outer(u, first))  # j, k | l, p
    cross = cross + held.movedim(-4, -1)
    outer = _summed(blocks, _outer(v, v)).transpose(-3, -2).reshape(*lead, o * q, o * q)
    cross = cross.reshape(*lead, m * r, o * q)
    whole = torch.cat([torch.cat([inner, cross], -1), torch.cat([cross.mT, outer], -1)], -2)
    places = _places(layout, m, r, o).to(z.device)
    return whole[..., places, :][..., places]


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return left[..., :, None] * right[..., None, :]


def _summed(left: Tensor, right: Tensor) -> Tensor:
    """Sum over samples of left_ab right_cd, shape (..., a, b, c, d)."""
    product = left.flatten(-2).mT @ right.flatten(-2)
    return product.reshape(*product.shape[:-2], *left.shape[-2:], *right.shape[-2:])


def _places(layout: Layout, m: int, r: int, o: int) -> Tensor:
    """Where each entry of theta stands among those of V and R."""
    inner, outer = torch.arange(m * r).reshape(m, r), m * r + torch.arange(o * (m + 1))
    readout = outer.reshape(o, m + 1)
    every = {"W": inner[:, :m], "U": inner[:, m:-1], "b": inner[:, -1]}
    every |= {"C": readout[:, :m], "c": readout[:, m]}
    return layout.join(every)
