"""The one place that knows everything: problem -> flow -> trajectory -> dataset."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from gflow import assemble
from gflow.descent import Descent, gradient_descent, record_times
from gflow.diagnostics.energy import EnergyAudit
from gflow.diagnostics.pointwise import POINTWISE
from gflow.errors import ProblemError
from gflow.flow_run import FlowOptions, Progress, ProgressCallback, Ticker, loss_and_norm, run_flow
from gflow.integrators.trajectory import Trajectory
from gflow.problem import ArrayLike, Problem
from gflow.status import Status
from gflow.store.provenance import root_attributes
from gflow.wording import did_you_mean

DIAGNOSTICS = (*POINTWISE, "evaluation_loss", "sharpness", "energy_residual", "reference")
"""Names that ``diagnostics`` accepts; all are on unless switched off."""

STORE_LIMIT = 200_000
"""Numbers in x up to which inputs and targets are stored by default."""


@dataclass(frozen=True)
class Extras:
    """What is recorded beside theta; shared by all runs."""

    evaluation: tuple[ArrayLike, ArrayLike] | None = None
    observables: assemble.Observables | None = None
    diagnostics: Mapping[str, Any] | None = None
    store_data: bool | None = None
    feature_names: Sequence[str] | None = None
    progress: ProgressCallback | None = None
    command: str | None = None
    config: str = ""
    data_source: str = ""

    def switches(self) -> dict[str, Any]:
        """Every diagnostic with its switch.

        Raises
        ------
        ProblemError
            If a name is unknown.
        """
        given = dict(self.diagnostics or {})
        unknown = [name for name in given if name not in DIAGNOSTICS]
        if unknown:
            hint = did_you_mean(unknown[0], DIAGNOSTICS)
            raise ProblemError(f"diagnostics.{unknown[0]} is unknown{hint}")
        return dict.fromkeys(DIAGNOSTICS, True) | given


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
    **extras: Any,
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
        How many saves, or their times.
    spacing : str
        ``linear`` or ``log``, for a count.
    step_size : float, optional
        For fixed-step methods.
    stop : mapping, optional
        Any of ``loss``, ``gradient_norm``, ``steady_state``, ``max_steps``, ``wall_seconds``.
    flow : str
        The vector field, see :mod:`gflow.flows`.
    **extras
        ``evaluation=(x, y)``, ``observables={name: function of theta (P,)}``,
        ``diagnostics={name: bool}``, ``store_data=bool``, ``progress=callback``.

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
    options = FlowOptions(float(t_end), method, rtol, atol, times, spacing, step_size, stop, flow)
    began, extra = time.perf_counter(), _extras(extras)
    problems, starts, ensemble = _pair(problem, theta0)
    groups = [_flow_groups(p, s, options, extra) for p, s in zip(problems, starts, strict=True)]
    return _tree(problems[0], _merge(groups, ensemble), extra, began)


def descend(
    problem: Problem,
    theta0: ArrayLike,
    step_sizes: Sequence[float],
    t_end: float,
    *,
    records: int = 200,
    spacing: str = "linear",
    wall_seconds: float = math.inf,
    **extras: Any,
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
    **extras
        As for :func:`integrate`.

    Returns
    -------
    xarray.DataTree
        Groups ``/problem``, ``/descent`` and, for the linear DEQ, ``/reference``.
    """
    began, extra = time.perf_counter(), _extras(extras)
    start = _one_start(problem, theta0)
    plan = _DescentPlan(step_sizes, float(t_end), records, spacing, wall_seconds)
    descent = _descend(problem, start, plan, extra)
    groups = _descent_groups(problem, start, descent, extra, times=None)
    return _tree(problem, groups, extra, began)


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
    **extras: Any,
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
    method, rtol, atol, times, step_size, stop, flow, **extras
        As for :func:`integrate`.

    Returns
    -------
    xarray.DataTree
        The groups of both, and ``/comparison``; those of the flow alone if it was interrupted.
    """
    options = FlowOptions(float(t_end), method, rtol, atol, times, spacing, step_size, stop, flow)
    began, extra = time.perf_counter(), _extras(extras)
    start = _one_start(problem, theta0)
    plan = _DescentPlan(
        step_sizes,
        options.t_end if descent_t_end is None else float(descent_t_end),
        records,
        descent_spacing or spacing,
        descent_wall_seconds,
    )
    landings = record_times(plan.step_sizes, plan.t_end, plan.records, plan.spacing)
    trajectory, groups = _integrate_one(problem, start, options, extra, landings)
    if trajectory.status is Status.INTERRUPTED:
        return _tree(problem, groups, extra, began)
    descent = _descend(problem, start, plan, extra)
    groups |= _descent_groups(problem, start, descent, extra, groups["flow"].time.values)
    groups["comparison"] = assemble.comparison_group(problem, trajectory, descent)
    return _tree(problem, groups, extra, began)


def _flow_groups(
    problem: Problem, start: Tensor, options: FlowOptions, extra: Extras
) -> dict[str, xr.Dataset]:
    _, groups = _integrate_one(problem, start, options, extra)
    if extra.switches()["reference"]:
        reference = assemble.reference_group(problem, start, groups["flow"].time.values, None)
        groups |= {} if reference is None else {"reference": reference}
    return groups


def _integrate_one(
    problem: Problem,
    start: Tensor,
    options: FlowOptions,
    extra: Extras,
    landings: Sequence[float] | None = None,
) -> tuple[Trajectory, dict[str, xr.Dataset]]:
    """Integrate one flow and assemble what concerns it alone."""
    switches = extra.switches()
    evaluation = None if extra.evaluation is None else problem.on(*extra.evaluation)
    audit = EnergyAudit(problem) if switches["energy_residual"] else None
    trajectory, reason = run_flow(problem, start, options, extra.progress, audit, landings)
    flow = assemble.flow_group(problem, trajectory, switches, evaluation, extra.observables, audit)
    flow = flow.assign_attrs(method_reason=reason, rtol=options.rtol, atol=options.atol)
    return trajectory, {"flow": flow, "flow_steps": assemble.steps_group(trajectory)}


@dataclass(frozen=True)
class _DescentPlan:
    """The arguments of a descent."""

    step_sizes: Sequence[float]
    t_end: float
    records: int
    spacing: str
    wall_seconds: float


def _descend(problem: Problem, start: Tensor, plan: _DescentPlan, extra: Extras) -> Descent:
    ticker, callback = Ticker(), extra.progress

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
    problem: Problem, start: Tensor, descent: Descent, extra: Extras, times: np.ndarray | None
) -> dict[str, xr.Dataset]:
    switches = extra.switches()
    evaluation = None if extra.evaluation is None else problem.on(*extra.evaluation)
    groups = {
        "descent": assemble.descent_group(problem, descent, switches, evaluation, extra.observables)
    }
    if switches["reference"]:
        reference = assemble.reference_group(problem, start, times, descent.step_sizes)
        groups |= {} if reference is None else {"reference": reference}
    return groups


def _tree(
    problem: Problem, groups: Mapping[str, xr.Dataset], extra: Extras, began: float
) -> xr.DataTree:
    evaluation = None if extra.evaluation is None else problem.on(*extra.evaluation)
    keep = problem.x.numel() <= STORE_LIMIT if extra.store_data is None else extra.store_data
    names = extra.feature_names or [f"x[{i}]" for i in range(problem.model.dim)]
    described = assemble.problem_group(problem, evaluation, keep, names)
    described.attrs["data_source"] = extra.data_source or "arrays given in Python"
    tree = xr.DataTree.from_dict({"problem": described, **groups})
    command = " ".join(sys.argv) if extra.command is None else extra.command
    tree.attrs = root_attributes(
        problem, command=command, config=extra.config, wall_seconds=time.perf_counter() - began
    )
    return tree


def _pair(
    problem: Problem | Sequence[Problem], theta0: ArrayLike
) -> tuple[list[Problem], list[Tensor], bool]:
    """Match problems and starts one to one; the flag says whether it is an ensemble."""
    problems = [problem] if isinstance(problem, Problem) else list(problem)
    if not problems:
        raise ProblemError("the list of problems is empty.")
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


def _extras(given: Mapping[str, Any]) -> Extras:
    known = Extras.__dataclass_fields__
    unknown = [name for name in given if name not in known]
    if unknown:
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}; known: {', '.join(known)}")
    extra = Extras(**given)
    extra.switches()
    return extra
