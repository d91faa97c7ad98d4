"""How often an error counts that every step repeats.

Where the fast eigenvectors turn along the way, as in a narrow valley that bends, an exponential
method loses order: what a step misses is of the order of its estimate, no less, and it lies along
the valley, where nothing damps it. Steps of length h then add up to as many such errors as there
are steps in the time in which theta changes by its own size, or since the flow began.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.system import column


def steps_alike(t: np.ndarray, theta: Tensor, value: Tensor, width: Tensor) -> Tensor:
    """min(t, |theta| / |f|) / h, shape (B, 1).

    Parameters
    ----------
    t : array, shape (B,)
        Times at the steps' ends.
    theta, value : Tensor, shape (B, P)
        Parameters and field where the steps begin.
    width : Tensor, shape (B, 1)
        The steps h.
    """
    size = torch.linalg.vector_norm(theta, dim=-1, keepdim=True)
    speed = torch.linalg.vector_norm(value, dim=-1, keepdim=True)
    alike: Tensor = torch.minimum(column(t, theta), size / speed.clamp(min=1e-30)) / width
    return alike
