"""Linear DEQ: y = theta1 . x + theta2 y, so y = phi . x with phi = theta1 / (1 - theta2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gflow.compiled.kernel import Kernel
from gflow.models.base import Equilibrium, Moments
from gflow.models.single_index import SingleIndexDEQ, project


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
    compressible = True

    def __init__(self, dim: int) -> None:
        super().__init__(dim, "identity")

    def __repr__(self) -> str:
        return f"LinearDEQ(dim={self.dim})"

    def equilibrium(
        self, theta: Tensor, x: Tensor, warm: Tensor | Equilibrium | None = None
    ) -> Equilibrium:
        """y = theta1 . x / (1 - theta2)."""
        valid = self.admissible(theta)
        gap = torch.where(valid, 1.0 - theta[..., -1], torch.nan)[..., None]
        output = project(theta[..., :-1], x) / gap
        return Equilibrium(theta, output, output, torch.ones_like(gap), valid)

    def moments(self, x: Tensor, y: Tensor) -> Moments:
        """(2/n) X^T X and (2/n) X^T y, with a zero for theta2: (..., d + 1, d) and (B, d + 1)."""
        weight = 2.0 / y.shape[-1]
        square = torch.nn.functional.pad(weight * (x.mT @ x), (0, 0, 0, 1))
        mixed = y.reshape(-1, y.shape[-1]) @ x if x.ndim == 2 else (y[:, None, :] @ x)[:, 0]
        return square, torch.nn.functional.pad(weight * mixed, (0, 1)).mT.contiguous().mT

    def gradient_from_moments(self, theta: Tensor, moments: Moments) -> Tensor:
        """With q = (2/n) (X^T X phi - X^T y) / (1 - theta2): (q, phi . q).

        Written for the columns of theta, which are next to each other in memory.
        """
        square, mixed = moments
        columns = theta.mT
        gap = torch.rsub(columns[-1:], 1.0)
        phi = columns[:-1] / gap
        if square.ndim == 2:
            pulled = torch.addmm(mixed.mT, square, phi, beta=-1)
        else:
            pulled = ((square @ phi.mT[:, :, None])[:, :, 0] - mixed).mT
        pulled.div_(gap)
        pulled[-1] = (phi * pulled[:-1]).sum(0)
        return pulled.mT

    def kernel(self, moments: Moments, weight_decay: float) -> Kernel | None:
        """The same in C, ``linear.c``."""
        if type(self) is not LinearDEQ:  # another class may have another gradient
            return None
        square, mixed = (each.cpu().double().numpy() for each in moments)
        square, mixed = square[..., : self.dim, :], mixed[:, : self.dim]
        decay = np.array([weight_decay])
        if square.ndim == 2:
            return Kernel("linear.c", np.append(decay, square), mixed, {"OWN_INPUTS": 0})
        own = np.concatenate([square.reshape(len(mixed), -1), mixed], axis=-1)
        return Kernel("linear.c", decay, own, {"OWN_INPUTS": 1})

    def branch(self, theta: Tensor) -> Tensor:
        """The sign of 1 - theta2."""
        return torch.sign(torch.rsub(theta[..., -1], 1.0))

    def singular_distance(self, theta: Tensor) -> Tensor:
        """Distance to the singular point (0, 1), which is the sphere's centre."""
        return self.sphere_radius(theta)
