"""A study: a folder that reproduces one result."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shlex
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import xarray as xr
from matplotlib.figure import Figure

from gflow import workbench
from gflow.config import load_config
from gflow.configured import run_config
from gflow.errors import GflowError, StudyError
from gflow.flow_run import ProgressCallback
from gflow.plot.figure import STYLE
from gflow.status import Status
from gflow.store.files import open_tree, save
from gflow.store.provenance import Provenance
from gflow.study.claims import Claim
from gflow.study.description import Cell, Run, StudyFile, cells, planned, read_description
from gflow.study.interrupts import Watch
from gflow.study.modules import call
from gflow.study.results import RECORD, Results
from gflow.user_code import sources

RESULTS = Path("study-results")
"""Where datasets go by default, a folder a study, below the working directory."""

QUICK_VARIABLE = "GFLOW_STUDY_QUICK"
"""Environment variable; set to 1 it makes the quick version the default of :meth:`Study.run`."""


@dataclass(frozen=True)
class Done:
    """What :meth:`Study.run` tells of each run.

    Attributes
    ----------
    cell : Cell
    seconds : float
        NaN if the dataset was there already.
    statuses : list of str
        How its flows and descents ended.
    """

    cell: Cell
    seconds: float
    statuses: list[str]


class Study:
    """A folder with ``study.toml``, ``study.py`` and ``reference.json``.

    ``study.toml`` says what runs; ``problems.py``, if any, makes the problems that no configuration
    can express; ``study.py`` has ``check(results, reference)``, which yields claims, and
    ``figure(results)``, which returns a figure: both from the datasets alone.

    Parameters
    ----------
    folder : Path
    typed : str, optional
        How the command line calls it; by default the folder's path.

    Raises
    ------
    StudyError
        If it is no such folder; the sentence says what is wrong.
    """

    def __init__(self, folder: Path, typed: str | None = None) -> None:
        self.folder = folder
        self.name = folder.resolve().name
        self.typed = typed or str(folder)
        self.description: StudyFile = read_description(folder / "study.toml")
        self.reference: dict[str, Any] = _read_reference(folder / "reference.json")

    def run(
        self,
        quick: bool | None = None,
        *,
        folder: Path | str = RESULTS,
        overwrite: bool = False,
        progress: ProgressCallback | None = None,
        told: Callable[[Done], None] | None = None,
    ) -> Results:
        """Run what has not been run yet.

        Parameters
        ----------
        quick : bool, optional
            The smaller version; None takes it if the environment has GFLOW_STUDY_QUICK=1.
        folder : Path or str
            Where the datasets of all studies go.
        overwrite : bool
            Run again what is there already, e.g. after an upgrade of gflow. A dataset is made again
            anyhow when study.toml's words on it, problems.py, what that imports from the folder,
            its configuration or that one's data file have changed; other files are not watched.
        progress : callable, optional
            Told about each flow and descent, see :class:`gflow.flow_run.Progress`.
        told : callable, optional
            Told about each run when it is done.

        Raises
        ------
        GflowError
            If a run is impossible; those done are kept.
        KeyboardInterrupt
            On Ctrl-C; the runs done are kept, and the next call goes on from there.
        """
        quick = os.environ.get(QUICK_VARIABLE) == "1" if quick is None else quick
        results = self.results(quick, folder=folder)
        self._occupy(results.folder)
        for name, run in results.runs.items():
            for cell in cells(name, run):
                done = self._run_cell(results.folder, run, cell, overwrite, progress)
                if told is not None:
                    told(done)
        return results

    def results(self, quick: bool = False, *, folder: Path | str = RESULTS) -> Results:
        """What was run; a dataset that is missing is missed when it is asked for."""
        where = Path(folder) / (f"{self.name}-quick" if quick else self.name)
        words = ["gflow", "study", "run", self.typed, *(["--quick"] if quick else [])]
        words += [] if Path(folder) == RESULTS else ["--results", str(folder)]
        runs = planned(self.description, quick)
        return Results(where, runs, quick, self._record, shlex.join(words))

    def check(self, results: Results) -> list[Claim]:
        """The study's claims, judged.

        Raises
        ------
        StudyError
            If a dataset is missing, or study.py fails or claims nothing.
        """
        claims = call(self.folder / "study.py", "check", lambda f: list(f(results, self.reference)))
        if not claims or not all(isinstance(claim, Claim) for claim in claims):
            raise StudyError(
                f"check in {self.folder / 'study.py'} must yield claims, some at least."
            )
        return list(claims)

    def figure(self, results: Results) -> Figure:
        """The study's figure, in gflow's style.

        Raises
        ------
        StudyError
            If a dataset is missing, or study.py fails or returns no figure.
        """
        with matplotlib.rc_context(STYLE):
            drawn = call(self.folder / "study.py", "figure", lambda f: f(results))
        if not isinstance(drawn, Figure):
            raise StudyError(f"figure in {self.folder / 'study.py'} must return a figure.")
        return drawn

    def _run_cell(
        self,
        folder: Path,
        run: Run,
        cell: Cell,
        overwrite: bool,
        progress: ProgressCallback | None,
    ) -> Done:
        target, record = cell.path(folder), self._record(run, cell)
        if not overwrite and (known := _statuses_of(target, record)) is not None:
            return Done(cell, float("nan"), known)
        began = time.perf_counter()
        with Watch() as watch:
            try:
                tree = self._tree(run, cell, progress)
            except GflowError as error:
                if watch.asked:
                    raise KeyboardInterrupt from None
                raise type(error)(f"{self.name}, run {cell.name}: {error}") from error
        tree.attrs |= {RECORD: record}
        statuses = statuses_in(tree)
        if watch.asked or str(Status.INTERRUPTED) in statuses:
            raise KeyboardInterrupt
        save(tree, target, overwrite=True)
        return Done(cell, time.perf_counter() - began, statuses)

    def _tree(self, run: Run, cell: Cell, progress: ProgressCallback | None) -> xr.DataTree:
        command = f"gflow study: {self.name}, run {cell.name}"
        if run.config is not None and run.do != "make":
            overrides = {**_dotted(run.arguments), **cell.settings}
            config = load_config(self.folder / run.config, overrides)
            return run_config(config, run.do, self.folder, progress=progress, command=command)
        made = call(self.folder / "problems.py", str(run.make), lambda f: f(**cell.settings))
        if run.do == "make":
            if not isinstance(made, xr.DataTree):
                raise StudyError(f"{run.make} must return a dataset, an xarray.DataTree.")
            return made
        if not isinstance(made, Mapping):
            raise StudyError(f"{run.make} must return a mapping, the arguments of gflow.{run.do}.")
        arguments = {**made, **run.arguments}
        provenance = Provenance(command, data_source=f"{self.name}/problems.py, {run.make}")
        function: Callable[..., xr.DataTree] = getattr(workbench, run.do)
        own = sorted({"progress", "provenance"} & set(arguments))
        if own:
            raise StudyError(
                f"{own[0]} is the study's own argument of gflow.{run.do}; leave it out."
            )
        try:
            inspect.signature(function).bind(**arguments)
        except TypeError as error:
            raise StudyError(f"gflow.{run.do} cannot be called: {error}.") from None
        return function(**arguments, progress=progress, provenance=provenance)

    def _occupy(self, folder: Path) -> None:
        """Make the folder of the results, unless it holds those of another study."""
        mark, own = folder / ".study", self.folder.resolve()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            other = Path(mark.read_text(encoding="utf-8")) if mark.is_file() else own
            if other != own and _differ(other, own):
                raise StudyError(
                    f"{folder} holds the results of another study, {other}; give these a folder of "
                    "their own, by --results."
                )
            mark.write_text(str(own), encoding="utf-8")
        except OSError as error:
            raise StudyError(f"{folder} cannot be written to: {error.strerror}.") from None

    def _record(self, run: Run, cell: Cell) -> str:
        """All of the study that decides a dataset, as JSON."""
        digest = hashlib.sha256()
        path = self.folder / (run.config or "problems.py")
        for one in sources(path) if run.config is None else [path, *_data_of(path)]:
            digest.update(one.read_bytes() if one.is_file() else b"")
        planned_run = run.model_dump(exclude={"over"})
        parts = {"settings": dict(cell.settings), **planned_run}
        return json.dumps(parts | {"sources": digest.hexdigest()}, default=str)


def statuses_in(tree: xr.DataTree) -> list[str]:
    """How the flows and descents of a dataset ended, each status once."""
    groups = [tree[name] for name in ("flow", "descent") if name in tree.children]
    return sorted({str(value) for group in groups for value in group.status.values.ravel()})


def _statuses_of(path: Path, record: str) -> list[str] | None:
    """Those of a dataset that is the result of `record`; None if there is none."""
    if not path.is_file():
        return None
    try:
        tree = open_tree(path)
    except GflowError:
        return None
    return statuses_in(tree) if tree.attrs.get(RECORD) == record else None


def _differ(other: Path, own: Path) -> bool:
    """Whether another folder is, still, that of another study."""
    pairs = [(other / name, own / name) for name in ("study.toml", "problems.py")]
    return pairs[0][0].is_file() and any(
        a.is_file() != b.is_file() or (a.is_file() and a.read_bytes() != b.read_bytes())
        for a, b in pairs
    )


def _dotted(arguments: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in arguments.items():
        inner = isinstance(value, Mapping)
        found |= _dotted(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


def _data_of(config: Path) -> list[Path]:
    """The data file that a configuration names, if any."""
    try:
        data = tomllib.loads(config.read_text(encoding="utf-8")).get("data", {})
        return [config.parent / data["path"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _read_reference(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(found, dict):
        raise StudyError(f"{path} must hold an object, names to recorded values.")
    return found
