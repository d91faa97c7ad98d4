"""Inputs of several problems, one a row of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class OwnInputs:
    """Inputs (n, ...) of several problems, put together only where all are asked for.

    C reads each where it lies: to copy them costs as much as several evaluations of the field, and
    as much memory again. They are not to be changed.

    Parameters
    ----------
    each : sequence of Tensor, shape (n, ...)
    """

    def __init__(self, each: Sequence[Tensor]) -> None:
        self._each = tuple(each)
        self.shape = (len(self._each), *self._each[0].shape)
        self.ndim = len(self.shape)

    def __reduce__(self) -> tuple[type[OwnInputs], tuple[tuple[Tensor, ...]]]:
        return OwnInputs, (self._each,)  # a copy's tensors have other places

    def select(self, rows: Tensor) -> OwnInputs:
        """Those of some rows (K,)."""
        return OwnInputs([self._each[row] for row in rows.tolist()])

    @cached_property
    def together(self) -> Tensor:
        """All of them (B, n, ...)."""
        return torch.stack([x.mT for x in self._each]).mT

    @cached_property
    def places(self) -> Tensor | None:
        """Where each begins (B,), None if one is not such as C reads."""
        fit = all(is_plain(x) and x.mT.is_contiguous() for x in self._each)
        return torch.tensor([x.data_ptr() for x in self._each]) if fit else None


Inputs = Tensor | OwnInputs
"""Of all rows together, (n, ...) or (B, n, ...), or of each by itself."""


def is_plain(tensor: Tensor) -> bool:
    """Whether it holds doubles on the host, of which no derivative is wanted."""
    return tensor.is_cpu and tensor.dtype == torch.float64 and not tensor.requires_grad
