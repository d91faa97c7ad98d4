"""Going on with a run from its file, where it was stopped or killed, or beyond its end."""

from __future__ import annotations

import contextlib
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from gflow.assemble import Observables
from gflow.config import Config, config_from_dict, with_values
from gflow.configured import run_config, run_key
from gflow.errors import StoreError
from gflow.flow_run import ProgressCallback
from gflow.flows import Flow
from gflow.problem import ArrayLike, Problem
from gflow.status import Status
from gflow.store.checkpoint import read_checkpoint
from gflow.store.files import open_tree
from gflow.store.output import SECONDS, Output
from gflow.store.provenance import Provenance
from gflow.times import is_count, save_times
from gflow.workbench import compare, descend, integrate

OPEN = (Status.RUNNING, Status.INTERRUPTED, Status.WALL_LIMIT, Status.STEP_LIMIT)
"""Verdicts after which a run may go on."""
CALLS: dict[str, Callable[..., xr.DataTree]] = {
    "integrate": integrate,
    "descend": descend,
    "compare": compare,
}


def resume(
    path: str | Path,
    problem: Problem | None = None,
    *,
    t_end: float | None = None,
    max_steps: int | None = None,
    wall_seconds: float | None = None,
    flow: Flow | None = None,
    evaluation: tuple[ArrayLike, ArrayLike] | None = None,
    observables: Observables | None = None,
    progress: ProgressCallback | None = None,
    checkpoint_seconds: float = SECONDS,
    tell: Callable[[str], None] | None = None,
) -> xr.DataTree:
    """Go on with a run from its file, in which the whole run is then.

    With a native method in float64 on the CPU it goes on bit for bit as if it had never stopped; a
    wrapped back-end begins anew from its last accepted point, which equals the run to its
    tolerance: the root's attribute ``resumed`` tells. A comparison's flow is integrated again from
    its start, as its dense output is not kept, with the same result; its descents go on.

    Parameters
    ----------
    path : str or Path
        From a run with an ``output``, on the command line or in Python.
    problem : Problem, optional
        The same as before; needed unless the run is described by a configuration.
    t_end : float, optional
        A later end than before, also for a run that has reached its end: saves and records go on at
        the same spacing.
    max_steps : int, optional
        A larger budget of attempted steps, in all.
    wall_seconds : float, optional
        A budget of wall-clock time from now on; by default that of the run, anew.
    flow, evaluation, observables
        The same as before, if they were given in Python as objects.
    progress : callable, optional
        As for :func:`gflow.integrate`.
    checkpoint_seconds : float
        As there.
    tell : callable, optional
        Told in a sentence when a checkpoint could not be written; by default a warning.

    Returns
    -------
    xarray.DataTree
        As it is if the run is complete and no later `t_end` is given.

    Raises
    ------
    StoreError
        If the file has no checkpoint, or the problem is not the same.

    Examples
    --------
    >>> import gflow, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.nc"
    >>> problem = gflow.Problem(gflow.LinearDEQ(dim=1), x=[[0.5], [1.0]], y=[1.0, 2.0])
    >>> first = gflow.integrate(problem, [0.1, 0.0], t_end=10, output=path)
    >>> float(gflow.resume(path, problem, t_end=20)["flow"].time[-1])
    20.0
    """
    source = Path(path)
    tree = open_tree(source)
    payload = read_checkpoint(tree)
    changes = _changes(source, tree, t_end, max_steps, wall_seconds)
    if changes is None:
        return tree
    key = str(tree.attrs.get("run_key", ""))
    output = Output(
        source,
        checkpoint_seconds,
        overwrite=True,
        tell=tell,
        continued=payload,
        key=key,
        folder=str(payload.get("folder", "")),
    )
    given: dict[str, Any] = {"evaluation": evaluation, "observables": observables}
    with output as file, _threads(int(tree.attrs["threads"])):
        if problem is None:
            return _by_configuration(source, tree, payload, changes, file, progress)
        given |= {"provenance": _origin(tree, payload, changes)}
        return _by_arguments(problem, payload, changes, flow, given, file, progress)


def _origin(
    tree: xr.DataTree, payload: Mapping[str, Any], changes: Mapping[str, Any]
) -> Provenance:
    """What a file tells of its run's origin."""
    attrs, problem = tree.attrs, tree["problem"]
    config = _changed(tree, payload, changes).to_toml() if attrs["config"] else ""
    features = problem["feature"].to_numpy().tolist() if "feature" in problem.coords else None
    source, seeds = str(problem.attrs["data_source"]), str(attrs.get("seeds", ""))
    return Provenance(str(attrs["command"]), config, source, features, seeds)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads as the run had: sums in other parts round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_complete(tree: xr.DataTree) -> bool:
    """Whether nothing of what was asked for is missing: every part ended, well or not."""
    statuses = {status for status, _ in _verdicts(tree)}
    kind = read_checkpoint(tree)["kind"]
    wanted = {"integrate": "flow", "descend": "descent", "compare": "comparison"}[kind]
    return wanted in tree.children and not statuses & set(OPEN)


def _changes(
    source: Path,
    tree: xr.DataTree,
    t_end: float | None,
    max_steps: int | None,
    wall_seconds: float | None,
) -> dict[str, Any] | None:
    """What is changed of the flow's arguments; None if nothing is left to do."""
    payload = read_checkpoint(tree)
    changes: dict[str, Any] = {}
    stop = {"max_steps": max_steps, "wall_seconds": wall_seconds}
    if any(value is not None for value in stop.values()):
        changes["stop"] = {key: value for key, value in stop.items() if value is not None}
    if t_end is not None:
        changes |= _extended(source, tree, payload, t_end)
    elif is_complete(tree):
        return None
    if payload["kind"] == "descend" and max_steps is not None:
        raise StoreError(f"{source} holds gradient descent alone, which has no step limit.")
    attempts = tree["flow_steps"].sizes["step"] if "flow_steps" in tree.children else 0
    if max_steps is not None and max_steps <= attempts:
        raise StoreError(
            f"{source} has made {attempts} steps already, so a limit of {max_steps} leaves none; "
            "it counts all steps from the start."
        )
    limited = "flow" in tree.children and str(tree["flow"].status.values) == Status.STEP_LIMIT
    if limited and max_steps is None:
        raise StoreError(
            f"{source} ended at its step limit; give a larger one, max_steps in Python or "
            "--max-steps on the command line, counting all steps from the start."
        )
    return changes


def _extended(
    source: Path, tree: xr.DataTree, payload: Mapping[str, Any], t_end: float
) -> dict[str, Any]:
    """The call's arguments with a later end, saves and records going on at the same spacing."""
    call, kind = payload["arguments"], payload["kind"]
    ended = {status for status, _ in _verdicts(tree)}
    if not ended & {Status.T_END, *OPEN}:
        told = " ".join(message for _, message in _verdicts(tree))
        raise StoreError(
            f"{source} did not end at its t_end, so a later one changes nothing: {told}"
        )
    before = float(call["t_end"])
    if not before < t_end < math.inf:
        raise StoreError(
            f"t_end is {t_end:g}; to extend {source} it must lie beyond its end, {before:g}, and "
            "be finite."
        )
    changes: dict[str, Any] = {"t_end": float(t_end)}
    if kind != "descend":
        changes["times"] = extended_times(call["times"], call["spacing"], before, t_end)
        names = payload["method"]["names"]
        changes |= {"method": names[0]} if len(names) == 1 else {}
    if kind != "integrate":
        changes |= _longer_descents(source, call, before, t_end)
    return changes


def _longer_descents(
    source: Path, call: Mapping[str, Any], before: float, t_end: float
) -> dict[str, Any]:
    if call["schedule"] != "constant":
        raise StoreError(
            f'{source} has schedule = "{call["schedule"]}", whose step sizes depend on the whole '
            f"length; run it anew with t_end = {t_end:g}."
        )
    if call.get("descent_t_end") not in (None, before):
        raise StoreError(
            f"{source} has descents that end at {call['descent_t_end']:g}, the flow at {before:g}; "
            f"run it anew with other ends."
        )
    spacing = call.get("descent_spacing") or call["spacing"]
    return {"records": extended_times(call["records"], spacing, before, t_end)}


def _verdicts(tree: xr.DataTree) -> list[tuple[Status, str]]:
    """Status and message of the flow and of each descent."""
    found = []
    for name in ("flow", "descent"):
        if name in tree.children:
            group = tree[name]
            columns = (group[key].to_numpy().ravel() for key in ("status", "status_message"))
            found += [
                (Status(str(status)), str(message))
                for status, message in zip(*columns, strict=True)
            ]
    return found


def extended_times(
    times: int | Sequence[float], spacing: str, before: float, t_end: float
) -> list[float]:
    """The saves up to `before` and those that go on from there to `t_end` as they were spaced.

    Parameters
    ----------
    times, spacing
        Of the run that ended at `before`; explicit times are followed by `t_end` alone.
    before, t_end : float
    """
    grid = save_times(times, before, spacing)
    if not is_count(times) or len(grid) < 3:
        return [*grid[grid < before].tolist(), float(before), float(t_end)]
    if spacing == "linear":
        later = before + np.arange(1, math.ceil((t_end - before) / grid[1])) * grid[1]
    else:
        ratio = grid[-1] / grid[-2]
        count = math.ceil(math.log(t_end / before) / math.log(ratio))
        later = before * ratio ** np.arange(1, count)
    kept = later[later < t_end * (1 - 1e-9)]
    return [*grid.tolist(), *kept.tolist(), float(t_end)]


def _by_configuration(
    source: Path,
    tree: xr.DataTree,
    payload: Mapping[str, Any],
    changes: Mapping[str, Any],
    file: Output,
    progress: ProgressCallback | None,
) -> xr.DataTree:
    if not tree.attrs["config"]:
        raise StoreError(
            f"{source} was made in Python: go on there, with gflow.resume(path, problem)."
        )
    config = _changed(tree, payload, changes)
    folder = source.resolve().parent / str(payload["folder"])
    if changes:
        file.key = run_key(config, payload["kind"])
    command = str(tree.attrs["command"])
    return run_config(
        config, payload["kind"], folder, progress=progress, command=command, output=file
    )


def _changed(tree: xr.DataTree, payload: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    """The file's configuration with what is changed of the call's arguments."""
    table = "descent" if payload["kind"] == "descend" else "flow.stop"
    values = {_key(payload, name): value for name, value in changes.items() if name != "stop"}
    values |= {f"{table}.{key}": value for key, value in changes.get("stop", {}).items()}
    try:
        raw = tomllib.loads(str(tree.attrs["config"]))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"The file's configuration is not valid TOML: {error}.") from None
    return config_from_dict(with_values(raw, values))


def _key(payload: Mapping[str, Any], name: str) -> str:
    """Where a configuration has an argument of its call."""
    return f"{'descent' if name == 'records' or payload['kind'] == 'descend' else 'flow'}.{name}"


def _by_arguments(
    problem: Problem,
    payload: Mapping[str, Any],
    changes: Mapping[str, Any],
    flow: Flow | None,
    given: Mapping[str, Any],
    file: Output,
    progress: ProgressCallback | None,
) -> xr.DataTree:
    missing = [name for name in payload["beside"] if not given[name]]
    if missing:
        raise StoreError(
            f"The run had {' and '.join(missing)}, which its file does not hold; give "
            f"{'them' if len(missing) > 1 else 'it'} to gflow.resume again."
        )
    arguments = {**payload["arguments"], **changes}
    if "stop" in changes:
        arguments["stop"] = {**(payload["arguments"].get("stop") or {}), **changes["stop"]}
    if flow is not None:
        arguments["flow"] = flow
    if payload["kind"] == "descend":
        arguments |= arguments.pop("stop", None) or {}
    run = CALLS[payload["kind"]]
    return run(problem, payload["theta0"], **arguments, **given, progress=progress, output=file)
