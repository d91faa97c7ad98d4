"""The one place that knows everything: problem -> flow -> trajectory -> dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from gflow import assemble
from gflow.assemble import Observables
from gflow.descent import Descent, gradient_descent, record_times
from gflow.diagnostics.energy import EnergyAudit
from gflow.errors import ProblemError
from gflow.flow_run import FlowOptions, Progress, ProgressCallback, Ticker, loss_and_norm, run_flow
from gflow.integrators.trajectory import Trajectory
from gflow.problem import ArrayLike, Problem
from gflow.recording import Recording, make_recording
from gflow.status import Status
from gflow.store.provenance import Provenance


def integrate(
    problem: Problem | Sequence[Problem],
    theta0: ArrayLike,
    t_end: float,
    *,
    method: str = "auto",
    rtol: float = 1e-6,
    atol: float = 1e-9,
    times: int | Sequence[float] = 200,
    spacing: str = "linear",
    step_size: float | None = None,
    stop: Mapping[str, Any] | None = None,
    flow: str = "gradient",
    evaluation: tuple[ArrayLike, ArrayLike] | None = None,
    observables: Observables | None = None,
    diagnostics: Mapping[str, Any] | None = None,
    store_data: bool | None = None,
    progress: ProgressCallback | None = None,
    provenance: Provenance | None = None,
) -> xr.DataTree:
    """Integrate the gradient flow of a problem with error control.

    Parameters
    ----------
    problem : Problem, or sequence of Problem
        A sequence gives an ensemble of flows of different problems of one shape.
    theta0 : array, shape (P,) or (B, P)
        Start; (B, P) gives an ensemble, one trajectory a row.
    t_end : float
        End of the flow, on the clock t = eta k; infinite if `stop` holds something.
    method : str
        See :mod:`gflow.integrators.registry`; ``auto`` chooses and says why.
    rtol, atol : float
        Tolerances of the RMS norm of error / (atol + rtol |theta|), for every method.
    times : int or sequence of float
        How many saves, or their times; 0 and the end are always saved.
    spacing : str
        ``linear`` or ``log``, for a count.
    step_size : float, optional
        For fixed-step methods; shortened if it does not divide `t_end`, and said so.
    stop : mapping, optional
        Any of ``loss``, ``gradient_norm``, ``steady_state``, ``max_steps``, ``wall_seconds``.
    flow : str
        The vector field, see :mod:`gflow.flows`.
    evaluation : (x, y), optional
        Data on which the loss is recorded too.
    observables : mapping, optional
        Name to function of theta (P,), a tensor; a number or a vector, stored at every save.
    diagnostics : mapping, optional
        Name to bool, to switch diagnostics off; ``{"sharpness": "all"}`` computes the sharpness at
        every save where P is large, which may cost more than the flow.
    store_data : bool, optional
        Store inputs and targets; by default if x has at most 200,000 numbers.
    progress : callable, optional
        Called with a :class:`gflow.flow_run.Progress` at most five times a second.
    provenance : Provenance, optional
        What the caller knows of the run's origin, :class:`gflow.store.provenance.Provenance`.

    Returns
    -------
    xarray.DataTree
        Groups ``/problem``, ``/flow``, ``/flow_steps`` and, for the linear DEQ, ``/reference``.
        A flow that fails on the way is returned too: see ``tree["flow"].status``.

    Raises
    ------
    UsageError
        If an argument is wrong; the sentence says which.

    Examples
    --------
    >>> import gflow
    >>> model = gflow.LinearDEQ(dim=1)
    >>> problem = gflow.Problem(model, x=[[0.5], [1.0]], y=[1.0, 2.0])
    >>> tree = gflow.integrate(problem, [0.1, 0.0], t_end=10)
    >>> str(tree["flow"].status.values)
    't_end'
    """
    options = FlowOptions(t_end, method, rtol, atol, times, spacing, step_size, stop, flow)
    problems, starts, ensemble = _pair(problem, theta0)
    recording = make_recording(
        problems[0],
        starts[0],
        evaluation=evaluation,
        observables=observables,
        diagnostics=diagnostics,
        store_data=store_data,
        progress=progress,
        provenance=provenance,
    )
    groups: list[dict[str, xr.Dataset]] = []
    for member, start in zip(problems, starts, strict=True):
        groups.append(_flow_groups(member, start, options, recording))
        if str(groups[-1]["flow"].status.values) == Status.INTERRUPTED:
            break
    return recording.tree(problems, _merge(groups, ensemble))


def descend(
    problem: Problem,
    theta0: ArrayLike,
    step_sizes: Sequence[float],
    t_end: float,
    *,
    records: int = 200,
    spacing: str = "linear",
    wall_seconds: float = math.inf,
    evaluation: tuple[ArrayLike, ArrayLike] | None = None,
    observables: Observables | None = None,
    diagnostics: Mapping[str, Any] | None = None,
    store_data: bool | None = None,
    progress: ProgressCallback | None = None,
    provenance: Provenance | None = None,
) -> xr.DataTree:
    """Run gradient descent at several step sizes, on the clock t = eta k.

    Parameters
    ----------
    problem : Problem
    theta0 : array, shape (P,)
    step_sizes : sequence of float
        The learning rates eta.
    t_end : float
        Each step size makes floor(t_end / eta) updates.
    records : int
        Stored iterates per step size.
    spacing : str
        ``linear`` or ``log`` in the update number.
    wall_seconds : float
        Budget of wall-clock time; using it up is a failure, with the records so far.
    evaluation, observables, diagnostics, store_data, progress, provenance
        As for :func:`integrate`.

    Returns
    -------
    xarray.DataTree
        Groups ``/problem``, ``/descent`` and, for the linear DEQ, ``/reference``.
    """
    start = _one_start(problem, theta0)
    recording = make_recording(
        problem,
        start,
        evaluation=evaluation,
        observables=observables,
        diagnostics=diagnostics,
        store_data=store_data,
        progress=progress,
        provenance=provenance,
    )
    plan = _DescentPlan(step_sizes, t_end, records, spacing, wall_seconds)
    descent = _descend(problem, start, plan, recording.progress)
    return recording.tree([problem], _descent_groups(problem, start, descent, recording, None))


def compare(
    problem: Problem,
    theta0: ArrayLike,
    step_sizes: Sequence[float],
    t_end: float,
    *,
    records: int = 200,
    descent_t_end: float | None = None,
    descent_spacing: str | None = None,
    descent_wall_seconds: float = math.inf,
    method: str = "auto",
    rtol: float = 1e-6,
    atol: float = 1e-9,
    times: int | Sequence[float] = 200,
    spacing: str = "linear",
    step_size: float | None = None,
    stop: Mapping[str, Any] | None = None,
    flow: str = "gradient",
    evaluation: tuple[ArrayLike, ArrayLike] | None = None,
    observables: Observables | None = None,
    diagnostics: Mapping[str, Any] | None = None,
    store_data: bool | None = None,
    progress: ProgressCallback | None = None,
    provenance: Provenance | None = None,
) -> xr.DataTree:
    """Integrate the flow, run gradient descent beside it, and compare them on one clock.

    Parameters
    ----------
    problem, theta0, step_sizes, t_end, records, spacing
        As for :func:`integrate` and :func:`descend`; both run to `t_end`.
    descent_t_end : float, optional
        End of the descents if it is not `t_end`.
    descent_spacing : str, optional
        Spacing of the descents' records if it is not `spacing`.
    descent_wall_seconds : float
        Budget of wall-clock time of the descents.
    method, rtol, atol, times, step_size, stop, flow
        As for :func:`integrate`.
    evaluation, observables, diagnostics, store_data, progress, provenance
        As for :func:`integrate`.

    Returns
    -------
    xarray.DataTree
        The groups of both, and ``/comparison``; those of the flow alone if it was interrupted.
    """
    options = FlowOptions(t_end, method, rtol, atol, times, spacing, step_size, stop, flow)
    start = _one_start(problem, theta0)
    recording = make_recording(
        problem,
        start,
        evaluation=evaluation,
        observables=observables,
        diagnostics=diagnostics,
        store_data=store_data,
        progress=progress,
        provenance=provenance,
    )
    plan = _DescentPlan(
        step_sizes,
        t_end if descent_t_end is None else descent_t_end,
        records,
        descent_spacing or spacing,
        descent_wall_seconds,
    )
    landings = record_times(plan.step_sizes, plan.t_end, plan.records, plan.spacing)
    trajectory, groups = _integrate_one(problem, start, options, recording, landings)
    if trajectory.status is not Status.INTERRUPTED:
        descent = _descend(problem, start, plan, recording.progress)
        times_saved = groups["flow"].time.values
        groups |= _descent_groups(problem, start, descent, recording, times_saved)
        groups["comparison"] = assemble.comparison_group(problem, trajectory, descent)
    return recording.tree([problem], groups)


def _flow_groups(
    problem: Problem, start: Tensor, options: FlowOptions, recording: Recording
) -> dict[str, xr.Dataset]:
    _, groups = _integrate_one(problem, start, options, recording)
    if recording.switches["reference"]:
        reference = assemble.reference_group(problem, start, groups["flow"].time.values, None)
        groups |= {} if reference is None else {"reference": reference}
    return groups


def _integrate_one(
    problem: Problem,
    start: Tensor,
    options: FlowOptions,
    recording: Recording,
    landings: Sequence[float] | None = None,
) -> tuple[Trajectory, dict[str, xr.Dataset]]:
    """Integrate one flow and assemble what concerns it alone."""
    switches = recording.switches
    audit = EnergyAudit(problem) if switches["energy_residual"] else None
    trajectory, reason = run_flow(problem, start, options, recording.progress, audit, landings)
    flow = assemble.flow_group(
        problem,
        trajectory,
        reason,
        switches,
        recording.evaluation_problem(problem),
        recording.observables,
        audit,
    ).assign_attrs(rtol=options.rtol, atol=options.atol)
    return trajectory, {"flow": flow, "flow_steps": assemble.steps_group(trajectory)}


@dataclass(frozen=True)
class _DescentPlan:
    """The arguments of a descent."""

    step_sizes: Sequence[float]
    t_end: float
    records: int
    spacing: str
    wall_seconds: float


def _descend(
    problem: Problem, start: Tensor, plan: _DescentPlan, callback: ProgressCallback | None
) -> Descent:
    ticker = Ticker()

    def report(fraction: float, theta: Tensor) -> None:
        if callback is not None and ticker.due():
            loss, norm = loss_and_norm(problem, theta)
            t = fraction * plan.t_end
            callback(Progress(fraction, t, loss, norm, math.nan, 0, "descent"))

    return gradient_descent(
        problem,
        start,
        plan.step_sizes,
        plan.t_end,
        plan.records,
        plan.spacing,
        wall_seconds=plan.wall_seconds,
        progress=report,
    )


def _descent_groups(
    problem: Problem,
    start: Tensor,
    descent: Descent,
    recording: Recording,
    times: np.ndarray | None,
) -> dict[str, xr.Dataset]:
    evaluation = recording.evaluation_problem(problem)
    described = assemble.descent_group(
        problem, descent, recording.switches, evaluation, recording.observables
    )
    groups = {"descent": described}
    if recording.switches["reference"]:
        reference = assemble.reference_group(problem, start, times, descent.step_sizes)
        groups |= {} if reference is None else {"reference": reference}
    return groups


def _pair(
    problem: Problem | Sequence[Problem], theta0: ArrayLike
) -> tuple[list[Problem], list[Tensor], bool]:
    """Match problems and starts one to one; the flag says whether it is an ensemble."""
    problems = [problem] if isinstance(problem, Problem) else list(problem)
    if not problems or not all(isinstance(one, Problem) for one in problems):
        raise ProblemError("problem must be a Problem, or a list of them that is not empty.")
    starts = _finite_start(problems[0].theta(theta0))
    if isinstance(problem, Problem) and starts.ndim == 1:
        return problems, [starts], False
    rows = list(starts) if starts.ndim == 2 else [starts] * len(problems)
    problems = problems * len(rows) if len(problems) == 1 else problems
    if len(rows) != len(problems):
        raise ProblemError(f"there are {len(problems)} problems but {len(rows)} starts.")
    if len({(p.n_parameters, p.model.parameter_names) for p in problems}) > 1:
        raise ProblemError("the problems of an ensemble must have the same parameters.")
    return problems, rows, True


def _one_start(problem: Problem, theta0: ArrayLike) -> Tensor:
    if not isinstance(problem, Problem):
        raise ProblemError("problem must be one Problem here; loop over several.")
    start = _finite_start(problem.theta(theta0))
    if start.ndim != 1:
        raise ProblemError("gradient descent starts from one theta (P,); loop over several.")
    return start


def _finite_start(theta: Tensor) -> Tensor:
    if not bool(torch.isfinite(theta).all()):
        raise ProblemError("theta0 is not finite; every entry must be a number.")
    return theta


def _merge(groups: Sequence[dict[str, xr.Dataset]], ensemble: bool) -> dict[str, xr.Dataset]:
    if not ensemble:
        return groups[0]
    names = [name for name in groups[0] if all(name in group for group in groups)]
    return {n: assemble.stack_trajectories([group[n] for group in groups]) for n in names}
