"""The module of module.toml: an implicit layer and a read-out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import gflow

WIDTH = 4


class Cell(nn.Module):
    """z -> tanh(W z + U x + b)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.state = nn.Linear(WIDTH, WIDTH, bias=False)
        self.inputs = nn.Linear(inputs, WIDTH)
        nn.init.orthogonal_(self.state.weight, gain=0.5)  # a contraction: tanh' is at most 1

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """The next z (n, WIDTH) for inputs x (n, d)."""
        return torch.tanh(self.state(z) + self.inputs(x))


def make(inputs: int, outputs: int) -> nn.Module:
    """The module for as many inputs and outputs as the data have."""
    return nn.Sequential(gflow.DEQLayer(Cell(inputs), width=WIDTH), nn.Linear(WIDTH, outputs))
