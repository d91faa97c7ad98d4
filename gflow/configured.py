"""Runs described by a configuration."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from gflow.config import Config
from gflow.data import Dataset, load_data
from gflow.errors import ConfigError, EquilibriumError
from gflow.flow_run import ProgressCallback
from gflow.models import MODELS, Model
from gflow.problem import Problem
from gflow.store.provenance import Provenance
from gflow.workbench import compare, descend, integrate

Kind = Literal["integrate", "descend", "compare"]


def run_config(
    config: Config,
    kind: Kind,
    folder: Path,
    *,
    progress: ProgressCallback | None = None,
    command: str | None = None,
) -> xr.DataTree:
    """Run what a configuration describes.

    Parameters
    ----------
    config : Config
    kind : str
        ``integrate``, ``descend`` or ``compare``.
    folder : Path
        That data paths are relative to.
    progress : callable, optional
        See :class:`gflow.flow_run.Progress`.
    command : str, optional
        Recorded in the dataset.

    Returns
    -------
    xarray.DataTree

    Raises
    ------
    UsageError
        If the configuration lacks a table that `kind` needs, or its values do not fit the data.
    """
    _check_tables(config, kind)
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    problem, data = make_problem(config, folder)
    arguments: dict[str, Any] = {
        "evaluation": None if data.x_evaluation is None else (data.x_evaluation, data.y_evaluation),
        "diagnostics": config.diagnostics.model_dump(),
        "store_data": config.run.store_data,
        "progress": progress,
        "provenance": Provenance(command, config.to_toml(), data.source, data.feature_names),
    }
    start = make_start(config, problem.n_parameters)
    if kind == "integrate":
        return integrate(problem, start, **_flow_arguments(config), **arguments)
    assert config.descent is not None
    table, end = config.descent, _descent_end(config)
    wall_seconds = table.wall_seconds or math.inf
    if kind == "descend":
        return descend(
            problem,
            start,
            table.step_sizes,
            end,
            records=table.records,
            spacing=table.spacing,
            wall_seconds=wall_seconds,
            **arguments,
        )
    return compare(
        problem,
        start,
        table.step_sizes,
        records=table.records,
        descent_t_end=end,
        descent_spacing=table.spacing,
        descent_wall_seconds=wall_seconds,
        **_flow_arguments(config),
        **arguments,
    )


def make_problem(config: Config, folder: Path) -> tuple[Problem, Dataset]:
    """The problem and the data it was built on."""
    data = load_data(config.data, _teacher(config), config.model.dim, folder)
    problem = Problem(
        _model(config, data.x.shape[1]),
        data.x,
        data.y,
        backward=config.model.backward,
        dtype=config.run.dtype,
        device=config.run.device,
        theta_target=data.theta_target,
    )
    return problem, data


def make_start(config: Config, n_parameters: int) -> np.ndarray:
    """theta0 (P,): as given, or offset + scale * standard normal."""
    start = config.start
    if start.theta is not None:
        return np.array(start.theta)
    offset = np.zeros(n_parameters) if start.offset is None else np.array(start.offset)
    return offset + np.random.default_rng(start.seed).normal(0, start.scale, n_parameters)


def _model(config: Config, dim: int) -> Model:
    kind = MODELS[config.model.kind]
    if config.model.kind == "linear":
        return kind(dim=dim)  # type: ignore[call-arg]
    return kind(dim=dim, activation=config.model.activation)  # type: ignore[call-arg]


def _teacher(config: Config) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def predict(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        teacher = Problem(_model(config, x.shape[1]), x, np.zeros(len(x)))
        try:
            return np.asarray(teacher.predict(theta))
        except EquilibriumError as error:
            raise ConfigError(f"data.theta is no teacher. {error}") from None

    return predict


def _check_tables(config: Config, kind: Kind) -> None:
    if kind != "descend" and config.flow is None:
        raise ConfigError(f"[flow] is missing; gflow {kind} needs at least flow.t_end.")
    if kind != "integrate" and config.descent is None:
        raise ConfigError(f"[descent] is missing; gflow {kind} needs descent.step_sizes.")


def _flow_arguments(config: Config) -> dict[str, Any]:
    assert config.flow is not None
    arguments = config.flow.model_dump()
    return {"flow": arguments.pop("kind"), **arguments}


def _descent_end(config: Config) -> float:
    assert config.descent is not None
    if config.descent.t_end is not None:
        return config.descent.t_end
    if config.flow is None:
        raise ConfigError("descent.t_end is missing, with no [flow] to give it.")
    if math.isinf(config.flow.t_end):
        raise ConfigError("descent.t_end is missing, and flow.t_end is inf; give one end.")
    return config.flow.t_end
