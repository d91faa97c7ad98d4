"""A call's file as it goes: what there is so far, and where each part of it can go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from gflow.descent import Descent
from gflow.errors import ProblemError, StoreError
from gflow.flows import Flow
from gflow.integrators.base import Method, uniform_grid
from gflow.integrators.continuation import method_of, plain_method, plain_snapshot, snapshot_of
from gflow.integrators.snapshot import Snapshot
from gflow.integrators.trajectory import Trajectory
from gflow.problem import Problem
from gflow.recording import Recording
from gflow.store.checkpoint import NAME, checkpoint_group
from gflow.store.output import Output
from gflow.store.provenance import data_digest

Groups = dict[str, xr.Dataset]
PARTS = ("flow", "method", "reached", "descent", "grids")
"""Of a checkpoint: what depends on how far the run has come, or once came."""


@dataclass
class Keeping:
    """The file of a call on one problem.

    Parameters
    ----------
    output : Output
        Whose ``continued`` says where to go on, if it does.
    recording : Recording
    problem : Problem
    call : mapping
        Plain data: the kind of the call and its arguments.

    Attributes
    ----------
    groups : dict
        Groups of the parts that are done.
    parts : dict
        Plain data of each part that can go on: the flow and its method, the descents.
    behind : bool
        Whether the flow, begun anew, was stopped before it had come to where it was.
    """

    output: Output
    recording: Recording
    problem: Problem
    call: Mapping[str, Any]
    groups: Groups = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take over what is there.

        Raises
        ------
        StoreError
            If it is of another problem or another start.
        """
        self._fingerprint = fingerprint(self.problem)
        self.resumed: list[str] = []
        self.behind = False
        self._sittings: dict[str, Any] = {"wall_seconds": 0.0}
        before = self.output.continued
        if before is not None:
            _check_same(before, self._fingerprint, self.call)
            self.parts = {name: before[name] for name in PARTS if name in before}
            self._extend(before["arguments"])
            self._sittings = {name: before[name] for name in ("wall_seconds", "started_at")}
            self.resumed = list(before.get("resumed", []))

    def _extend(self, before: Mapping[str, Any]) -> None:
        """Where the end is a later one, go back to where all descents were together."""
        now = self.call["arguments"]
        if now["t_end"] == before["t_end"]:
            return
        if (descent := self.parts.get("descent")) is not None:
            together = descent["together"]
            self.parts["descent"] = {**descent, **together, "together": together}
        if (size := now.get("step_size")) is not None:
            steps = [uniform_grid(size, one["t_end"])[0] for one in (before, now)]
            if steps[0] != steps[1]:  # it begins anew, with the step of the later end
                self.parts = {k: v for k, v in self.parts.items() if k not in ("flow", "method")}

    def snapshot(self) -> Snapshot | None:
        """Where the flow goes on; None from its start."""
        told = self.parts.get("flow")
        if told is None:
            if self.output.continued is not None:
                self.resumed.append("the flow from its start, with the same result")
            return None
        found = snapshot_of(told)
        how = "from its saved state, bit for bit"
        if not found.exact:
            how = "where the method began anew: equal to its tolerance, not bit for bit"
        self.resumed.append(f"at t = {found.t:.6g} {how}")
        return found

    def descents(self) -> Mapping[str, Any] | None:
        """Where the descents go on; None from their start."""
        state: Mapping[str, Any] | None = self.parts.get("descent")
        if state is not None and self.output.continued is not None:
            self.resumed.append(f"the descents at update {state['k']}, bit for bit")
        return state

    def method(self) -> tuple[Method, str] | None:
        """The method that was chosen, and why."""
        told = self.parts.get("method")
        return None if told is None else (method_of(told), str(told["reason"]))

    def of_flow(
        self, method: Method, reason: str, assemble: Callable[[Trajectory], Groups]
    ) -> FlowKeeper:
        """The keeper of a flow by a method that was chosen for a reason."""
        self.parts["method"] = {**plain_method(method), "reason": reason}
        return FlowKeeper(self, assemble)

    def of_descents(self, assemble: Callable[[Descent], Groups]) -> DescentsKeeper:
        """The keeper of descents."""
        return DescentsKeeper(self, assemble)

    def due(self) -> bool:
        """Whether it is time to write."""
        return self.output.due()

    def flow(self, trajectory: Trajectory, groups: Groups) -> None:
        """Take what has come of the flow, whether or not it has ended."""
        if trajectory.snapshot is not None:
            self.parts["flow"] = plain_snapshot(trajectory.snapshot)
        end = float(trajectory.t[-1])
        self.behind = end < self.parts.get("reached", 0.0)
        if not self.behind:
            self.parts["reached"] = end
        self.groups |= groups

    def descent(self, descent: Descent, groups: Groups) -> None:
        """The same of the descents."""
        if descent.state is not None:
            self.parts["descent"] = dict(descent.state)
        self.groups |= groups

    def write(self) -> None:
        """A checkpoint."""
        self.output.checkpoint(self.tree(self.groups))

    def tree(self, groups: Mapping[str, xr.Dataset]) -> xr.DataTree:
        """The dataset with what its run needs to go on."""
        tree = self.recording.tree([self.problem], groups)
        tree.attrs["wall_seconds"] += self._sittings["wall_seconds"]
        tree.attrs["started_at"] = self._sittings.get("started_at", tree.attrs["started_at"])
        payload = {**self.call, **self.parts, "resumed": self.resumed}
        payload |= {name: tree.attrs[name] for name in ("wall_seconds", "started_at")}
        payload |= {"problem": self._fingerprint, "folder": self.output.folder}
        payload["checkpoint_seconds"] = float(self.output.seconds)
        tree[NAME] = xr.DataTree(checkpoint_group(payload))
        if self.resumed:
            tree.attrs["resumed"] = "; ".join(self.resumed)
        if self.output.key:
            tree.attrs["run_key"] = self.output.key
        return tree


@dataclass
class FlowKeeper:
    """Keeps one flow on disk, whose groups `assemble` gives."""

    keeping: Keeping
    assemble: Callable[[Trajectory], Groups]

    def due(self) -> bool:
        """Whether it is time."""
        return self.keeping.due()

    def keep(self, trajectory: Trajectory) -> None:
        """Write a checkpoint, unless the file holds more: a flow may have begun anew."""
        if float(trajectory.t[-1]) > self.keeping.parts.get("reached", 0.0):
            self.keeping.flow(trajectory, self.assemble(trajectory))
            self.keeping.write()
        else:
            self.keeping.output.postpone()


@dataclass
class DescentsKeeper:
    """Keeps descents on disk, whose groups `assemble` gives."""

    keeping: Keeping
    assemble: Callable[[Descent], Groups]

    def due(self) -> bool:
        """Whether it is time."""
        return self.keeping.due()

    def keep(self, descent: Descent) -> None:
        """Write a checkpoint."""
        self.keeping.descent(descent, self.assemble(descent))
        self.keeping.write()


def fingerprint(problem: Problem) -> dict[str, str]:
    """What a problem must be like for its run to go on."""
    return {
        "model": repr(problem.model),
        "loss": problem.loss_function.name,
        "backward": problem.backward.name,
        "dtype": str(problem.dtype).removeprefix("torch."),
        "data": data_digest([problem]),
    }


def _check_same(before: Mapping[str, Any], now: Mapping[str, str], call: Mapping[str, Any]) -> None:
    told = before.get("problem", {})
    other = [name for name, value in now.items() if told.get(name) != value]
    if other:
        raise StoreError(
            f"The run cannot go on: its problem had another {' and another '.join(other)}. Restore "
            "them as they were, or begin anew."
        )
    start: Tensor = before["theta0"]
    if start.shape != call["theta0"].shape or not torch.equal(start, call["theta0"].cpu()):
        raise StoreError("The run cannot go on: its start was another theta0.")


NOT_PLAIN = ("problem", "theta0", "evaluation", "observables", "progress", "provenance")
"""Arguments that a checkpoint does not hold: a run from Python is given them again."""
OF_THE_FILE = ("output", "overwrite", "checkpoint_seconds")


def call_of(kind: str, start: Tensor, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A call as plain data, and which further arguments it had.

    A flow that is an object is told by its name.
    """
    plain = {
        name: _plain(value)
        for name, value in arguments.items()
        if name not in (*NOT_PLAIN, *OF_THE_FILE)
    }
    beside = [name for name in ("evaluation", "observables") if arguments[name]]
    return {"kind": kind, "theta0": start.cpu(), "arguments": plain, "beside": beside}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Flow):
        return value.name
    return np.asarray(value, dtype=np.float64).tolist()


def opened(
    output: str | Path | Output | None, overwrite: bool, seconds: float
) -> AbstractContextManager[Output | None]:
    """The context of a call's file, if it has one."""
    if output is None or isinstance(output, Output):
        return nullcontext(output)
    return Output(output, checked_seconds(seconds), overwrite)


def checked_seconds(seconds: float) -> float:
    """Seconds between two checkpoints; a ProblemError if they are none."""
    if not isinstance(seconds, Real) or isinstance(seconds, bool) or not seconds >= 0:
        raise ProblemError(f"checkpoint_seconds is {seconds!r}; it must be a number >= 0.")
    return float(seconds)


def kept(
    file: Output | None,
    recording: Recording,
    problem: Problem,
    call: Mapping[str, Any],
    size: float,
) -> Keeping | None:
    """The keeping of a call on one problem, whose states take so many bytes."""
    if file is None:
        return None
    if recording.store_theta == "all" and math.isfinite(size):
        file.reserve(size)
    return Keeping(file, recording, problem, call)


def concluded(
    keeping: Keeping | None,
    recording: Recording,
    problem: Problem,
    groups: Mapping[str, xr.Dataset],
) -> xr.DataTree:
    """The whole dataset, written if it has a file, which does not hold more already."""
    if keeping is None:
        return recording.tree([problem], groups)
    tree = keeping.tree(groups)
    return tree if keeping.behind else written(keeping.output, tree)


def written(file: Output | None, tree: xr.DataTree) -> xr.DataTree:
    """The dataset, written if it has a file."""
    if file is not None:
        file.finish(tree)
    return tree
