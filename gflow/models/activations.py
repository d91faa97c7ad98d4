"""Activations of a single-index DEQ, each with its analytic first and second derivative.

A new activation is one function and one line of :data:`ACTIVATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gflow.errors import ProblemError

Jet = tuple[Tensor, ...]


@dataclass(frozen=True)
class Activation:
    """A scalar function with two derivatives and the range of its slope.

    Attributes
    ----------
    name : str
        As the user wrote it.
    jet : callable
        Maps points and an order 1 or 2 to (value, slope[, curvature]); shared work is done once.
    slope_min, slope_max : float
        Infimum and supremum of the slope over the real line.
    kinks : tuple of float
        Points where the slope jumps; derivatives there are the right-hand ones.
    """

    name: str
    jet: Callable[[Tensor, int], Jet]
    slope_min: float
    slope_max: float
    kinks: tuple[float, ...] = ()

    def __call__(self, s: Tensor) -> Tensor:
        """The value at `s`."""
        return self.jet(s, 1)[0]


def _identity(s: Tensor, order: int) -> Jet:
    return (s, torch.ones_like(s), torch.zeros_like(s))[: order + 1]


def _tanh(s: Tensor, order: int) -> Jet:
    value = torch.tanh(s)
    slope = 1.0 - value * value
    return (value, slope) if order == 1 else (value, slope, -2.0 * value * slope)


def _sigmoid(s: Tensor, order: int) -> Jet:
    value = torch.sigmoid(s)
    slope = value * torch.sigmoid(-s)
    return (value, slope) if order == 1 else (value, slope, slope * (1.0 - 2.0 * value))


def _softplus(s: Tensor, order: int) -> Jet:
    value = s.clamp(min=0.0) + torch.log1p(torch.exp(-s.abs()))
    slope = torch.sigmoid(s)
    return (value, slope) if order == 1 else (value, slope, slope * torch.sigmoid(-s))


def _gelu(s: Tensor, order: int) -> Jet:
    near = s.clamp(-40.0, 40.0)  # beyond, the density is zero and s * s may overflow
    cumulative = 0.5 * torch.erfc(near / -math.sqrt(2.0))
    density = torch.exp(-0.5 * near * near) / math.sqrt(2.0 * math.pi)
    value, slope = s * cumulative, cumulative + near * density
    return (value, slope) if order == 1 else (value, slope, density * (2.0 - near * near))


def _leaky(negative_slope: float) -> Callable[[Tensor, int], Jet]:
    def jet(s: Tensor, order: int) -> Jet:
        slope = torch.where(s >= 0, s.new_ones(()), s.new_tensor(negative_slope))
        return (s * slope, slope, torch.zeros_like(s))[: order + 1]

    return jet


def _weak_tanh(epsilon: float) -> Callable[[Tensor, int], Jet]:
    def jet(s: Tensor, order: int) -> Jet:
        value, *rest = _tanh(s, order)
        slopes = [epsilon * derivative for derivative in rest]
        return (s + epsilon * value, 1.0 + slopes[0], *slopes[1:])

    return jet


_GELU_OVERSHOOT = 0.5 * math.erfc(-1.0) + math.exp(-1.0) / math.sqrt(math.pi)
"""Slope of gelu at sqrt(2), where its curvature vanishes: the largest slope, 1.1289."""

ACTIVATIONS: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation("identity", _identity, 1.0, 1.0),
        Activation("tanh", _tanh, 0.0, 1.0),
        Activation("sigmoid", _sigmoid, 0.0, 0.25),
        Activation("relu", _leaky(0.0), 0.0, 1.0, kinks=(0.0,)),
        Activation("leaky-relu", _leaky(0.01), 0.01, 1.0, kinks=(0.0,)),
        Activation("gelu", _gelu, 1.0 - _GELU_OVERSHOOT, _GELU_OVERSHOOT),
        Activation("softplus", _softplus, 0.0, 1.0),
    )
}
"""The activations without a parameter; ``weak-tanh:E`` is u + E tanh u."""


def parse_activation(text: str | Activation) -> Activation:
    """Look an activation up by name.

    Raises
    ------
    ProblemError
        If there is no such activation, or the E of ``weak-tanh:E`` is no positive number.
    """
    if isinstance(text, Activation):
        return text
    if isinstance(text, str) and text in ACTIVATIONS:
        return ACTIVATIONS[text]
    kind, _, argument = str(text).partition(":")
    if kind == "weak-tanh":
        try:
            epsilon = float(argument)
        except ValueError:
            epsilon = math.nan
        if 0 < epsilon < math.inf:
            return Activation(text, _weak_tanh(epsilon), 1.0, 1.0 + epsilon)
    raise ProblemError(
        f'activation is "{text}"; it must be one of {", ".join(ACTIVATIONS)} or weak-tanh:E with a '
        "positive number E (as in weak-tanh:0.25)."
    )
