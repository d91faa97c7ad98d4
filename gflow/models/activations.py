"""Activations of a single-index DEQ, each with its analytic first and second derivative.

A new activation is one function and one line of :data:`ACTIVATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gflow.errors import ProblemError

Jet = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Hyperbolic:
    """The jet of a s + e tanh(s), a 0 or 1, which is C where samples are many."""

    upright: float
    steep: float | Tensor
    formula: Callable[[Tensor, int], Jet]

    def __call__(self, s: Tensor, order: int) -> Jet:
        """As PyTorch has it."""
        return self.formula(s, order)


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
    curvature_max : float
        Supremum of |curvature|; infinite where there are kinks.
    epsilon : float or Tensor, shape (B, 1), optional
        The parameter of ``weak-tanh``; a tensor has one for each row of a batch.
    """

    name: str
    jet: Callable[[Tensor, int], Jet]
    slope_min: float
    slope_max: float | Tensor
    kinks: tuple[float, ...] = ()
    curvature_max: float = math.inf
    epsilon: float | Tensor | None = None

    def __call__(self, s: Tensor) -> Tensor:
        """The value at `s`."""
        return self.jet(s, 1)[0]

    @cached_property
    def steepest(self) -> float:
        """The largest slope, of all rows if there are several."""
        top = self.slope_max
        return float(top.max()) if isinstance(top, Tensor) else top

    @cached_property
    def hyperbolic(self) -> tuple[float, Tensor] | None:
        """a and e, (1,) or one a row, where the function is known as a s + e tanh(s)."""
        jet = self.jet
        if not isinstance(jet, Hyperbolic):
            return None
        return jet.upright, torch.as_tensor(jet.steep, dtype=torch.float64).reshape(-1)

    @property
    def family(self) -> str:
        """Activations of equal family can be stacked."""
        return self.name if self.epsilon is None else "weak-tanh"

    def stack(self, activations: Sequence[Activation], like: Tensor) -> Activation:
        """One activation whose row i is activations[i], all of this one's family."""
        if len({a.name for a in activations}) == 1:
            return self
        return _weak("weak-tanh", like.new_tensor([[a.epsilon] for a in activations]))

    def select(self, rows: Tensor) -> Activation:
        """The activation of some rows (K,) of a batch."""
        return _weak(self.name, self.epsilon[rows]) if isinstance(self.epsilon, Tensor) else self


def _identity(s: Tensor, order: int) -> Jet:
    return (s, torch.ones_like(s), torch.zeros_like(s))[: order + 1]


def _hyperbolic(s: Tensor) -> Tensor:
    """tanh; on the CPU by numpy, whose loop is three times as fast."""
    if s.device.type == "cpu" and not s.requires_grad:
        value = torch.empty_like(s)
        np.tanh(s.numpy(), out=value.numpy())
        return value
    return torch.tanh(s)


def _tanh(s: Tensor, order: int) -> Jet:
    value = _hyperbolic(s)
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


def _weak(name: str, epsilon: float | Tensor) -> Activation:
    steepest = torch.as_tensor(1.0 + epsilon, dtype=torch.float64)

    def jet(s: Tensor, order: int) -> Jet:
        tanh = _hyperbolic(s)
        scaled = epsilon * tanh
        jet = (s + scaled, torch.addcmul(steepest.to(s), scaled, tanh, value=-1))
        return jet if order == 1 else (*jet, -2.0 * tanh * (jet[1] - 1.0))

    largest = float(epsilon.max()) if isinstance(epsilon, Tensor) else epsilon
    bend = largest * _TANH_CURVATURE
    known = Hyperbolic(1.0, epsilon, jet)
    return Activation(name, known, 1.0, 1.0 + epsilon, curvature_max=bend, epsilon=epsilon)


_TANH_CURVATURE = 4 / (3 * math.sqrt(3))
"""Largest curvature of tanh, at tanh s = 1/sqrt(3)."""
_GELU_OVERSHOOT = 0.5 * math.erfc(-1.0) + math.exp(-1.0) / math.sqrt(math.pi)
"""Slope of gelu at sqrt(2), where its curvature vanishes: the largest slope, 1.1289."""

ACTIVATIONS: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation("identity", _identity, 1.0, 1.0, curvature_max=0.0),
        Activation("tanh", Hyperbolic(0.0, 1.0, _tanh), 0.0, 1.0, curvature_max=_TANH_CURVATURE),
        Activation("sigmoid", _sigmoid, 0.0, 0.25, curvature_max=_TANH_CURVATURE / 8),
        Activation("relu", _leaky(0.0), 0.0, 1.0, kinks=(0.0,)),
        Activation("leaky-relu", _leaky(0.01), 0.01, 1.0, kinks=(0.0,)),
        Activation(
            "gelu",
            _gelu,
            1.0 - _GELU_OVERSHOOT,
            _GELU_OVERSHOOT,
            curvature_max=math.sqrt(2.0 / math.pi),
        ),
        Activation("softplus", _softplus, 0.0, 1.0, curvature_max=0.25),
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
            return _weak(text, epsilon)
    raise ProblemError(
        f'activation is "{text}"; it must be one of {", ".join(ACTIVATIONS)} or weak-tanh:E with a '
        "positive number E (as in weak-tanh:0.25)."
    )
