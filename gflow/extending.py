"""What is left of a run in a file, and what changes when it is to go on, or to a later end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from gflow.errors import StoreError
from gflow.integrators.auto import WATCHED
from gflow.status import Status
from gflow.store.checkpoint import check_checkpoint
from gflow.times import Grid, is_count, save_times

OPEN = (Status.RUNNING, Status.INTERRUPTED, Status.WALL_LIMIT, Status.STEP_LIMIT)
"""Verdicts after which a run may go on."""
LAST = {"integrate": "flow", "descend": "descent", "compare": "comparison"}
"""The group with which a run of each kind is whole."""


def is_complete(tree: xr.DataTree) -> bool:
    """Whether nothing of what was asked for is missing: every part ended, well or not.

    Raises
    ------
    StoreError
        If the file has no checkpoint.
    """
    check_checkpoint(tree)
    statuses = {status for status, _ in _verdicts(tree)}
    return LAST.get(tree.attrs["kind"]) in tree.children and not statuses & set(OPEN)


def changes(
    source: Path,
    tree: xr.DataTree,
    payload: Mapping[str, Any],
    t_end: float | None,
    stop: Mapping[str, float],
) -> dict[str, Any] | None:
    """What is changed of the call's arguments; None if nothing is left to do.

    Parameters
    ----------
    source, tree, payload
        The file, what it holds, and its checkpoint.
    t_end : float, optional
        A later end.
    stop : mapping
        Larger budgets: ``max_steps``, ``wall_seconds``.

    Raises
    ------
    StoreError
        If the run cannot go on so.
    """
    found: dict[str, Any] = {"stop": dict(stop)} if stop else {}
    if t_end is not None:
        found |= _extended(source, tree, payload, t_end)
    elif is_complete(tree):
        return None
    _check_steps(source, tree, payload["kind"], stop.get("max_steps"))
    return found


def _check_steps(source: Path, tree: xr.DataTree, kind: str, max_steps: float | None) -> None:
    if kind == "descend" and max_steps is not None:
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
    if kind != "integrate":
        _check_descents(source, call, before, t_end)
    grids = grids_of(payload)
    found: dict[str, Any] = {"t_end": float(t_end)}
    for name in ("times", "records"):
        if name in call:
            found[name] = extended_times(call[name], grids.get(name), before, t_end)
    if kind != "descend":
        names = payload["method"]["names"]
        found["method"] = names[0] if len(names) == 1 else WATCHED
    return found


def _check_descents(source: Path, call: Mapping[str, Any], before: float, t_end: float) -> None:
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


def grids_of(payload: Mapping[str, Any]) -> dict[str, Grid]:
    """How saves and records were spaced before the run was first extended, by argument."""
    if "grids" in payload:
        return {name: Grid(*told) for name, told in payload["grids"].items()}
    call, found = payload["arguments"], {}
    spacing = {"times": call["spacing"], "records": call.get("descent_spacing") or call["spacing"]}
    for name, own in spacing.items():
        if is_count(call.get(name)):
            found[name] = Grid(int(call[name]), own, float(call["t_end"]))
    return found


def extended_times(
    times: int | Sequence[float], grid: Grid | None, before: float, t_end: float
) -> list[float]:
    """The saves up to `before` and those that go on from there to `t_end` as they were spaced.

    Parameters
    ----------
    times
        Of the run that ended at `before`: explicit, or those of `grid`.
    grid : Grid, optional
        Without one only `t_end` follows.
    before, t_end : float
    """
    if is_count(times):
        assert grid is not None
        own = save_times(grid.count, grid.end, grid.spacing)
    else:
        own = save_times(times, before)
    later = [] if grid is None else grid.between(before, t_end).tolist()
    return [*own[own < before].tolist(), float(before), *later, float(t_end)]
