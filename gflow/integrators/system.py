"""A field as the native methods call it: on rows, with what it does not offer by differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import Field


class System:
    """A field on a batch: whole if it takes batches, else row by row."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self._row: tuple[Tensor, Tensor] | None = None

    def value(self, t: np.ndarray, theta: Tensor) -> Tensor:
        """The field (B, P) at times (B,) and rows (B, P)."""
        if self.field.batched:
            return self.field.function(t, theta)
        return self._rows(self.field.function, t, theta)

    def alone(self, t: float, theta: Tensor) -> Tensor:
        """The field (P,) of a batch of one at theta (P,)."""
        if self.field.batched:
            return self.field.function(np.array([t]), theta[None])[0]
        return self.field.function(t, theta)

    def jacobian(self, t: np.ndarray, theta: Tensor) -> Tensor:
        """The Jacobian (B, P, P), by forward differences if the field offers none."""
        if self.field.jacobian is None:
            return self._differences(t, theta)
        if self.field.batched:
            return self.field.jacobian(t, theta)
        return self._rows(self.field.jacobian, t, theta)

    def jvp(self, t: np.ndarray, theta: Tensor, vector: Tensor) -> Tensor:
        """The Jacobian times a vector (B, P), by a difference if the field offers none."""
        if self.field.jvp is None:
            step = _difference(theta) / _norm(vector).clamp(min=1e-30)
            return (self.value(t, theta + step * vector) - self.value(t, theta)) / step
        if self.field.batched:
            return self.field.jvp(t, theta, vector)
        return self._rows(self.field.jvp, t, theta, vector)

    def time_derivative(self, t: np.ndarray, theta: Tensor, value: Tensor) -> Tensor | None:
        """The derivative (B, P) in t at fixed theta; None for an autonomous field."""
        if self.field.time_derivative is not None:
            if self.field.batched:
                return self.field.time_derivative(t, theta)
            return self._rows(self.field.time_derivative, t, theta)
        if self.field.autonomous:
            return None
        step = torch.finfo(value.dtype).eps ** (1 / 3) * np.maximum(np.abs(t), 1.0)
        # Three points up to t, or from t on at the beginning: never beyond the end.
        step = np.where(t >= 2 * step, -step, step)
        near, far = (self.value(t + k * step, theta) for k in (1, 2))
        return (4 * near - far - 3 * value) / column(2 * step, theta)

    def _differences(self, t: np.ndarray, theta: Tensor) -> Tensor:
        start, columns, step = self.value(t, theta), [], _difference(theta)[:, 0]
        for index in range(theta.shape[-1]):
            moved = theta.clone()
            moved[:, index] += step
            width = (moved - theta)[:, index, None]
            columns.append((self.value(t, moved) - start) / width)
        return torch.stack(columns, dim=-1)

    def _rows(self, function: Callable[..., Tensor], t: np.ndarray, *points: Tensor) -> Tensor:
        if len(t) == 1:
            first, *others = points
            return function(float(t[0]), self._alone(first), *(point[0] for point in others))[None]
        rows = zip(t.tolist(), *points, strict=True)
        return torch.stack([function(time, *row) for time, *row in rows])

    def _alone(self, theta: Tensor) -> Tensor:
        """The row of a batch of one; the same tensor again, by which a field knows its point."""
        if self._row is None or self._row[0] is not theta:
            self._row = theta, theta[0]
        return self._row[1]


def _norm(vector: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return norm


def _difference(theta: Tensor) -> Tensor:
    """Length (B, 1) of a forward difference: the root of the rounding, relative to theta."""
    root: float = torch.finfo(theta.dtype).eps ** 0.5
    return root * (1.0 + _norm(theta))


def column(values: np.ndarray, like: Tensor) -> Tensor:
    """Values (B,) of the host as a column (B, 1) beside a tensor."""
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)[:, None]


def plain(tensor: Tensor) -> Any:
    """A tensor of the host as an array, whose small operations cost a third; others as they are."""
    return tensor.numpy() if tensor.is_cpu else tensor
