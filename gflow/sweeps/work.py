"""What a worker does with a part: nothing that depends on the other parts or on the machine."""

from __future__ import annotations

import json
import threading
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr

from gflow.config import Config, config_from_dict
from gflow.configured import flow_arguments, make_problem, make_start, run_config
from gflow.data import Dataset
from gflow.errors import GflowError
from gflow.problem import Problem
from gflow.schema import attributes
from gflow.store.provenance import Provenance, data_digest
from gflow.stored_config import seeds
from gflow.sweeps.parts import Part
from gflow.sweeps.plan import threads_of
from gflow.workbench import integrate

KEYS, DATA = "sweep_keys", "sweep_data_sha256"
"""Root attributes of a part's file: the keys of its cells, and the digests of their data; JSON."""

VARIES = "varies"
"""Value of an attribute that differs from cell to cell; a variable of its name has the values."""

_ALONE = threading.Lock()
"""Torch's number of threads and its seed are those of a process: one part at a time has them."""


@dataclass(frozen=True)
class Done:
    """A dataset and the cells in it, a trajectory each if they are several."""

    keys: tuple[str, ...]
    tree: xr.DataTree


@dataclass
class Outcome:
    """What became of a part: datasets, and the sentence on each cell that failed."""

    done: list[Done] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run_part(part: Part) -> Outcome:
    """Run the cells of a part; one that fails takes no other's result away.

    Parameters
    ----------
    part : Part

    Returns
    -------
    Outcome
    """
    with _ALONE:
        configs = [_for_sweep(text) for text in part.configs]
        if len(configs) > 1:
            try:
                return _together(part, configs)
            except Exception:
                pass  # one of the cells is to blame, which shows when each is run alone
        outcome = Outcome()
        for key, config in zip(part.keys, configs, strict=True):
            try:
                tree = _alone(part, config)
            except Exception as error:
                outcome.failed[key] = sentence(error)
            else:
                tree.attrs[DATA] = json.dumps([tree.attrs["data_sha256"]])
                outcome.done.append(_labelled((key,), tree))
        return outcome


def sentence(error: Exception) -> str:
    """What to say of a cell that raised."""
    if isinstance(error, GflowError):
        return str(error)
    text = " ".join(str(error).split())
    return f"internal error: {type(error).__name__}: {text}; please report it."


def _for_sweep(text: str) -> Config:
    """A cell's configuration; its data are stored only where that is asked for."""
    config = config_from_dict(tomllib.loads(text))
    run = config.run.model_copy(update={"store_data": bool(config.run.store_data)})
    return config.model_copy(update={"run": run})


def _alone(part: Part, config: Config) -> xr.DataTree:
    torch.set_num_threads(threads_of(config))
    return run_config(config, part.kind, part.folder, command=part.command)


def _together(part: Part, configs: Sequence[Config]) -> Outcome:
    """The flows of the cells whose problems can be made, as an ensemble."""
    outcome, keys = Outcome(), []
    problems: list[tuple[Problem, Dataset]] = []
    starts: list[np.ndarray] = []
    torch.set_num_threads(threads_of(configs[0]))
    for key, config in zip(part.keys, configs, strict=True):
        try:
            made = make_problem(config, part.folder)
            starts.append(make_start(config, made[0].model))
        except Exception as error:
            outcome.failed[key] = sentence(error)
        else:
            problems.append(made)
            keys.append(key)
    if keys:
        drawn = {seeds(config) for config in configs}
        told = drawn.pop() if len(drawn) == 1 else VARIES
        tree = _ensemble(part, configs[0], problems, starts, told)
        outcome.done.append(_labelled(tuple(keys), tree))
    return outcome


def _ensemble(
    part: Part,
    config: Config,
    made: Sequence[tuple[Problem, Dataset]],
    starts: Sequence[np.ndarray],
    drawn: str,
) -> xr.DataTree:
    problems, data = [problem for problem, _ in made], made[0][1]
    tree = integrate(
        problems,
        np.stack(starts),
        **flow_arguments(config),
        evaluation=None if data.x_evaluation is None else (data.x_evaluation, data.y_evaluation),
        diagnostics=config.diagnostics.model_dump(),
        store_data=False,
        store_theta=config.run.store_theta,
        provenance=Provenance(part.command, "", data.source, data.feature_names, drawn),
    )
    described = tree["problem"].to_dataset()
    tree["problem"] = xr.DataTree(described.assign(_told(tree, made)))
    tree.attrs[DATA] = json.dumps([data_digest([one]) for one in problems])
    return tree


def _told(tree: xr.DataTree, made: Sequence[tuple[Problem, Dataset]]) -> dict[str, xr.DataArray]:
    """Of each trajectory, where its data come from and its teacher's parameters."""
    sources = [data.source for _, data in made]
    found = {"data_source": xr.DataArray(sources, dims="trajectory")}
    targets = [problem.theta_target for problem, _ in made if problem.theta_target is not None]
    if len(targets) == len(made):
        table = np.stack([target.double().cpu().numpy() for target in targets])
        names = tree["flow"]["parameter"]
        target = xr.DataArray(table, dims=("trajectory", "parameter"), coords={"parameter": names})
        found["theta_target"] = target
    for name, array in found.items():
        array.attrs = attributes("problem", name)
    return found


def _labelled(keys: tuple[str, ...], tree: xr.DataTree) -> Done:
    tree.attrs[KEYS] = json.dumps(keys)
    return Done(keys, tree)
