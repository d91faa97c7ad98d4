"""Labelled datasets from what integrators and descents return; one function per group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from gflow import schema
from gflow.descent import Descent
from gflow.diagnostics.conservation import invariant_drift
from gflow.diagnostics.energy import EnergyAudit
from gflow.diagnostics.pointwise import evaluate_pointwise
from gflow.diagnostics.series import Measures
from gflow.errors import ProblemError
from gflow.integrators.trajectory import LOG_COLUMNS, Trajectory
from gflow.problem import Problem
from gflow.status import Status
from gflow.theory import LinearReference, critical_radius, exact_trajectory

Observables = Mapping[str, Callable[[Tensor], Any]]
Forms = dict[str, tuple[tuple[str, ...], Any]]
"""Name to dimensions and values."""

FARTHEST = 1e75
"""Targets xi beyond which powers of it in the closed form of the exact flow overflow."""
INTEGERS = ("accepted", "nfe", "hessians", "linear_solves", "jvps")
"""The step log's whole numbers; in an ensemble, -1 pads the members of fewer steps."""


def flow_group(
    problem: Problem,
    trajectory: Trajectory,
    reason: str,
    diagnostics: Mapping[str, Any],
    measures: Measures,
    observables: Observables,
    audit: EnergyAudit | None = None,
) -> xr.Dataset:
    """The ``/flow`` group of one trajectory, whose states may be (theta, velocity).

    While it is running, what takes all saves together (the spectrum) is left out.
    """
    theta, velocity = trajectory.theta.tensor_split([problem.n_parameters], dim=-1)
    values = measures.at(0, theta)
    if trajectory.status is not Status.RUNNING:
        values |= _spectral(problem, theta, diagnostics)
    if audit is not None:
        balance = values["loss"][0] - values["loss"]
        values["energy_residual"] = balance - audit.integral(trajectory.t).to(balance)
    data = placed(values, ("time",))
    if diagnostics.get("invariant_drift", True):
        data |= conserved(problem, theta, ("time",))
    if velocity.shape[-1]:
        data["velocity"] = (("time", "parameter"), numpy_of(velocity))
    return labelled(
        "flow",
        {
            "theta": (("time", "parameter"), numpy_of(theta)),
            **data,
            **observed(theta, observables, ("time",)),
            "status": ((), str(trajectory.status)),
            "status_message": ((), trajectory.message),
            "diagnosis": ((), trajectory.diagnosis),
            "method": ((), trajectory.method),
            "method_reason": ((), reason),
            "nfe": ((), trajectory.nfe),
            "wall_seconds": ((), trajectory.wall_seconds),
        },
        {"time": numpy_of(trajectory.t), "parameter": list(problem.model.parameter_names)},
    )


def steps_group(trajectory: Trajectory) -> xr.Dataset:
    """The ``/flow_steps`` group: every attempt of one trajectory."""
    columns = zip(LOG_COLUMNS, trajectory.log.table.T, strict=True)
    data = {
        name: (("step",), column.astype(np.int64 if name in INTEGERS else np.float64))
        for name, column in columns
    }
    return labelled("flow_steps", data, {"step": np.arange(len(trajectory.log))})


def descent_group(
    problem: Problem,
    descent: Descent,
    diagnostics: Mapping[str, Any],
    measures: Measures,
    observables: Observables,
) -> xr.Dataset:
    """The ``/descent`` group: all step sizes; while one is running, less as of a flow."""
    dims = ("step_size", "record")
    values = measures.of_rows(descent.theta, (descent.update >= 0).sum(-1))
    if Status.RUNNING not in descent.status:
        etas = descent.step_sizes.tolist()
        values |= _spectral(problem, descent.theta, diagnostics, etas)
    if problem.model.conserves_sphere and not bool(descent.squared_updates[:, 0].isnan().all()):
        square = problem.model.sphere_radius(descent.theta) ** 2
        drift = square - square[:, :1] - descent.squared_updates
        values["drift_identity_residual"] = drift
    data = placed(values, dims)
    if diagnostics.get("invariant_drift", True):
        data |= conserved(problem, descent.theta, dims)
    return labelled(
        "descent",
        {
            "theta": ((*dims, "parameter"), numpy_of(descent.theta)),
            "update": (dims, descent.update),
            "time": (dims, descent.time),
            **data,
            **observed(descent.theta, observables, dims),
            "wall_seconds": ((), descent.wall_seconds),
            "status": (("step_size",), [str(status) for status in descent.status]),
            "status_message": (("step_size",), descent.message),
        },
        {
            "step_size": descent.step_sizes,
            "record": np.arange(descent.update.shape[1]),
            "parameter": list(problem.model.parameter_names),
        },
    )


def reference_group(
    problem: Problem,
    theta0: Tensor,
    times: np.ndarray | None,
    step_sizes: np.ndarray | None,
) -> xr.Dataset | None:
    """The ``/reference`` group: closed forms, None where the model has none."""
    forms = closed_forms(problem, theta0, times, step_sizes)
    if forms is None:
        return None
    used = {dim for dims, _ in forms.values() for dim in dims}
    coords = {
        "parameter": list(problem.model.parameter_names),
        "time": times,
        "step_size": step_sizes,
    }
    return labelled("reference", forms, {name: coords[name] for name in coords if name in used})


def closed_forms(
    problem: Problem,
    theta0: Tensor,
    times: np.ndarray | None,
    step_sizes: np.ndarray | None,
) -> Forms | None:
    """Name to dimensions and values of the closed forms, None where the model has none."""
    known = problem.model.conserves_sphere and problem.loss_function.quadratic
    if not known or int(problem.model.branch(theta0)) == 0:
        return None
    # A start far out overflows the closed forms; they are then not finite, and say so.
    with np.errstate(all="ignore"):
        return _closed_forms(problem, numpy_of(theta0), times, step_sizes)


def _closed_forms(
    problem: Problem, start: np.ndarray, times: np.ndarray | None, step_sizes: np.ndarray | None
) -> Forms:
    reference = LinearReference.from_data(numpy_of(problem.x), numpy_of(problem.y), start)
    exact_backward = problem.backward.exact
    data: Forms = {
        "sphere_radius": ((), reference.radius),
        "minimal_loss": ((), reference.minimal_loss),
    }
    if reference.limit is not None and exact_backward:
        data["theta_limit"] = (("parameter",), reference.limit)
        data["rate"] = ((), reference.rate)
        data["sharpness_limit"] = ((), reference.sharpness_at_limit)
    if times is not None and exact_backward:
        data["loss_bound"] = (("time",), reference.loss_bound(times))
        if problem.model.dim == 1 and reference.full_rank and abs(reference.xi[0]) < FARTHEST:
            mean_square, xi = float(reference.sigma[0, 0]), float(reference.xi[0])
            exact = exact_trajectory(times, start, mean_square, xi)
            data["theta_exact"] = (("time", "parameter"), exact)
    if step_sizes is not None and exact_backward and reference.full_rank:
        radii = [critical_radius(eta, reference.sigma, reference.xi) for eta in step_sizes]
        data["critical_radius"] = (("step_size",), np.array(radii))
    return data


def problem_group(
    problem: Problem, evaluation: Problem | None, store_data: bool, feature_names: Sequence[str]
) -> xr.Dataset:
    """The ``/problem`` group; large data is left to its hash in the root's attributes."""
    data: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    if store_data and problem.n_samples:
        coords = {"sample": np.arange(problem.n_samples), "feature": list(feature_names)}
        data["inputs"] = (("sample", "feature"), numpy_of(problem.x.flatten(1)))
        data["target"] = _targets("sample", problem.y)
    if store_data and evaluation is not None:
        coords["evaluation_sample"] = np.arange(evaluation.n_samples)
        inputs = numpy_of(evaluation.x.flatten(1))
        data["evaluation_inputs"] = (("evaluation_sample", "feature"), inputs)
        data["evaluation_target"] = _targets("evaluation_sample", evaluation.y)
    if problem.theta_target is not None:
        coords["parameter"] = list(problem.model.parameter_names)
        data["theta_target"] = (("parameter",), numpy_of(problem.theta_target))
    return labelled("problem", data, coords).assign_attrs(
        model=repr(problem.model),
        loss=problem.loss_function.name,
        backward=problem.backward.name,
        **({"samples": problem.n_samples} if problem.n_samples else {}),
        conserves_sphere=int(problem.model.conserves_sphere),
    )


def _targets(samples: str, target: Tensor) -> tuple[tuple[str, ...], np.ndarray]:
    """Numbers or classes (n,), or vectors (n, o), whatever further dimensions they have."""
    if target.ndim == 1 or target.shape[1:] == (1,):
        return (samples,), numpy_of(target.reshape(-1))
    return (samples, "output"), numpy_of(target.flatten(1))


def described_apart(described: xr.Dataset, problems: Sequence[Problem]) -> xr.Dataset:
    """The ``/problem`` group of an ensemble of different problems: what each of them is."""
    each: dict[str, list[str] | list[int]] = {
        "model": [repr(problem.model) for problem in problems],
        "loss": [problem.loss_function.name for problem in problems],
        "backward": [problem.backward.name for problem in problems],
    }
    samples = [problem.n_samples for problem in problems]
    if any(samples):
        each["samples"] = samples
    data = {name: (("trajectory",), values) for name, values in each.items()}
    apart = labelled("problem", data, {"trajectory": np.arange(len(problems))})
    common = {
        name: values[0] if len(set(values)) == 1 else f"{len(set(values))} of them"
        for name, values in each.items()
    }
    conserving = all(problem.model.conserves_sphere for problem in problems)
    return apart.assign_attrs({**described.attrs, **common, "conserves_sphere": int(conserving)})


def placed(values: Mapping[str, Tensor], dims: tuple[str, ...]) -> dict[str, Any]:
    """Diagnostics as variables; what has a dimension more is of the Hessian's modes."""
    return {
        name: ((*dims, "mode")[: value.ndim], numpy_of(value)) for name, value in values.items()
    }


def _spectral(
    problem: Problem,
    theta: Tensor,
    diagnostics: Mapping[str, Any],
    step_sizes: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    wanted = [name for name in ("sharpness",) if diagnostics.get(name)]
    every = diagnostics.get("sharpness") == "all"
    modes = int(diagnostics.get("eigenvalues", 0))
    return evaluate_pointwise(problem, theta, wanted, every, modes, step_sizes)


def conserved(problem: Problem, theta: Tensor, dims: tuple[str, ...]) -> dict[str, Any]:
    """Drift of what the model's flow conserves, with the invariants' names; {} if it has none."""
    names, drift = invariant_drift(problem.model, theta)
    if not names:
        return {}
    table = xr.DataArray(numpy_of(drift), dims=(*dims, "invariant"))
    return {"invariant_drift": table.assign_coords(invariant=list(names))}


def check_observables(observables: Observables, theta0: Tensor) -> None:
    """Check the names of the user's functions and try each at the start, before any work.

    Raises
    ------
    ProblemError
        If a name is taken or no identifier, or a function fails or returns no vector.
    """
    taken = {*schema.GROUPS["flow"], *schema.GROUPS["descent"], *schema.COORDINATES}
    taken -= {"output"}  # a dimension of /problem alone
    for name, function in observables.items():
        if not str(name).isidentifier() or name in taken:
            raise ProblemError(
                f'observable "{name}" needs a name of its own, an identifier such as my_norm.'
            )
        try:
            _observe(function, theta0)
        except Exception as error:
            raise ProblemError(
                f'observable "{name}" failed: {type(error).__name__}: {error}. It is called with '
                "theta (P,), a tensor, and must return a number or a vector of fixed length."
            ) from error


def observed(theta: Tensor, observables: Observables, dims: tuple[str, ...]) -> dict[str, Any]:
    """Variables of the user's functions; NaN where theta is, or where a function fails."""
    flat = theta.reshape(-1, theta.shape[-1])
    found: dict[str, Any] = {}
    for name, function in observables.items():
        shape, failure = _observe(function, flat[0]).shape, ""
        table = torch.full((len(flat), *shape), torch.nan, dtype=torch.float64)
        for place in torch.nonzero(~torch.isnan(flat).any(-1)).flatten().tolist():
            try:
                table[place] = _observe(function, flat[place])
            except Exception as error:
                failure = failure or f"{type(error).__name__} at theta = {flat[place].tolist()}"
        extra = (f"{name}_component",) if shape else ()
        attributes = {"failure": failure} if failure else {}
        values = table.reshape(*theta.shape[:-1], *shape).numpy()
        found[name] = ((*dims, *extra), values, attributes)
    return found


def _observe(function: Callable[[Tensor], Any], theta: Tensor) -> Tensor:
    value = torch.as_tensor(function(theta), dtype=torch.float64).detach().cpu()
    if value.ndim > 1:
        raise ValueError(f"shape {tuple(value.shape)} is no vector")
    return value


def labelled(group: str, data: Mapping[str, Any], coords: Mapping[str, Any]) -> xr.Dataset:
    """A group with the attributes of the schema, and a coordinate for every dimension."""
    dataset = xr.Dataset(dict(data), coords=dict(coords))
    bare = [str(name) for name in dataset.dims if name not in dataset.coords]
    dataset = dataset.assign_coords({name: np.arange(dataset.sizes[name]) for name in bare})
    for name in dataset.data_vars:
        dataset[name].attrs.update(schema.attributes(group, str(name)))
    for name in dataset.coords:
        dataset[name].attrs.update(_coordinate_attributes(str(name)))
    return dataset


def _coordinate_attributes(name: str) -> dict[str, str]:
    long_name, units = schema.COORDINATES.get(name, (name, "1"))
    return {"long_name": long_name, "units": units}


def numpy_of(tensor: Tensor) -> np.ndarray:
    """A tensor as an array of float64 on the host."""
    return tensor.detach().cpu().double().numpy()
