"""Labelled datasets of an ensemble: the dimension ``trajectory`` first, one time axis for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from gflow.assemble import (
    INTEGERS,
    Observables,
    closed_forms,
    conserved,
    labelled,
    numpy_of,
    observed,
    placed,
)
from gflow.diagnostics.pointwise import evaluate_pointwise
from gflow.ensemble_run import EnsembleRun
from gflow.integrators.trajectory import LOG_COLUMNS, Trajectory
from gflow.problem import Problem
from gflow.stacking import group_problems

Values = dict[str, Tensor]


def flow_group(
    problems: Sequence[Problem],
    run: EnsembleRun,
    diagnostics: Mapping[str, Any],
    evaluation: Callable[[Problem], Problem | None],
    observables: Observables,
) -> xr.Dataset:
    """The ``/flow`` group of all trajectories.

    Parameters
    ----------
    problems : sequence of Problem
        One a trajectory.
    run : EnsembleRun
    diagnostics : mapping
        Every diagnostic with its switch.
    evaluation : callable
        A problem on the evaluation set, None if there is none.
    observables : mapping
    """
    theta, velocity, members = run.theta, run.velocity, run.trajectories
    dims = ("trajectory", "time")
    values = _diagnosed(problems, run, theta, diagnostics, evaluation)
    ending = ["loss", *(name for name in ("gradient_norm", "sharpness") if diagnostics[name])]
    final = _grouped(problems, run.theta_final[:, None], ending)
    data = {
        "theta": ((*dims, "parameter"), numpy_of(theta)),
        **placed(values, dims),
        **observed(theta, observables, dims),
        **({} if velocity is None else {"velocity": ((*dims, "parameter"), numpy_of(velocity))}),
        "wall_seconds": ((), run.wall_seconds),
        "theta_final": (("trajectory", "parameter"), numpy_of(run.theta_final)),
    }
    each = {
        "status": [str(one.status) for one in members],
        "status_message": [one.message for one in members],
        "diagnosis": [one.diagnosis for one in members],
        "method": [one.method for one in members],
        "method_reason": run.reasons,
        "nfe": [one.nfe for one in members],
        "t_final": run.ends,
        **{f"{name}_final": numpy_of(value[:, 0]) for name, value in final.items()},
    }
    data |= {name: (("trajectory",), value) for name, value in each.items()}
    if diagnostics["invariant_drift"] and _alike(problems):
        data |= conserved(problems[0], theta, dims)
    names = list(problems[0].model.parameter_names)
    return labelled("flow", data, {"time": run.times, "parameter": names})


def _alike(problems: Sequence[Problem]) -> bool:
    return all(problem.model is problems[0].model for problem in problems)


def steps_group(members: Sequence[Trajectory]) -> xr.Dataset:
    """The ``/flow_steps`` group: every attempt of every trajectory, the shorter ones padded."""
    counts = np.array([len(one.log) for one in members])
    present = np.arange(counts.max()) < counts[:, None]
    table = np.concatenate([one.log.table for one in members])
    data = {}
    for name, column in zip(LOG_COLUMNS, table.T, strict=True):
        kind, padding = (np.int64, -1) if name in INTEGERS else (np.float64, np.nan)
        padded = np.full(present.shape, padding, dtype=kind)
        padded[present] = column
        data[name] = (("trajectory", "step"), padded)
    return labelled("flow_steps", data, {})


def reference_group(
    problems: Sequence[Problem], starts: Sequence[Tensor], times: np.ndarray
) -> xr.Dataset | None:
    """The ``/reference`` group: closed forms, NaN for members without; None if all are."""
    pairs = zip(problems, starts, strict=True)
    forms = [closed_forms(problem, start, times, None) or {} for problem, start in pairs]
    shapes = {name: (dims, np.shape(v)) for one in forms for name, (dims, v) in one.items()}
    data = {}
    for name, (dims, shape) in shapes.items():
        table = np.full((len(forms), *shape), np.nan)
        for index, one in enumerate(forms):
            if name in one:
                table[index] = one[name][1]
        data[name] = (("trajectory", *dims), table)
    used = {dim for dims, _ in shapes.values() for dim in dims}
    coords = {"parameter": list(problems[0].model.parameter_names), "time": times}
    kept = {name: value for name, value in coords.items() if name in used}
    return labelled("reference", data, kept) if data else None


def _diagnosed(
    problems: Sequence[Problem],
    run: EnsembleRun,
    theta: Tensor,
    diagnostics: Mapping[str, Any],
    evaluation: Callable[[Problem], Problem | None],
) -> Values:
    wanted = ["loss", *(name for name, on in diagnostics.items() if on)]
    every = diagnostics["sharpness"] == "all"
    values = _grouped(problems, theta, wanted, every, int(diagnostics["eigenvalues"]))
    known = {id(problem): evaluation(problem) for problem in problems}
    others = [known[id(problem)] for problem in problems]
    present = [other for other in others if other is not None]
    if present and diagnostics["evaluation_loss"]:
        names = [name for name in ("loss", "accuracy") if name in wanted]
        beside = _grouped(present, theta, names)
        values |= {f"evaluation_{name}": value for name, value in beside.items()}
    if run.dissipated is not None:
        loss = values["loss"].cpu().double()
        values["energy_residual"] = loss[:, :1] - loss - run.dissipated
    return values


def _grouped(
    problems: Sequence[Problem],
    theta: Tensor,
    names: Sequence[str],
    every: bool = False,
    modes: int = 0,
) -> Values:
    """Pointwise diagnostics (B, T), or (B, T, modes), of each problem at its thetas (B, T, P)."""
    values: Values = {}
    for indices, problem in group_problems(problems):
        found = evaluate_pointwise(problem, theta[indices], names, every, modes)
        for name, value in found.items():
            shape = (len(theta), *value.shape[1:])
            table = values.setdefault(name, value.new_full(shape, torch.nan))
            table[indices] = value
    return values
