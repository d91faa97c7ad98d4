"""Why steps were short, or too long: stability, accuracy, a singular point, rounding, a jump."""

from __future__ import annotations

import math

import torch

from gflow.diagnosis.samples import tell_slopes
from gflow.diagnosis.scene import Cause, Finding, Scene
from gflow.integrators.norms import scaled_norm
from gflow.integrators.stabilized import MARGIN, StabilizedMethod
from gflow.integrators.stiffness import DENSE_LIMIT
from gflow.status import Status

STABLE = {
    "native:tsit5": 3.5,
    "scipy:RK23": 2.51,
    "scipy:RK45": 3.31,
    "scipy:DOP853": 6.39,
    "torchdiffeq:dopri8": 5.17,
    "torchdiffeq:dopri5": 3.31,
    "torchdiffeq:bosh3": 2.51,
    "torchdiffeq:fehlberg2": 2.01,
    "torchdiffeq:adaptive_heun": 2.0,
    "torchdiffeq:euler": 2.0,
    "torchdiffeq:midpoint": 2.0,
    "torchdiffeq:heun2": 2.0,
    "torchdiffeq:heun3": 2.51,
    "torchdiffeq:rk4": 2.79,
    "torchdiffeq:explicit_adams": 0.0034,
    "torchdiffeq:implicit_adams": 0.18,
}
"""Largest step times rate at which y' = -rate y decays, from the methods' stability functions; of
explicit_adams at order 11, which it comes to, and of implicit_adams where its iteration, measured
at rtol 1e-3, does not converge beyond."""
NEAR = 0.5
"""Part of that from which stability, and not the tolerance, is what limits a step."""
SHORT = 0.1
"""Step times rate below which a method that rejects many steps is not limited by a smooth field."""
SOUND = 0.1
"""Slope above which no singular point is near, however it fell."""
BOUND = 2.0
"""Step times rate up to which rounding of the field passes into an implicit method's step."""
IDLE = 1e-3
"""Step times rate below which neither stability nor a smooth field explains the steps."""
NARROW, FALLEN = 1e-3, 1e-2
"""Slope of the fixed-point equation, in itself and to its start, that counts as singular."""
STEEP, GROWN = 1e6, 1e4
"""Fastest rate, in units of 1 / t and of itself at the start, that does so too."""
NUDGE = 1.0
"""Relative change of theta, in units of the rounding, that shows the rounding of the field."""
NOISY = 0.1
"""Part of the tolerance that rounding makes up in a step which is too short because of it."""
ACROSS, JUMP, SMOOTH = 1e-7, 1e-2, 10.0
"""Relative distance across which a smooth field does not change by more than the second, and the
third times what its Jacobian promises."""
RECENT, REFUSED = 100, 0.2
"""Part of the last attempts that must have been rejected."""
KINKED = 0.1
"""The same of a model that is known to have kinks."""


def find_short_steps(scene: Scene) -> Finding:
    """Why a run ended before its end: by a limit, or in steps too short."""
    return _singular(scene) or _noise(scene) or _jump(scene) or _kinks(scene) or _pace(scene)


def find_diverged(scene: Scene) -> Finding:
    """Whether theta grew since steps were too long, the loss has no minimum, or rises."""
    trajectory, limit = scene.trajectory, STABLE.get(scene.method.info.name)
    first, last = scene.loss(trajectory.theta[0]), scene.loss(scene.state)
    if limit is not None and not scene.method.info.adaptive:
        reached = scene.rate * scene.step
        if reached > limit:
            return Cause.UNSTABLE, (
                f"The step times the fastest rate {scene.rate:.3g} is {reached:.3g}, and "
                f"{scene.method.info.name} is stable up to {limit:.3g}: lower step_size, or take "
                "an adaptive method."
            )
    told = f"The loss went from {first:.4g} to {last:.4g}"
    if last > first:
        return Cause.DIVERGED, f"{told}: {_no_gradient(scene)}{_growth(scene)}."
    return Cause.DIVERGED, f"{told} as theta grew: it has no minimum there{_growth(scene)}."


def _no_gradient(scene: Scene) -> str:
    law, backward = scene.options.law, scene.problem.backward
    if backward.exact:
        return f"along the flow {law.name} it need not fall"
    return f'with the backward "{backward.name}" the field is no gradient of it'


def _growth(scene: Scene) -> str:
    """The rate at which |theta| grows at the end."""
    value, square = scene.value(scene.state), float(scene.state @ scene.state)
    if value is None or not square > 0:
        return ""
    return f"; |theta| grows at the rate {float(scene.state @ value) / square:.3g} there"


def _singular(scene: Scene) -> Finding | None:
    """Whether the run came close to where the gradient is singular."""
    now, before = scene.slopes(scene.state), scene.slopes(scene.trajectory.theta[0])
    small = now is not None and float(now.min()) <= NARROW
    sound = now is not None and float(now.min()) > SOUND
    fallen = False
    if now is not None and before is not None and not sound:
        fallen = float(now.min()) <= FALLEN * float(before.min())
    told = f"{tell_slopes(scene)} " if small or fallen else ""
    near = told[:1].upper() + told[1:]
    healthy = sound and scene.trajectory.status is not Status.STEP_UNDERFLOW
    if not told and (healthy or not scene.rate * scene.t > STEEP):
        return None
    first = scene.rate_at(0.0, scene.trajectory.theta[0])
    if not told and not scene.rate > GROWN * first:
        return None
    what = "A singular point of the loss" if sound else "A singular point"
    return Cause.SINGULAR, (
        f"{what} is near. {near}The fastest rate is {scene.rate:.3g}, from {first:.3g} at"
        f" t = 0, and dt {scene.step:.3g}. Start elsewhere, or end the run before."
    )


def _noise(scene: Scene) -> Finding | None:
    """Whether rounding of the field alone makes up the error that a step is allowed."""
    state, options = scene.state, scene.options
    if scene.step * scene.rate > NEAR * STABLE.get(scene.method.info.name, BOUND):
        return None
    signs = 1.0 - 2.0 * (torch.arange(len(state), device=state.device) % 2).to(state)
    moved = state * (1.0 + NUDGE * torch.finfo(state.dtype).eps * signs)
    values = scene.value(state), scene.value(moved)
    if values[0] is None or values[1] is None or not scene.step > 0:
        return None
    error = scene.step * (values[1] - values[0])
    tightening = scene.method.info.tightening
    scale = tightening * (options.atol + options.rtol * state.abs())
    if not float(scaled_norm(error[None], scale[None])[0]) > NOISY or not _shrunk(scene):
        return None
    largest = float(error.abs().max())
    atol = 10.0 ** math.ceil(math.log10(10 * largest / tightening))
    return Cause.ROUNDING, (
        f"Rounding of theta changes the field so much that a step of {scene.step:.3g} differs by "
        f"{largest:.2g}, which the tolerance forbids: take atol = {atol:.0e}."
    )


def _shrunk(scene: Scene) -> bool:
    """Whether a method that chooses its steps is far from its end."""
    ahead = (scene.options.t_end - scene.t) / scene.step
    return scene.method.info.adaptive and ahead > 1


def _jump(scene: Scene) -> Finding | None:
    """Whether the field is discontinuous at the end, where many steps were rejected."""
    suspect = _refused(scene) >= REFUSED or scene.step * scene.rate < IDLE
    if not suspect and scene.trajectory.status is not Status.STEP_UNDERFLOW:
        return None
    value, size = scene.value(scene.state), 1.0 + float(scene.state.abs().max())
    if value is None or not float(value.abs().max()) > 0:
        return None
    reach = max(ACROSS * size / float(value.abs().max()), 2 * scene.step)
    across = reach * value
    sides = scene.value(scene.state - across), scene.value(scene.state + across)
    if sides[0] is None or sides[1] is None:
        return None
    change = float((sides[1] - sides[0]).abs().max() / value.abs().max())
    if not change > JUMP + SMOOTH * reach * scene.rate:
        return None
    return Cause.DISCONTINUOUS, (
        f"The field changes by {100 * change:.3g} % of its size across "
        f"{2 * float(across.abs().max()):.1g} in theta there, where its Jacobian promises "
        f"{200 * reach * scene.rate:.3g} %: it jumps, and no step across is accurate. "
        "Take a smooth loss or activation."
    )


def _refused(scene: Scene) -> float:
    """Part of the last attempts that were rejected."""
    table = scene.trajectory.log.table[-RECENT:]
    return 1.0 - float(table[:, 3].mean()) if len(table) else 0.0


def _kinks(scene: Scene) -> Finding | None:
    """Whether steps are short since they meet kinks of the activation, at one sample after another.

    Each jump of the field may be too small, or too far from the end, to be seen across it.
    """
    refused, reached = _refused(scene), scene.step * scene.rate
    if scene.field.smooth or refused < KINKED or not reached < SHORT or not _shrunk(scene):
        return None
    return Cause.DISCONTINUOUS, (
        f"The field has kinks or jumps, and {100 * refused:.3g} % of the last attempts were "
        f"rejected, though dt = {scene.step:.3g} times the fastest rate {scene.rate:.3g} is "
        f"{reached:.3g}: steps shrink wherever a sample meets one; {_ahead(scene)}. Loosen rtol "
        "and atol, or take a smooth loss or activation."
    )


def _pace(scene: Scene) -> Finding:
    """Whether stability or accuracy limits the steps, and how many more are needed."""
    info, reached = scene.method.info, scene.step * scene.rate
    limit = _stable(scene)
    pace = _ahead(scene)
    measured = f"dt = {scene.step:.3g} times the fastest rate {scene.rate:.3g} is {reached:.3g}"
    if not info.adaptive:
        return _fixed_pace(scene, limit, measured, pace)
    if scene.trajectory.status is Status.STEP_UNDERFLOW:  # no pace leads on from there
        known = "" if math.isnan(reached) else f" There {measured}."
        return Cause.NONE, f"{known} Loosen rtol and atol, or start elsewhere.".strip()
    if reached > NEAR * limit:
        return Cause.STIFF, (
            f"Stability limits the steps: {measured}, and {info.name} is stable up to {limit:.3g}; "
            f"{pace}. {_for_stiff(scene)}."
        )
    if math.isnan(scene.step):
        return Cause.NONE, ""
    known = "" if math.isnan(reached) else f" ({measured})"
    return Cause.ACCURACY, (
        f"Accuracy limits the steps, not stability{known}; {pace}. {_for_accuracy(scene)}"
    )


def _stable(scene: Scene) -> float:
    """The largest step times rate at which the method is stable; of all its stages, if it adds."""
    if isinstance(scene.method, StabilizedMethod):
        return scene.method.reach(scene.state.dtype) / MARGIN
    return STABLE.get(scene.method.info.name, math.inf)


def _fixed_pace(scene: Scene, limit: float, measured: str, pace: str) -> Finding:
    """Whether a step that is given is too long, or too short."""
    reached = scene.step * scene.rate
    stable = f", and {scene.method.info.name} is stable up to {limit:.3g}"
    known = "" if math.isnan(reached) else measured + stable
    if reached > limit:
        return Cause.UNSTABLE, (
            f"The step is too long: {known}. Take a step_size below {limit / scene.rate:.3g}, or "
            "an adaptive method."
        )
    status = scene.trajectory.status
    if status is Status.METHOD_FAILED:
        return Cause.UNSTABLE, (
            f"The step is too long for the method's iteration{known and f' ({measured})'}. Lower "
            "step_size, or take an adaptive method."
        )
    budget = "wall_seconds" if status is Status.WALL_LIMIT else "max_steps"
    advice = f"Raise step_size if that allows, or {budget}; or take an adaptive method."
    return Cause.FIXED_STEP, f"The step is fixed: {known}{known and '; '}{pace}. {advice}"


def _ahead(scene: Scene) -> str:
    """How far the run came, and what is left at its pace."""
    trajectory, t_end = scene.trajectory, scene.options.t_end
    if math.isinf(t_end) or not scene.step > 0:
        return f"t_end is infinite, and dt {scene.step:.3g}"
    steps = (t_end - scene.t) / scene.step
    told = f"it came {100 * scene.t / t_end:.2g} % of the way, and at this pace t_end is "
    told += f"{steps:,.0f} steps off"
    if trajectory.status is Status.WALL_LIMIT:  # else the same run would be told differently
        told += f", {steps * trajectory.wall_seconds / max(1, len(trajectory.log)):,.2g} s"
    return told


def _dense(scene: Scene) -> bool:
    return scene.field.jacobian is not None and scene.state.numel() <= DENSE_LIMIT


def _for_stiff(scene: Scene) -> str:
    smooth = scene.field.smooth
    auto = "" if scene.options.method == "auto" else " or auto"
    if _dense(scene):
        return f"Take {'expcol8' if smooth else 'exprb43'}{auto}"
    if isinstance(scene.method, StabilizedMethod):
        return "It has no more stages: end the run before, or raise its budget"
    return f"Take {'rkc4' if smooth and scene.options.rtol < 1e-4 else 'rkc2'}{auto}"


def _for_accuracy(scene: Scene) -> str:
    order, looser = scene.method.info.order, "Loosen rtol and atol"
    if order is not None and order < 8 and scene.field.smooth and _dense(scene):
        return f"{looser}, or take expcol8, of order 8."
    if order is not None and order < 4 and scene.field.smooth:
        return f"{looser}, or take rkc4, of order 4."
    return f"{looser}."
