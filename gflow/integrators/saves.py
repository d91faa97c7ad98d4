"""The saved points of a batch, all on one grid."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.native import BatchStep
from gflow.integrators.trajectory import SNAP


class Saves:
    """The saved points of all trajectories on one grid."""

    def __init__(self, times: Tensor, theta0: Tensor) -> None:
        self.grid = times.cpu().double().numpy()
        self.theta = theta0.new_full((len(theta0), len(self.grid), theta0.shape[-1]), torch.nan)
        self.theta[:, : int(np.searchsorted(self.grid, 0.0, side="right"))] = theta0[:, None]
        self.device = theta0.device

    def record(self, ids: np.ndarray, rows: np.ndarray, step: BatchStep) -> None:
        """Evaluate dense output where the grid falls into the accepted rows' steps."""
        t0, t1 = step.t0[rows], step.t1[rows]
        first = np.searchsorted(self.grid, t0, side="right")
        count = np.searchsorted(self.grid, t1, side="right") - first
        total = int(count.sum())
        if total == 0:
            return
        which = np.repeat(np.arange(len(rows)), count)
        place = np.arange(total) - np.repeat(np.cumsum(count) - count, count) + first[which]
        x = (self.grid[place] - t0[which]) / (t1 - t0)[which]
        within = x <= 1 - SNAP
        values = step.theta1[torch.as_tensor(rows[which], device=self.device)]
        if within.any():
            index = torch.as_tensor(rows[which[within]], device=self.device)
            at = torch.as_tensor(x[within], device=self.device).to(step.theta0)
            values[torch.as_tensor(within, device=self.device)] = step.dense(index, at)
        target = torch.as_tensor(ids[rows[which]], device=self.device)
        self.theta[target, torch.as_tensor(place, device=self.device)] = values
