"""The labelled dataset of a comparison: descents beside the flow at equal times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from gflow.assemble import labelled, numpy_of
from gflow.descent import Descent
from gflow.diagnostics.distance import nearest_on_path
from gflow.diagnostics.pointwise import evaluate_pointwise
from gflow.integrators.base import Step
from gflow.integrators.trajectory import Path, Trajectory
from gflow.problem import Problem


def comparison_group(problem: Problem, trajectory: Trajectory, descent: Descent) -> xr.Dataset:
    """The ``/comparison`` group; NaN where the flow had ended before the record's time."""
    assert trajectory.path is not None
    dims = ("step_size", "record")
    time = descent.time
    flat, theta = torch.from_numpy(time.reshape(-1)), descent.theta.flatten(0, 1)
    reached = flat <= float(trajectory.t[-1]) * (1 + 1e-12)
    partner, path = torch.full_like(theta, torch.nan), _of_theta(trajectory.path, theta.shape[-1])
    if path.steps:
        partner[reached] = path(flat[reached])
        path_distance, nearest = nearest_on_path(path, theta)
    else:
        path_distance, nearest = torch.full_like(flat, torch.nan), torch.full_like(flat, torch.nan)
    shape, steps = descent.theta.shape, descent.step_sizes
    loss = evaluate_pointwise(problem, descent.theta, ["loss"], step_sizes=list(steps))["loss"]
    beside = evaluate_pointwise(problem, partner.reshape(shape), ["loss"])["loss"]
    values = {
        "distance": torch.linalg.vector_norm(theta - partner, dim=-1),
        "path_distance": path_distance,
        "lag": nearest - flat,
        "loss_difference": loss - beside,
    }
    data = {name: (dims, numpy_of(value).reshape(time.shape)) for name, value in values.items()}
    coords = {"step_size": descent.step_sizes, "record": np.arange(time.shape[1])}
    return labelled("comparison", {"time": (dims, time), **data}, coords)


def _of_theta(path: Path, size: int) -> Path:
    """The path of the first P numbers of a flow's states."""

    def part(step: Step) -> Step:
        return replace(
            step,
            theta0=step.theta0[:size],
            theta1=step.theta1[:size],
            interpolate=lambda times: step.interpolate(times)[:, :size],
        )

    return Path([part(step) for step in path.steps])
