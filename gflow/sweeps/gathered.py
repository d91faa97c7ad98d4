"""What a sweep has come to: where each cell's result is, how it ended, and the dataset of all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import gflow
from gflow.schema import ROOT_ATTRIBUTES, SCHEMA_VERSION
from gflow.status import Status
from gflow.store.provenance import versions
from gflow.sweeps.cells import cell_status, cells_of
from gflow.sweeps.folder import DIGEST, Place, read_part
from gflow.sweeps.layout import Layout
from gflow.sweeps.plan import Plan
from gflow.sweeps.stored import stored_sweep
from gflow.sweeps.work import DATA, KEYS, VARIES, Done
from gflow.sweeps.writing import Writer, replacing

Verdict = tuple[Status, str]


class Gathered:
    """The cells of a sweep that have a result, and those that failed.

    Parameters
    ----------
    plan : Plan
    workers : int
        That run what is left.

    Attributes
    ----------
    numbers : dict of str to list of int
        Key to the cells that have it, mostly one.
    places : dict of str to Place
        Where the results are.
    failed : dict of str to str
        Key to the sentence on why there is none.
    """

    def __init__(self, plan: Plan, workers: int) -> None:
        self.plan, self.layout = plan, Layout()
        self._config = stored_sweep(plan, workers)  # before anything runs: files may change
        self.numbers: dict[str, list[int]] = {}
        for cell in plan.accepted:
            self.numbers.setdefault(plan.keys[cell], []).append(cell)
        self.places: dict[str, Place] = {}
        self.failed: dict[str, str] = {}
        self._told: dict[str, tuple[Verdict, float, str]] = {}

    @property
    def done(self) -> int:
        """Number of cells that have a result."""
        return sum(len(self.numbers[key]) for key in self.places)

    def take(self, part: Done, places: Mapping[str, Place], new: bool = True) -> set[str]:
        """Take note of those cells of a part that have a place in it; the keys of those taken.

        One of an earlier call, not `new`, is left if it was interrupted, to be run again.
        """
        attrs, taken = part.tree.attrs, set()
        digests = dict(zip(part.keys, json.loads(attrs[DATA]), strict=True))
        seconds = float(attrs["wall_seconds"]) / len(part.keys)
        wanted = {key: self.numbers[key][0] for key in places}
        for key, groups in cells_of(part, self.plan, wanted):
            verdict = cell_status(groups)
            if new or verdict[0] is not Status.INTERRUPTED:
                self.layout.add(groups)
                self._told[key] = verdict, seconds, digests[key]
                self.places[key] = places[key]
                taken.add(key)
        if taken:
            self.layout.add_root(attrs, (KEYS, DATA, DIGEST))
        return taken

    @property
    def verdicts(self) -> list[Verdict]:
        """How each cell ended."""
        return [self._verdict(cell) for cell in range(self.plan.cells)]

    def first_failure(self) -> str:
        """The sentence on the first cell that did not end well, with its values."""
        for cell, (status, message) in enumerate(self.verdicts):
            if not status.ok:
                pairs = zip(self.plan.axes, self.plan.index(cell), strict=True)
                told = ", ".join(f"{axis.key} = {axis.labels[place]}" for axis, place in pairs)
                return f"{told} ({status}): {message}"
        return ""

    def write(self, output: Path, command: str) -> None:
        """Write the dataset, reading a part at a time.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        plan, missing = self.plan, set(range(self.plan.cells))
        self.layout.finish()
        with (
            replacing(output) as path,
            closing(Writer(path, plan.axes, self.layout)) as writer,
        ):
            for file in dict.fromkeys(place.path for place in self.places.values()):
                here = {k: self.numbers[k][0] for k, p in self.places.items() if p.path == file}
                for key, groups in cells_of(read_part(file), plan, here):
                    for cell in self.numbers[key]:
                        writer.write(plan.index(cell), groups)
                    missing -= set(self.numbers[key])
            for cell in sorted(missing):
                writer.write(plan.index(cell), {})
            writer.write_sweep(self._tables(), self._attributes())
            writer.write_root(self._root(command))

    def _verdict(self, cell: int) -> Verdict:
        key = self.plan.keys[cell]
        if key in self._told:
            return self._told[key][0]
        sentence = self.plan.refused.get(cell) or self.failed.get(key, Status.NOT_RUN.sentence)
        return Status.NOT_RUN, sentence

    def _tables(self) -> dict[str, np.ndarray]:
        """The variables of ``/sweep``."""
        nothing = None, float("nan"), ""
        told = [self._told.get(key, nothing) for key in self.plan.keys]
        verdicts = self.verdicts
        columns: dict[str, list[Any]] = {
            "status": [str(status) for status, _ in verdicts],
            "status_message": [message for _, message in verdicts],
            "wall_seconds": [seconds for _, seconds, _ in told],
            "key": list(self.plan.keys),
            "data_sha256": [digest for _, _, digest in told],
        }
        return {
            name: np.array(column, dtype=float if name == "wall_seconds" else object).reshape(
                self.plan.shape
            )
            for name, column in columns.items()
        }

    def _attributes(self) -> dict[str, str]:
        """The attributes of ``/sweep``."""
        return {
            "dimensions": " ".join(axis.key for axis in self.plan.axes),
            "kind": self.plan.kind,
            "over": "\n".join(axis.text for axis in self.plan.axes),
            "config": self._config,
        }

    def _root(self, command: str) -> dict[str, Any]:
        """The root's attributes: those that all cells share, and the sweep's own."""
        seconds = sum(seconds for _, seconds, _ in self._told.values())
        digests = {digest for _, _, digest in self._told.values()}
        return {
            **dict.fromkeys(ROOT_ATTRIBUTES, ""),
            "threads": 0,
            "versions": versions(),
            **self.layout.attrs,
            "data_sha256": VARIES if len(digests) > 1 else "".join(digests),
            "schema_version": SCHEMA_VERSION,
            "gflow_version": gflow.__version__,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command,
            "config": self._config,
            "wall_seconds": seconds,
        }
