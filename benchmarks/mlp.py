"""The fixed problem *tanh MLP 8-96-96-1*, P = 10,273, with derivatives written by hand.

n = 256 inputs N(0, 1), target sin(2 x1) x2 + x3/2, weights N(0, 1/fan-in), zero biases, float64, a
seed for both, t = 300, mean squared error without 1/2. The gradient is a forward and a backward
pass of matrix products; the Hessian-vector product differentiates both passes along the vector
(Pearlmutter 1994). theta holds W1, b1, W2, b2, W3, b3, row by row.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import Field

WIDTHS = (8, 96, 96, 1)
SAMPLES = 256
T_END = 300.0
SEEDS = (0, 1, 2)


class Exhausted(Exception):
    """More gradient equivalents were asked for than a run may have."""


@dataclass
class Passes:
    """A forward and a backward pass at theta: activations and dL/d(preactivation) per layer."""

    theta: Tensor
    layers: list[tuple[Tensor, Tensor]]
    active: list[Tensor]
    delta: list[Tensor]


@dataclass
class MLP:
    """Data, start and counted derivatives of one seed's problem.

    `gradients` and `products` count what was evaluated; a Hessian-vector product is worth two
    gradients. Beyond `budget` equivalents they raise :class:`Exhausted`.
    """

    x: Tensor
    y: Tensor
    theta0: Tensor
    widths: tuple[int, ...] = WIDTHS
    gradients: int = 0
    products: int = 0
    budget: float = math.inf
    _last: Passes | None = field(default=None, repr=False)

    @property
    def equivalents(self) -> int:
        """Gradient equivalents so far."""
        return self.gradients + 2 * self.products

    def reset(self) -> None:
        """Forget the counts and the last passes."""
        self.gradients = self.products = 0
        self._last = None

    def field(self) -> Field:
        """The gradient flow."""
        return Field(
            lambda t, theta: -self.gradient(theta),
            jvp=lambda t, theta, vector: -self.product(theta, vector),
            symmetric=True,
        )

    def loss(self, theta: Tensor) -> Tensor:
        """Mean squared error."""
        return ((self._forward(self._layers(theta))[-1] - self.y) ** 2).mean()

    def gradient(self, theta: Tensor) -> Tensor:
        """Gradient of the loss, shape (P,)."""
        self._spend()
        self.gradients += 1
        passes = self._last = self._passes(theta)
        parts = []
        for delta, below in zip(passes.delta, passes.active, strict=False):
            parts += [(delta.T @ below).flatten(), delta.sum(0)]
        return torch.cat(parts)

    def product(self, theta: Tensor, vector: Tensor) -> Tensor:
        """Hessian times vector, shape (P,); the passes at the last theta are kept."""
        self._spend()
        self.products += 1
        if self._last is None or not torch.equal(self._last.theta, theta):
            self._last = self._passes(theta)
        passes, along = self._last, self._layers(vector)
        d_active = self._forward_along(passes, along)
        d_delta = self._backward_along(passes, along, d_active)
        parts = []
        for (now, before), (d_now, d_before) in zip(
            zip(passes.delta, passes.active, strict=False),
            zip(d_delta, d_active, strict=False),
            strict=True,
        ):
            parts += [(d_now.T @ before + now.T @ d_before).flatten(), d_now.sum(0)]
        return torch.cat(parts)

    def _spend(self) -> None:
        if self.equivalents >= self.budget:
            raise Exhausted(f"{self.equivalents} gradient equivalents are used up")

    def _layers(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        layers, start = [], 0
        for fan_in, fan_out in zip(self.widths[:-1], self.widths[1:], strict=True):
            middle, end = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
            layers.append((theta[start:middle].view(fan_out, fan_in), theta[middle:end]))
            start = end
        return layers

    def _forward(self, layers: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        active = [self.x]
        for weight, bias in layers[:-1]:
            active.append(torch.addmm(bias, active[-1], weight.T).tanh_())
        weight, bias = layers[-1]
        return [*active, torch.addmm(bias, active[-1], weight.T)]

    def _passes(self, theta: Tensor) -> Passes:
        layers = self._layers(theta)
        active = self._forward(layers)
        delta = [(active[-1] - self.y) * (2.0 / self.y.numel())]
        for (weight, _), a in zip(reversed(layers), reversed(active[1:-1]), strict=False):
            delta.append((delta[-1] @ weight) * (1 - a * a))
        return Passes(theta.clone(), layers, active, delta[::-1])

    def _forward_along(self, passes: Passes, along: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Derivatives of the activations along the vector."""
        derivatives = [torch.zeros_like(self.x)]
        for k, ((weight, _), (v, c)) in enumerate(zip(passes.layers, along, strict=True)):
            d = torch.addmm(c, passes.active[k], v.T)
            d = d if k == 0 else d.addmm_(derivatives[-1], weight.T)
            last = k == len(along) - 1
            derivatives.append(d if last else d * (1 - passes.active[k + 1] ** 2))
        return derivatives

    def _backward_along(
        self, passes: Passes, along: list[tuple[Tensor, Tensor]], d_active: list[Tensor]
    ) -> list[Tensor]:
        """Derivatives of dL/d(preactivation) along the vector."""
        derivatives = [d_active[-1] * (2.0 / self.y.numel())]
        for k in reversed(range(1, len(along))):
            weight, a, delta = passes.layers[k][0], passes.active[k], passes.delta[k]
            pulled = torch.addmm(derivatives[-1] @ weight, delta, along[k][0])
            bend = (-2 * a * d_active[k]) * (delta @ weight)
            derivatives.append(pulled * (1 - a * a) + bend)
        return derivatives[::-1]


def mlp(seed: int = 0, widths: tuple[int, ...] = WIDTHS, samples: int = SAMPLES) -> MLP:
    """The problem of one seed."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, widths[0]))
    y = np.sin(2 * x[:, 0]) * x[:, 1] + 0.5 * x[:, 2]
    parts = []
    for fan_in, fan_out in itertools.pairwise(widths):
        parts += [rng.normal(size=fan_in * fan_out) / np.sqrt(fan_in), np.zeros(fan_out)]
    theta0 = torch.from_numpy(np.concatenate(parts))
    return MLP(torch.from_numpy(x), torch.from_numpy(y[:, None]), theta0, widths)
