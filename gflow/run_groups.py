"""Runs and the groups of what they give: a flow, an ensemble, descents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from torch import Tensor

from gflow import assemble, assemble_ensemble
from gflow.descent import Descent
from gflow.descent_run import DescentPlan, run_descent
from gflow.diagnostics.energy import EnergyAudit
from gflow.ensemble_run import run_ensemble
from gflow.flow_run import FlowOptions, run_flow
from gflow.flows import Flow, GradientFlow
from gflow.integrators.trajectory import Trajectory
from gflow.problem import Problem
from gflow.recording import Recording


def flow_groups(
    problem: Problem, start: Tensor, options: FlowOptions, recording: Recording
) -> dict[str, xr.Dataset]:
    """Integrate one flow; its groups with the closed forms."""
    _, groups = integrate_one(problem, start, options, recording)
    if recording.switches["reference"] and _is_gradient(options.law):
        reference = assemble.reference_group(problem, start, groups["flow"].time.values, None)
        groups |= {} if reference is None else {"reference": reference}
    return groups


def ensemble_groups(
    problems: Sequence[Problem],
    starts: Sequence[Tensor],
    options: FlowOptions,
    recording: Recording,
) -> dict[str, xr.Dataset]:
    """Integrate an ensemble; its groups with the closed forms."""
    switches = recording.switches
    audited = bool(switches["energy_residual"])
    run = run_ensemble(problems, starts, options, recording.progress, audited)
    flow = assemble_ensemble.flow_group(
        problems, run, switches, recording.evaluation_problem, recording.observables
    ).assign_attrs(rtol=options.rtol, atol=options.atol, **_written(options.law))
    flow = _where_conserved(flow, options.law)
    groups = {"flow": flow, "flow_steps": assemble_ensemble.steps_group(run.trajectories)}
    if switches["reference"] and _is_gradient(options.law):
        reference = assemble_ensemble.reference_group(problems, starts, run.times)
        groups |= {} if reference is None else {"reference": reference}
    return groups


def integrate_one(
    problem: Problem,
    start: Tensor,
    options: FlowOptions,
    recording: Recording,
    landings: Sequence[float] | None = None,
) -> tuple[Trajectory, dict[str, xr.Dataset]]:
    """Integrate one flow and assemble what concerns it alone."""
    switches = recording.switches
    audit = EnergyAudit(problem, options.law) if switches["energy_residual"] else None
    trajectory, reason = run_flow(problem, start, options, recording.progress, audit, landings)
    flow = assemble.flow_group(
        problem,
        trajectory,
        reason,
        switches,
        recording.evaluation_problem(problem),
        recording.observables,
        audit,
    ).assign_attrs(rtol=options.rtol, atol=options.atol, **_written(options.law))
    flow = _where_conserved(flow, options.law)
    return trajectory, {"flow": flow, "flow_steps": assemble.steps_group(trajectory)}


def descent_groups(
    problem: Problem,
    start: Tensor,
    plan: DescentPlan,
    recording: Recording,
    times: np.ndarray | None,
) -> tuple[Descent, dict[str, xr.Dataset]]:
    """Run the descents and assemble what concerns them."""
    descent = run_descent(problem, start, plan, recording.progress)
    evaluation = recording.evaluation_problem(problem)
    described = assemble.descent_group(
        problem, descent, recording.switches, evaluation, recording.observables
    )
    groups = {"descent": described.assign_attrs(**_written(plan.flow), schedule=plan.schedule)}
    if recording.switches["reference"] and _is_gradient(plan.flow):
        reference = assemble.reference_group(problem, start, times, descent.step_sizes)
        groups |= {} if reference is None else {"reference": reference}
    return descent, groups


def _is_gradient(flow: Flow) -> bool:
    """Whether it is the gradient flow itself, of which closed forms are known."""
    return isinstance(flow, GradientFlow) and not flow.weight_decay


def _written(flow: Flow) -> dict[str, str | float]:
    """The attributes that tell which flow it was."""
    return {"kind": flow.name, "weight_decay": flow.weight_decay}


def _where_conserved(flow: xr.Dataset, law: Flow) -> xr.Dataset:
    """Without the drift of what the gradient flow conserves, if it is another flow's."""
    return (
        flow
        if _is_gradient(law)
        else flow.drop_vars(["invariant_drift", "invariant"], errors="ignore")
    )
