"""Linear DEQ: y = theta1 . x + theta2 y, so y = phi . x with phi = theta1 / (1 - theta2)."""

from __future__ import annotations

import torch
from torch import Tensor

from gflow.models.base import Equilibrium
from gflow.models.single_index import SingleIndexDEQ, along


class LinearDEQ(SingleIndexDEQ):
    """A single-index DEQ with the identity as activation, solved in closed form.

    Every theta2 but 1 has one equilibrium; theta2 < 1 and theta2 > 1 are two branches that no
    continuous trajectory connects ([DR] Lemma 3.2).

    Parameters
    ----------
    dim : int
        Length d of the inputs.
    """

    name = "linear"

    def __init__(self, dim: int) -> None:
        super().__init__(dim, "identity")

    def __repr__(self) -> str:
        return f"LinearDEQ(dim={self.dim})"

    def equilibrium(self, theta: Tensor, x: Tensor, warm: Tensor | None = None) -> Equilibrium:
        """y = theta1 . x / (1 - theta2)."""
        valid = self.admissible(theta)
        gap = torch.where(valid, 1.0 - theta[..., -1], torch.nan)[..., None]
        output = (theta[..., :-1] @ x.T) / gap
        return Equilibrium(theta, output, output, torch.ones_like(gap), valid)

    def mse_gradient(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """With q = (2/n) sum_i e_i x_i / (1 - theta2): (q, phi . q)."""
        gap = 1.0 - theta[:, -1:]
        phi = theta[:, :-1] / gap
        error = along(phi, x) - y
        weighted = error @ x if x.ndim == 2 else (error[:, None, :] @ x)[:, 0]
        pulled = weighted.div_(gap.mul_(0.5 * y.shape[-1]))
        return torch.cat([pulled, torch.linalg.vecdot(phi, pulled)[:, None]], dim=-1)

    def singular_distance(self, theta: Tensor) -> Tensor:
        """Distance to the singular point (0, 1), which is the sphere's centre."""
        return self.sphere_radius(theta)
