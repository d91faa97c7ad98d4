"""Single-index DEQs by C, where rows and samples are many; None where C does not serve."""

from __future__ import annotations

from torch import Tensor

from gflow.compiled.inputs import Inputs
from gflow.compiled.samples import Samples, in_c
from gflow.equilibrium.solvers import NEAR, Jet
from gflow.models.activations import Activation
from gflow.models.base import Equilibrium


def tracked_in_c(
    activation: Activation,
    theta: Tensor,
    x: Inputs,
    warm: Tensor | Equilibrium | None,
    y: Tensor | None = None,
) -> tuple[Equilibrium, Tensor] | None:
    """The equilibrium near a guess and, if there are targets, the mean squared error's gradient."""
    start, known = guess(warm)
    value = None if known is None else known[0]
    given = [each for each in (start, value, y) if each is not None]
    compiled = in_c(theta, x, activation.hyperbolic, NEAR, *given)
    found = None if compiled is None else compiled.track(start, value, y)
    if found is None:
        return None
    point, output, slope, valid, gradient = found
    return Equilibrium(theta, output, point, slope, valid), gradient


def pulled_in_c(
    activation: Activation, solved: Equilibrium, x: Inputs, first: Tensor
) -> Tensor | None:
    """The exact gradient (B, P) of a loss of slope `first`."""
    compiled = _at(activation, solved, x, first)
    return None if compiled is None else compiled.pull(solved.output, first, solved.slope)


def bent_in_c(
    activation: Activation,
    solved: Equilibrium,
    x: Inputs,
    loss: tuple[Tensor, Tensor] | tuple[Tensor],
) -> Tensor | None:
    """Its Jacobian (B, P, P), from the loss's two derivatives, or from targets."""
    compiled = _at(activation, solved, x, *loss)
    if compiled is None:
        return None
    return compiled.bend(solved.preactivation, solved.output, solved.slope, *loss)


def guess(warm: Tensor | Equilibrium | None) -> tuple[Tensor | None, Jet | None]:
    """A first guess of the preactivations, and what is known there."""
    if isinstance(warm, Equilibrium):
        return warm.preactivation, (warm.output, warm.slope)
    return warm, None


def _at(activation: Activation, solved: Equilibrium, x: Inputs, *others: Tensor) -> Samples | None:
    beside = solved.output, solved.slope, solved.preactivation
    return in_c(solved.theta, x, activation.hyperbolic, NEAR, *beside, *others)
