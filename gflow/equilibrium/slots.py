"""Sets of vectors kept for every sample, one slot after the other: shape (k, K, m).

Batched matrix products of such thin matrices take three to ten times as long as these sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 2**15
"""Numbers up to which the call of an operation costs more than its arithmetic."""


def inner_products(slots: Tensor, vector: Tensor) -> Tensor:
    """The products (k, K) of each slot with a vector (K, m)."""
    return (slots * vector).sum(-1)


def combination(weights: Tensor, slots: Tensor) -> Tensor:
    """The sum (K, m) of the slots with weights (k, K)."""
    if slots.numel() <= SMALL:
        return (weights[..., None] * slots).sum(0)
    total = torch.zeros_like(slots[0])
    for weight, slot in zip(weights, slots, strict=True):
        total.addcmul_(weight[:, None], slot)
    return total
