"""Runs and the groups of what they give: a flow, an ensemble, descents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from torch import Tensor

from gflow import assemble, assemble_ensemble
from gflow.assemble_events import lone_events, with_events
from gflow.descent import Descent
from gflow.descent_run import DescentPlan, run_descent
from gflow.diagnosis import diagnosed, diagnosed_all, judged
from gflow.diagnostics.crossings import Crossings
from gflow.diagnostics.energy import EnergyAudit
from gflow.diagnostics.series import Measures
from gflow.ensemble_events import EnsembleEvents
from gflow.ensemble_run import run_ensemble
from gflow.error_estimate import ensemble_estimate, lone_estimate
from gflow.flow_run import FlowOptions, FlowRun
from gflow.flows import Flow, GradientFlow
from gflow.integrators.trajectory import Trajectory
from gflow.keeping import Keeping
from gflow.problem import Problem
from gflow.recording import Recording
from gflow.status import Status


def flow_groups(
    problem: Problem,
    start: Tensor,
    options: FlowOptions,
    recording: Recording,
    keeping: Keeping | None = None,
) -> dict[str, xr.Dataset]:
    """Integrate one flow; its groups with the closed forms."""
    _, groups = integrate_one(problem, start, options, recording, keeping=keeping)
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
    events = EnsembleEvents(recording.events, len(problems)) if recording.events else None
    run = run_ensemble(problems, starts, options, recording.progress, audited, events)
    flow = assemble_ensemble.flow_group(
        problems, run, switches, recording.evaluation_problem, recording.observables
    ).assign_attrs(rtol=options.rtol, atol=options.atol, **_written(options.law))
    losses = _losses(flow, run.trajectories)
    members = diagnosed_all(problems, options, run.trajectories, losses)
    estimate = None
    if switches["error_estimate"]:
        try:
            estimate = ensemble_estimate(problems, starts, options, run, recording.progress)
        except KeyboardInterrupt:
            members = [_unestimated(one) if one.status.ok else one for one in members]
    flow = _told(
        _where_conserved(flow, options.law),
        status=[str(one.status) for one in members],
        status_message=[one.message for one in members],
        diagnosis=[one.diagnosis for one in members],
    )
    if events is not None:
        flow = with_events(flow, events.found, events.counts, recording.events)
    if estimate is not None:
        flow = flow.assign(error_estimate=estimate)
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
    keeping: Keeping | None = None,
) -> tuple[Trajectory, dict[str, xr.Dataset]]:
    """Integrate one flow and assemble what concerns it alone."""
    switches = recording.switches
    audit = EnergyAudit(problem, options.law) if switches["energy_residual"] else None
    events = Crossings(problem, recording.events) if recording.events else None
    measures = Measures(problem, recording.evaluation_problem(problem), switches)
    flow = FlowRun(problem, start, options, None if keeping is None else keeping.method())

    def groups(trajectory: Trajectory) -> dict[str, xr.Dataset]:
        running = trajectory.status is Status.RUNNING
        asked = None if running and audit is not None and not audit.clean() else audit
        found = assemble.flow_group(
            problem,
            trajectory,
            flow.reason + trajectory.handover,
            switches,
            measures,
            {} if running else recording.observables,
            asked,
        ).assign_attrs(rtol=options.rtol, atol=options.atol, **_written(options.law))
        found = lone_events(_where_conserved(found, options.law), events, recording.events)
        return {"flow": found, "flow_steps": assemble.steps_group(trajectory)}

    trajectory = flow.whole(
        [one for one in (audit, events) if one is not None],
        recording.progress,
        landings,
        None if keeping is None else keeping.of_flow(flow.method, flow.reason, groups),
        None if keeping is None else keeping.snapshot(),
    )
    described = groups(trajectory)
    trajectory, described["flow"] = _judged(
        problem, start, options, recording, trajectory, described["flow"]
    )
    if keeping is not None:
        keeping.flow(trajectory, described)
    return trajectory, described


def _judged(
    problem: Problem,
    start: Tensor,
    options: FlowOptions,
    recording: Recording,
    trajectory: Trajectory,
    flow: xr.Dataset,
) -> tuple[Trajectory, xr.Dataset]:
    """A trajectory and its group with the verdict on them, and the estimated error."""
    trajectory = diagnosed(problem, options, trajectory, flow.loss.values)
    if recording.switches["error_estimate"]:
        try:
            estimate = lone_estimate(problem, start, options, trajectory, recording.progress)
            flow = flow.assign(error_estimate=estimate)
        except KeyboardInterrupt:
            trajectory = _unestimated(trajectory)
    told = {"status_message": trajectory.message, "diagnosis": trajectory.diagnosis}
    return trajectory, _told(flow, status=str(trajectory.status), **told)


def descent_groups(
    problem: Problem,
    start: Tensor,
    plan: DescentPlan,
    recording: Recording,
    times: np.ndarray | None,
    keeping: Keeping | None = None,
) -> tuple[Descent, dict[str, xr.Dataset]]:
    """Run the descents and assemble what concerns them."""
    switches = recording.switches
    evaluation = recording.evaluation_problem(problem)
    measures = Measures(problem, evaluation, switches, jumps=True)

    def groups(descent: Descent) -> dict[str, xr.Dataset]:
        running = Status.RUNNING in descent.status
        observables = {} if running else recording.observables
        found = assemble.descent_group(problem, descent, switches, measures, observables)
        return {"descent": found.assign_attrs(**_written(plan.flow), schedule=plan.schedule)}

    keeper = None if keeping is None else keeping.of_descents(groups)
    state = None if keeping is None else keeping.descents()
    descent = run_descent(problem, start, plan, recording.progress, keeper, state)
    described = groups(descent)
    descent = judged(problem, descent, described["descent"].loss.values)
    words = [str(status) for status in descent.status], descent.message
    described["descent"] = _told(described["descent"], status=words[0], status_message=words[1])
    if keeping is not None:
        keeping.descent(descent, described)
    if switches["reference"] and _is_gradient(plan.flow):
        reference = assemble.reference_group(problem, start, times, descent.step_sizes)
        described |= {} if reference is None else {"reference": reference}
    return descent, described


def _losses(flow: xr.Dataset, members: Sequence[Trajectory]) -> list[np.ndarray]:
    """The losses at each member's own saves, the last of which is its end."""
    pairs = zip(flow.loss.values, flow.loss_final.values, members, strict=True)
    return [np.append(row[: len(one.t) - 1], end) for row, end, one in pairs]


def _told(group: xr.Dataset, **words: str | list[str]) -> xr.Dataset:
    """The group with other words in these variables."""
    return group.assign({name: group[name].copy(data=np.array(w)) for name, w in words.items()})


def _unestimated(trajectory: Trajectory) -> Trajectory:
    """A flow whose second run was interrupted."""
    return trajectory.ended(Status.INTERRUPTED, "its error was being estimated")


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
