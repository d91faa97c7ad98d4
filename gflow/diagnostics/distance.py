"""Distances between gradient descent and the flow's path."""

from __future__ import annotations

import torch
from torch import Tensor

from gflow.integrators.trajectory import Path

CHUNK = 2**22
"""Distances computed at once; bounds the memory."""
SAMPLES = 8
"""Points per step at which the path is first sampled, and per bracket when refined."""
ROUNDS = 8
"""Refinements; each narrows the bracket of the nearest point fourfold."""


def nearest_on_path(path: Path, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The flow's nearest point to each of the thetas.

    Parameters
    ----------
    path : Path
        Dense output of the flow.
    theta : Tensor, shape (K, P)

    Returns
    -------
    distance, time : Tensor, shape (K,)
        min over s of |theta - path(s)| and its (first) argument; NaN for thetas that are NaN.
    """
    edges = torch.tensor([path.steps[0].t0, *(s.t1 for s in path.steps)], dtype=torch.float64)
    inner = torch.arange(SAMPLES, dtype=torch.float64) / SAMPLES
    times = torch.cat([(edges[:-1, None] + inner * edges.diff()[:, None]).reshape(-1), edges[-1:]])
    distance, place = _nearest(theta, path(times))
    place = place.cpu()
    best = times[place]
    low, high = times[(place - 1).clamp(min=0)], times[(place + 1).clamp(max=len(times) - 1)]
    grid = torch.linspace(0, 1, SAMPLES + 1, dtype=torch.float64)
    for _ in range(ROUNDS):
        at = low[:, None] + (high - low)[:, None] * grid
        points = path(at.reshape(-1)).reshape(*at.shape, -1)
        gaps = torch.linalg.vector_norm(points - theta[:, None], dim=-1).nan_to_num(torch.inf)
        smallest, place = gaps.min(-1)
        place = place.cpu()
        closer = (smallest < distance).cpu()
        best = torch.where(closer, at.gather(1, place[:, None])[:, 0], best)
        distance = torch.minimum(distance, smallest)
        reach = (high - low) / SAMPLES
        low, high = torch.maximum(low, best - reach), torch.minimum(high, best + reach)
    lost = torch.isnan(theta).any(-1)
    return torch.where(lost, torch.nan, distance), torch.where(lost.cpu(), torch.nan, best)


def _nearest(theta: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (K,) of each theta to the nearest of the points (N, P) and its place, in chunks."""
    found = [
        torch.cdist(rows, points, compute_mode="donot_use_mm_for_euclid_dist")
        .nan_to_num(torch.inf)
        .min(-1)
        for rows in torch.split(theta, max(1, CHUNK // len(points)))
    ]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
