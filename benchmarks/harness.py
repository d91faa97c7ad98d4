"""What the benchmarks share: a clock, a ladder of tolerances, a race, a report.

A contender is a function ``run(tolerance) -> (error, work)``. Each climbs down a ladder of
tolerances to the loosest one that meets the target; the winners are then timed again in turn, in
one process, because a machine's speed drifts: the reported ratios come from that race.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

Value = TypeVar("Value")
Run = Callable[[float], tuple[float | Callable[[], float], Mapping[str, float]]]
"""``run(tolerance) -> (error, work)``; an error that costs time is a function, called unclocked."""

OURS = "gflow"
"""What the names of gflow's own contenders begin with."""

PATIENCE = 20.0
"""What takes longer than this many seconds runs once."""

PACKAGES = ("gflow", "torch", "numpy", "scipy", "torchdiffeq", "torchode")
PACKAGES += ("diffrax", "jax", "jaxlib", "equinox", "stable-solvers")


@dataclass(frozen=True)
class Measurement:
    """One contender at one tolerance."""

    contender: str
    setting: str
    tolerance: float
    error: float
    seconds: float
    work: Mapping[str, float]
    meets: bool
    note: str = ""


@dataclass
class Options:
    """What the command line asks for, and the peers that were left out on the way."""

    only: frozenset[str] = frozenset()
    repeats: int = 5
    quick: bool = False
    output: Path = Path(__file__).parent / "results"
    omissions: dict[str, str] = field(default_factory=dict)

    def chosen(self, contenders: Mapping[str, Run]) -> dict[str, Run]:
        """The contenders whose name contains one of ``--only``; all of them without it."""
        wanted = {n: r for n, r in contenders.items() if any(o in n for o in self.only)}
        return wanted if self.only else dict(contenders)

    def peer(self, module: str) -> ModuleType | None:
        """A module of ``peers``; where its library is absent, None and an omission."""
        try:
            return importlib.import_module(f"peers.{module}")
        except ImportError as missing:
            self.omissions[module] = f"The module {missing.name} is not installed."
            return None


def options(description: str, arguments: Sequence[str] | None = None) -> Options:
    """Parse the command line that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", default="", help="contenders to run: parts of names, by commas")
    parser.add_argument("--repeats", type=int, default=Options.repeats, help="rounds of the race")
    parser.add_argument("--quick", action="store_true", help="a small problem, to see it run")
    parser.add_argument("--output", type=Path, default=Options.output, help="folder of the results")
    given = parser.parse_args(arguments)
    only = frozenset(filter(None, given.only.split(",")))
    return Options(only, given.repeats, given.quick, given.output)


def clocked(run: Callable[[], Value]) -> tuple[Value, float]:
    """A call's value and its wall time in seconds."""
    began = time.perf_counter()
    value = run()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return value, time.perf_counter() - began


def timed(run: Callable[[], Value], repeats: int, warm_up: bool = True) -> tuple[Value, float]:
    """A call's value and the median wall time of `repeats` calls, after one that does not count."""
    if warm_up:
        run()
    calls = [clocked(run) for _ in range(repeats)]
    return calls[-1][0], statistics.median(seconds for _, seconds in calls)


def ladder(
    contender: str,
    tolerances: Iterable[float],
    run: Run,
    target: float,
    *,
    repeats: int = 1,
    warm_up: bool = True,
    beyond: int = 0,
    label: str = "rtol",
) -> list[Measurement]:
    """Measure from loose to tight, until the target is met and `beyond` tolerances further.

    The first call is a warm-up, unless it took longer than `PATIENCE`; its time is noted where it
    is much longer than the next, as compiling makes it.
    """
    found: list[Measurement] = []
    further, note = beyond, ""
    for tolerance in sorted(tolerances, reverse=True):
        call = partial(run, tolerance)
        (error, work), seconds = clocked(call)
        if warm_up and seconds < PATIENCE:
            first, ((error, work), seconds) = seconds, timed(call, repeats, warm_up=False)
            if first > 0.5 + 2 * seconds:
                note = note or f"first call {first:.3g} s"
        error = float(error() if callable(error) else error)
        setting, meets = f"{label}={tolerance:.2g}", error <= target
        found.append(
            Measurement(contender, setting, tolerance, error, seconds, dict(work), meets, note)
        )
        if any(each.meets for each in found):
            if not further:
                break
            further -= 1
    return found


def winners(measurements: Iterable[Measurement]) -> dict[str, Measurement]:
    """Each contender's loosest measurement that meets the target, if there is one."""
    found: dict[str, Measurement] = {}
    for each in measurements:
        best = found.get(each.contender)
        if each.meets and (best is None or each.tolerance > best.tolerance):
            found[each.contender] = each
    return found


def interleaved(
    measurements: Sequence[Measurement],
    runs: Mapping[str, Run],
    rounds: int,
) -> list[Measurement]:
    """The measurements, the winners' seconds replaced by the median of runs in alternation.

    Winners that took longer than `PATIENCE` are not run again.
    """
    quick = {name: each for name, each in winners(measurements).items() if each.seconds < PATIENCE}
    seconds: dict[str, list[float]] = {name: [] for name in quick}
    for _ in range(rounds):
        for name, winner in quick.items():
            seconds[name].append(clocked(partial(runs[name], winner.tolerance))[1])
    return [
        replace(each, seconds=statistics.median(seconds[each.contender]))
        if rounds and each is quick.get(each.contender)
        else each
        for each in measurements
    ]


def race(
    contenders: Mapping[str, Run],
    tolerances: Sequence[float],
    target: float,
    rounds: int,
    **choices: Any,
) -> list[Measurement]:
    """The ladder of every contender, then the winners in turn; `choices` are the ladder's."""
    found: list[Measurement] = []
    for name, run in contenders.items():
        found += ladder(name, tolerances, run, target, **choices)
        last = found[-1]
        print(f"{name}: {last.setting}, error {last.error:.2g}, {last.seconds:.3g} s", flush=True)
    return interleaved(found, contenders, rounds)


def environment() -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "versions": versions,
    }


def _plain(value: Any) -> Any:
    """The same without infinite and undefined numbers, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report(
    name: str,
    title: str,
    measurements: Sequence[Measurement],
    omissions: Mapping[str, str],
    extra: Mapping[str, Any] | None = None,
    output: Path = Options.output,
    draw: Callable[[str, Sequence[Measurement]], Figure] | None = None,
) -> None:
    """Print the table; write NAME.json and NAME.png, a work-precision plot unless `draw` says."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(_table(title, measurements))
    for peer, reason in omissions.items():
        console.print(f"Left out: {peer}. {reason}")
    output.mkdir(parents=True, exist_ok=True)
    record = {
        "name": name,
        "title": title,
        "environment": environment(),
        "measurements": [asdict(each) for each in measurements],
        "omissions": dict(omissions),
        **(extra or {}),
    }
    (output / f"{name}.json").write_text(json.dumps(_plain(record), indent=1) + "\n")
    (draw or _figure)(title, measurements).savefig(output / f"{name}.png", dpi=120)
    console.print(f"Wrote {name}.json and {name}.png to {output}")


def _table(title: str, measurements: Sequence[Measurement]) -> Table:
    """Each contender's winner, or its most accurate failure, with ratios to gflow's fastest."""
    rows = winners(measurements)
    for each in measurements:
        best = rows.setdefault(each.contender, each)
        if not best.meets and each.error < best.error:
            rows[each.contender] = each
    ours = [each for each in rows.values() if each.contender.startswith(OURS) and each.meets]
    base = min((each.seconds for each in ours), default=float("nan"))
    kinds = list(dict.fromkeys(kind for each in rows.values() for kind in each.work))
    table = Table(title=title)
    for heading in ("contender", "setting", "error", "meets", "seconds", "x gflow", *kinds, "note"):
        table.add_column(heading)
    for each in sorted(rows.values(), key=lambda each: (not each.meets, each.seconds)):
        work = [f"{each.work[kind]:g}" if kind in each.work else "" for kind in kinds]
        cells = [f"{each.error:.2g}", "yes" if each.meets else "no", f"{each.seconds:.3g}"]
        ratio = f"{each.seconds / base:.3g}" if ours else ""
        table.add_row(each.contender, each.setting, *cells, ratio, *work, each.note)
    return table


def _figure(title: str, measurements: Sequence[Measurement]) -> Figure:
    """Error against seconds and against gradients."""
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for name in dict.fromkeys(each.contender for each in measurements):
        points = [each for each in measurements if each.contender == name]
        errors = [each.error for each in points]
        axes[0].loglog([each.seconds for each in points], errors, "o-", label=name)
        gradients = [_gradients(each.work) for each in points]
        axes[1].loglog(gradients, errors, "o-", label=name)
    figure.suptitle(title)
    axes[0].set(xlabel="seconds", ylabel="error")
    axes[1].set(xlabel="gradients (or their equivalents)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _gradients(work: Mapping[str, float]) -> float:
    return work.get("gradient_equivalents", work.get("gradients", float("nan")))
