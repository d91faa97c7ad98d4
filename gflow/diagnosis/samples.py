"""Which sample lost its equilibrium, and which is not finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gflow.diagnosis.scene import Cause, Finding, Scene, finite, name_sample
from gflow.models.base import Equilibrium
from gflow.problem import Problem

PROBES = 24
"""Points beyond the end, each twice as far as the one before, in search of what is not finite."""


def find_lost(scene: Scene) -> Finding:
    """At which sample the fixed-point equation is nearest to singular at the last point."""
    told = tell_slopes(scene)
    return Cause.EQUILIBRIUM_LOST, told and f"At the last point {told}"


def tell_slopes(scene: Scene) -> str:
    """Where the slope of the fixed-point equation is smallest, and what it was at the start."""
    slopes = scene.slopes(scene.state)
    if slopes is None:
        return ""
    index, smallest = int(slopes.argmin()), float(slopes.min())
    place = (
        f"smallest at {name_sample(scene.problem, index)}"
        if len(slopes) > 1
        else "alike at all samples"
    )
    told = f"the slope of the fixed-point equation is {place}: {smallest:.3g}"
    before = scene.slopes(scene.trajectory.theta[0])
    told += "" if before is None or scene.t == 0 else f", from {float(before.min()):.3g} at t = 0"
    if "singular_distance" in scene.problem.model.diagnostics:
        distance = float(scene.problem.model.singular_distance(scene.theta(scene.state)))
        told += f"; singular_distance is {distance:.3g}"
    return told + "."


def find_nonfinite(scene: Scene) -> Finding:
    """The first sample or component that is not finite, at the start or just beyond the end."""
    state = _nonfinite_state(scene)
    if state is None:
        return Cause.NONFINITE, ""
    found = scene.equilibrium(state)
    if not bool(found.valid):
        why = scene.problem.model.explain_loss_of_equilibrium(scene.theta(state))
        named = "at sample" in why
        return (Cause.NONFINITE_SAMPLE if named else Cause.NONFINITE), ""
    return at_samples(scene.problem, found) or _in_gradient(scene, found)


def _nonfinite_state(scene: Scene) -> Tensor | None:
    """The save itself if field or loss is not finite there, else a point beyond, on the field."""
    direction = scene.value(scene.state)
    if direction is None or not math.isfinite(scene.loss(scene.state)):
        return scene.state
    reach = scene.step if math.isfinite(scene.step) else 1e-3
    for power in range(PROBES):
        reached = reach * 2.0 ** (power - 4)
        state = scene.state + reached * direction
        if not finite(state):
            return None
        if scene.value(state, scene.t + reached) is None:
            return state
    return None


def at_samples(problem: Problem, found: Equilibrium) -> Finding | None:
    """The first sample whose output, loss or its slope is not finite."""
    output = found.output
    if not problem.n_samples:
        return None
    slope = problem.loss_function.slope(output, problem.y)
    for what, index in (
        ("output", _first_bad(output)),
        ("slope of the loss", _first_bad(slope)),
        ("loss", _first_bad_loss(problem, found)),
    ):
        if index is not None:
            return Cause.NONFINITE_SAMPLE, (
                f"The {what} is not finite at {name_sample(problem, index)}, where the output is "
                f"{_told(output[index])} and the target {_told(problem.y[index])}."
            )
    return None


def _first_bad(values: Tensor) -> int | None:
    bad = torch.nonzero(~torch.isfinite(values.flatten(1) if values.ndim > 1 else values[:, None]))
    return int(bad[0, 0]) if len(bad) else None


def _first_bad_loss(problem: Problem, found: Equilibrium) -> int | None:
    """By bisection: the loss of some samples is finite where that of each is."""
    output, target, first, count = found.output, problem.y, 0, len(found.output)

    def sound(part: slice) -> bool:
        return finite(problem.loss_function.value(output[part], target[part]))

    while count > 1:
        half = slice(first, first + count // 2)
        first, count = (half.stop, count - count // 2) if sound(half) else (first, count // 2)
    return None if sound(slice(first, first + 1)) else first  # a sum may overflow, and no term


def _in_gradient(scene: Scene, found: Equilibrium) -> Finding:
    """The first component of the gradient that is not finite."""
    gradient = scene.problem.gradient_at(found)
    bad = torch.nonzero(~torch.isfinite(gradient)).flatten().tolist()
    if not bad:
        return Cause.NONFINITE, ""
    name = scene.problem.model.parameter_names[bad[0]]
    loss = float(scene.problem.loss_at(found))
    told = f"the gradient's component {name} is {float(gradient[bad[0]])}, the loss {loss:.3g}"
    return (
        Cause.NONFINITE,
        f"There {told}; {len(bad)} of {len(gradient)} components are not finite.",
    )


def _told(value: Tensor) -> str:
    return ", ".join(f"{float(one):.4g}" for one in value.flatten()[:3])
