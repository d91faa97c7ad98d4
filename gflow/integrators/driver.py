"""What drives every method: from a field, a method and settings to a trajectory."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gflow.integrators.base import Field, Method, Settings
from gflow.integrators.meter import Meter
from gflow.integrators.run import BLOW_UP, FOREVER, MAX_RETRIES, SHRINK, Run
from gflow.integrators.snapshot import Keeper, Snapshot
from gflow.integrators.target import Observer, Target
from gflow.integrators.trajectory import Path, Saver, Trajectory, verdict
from gflow.status import Status

__all__ = ["BLOW_UP", "FOREVER", "MAX_RETRIES", "SHRINK", "Observer", "Target", "integrate_field"]
__all__ += ["verdict"]


def integrate_field(
    field: Field,
    theta0: Tensor,
    method: Method,
    settings: Settings,
    times: Tensor | None = None,
    *,
    targets: Sequence[Target] = (),
    max_steps: int = 1_000_000,
    wall_seconds: float = math.inf,
    observers: Sequence[Observer] = (),
    dense: bool = False,
    landings: Sequence[float] = (),
    t0: float = 0.0,
    warm: Tensor | None = None,
    size: float | None = None,
    keeper: Keeper | None = None,
    snapshot: Snapshot | None = None,
) -> Trajectory:
    """Integrate one field from t0; never raises for what happens on the way.

    Parameters
    ----------
    field : Field
    theta0 : Tensor, shape (P,)
    method : Method
        From :func:`gflow.integrators.registry.resolve`.
    settings : Settings
        The user's tolerances; they are tightened here by the method's factor.
    times : Tensor, shape (T,), optional
        Increasing save times in [0, t_end]; 0 and the end are always saved.
    targets : sequence of Target
        Stopping rules.
    max_steps : int
        Budget of attempts, accepted or not.
    wall_seconds : float
        Budget of wall-clock time, checked at every evaluation of the field.
    observers : sequence of Observer
        See every accepted step.
    dense : bool
        Keep the dense output of the whole trajectory.
    landings : sequence of float
        Times beside `times` at which dense output will be asked for: a method whose dense output
        misses its tolerance steps onto them.
    t0 : float
        Where to begin; saves up to it are left out.
    warm : Tensor, optional
        The field's warm start there.
    size : float, optional
        Largest |theta| where the trajectory began, if not in theta0: growth is relative to it.
    keeper : Keeper, optional
        Keeps the run on disk as it goes; the trajectory then has a snapshot, unless it is `dense`,
        since dense output cannot be kept.
    snapshot : Snapshot, optional
        Go on from there, with the same field, method and observers as before: bit for bit where the
        snapshot has a state, else the method begins anew there.

    Returns
    -------
    Trajectory
    """
    began = time.perf_counter()
    if warm is not None and field.memory is not None:
        field.memory.restore(warm)
    times = theta0.new_zeros(1, dtype=torch.float64) if times is None else times.cpu().double()
    stops = sorted({*times.tolist(), *landings}) if method.info.lands else []
    settings = replace(settings, landings=tuple(stops))
    tightened = settings.tightened(method.info.tightening, theta0.dtype)
    saver, path = Saver(times, theta0, t0), Path()
    watching = [*([path] if dense else []), *observers]
    meter = Meter(field, began + wall_seconds)
    run = Run(field, t0, theta0, method, tightened, size, meter, saver, watching)
    run.marking = keeper is not None and not dense
    if snapshot is not None:
        run.go_on(snapshot)

    def report() -> None:
        if keeper is not None and keeper.due():
            keeper.keep(run.trajectory(Status.RUNNING, "", began))

    with torch.no_grad():
        status, reason = run.loop(targets, max_steps, None if keeper is None else report)
    trajectory = run.trajectory(status, reason, began)
    return replace(trajectory, path=path) if dense else trajectory
