"""Sizes in units of the tolerance, on the host; of CPU tensors by numpy, which costs half."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import Settings


def scaled_norm(vector: Tensor, scale: Tensor) -> np.ndarray:
    """RMS (B,) of vector / scale over the parameters."""
    if vector.device.type == "cpu":
        return _scaled_norm(vector.numpy(), scale.numpy())
    scaled = vector / scale
    square = (scaled * scaled).sum(-1) / vector.shape[-1]  # the norm is slow along columns
    return np.asarray(np.sqrt(square.cpu().numpy().astype(np.float64)))


def error_ratios(error: Tensor, theta0: Tensor, theta1: Tensor, settings: Settings) -> np.ndarray:
    """RMS (B,) of errors of steps from theta0 to theta1 (B, P) in tolerances, NaN for infinity."""
    atol, rtol = settings.atol, settings.rtol
    if error.device.type == "cpu":
        size = np.maximum(np.abs(theta0.numpy()), np.abs(theta1.numpy()))
        ratio = _scaled_norm(error.numpy(), atol + rtol * size)
    else:
        ratio = scaled_norm(error, atol + rtol * torch.maximum(theta0.abs(), theta1.abs()))
    return np.where(np.isfinite(ratio), ratio, np.nan)


def _scaled_norm(vector: np.ndarray, scale: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        scaled = vector / scale
        mean = (scaled * scaled).sum(-1) / vector.shape[-1]
        return np.asarray(np.sqrt(mean.astype(np.float64)))
