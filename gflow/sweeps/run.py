"""Sweeps: the product of values of configuration keys, run and gathered in one dataset."""

from __future__ import annotations

import functools
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import xarray as xr

from gflow.config import read_tables, with_values
from gflow.configured import Kind
from gflow.errors import UsageError
from gflow.status import Status
from gflow.store.files import clear, open_tree
from gflow.store.lock import Lock
from gflow.sweeps.folder import Place, find_parts, make_folder, write_part
from gflow.sweeps.gathered import Gathered
from gflow.sweeps.local import LocalPool
from gflow.sweeps.over import read_axes
from gflow.sweeps.parts import Part, divide
from gflow.sweeps.plan import Plan, make_plan
from gflow.sweeps.work import Done, Outcome
from gflow.sweeps.writing import check_target


@dataclass(frozen=True)
class Counts:
    """How a sweep gets on, in cells.

    Attributes
    ----------
    total, done, failed, running : int
        Those done have a result, be it of a flow that ended early; those failed have none.
    reused : int
        Of those done, the ones that an earlier call had run.
    seconds : float
        Since the workers were started.
    """

    total: int
    done: int
    failed: int
    running: int
    reused: int
    seconds: float


@dataclass(frozen=True)
class Finished:
    """What a sweep came to.

    Attributes
    ----------
    path : Path
        The dataset.
    parts : Path
        The folder of the parts.
    cells, reused : int
    statuses : Counter
        Status to number of cells.
    first_failure : str
        The sentence on the first cell that did not end well, with its values; "" if all did.
    """

    path: Path
    parts: Path
    cells: int
    reused: int
    statuses: Counter[Status]
    first_failure: str

    @property
    def well(self) -> int:
        """Cells that ended where they were asked to."""
        return sum(count for status, count in self.statuses.items() if status.ok)


class Workers(Protocol):
    """What runs parts."""

    workers: int
    running: list[Part]

    def run(self, parts: Sequence[Part]) -> Generator[Outcome]:
        """What became of each part, in the order of their ends."""


def sweep(
    config: str | Path | Mapping[str, Any],
    over: Mapping[str, Any],
    output: str | Path,
    *,
    kind: Kind | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Callable[[Counts], None] | None = None,
) -> xr.DataTree:
    """Run a configuration for every combination of values of some of its keys.

    The result is one dataset whose dimensions are these keys, such as ``data.seed``; its group
    ``/sweep`` has the status of each cell. A cell that fails is NaN and takes no other's result
    away. Cells that are done are kept in a folder beside the dataset, named after it with the
    suffix ``.parts``, by a digest of all that decides them: the same call after an interruption
    goes on from there, one with more values runs the new ones alone. The folder may be deleted.

    Flows that differ in their data, start, activation, epsilon or backward alone are integrated
    together, as ensembles; such a flow equals its lone run to tolerance, every other run equals it
    bitwise. Workers are other processes: a script needs ``if __name__ == "__main__":`` around this.

    Parameters
    ----------
    config : str, Path or mapping
        A TOML file, or what it would hold, with paths relative to the working directory.
    over : mapping
        Dotted keys to values: an iterable such as ``range(20)``, or a text such as ``"0:20"``.
    output : str or Path
        The dataset, which ends in ``.nc`` or ``.zarr``.
    kind : str, optional
        ``integrate``, ``descend`` or ``compare``; by default as the configuration has [flow],
        [descent] or both.
    workers : int, optional
        Processes; by default one for each CPU.
    scheduler : str, optional
        Address of a Dask scheduler whose workers run the cells instead. They need the same gflow,
        and files that the configuration names at the same paths.
    overwrite : bool
        Replace an existing dataset; cells that are done are still not run again.
    progress : callable, optional
        Told how the sweep gets on, a :class:`Counts`, when it has changed.

    Returns
    -------
    xarray.DataTree
        In memory; ``gflow.open(output, chunks={})`` reads a large one when it is used.

    Raises
    ------
    UsageError
        If the request is wrong, or no cell can be configured.

    Examples
    --------
    >>> import gflow
    >>> tree = gflow.sweep(
    ...     "docs/examples/linear.toml", {"start.seed": range(3)}, "sweep.nc", kind="integrate"
    ... )  # doctest: +SKIP
    >>> tree["flow"].loss_final.sel({"start.seed": 1})  # doctest: +SKIP
    """
    finished = run_sweep(
        config,
        over,
        Path(output),
        kind=kind,
        workers=workers,
        scheduler=scheduler,
        overwrite=overwrite,
        progress=progress,
        command="gflow.sweep",
    )
    return open_tree(finished.path)


def run_sweep(
    config: str | Path | Mapping[str, Any],
    over: Mapping[str, Any] | Iterable[str],
    output: Path,
    *,
    overrides: Mapping[str, object] = MappingProxyType({}),
    kind: Kind | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Callable[[Counts], None] | None = None,
    tell: Callable[[str], None] = warnings.warn,
    command: str,
) -> Finished:
    """As :func:`sweep`, without reading the dataset.

    Parameters
    ----------
    overrides : mapping
        Dotted keys to values, which win over the configuration's.
    tell : callable
        Given a sentence on each file in the folder of the parts that cannot be used.
    command : str
        Recorded in the dataset.
    """
    axes = read_axes(over, overrides)
    base, folder = _read(config, overrides)
    check_target(output, overwrite, _inputs(config, base, folder))
    plan = make_plan(base, axes, kind, folder)
    with Lock(output):
        clear(output.parent, output.name)
        pool = _workers(workers, scheduler)
        run = _Run(plan, pool, make_folder(output), progress)
        run.find(tell)
        run.go(command)
        run.gathered.write(output, command)
    return Finished(
        output,
        run.folder,
        plan.cells,
        run.reused,
        Counter(status for status, _ in run.gathered.verdicts),
        run.gathered.first_failure(),
    )


class _Run:
    """A sweep on its way: what it has, and what is left."""

    def __init__(
        self, plan: Plan, pool: Workers, folder: Path, progress: Callable[[Counts], None] | None
    ) -> None:
        self.plan, self.pool, self.folder, self.progress = plan, pool, folder, progress
        self.gathered = Gathered(plan, pool.workers)
        self.reused, self.began = 0, time.perf_counter()

    def find(self, tell: Callable[[str], None]) -> None:
        """Take what earlier calls have run."""
        take = functools.partial(self.gathered.take, new=False)
        find_parts(self.folder, set(self.gathered.numbers), take, tell)
        self.reused = self.gathered.done

    def go(self, command: str) -> None:
        """Run what is left."""
        pool = self.pool
        left = [cells[0] for key, cells in self.gathered.numbers.items() if self._is_left(key)]
        self.began = time.perf_counter()
        self._report(0)
        with closing(pool.run(divide(self.plan, left, pool.workers, command))) as outcomes:
            for outcome in outcomes:
                for done in outcome.done:
                    self._keep(done)
                self.gathered.failed |= outcome.failed
                self._report(sum(len(part.keys) for part in pool.running))

    def _is_left(self, key: str) -> bool:
        return key not in self.gathered.places

    def _keep(self, done: Done) -> None:
        places: dict[str, Place] = write_part(done, self.folder)
        self.gathered.take(done, places)

    def _report(self, running: int) -> None:
        if self.progress is not None:
            gathered, seconds = self.gathered, time.perf_counter() - self.began
            failed = len(gathered.failed) + len(self.plan.refused)
            counts = (self.plan.cells, gathered.done, failed, running, self.reused, seconds)
            self.progress(Counts(*counts))


def _read(
    config: str | Path | Mapping[str, Any], overrides: Mapping[str, object]
) -> tuple[dict[str, Any], Path]:
    """The tables of a configuration and the folder that its paths are relative to."""
    if isinstance(config, Mapping):
        return with_values(config, overrides), Path()
    return read_tables(config, overrides), Path(config).parent


def _inputs(
    config: str | Path | Mapping[str, Any], base: Mapping[str, Any], folder: Path
) -> list[Path]:
    data = base.get("data")
    named = data.get("path") if isinstance(data, Mapping) else None
    found = [] if isinstance(config, Mapping) else [Path(config)]
    return [*found, *([folder / named] if isinstance(named, str) else [])]


def _workers(workers: int | None, scheduler: str | None) -> Workers:
    if scheduler is None:
        count = (os.cpu_count() or 1) if workers is None else workers
        if count < 1:
            raise UsageError(f"workers is {count}; it must be 1 at least.")
        return LocalPool(count)
    if workers is not None:
        raise UsageError("workers are this machine's and scheduler is a cluster's; give one.")
    from gflow.sweeps.cluster import Cluster

    return Cluster(scheduler)
