"""Whether trajectories without an end have come to rest, so that no stopping rule will be met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import Settings
from gflow.integrators.norms import scaled_norm

GROWTH = 4.0
"""Factor on t between two looks."""
STILL = 0.01
"""Movement between two looks that counts as none, in units of the tolerance."""
LOOKS = 6
"""Looks in a row without a movement: t has grown four thousand times."""


class Rest:
    """Watches a batch of trajectories; what rounding does at rest stays far below the tolerance.

    Parameters
    ----------
    t : array, shape (B,)
        Times where they begin.
    theta : Tensor, shape (B, P)
    settings : Settings
    """

    def __init__(self, t: np.ndarray, theta: Tensor, settings: Settings) -> None:
        self._t, self._theta, self._settings = t, theta, settings
        self._quiet = np.zeros(len(t), dtype=int)

    def select(self, rows: np.ndarray) -> None:
        """Go on with some rows alone."""
        index = torch.as_tensor(rows, device=self._theta.device)
        self._t, self._theta, self._quiet = self._t[rows], self._theta[index], self._quiet[rows]

    def state(self) -> dict[str, Any]:
        """All it knows, as plain data."""
        return {"t": self._t, "theta": self._theta, "quiet": self._quiet}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self._t, self._theta, self._quiet = state["t"], state["theta"], state["quiet"]

    def __call__(self, t: np.ndarray, theta: Tensor) -> np.ndarray:
        """Which are at rest (B,), given where all are now."""
        due = t >= np.maximum(GROWTH * self._t, np.spacing(1.0))
        if due.any():
            scale = self._settings.atol + self._settings.rtol * theta.abs()
            still = scaled_norm(theta - self._theta, scale) <= STILL
            self._quiet = np.where(due, np.where(still, self._quiet + 1, 0), self._quiet)
            self._t = np.where(due, t, self._t)
            where = torch.as_tensor(due, device=theta.device)[:, None]
            self._theta = torch.where(where, theta, self._theta)
        return np.asarray(self._quiet >= LOOKS)
