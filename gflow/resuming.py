"""Going on with a run from its file, where it was stopped or killed, or beyond its end."""

from __future__ import annotations

import contextlib
import sys
import sysconfig
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from gflow.assemble import Observables
from gflow.config import Config, config_from_dict, with_values
from gflow.configured import run_config, run_key
from gflow.errors import GflowError, StoreError
from gflow.extending import changes, grids_of
from gflow.flow_run import ProgressCallback
from gflow.flows import Flow
from gflow.keeping import checked_seconds
from gflow.problem import ArrayLike, Problem
from gflow.store.checkpoint import read_checkpoint
from gflow.store.files import open_tree, version_of
from gflow.store.output import SECONDS, Output
from gflow.store.provenance import Provenance
from gflow.workbench import compare, descend, integrate

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
    checkpoint_seconds: float | None = None,
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
    checkpoint_seconds : float, optional
        As there; by default that of the run.
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
    version = version_of(source)
    tree = open_tree(source)
    payload = read_checkpoint(tree)
    budgets = {"max_steps": max_steps, "wall_seconds": wall_seconds}
    stop = {name: value for name, value in budgets.items() if value is not None}
    with _as_told(source):
        changed = changes(source, tree, payload, t_end, stop)
        if changed is None:
            return tree
        if t_end is not None:
            grids = grids_of(payload).items()
            payload["grids"] = {name: list(astuple(grid)) for name, grid in grids}
    if checkpoint_seconds is None:
        checkpoint_seconds = payload.get("checkpoint_seconds", SECONDS)
    key = str(tree.attrs.get("run_key", ""))
    output = Output(
        source,
        checked_seconds(checkpoint_seconds),
        overwrite=True,
        tell=tell,
        continued=payload,
        key=key,
        folder=str(payload.get("folder", "")),
        version=version,
    )
    given: dict[str, Any] = {"evaluation": evaluation, "observables": observables}
    with output as file, _threads(int(tree.attrs["threads"])), _as_told(source):
        if problem is None:
            return _by_configuration(source, tree, payload, changed, file, progress)
        given |= {"provenance": _origin(tree, payload, changed)}
        return _by_arguments(problem, payload, changed, flow, given, file, progress)


def _origin(
    tree: xr.DataTree, payload: Mapping[str, Any], changed: Mapping[str, Any]
) -> Provenance:
    """What a file tells of its run's origin."""
    attrs, problem = tree.attrs, tree["problem"]
    config = _with(tree, payload, changed).to_toml() if attrs["config"] else ""
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


FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What parts of a checkpoint that do not fit the run, or each other, come to."""


@contextlib.contextmanager
def _as_told(source: Path) -> Iterator[None]:
    """Tell in a sentence what a checkpoint of odd parts comes to; the caller's errors pass."""
    try:
        yield
    except GflowError:
        raise
    except FAULTS as error:
        if "memory" in str(error) or _is_of_others(error):
            raise
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise StoreError(
            f"{source} cannot be gone on with: its checkpoint does not fit the run ({told[:200]}). "
            "Begin anew; if gflow wrote it so, please report it."
        ) from error


def _is_of_others(error: BaseException) -> bool:
    """Whether code beside gflow's and that of installed packages was running."""
    paths = sysconfig.get_paths()
    known = [str(Path(__file__).parent), *(paths[name] for name in ("stdlib", "purelib"))]
    frames = traceback.extract_tb(error.__traceback__)
    files = {frame.filename for frame in frames if Path(frame.filename).is_absolute()}
    return any(not file.startswith((*known, sys.prefix)) for file in files)


def _by_configuration(
    source: Path,
    tree: xr.DataTree,
    payload: Mapping[str, Any],
    changed: Mapping[str, Any],
    file: Output,
    progress: ProgressCallback | None,
) -> xr.DataTree:
    if not tree.attrs["config"]:
        raise StoreError(
            f"{source} was made in Python: go on there, with gflow.resume(path, problem)."
        )
    config = _with(tree, payload, changed)
    folder = source.resolve().parent / str(payload["folder"])
    if changed:
        file.key = run_key(config, payload["kind"])
    command = str(tree.attrs["command"])
    return run_config(
        config, payload["kind"], folder, progress=progress, command=command, output=file
    )


def _with(tree: xr.DataTree, payload: Mapping[str, Any], changed: Mapping[str, Any]) -> Config:
    """The file's configuration with what is changed of the call's arguments."""
    table = "descent" if payload["kind"] == "descend" else "flow.stop"
    values = {_key(payload, name): value for name, value in changed.items() if name != "stop"}
    values |= {f"{table}.{key}": value for key, value in changed.get("stop", {}).items()}
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
    changed: Mapping[str, Any],
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
    arguments = {**payload["arguments"], **changed}
    if "stop" in changed:
        arguments["stop"] = {**(payload["arguments"].get("stop") or {}), **changed["stop"]}
    if flow is not None:
        arguments["flow"] = flow
    if payload["kind"] == "descend":
        arguments |= arguments.pop("stop", None) or {}
    run = CALLS[payload["kind"]]
    return run(problem, payload["theta0"], **arguments, **given, progress=progress, output=file)
