"""Runs described by a configuration."""

from __future__ import annotations

import hashlib
import json
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
from gflow.models import LinearDEQ, Model, ModuleModel, SingleIndexDEQ, VectorDEQ
from gflow.models.factory import load_factory
from gflow.problem import Problem
from gflow.store.output import Output
from gflow.store.provenance import Provenance
from gflow.stored_config import seeds, stored_config
from gflow.wording import show
from gflow.workbench import compare, descend, integrate

SCALAR = ("linear", "single_index")
"""Kinds of models of one output."""

MOST_PARAMETERS = 10**7
"""Of a linear, single-index or vector DEQ: each one has a name."""

UNDECISIVE = (
    ("data", "sha256"),
    ("model", "factory_sha256"),
    ("run", "checkpoint_seconds"),
    ("run", "threads"),
)
"""Tables and keys that decide no result, or rounding alone."""

Kind = Literal["integrate", "descend", "compare"]


def run_config(
    config: Config,
    kind: Kind,
    folder: Path,
    *,
    progress: ProgressCallback | None = None,
    command: str | None = None,
    output: Output | None = None,
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
    output : Output, optional
        The file on which the run is kept as it goes.

    Returns
    -------
    xarray.DataTree

    Raises
    ------
    UsageError
        If the configuration lacks a table that `kind` needs, or its values do not fit the data.
    """
    check_tables(config, kind)
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    problem, data = make_problem(config, folder)
    stored = stored_config(config, kind, folder)
    arguments = _beside(config, data, stored, command) | {"progress": progress, "output": output}
    start = make_start(config, problem.model)
    if kind == "integrate":
        return integrate(problem, start, **flow_arguments(config), **arguments)
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
            schedule=table.schedule,
            **_descent_flow(config),
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
        schedule=table.schedule,
        **flow_arguments(config),
        **arguments,
    )


def _beside(config: Config, data: Dataset, stored: str, command: str | None) -> dict[str, Any]:
    """What a run records beside theta, as arguments of a call."""
    sets = None if data.x_evaluation is None else (data.x_evaluation, data.y_evaluation)
    return {
        "evaluation": sets,
        "diagnostics": config.diagnostics.model_dump(),
        "store_data": config.run.store_data,
        "store_theta": config.run.store_theta,
        "provenance": Provenance(command, stored, data.source, data.feature_names, seeds(config)),
    }


def make_problem(config: Config, folder: Path) -> tuple[Problem, Dataset]:
    """The problem and the data it was built on."""
    data = load_data(config.data, _teacher(config), config.model.dim, folder)
    scalar = config.model.kind in SCALAR
    problem = Problem(
        make_model(config, data, folder),
        data.x,
        data.y,
        loss=config.model.loss,
        backward=config.model.backward,
        dtype=config.run.dtype,
        device=config.run.device,
        theta_target=data.theta_target if scalar else None,
    )
    return problem, data


def make_start(config: Config, model: Model) -> np.ndarray:
    """theta0 (P,): as given; drawn as the model likes it, or as offset + scale * normal."""
    start = config.start
    if start is not None and start.theta is not None:
        return np.array(start.theta)
    if isinstance(model, ModuleModel):
        return np.asarray(model.initial())
    assert start is not None
    assert start.seed is not None
    if isinstance(model, VectorDEQ):
        scale = 1.0 if start.scale is None else start.scale
        return model.initial(start.seed, start.scheme, start.radius, scale)
    size = model.n_parameters
    offset = np.zeros(size) if start.offset is None else np.array(start.offset)
    scale = 0.1 if start.scale is None else start.scale
    return offset + np.random.default_rng(start.seed).normal(0, scale, size)


def make_model(config: Config, data: Dataset, folder: Path) -> Model:
    """The model, with as many inputs and outputs as the data ask for."""
    table, dim = config.model, data.x.shape[1]
    _check_parameters(dim + 1 if table.width is None else table.width * (table.width + dim))
    if table.kind in SCALAR:
        return _scalar_model(table.kind, dim, table.sigma)
    outputs = _outputs(table.loss, data.y)
    if table.kind == "vector":
        assert table.width is not None
        return VectorDEQ(dim, table.width, outputs, table.sigma, train=table.train)
    assert table.factory is not None
    if config.start is not None and config.start.seed is not None:
        torch.manual_seed(config.start.seed)
    module = load_factory(table.factory, folder, dim, outputs, table.factory_sha256)
    return ModuleModel(module, chunk=table.chunk)


def _check_parameters(count: int) -> None:
    if count > MOST_PARAMETERS:
        raise ConfigError(
            f"The model has {count:.3g} parameters; at most {MOST_PARAMETERS:,} are taken from a "
            "configuration. Lower model.width, or take fewer inputs."
        )


def _outputs(loss: str, y: np.ndarray) -> int:
    """How many the targets ask for: their columns, or the number of classes."""
    if loss == "cross_entropy" and np.isfinite(y).all():
        return max(2, int(y.max()) + 1)
    return 1 if y.ndim == 1 else y.shape[1]


def _scalar_model(kind: str, dim: int, activation: str) -> Model:
    if kind == "linear":
        return LinearDEQ(dim)
    return SingleIndexDEQ(dim, activation)


def _teacher(config: Config) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The model itself at known parameters; a single-index DEQ where the model is another kind."""
    kind = config.model.kind if config.model.kind in SCALAR else "single_index"

    def predict(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        model = _scalar_model(kind, x.shape[1], config.model.sigma)
        teacher = Problem(model, x, np.zeros(len(x)))
        try:
            return np.asarray(teacher.predict(theta))
        except EquilibriumError as error:
            raise ConfigError(f"data.theta is no teacher. {error}") from None

    return predict


def check_tables(config: Config, kind: Kind) -> None:
    """Refuse a configuration without the tables that `kind` needs, by a ConfigError."""
    if kind != "descend" and config.flow is None:
        raise ConfigError(f"[flow] is missing; gflow {kind} needs at least flow.t_end.")
    if kind != "integrate" and config.descent is None:
        raise ConfigError(f"[descent] is missing; gflow {kind} needs descent.step_sizes.")
    if kind == "compare":
        _check_counterpart(config)


def _check_counterpart(config: Config) -> None:
    for key in ("kind", "weight_decay"):
        own, flows = getattr(config.descent, key), getattr(config.flow, key)
        if own not in (None, flows):
            raise ConfigError(
                f"descent.{key} is {show(own)} but flow.{key} is {show(flows)}; gflow compare runs "
                f"the flow's own counterpart, so leave descent.{key} out."
            )


def flow_arguments(config: Config) -> dict[str, Any]:
    """What :func:`gflow.integrate` takes of the table [flow]."""
    assert config.flow is not None
    arguments = config.flow.model_dump()
    if config.descent is not None and arguments["events"]["sharpness"] is True:
        arguments["events"]["sharpness"] = config.descent.step_sizes
    return {"flow": arguments.pop("kind"), **arguments}


def _descent_flow(config: Config) -> dict[str, Any]:
    """Which updates gflow descend makes: as its own table says, else as the flow's."""
    assert config.descent is not None
    own, flow = config.descent, config.flow
    kind, decay = (flow.kind, flow.weight_decay) if flow else ("gradient", 0.0)
    return {
        "flow": own.kind or kind,
        "weight_decay": decay if own.weight_decay is None else own.weight_decay,
    }


def _descent_end(config: Config) -> float:
    assert config.descent is not None
    if config.descent.t_end is not None:
        return config.descent.t_end
    if config.flow is None:
        raise ConfigError("descent.t_end is missing, with no [flow] to give it.")
    if math.isinf(config.flow.t_end):
        raise ConfigError("descent.t_end is missing, and flow.t_end is inf; give one end.")
    return config.flow.t_end


def decisive(config: Config) -> dict[str, Any]:
    """The tables of a configuration without what decides no result, or rounding alone."""
    tables = config.model_dump(mode="json", exclude_none=True)
    for table, key in UNDECISIVE:
        tables[table].pop(key, None)
    return tables


def run_key(config: Config, kind: Kind) -> str:
    """What a file is keyed to: all of a configuration that decides its data."""
    text = json.dumps([kind, decisive(config)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
