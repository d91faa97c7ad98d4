"""``gflow sweep``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from gflow.cli.live import Display
from gflow.cli.sweep_table import SweepTable, cells, time_left
from gflow.store.files import open_tree
from gflow.store.lock import Lock
from gflow.sweeps import Counts
from gflow.sweeps.parts import Part
from gflow.sweeps.work import Outcome, run_part


class Inline:
    """Workers that are this process."""

    def __init__(self, workers: int) -> None:
        self.workers, self.running = workers, []

    def run(self, parts: Sequence[Part]) -> Iterator[Outcome]:
        for part in parts:
            yield run_part(part)


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gflow.sweeps.run.LocalPool", Inline)


def test_a_sweep_from_the_command_line_to_its_summary_and_figure(config: str, gflow) -> None:
    result = gflow("sweep", config, "--over", "data.seed=0:2", "--over", "start.seed=5,6")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "4 of 4 cells ended as asked.\n"
        "Wrote tiny-sweep.nc; see it with `gflow show tiny-sweep.nc`. The folder "
        "tiny-sweep.nc.parts has the cells; keep it to add values, or delete it.\n"
    )
    tree = open_tree("tiny-sweep.nc")
    assert tree["sweep"].attrs["kind"] == "compare"
    assert tree["flow"].loss.dims == ("data.seed", "start.seed", "time")
    shown = gflow("show", "tiny-sweep.nc").stdout
    assert "cells              4: 4 t_end\n" in shown
    assert "data.seed          0, 1\n" in shown
    assert "largest distance to the flow" in shown
    assert re.search(r"\nran +from 20\S+T\S+ to 20\S+T\S+\n", shown)
    assert "did not end" not in shown
    drawn = gflow("plot", "tiny-sweep.nc")
    assert (drawn.exit_code, drawn.stdout) == (0, "Wrote tiny-sweep.png.\n")
    again = gflow("show", "--config", "tiny-sweep.nc").stdout
    assert again.startswith("# Of a dataset that gflow sweep wrote;")
    assert "--over data.seed=0:2 --over start.seed=5,6\n" in again


def test_options(config: str, gflow) -> None:
    arguments = ["--kind", "integrate", "--set", "flow.times=3", "--workers", "1", "-q"]
    result = gflow("sweep", config, "--over", "data.seed=0:2", *arguments, "-o", "a.nc")
    assert (result.exit_code, result.output) == (0, "")
    tree = open_tree("a.nc")
    assert tree["flow"].sizes["time"] == 3
    assert "descent" not in tree.children
    result = gflow("sweep", config, "--over", "data.seed=0:2", *arguments, "-o", "a.nc")
    assert result.exit_code == 2
    assert "a.nc exists" in result.stderr
    more = ["--over", "data.seed=0:3", *arguments[:-1], "-o", "a.nc", "--overwrite"]
    result = gflow("sweep", config, *more)
    assert result.stdout.startswith("3 of 3 cells ended as asked. 2 had been run before.\n")


def test_a_cell_that_fails_gives_exit_code_1_and_is_shown(config: str, gflow) -> None:
    result = gflow("sweep", config, "--over", "model.kind=linear,vector", "-o", "a.nc", "-q")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(
        "1 of 2 cells ended as asked; 1 not_run.\n"
        "The first that did not: model.kind = vector (not_run): model.width is missing; a vector "
        "DEQ needs it.\n"
        "Wrote a.nc; "
    )
    shown = gflow("show", "a.nc").stdout
    assert "not_run  1, the first of them model.kind = vector: model.width is missing;" in shown


def test_one_sweep_at_a_time(config: str, gflow) -> None:
    arguments = ("sweep", config, "--over", "data.seed=0:2", "-o", "a.nc")
    with Lock(Path("a.nc")):
        result = gflow(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: a.nc is being written by another process.\n"
    assert not list(Path().glob("a.nc*"))


def test_a_damaged_part_is_noted(config: str, gflow) -> None:
    Path("a.nc.parts").mkdir()
    Path("a.nc.parts/x.nc").write_text("no")
    result = gflow("sweep", config, "--over", "data.seed=0:2", "--kind", "descend", "-o", "a.nc")
    assert result.exit_code == 0
    assert result.stderr.startswith("Note: a.nc.parts/x.nc ")
    assert result.stderr.endswith("It is left alone, and its cells are run again.\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Missing option '--over'"),
        (["--over", "data.sed=1"], "--over data.sed: there is no such key; did you mean data.seed"),
        (["--over", "flow.rtol=2"], "--over flow.rtol=2: flow.rtol is 2; it must be a number"),
        (["--over", "data.seed=1", "--set", "data.seed=2"], "is given by --over and by --set"),
        (["--over", "data.seed=1", "-o", "tiny.toml"], "tiny.toml must end in .nc, .nc4 or .zarr"),
        (["--over", "data.seed=1", "--workers", "0"], "0 is not in the range"),
        (["--over", "data.seed=1", "--workers", "1", "--scheduler", "a"], "give one"),
        (["--over", "data.seed=1", "--kind", "advise"], "is not one of"),
    ],
)
def test_wrong_requests(config: str, gflow, arguments: list[str], sentence: str) -> None:
    result = gflow("sweep", config, *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not list(Path().glob("*.nc"))


def test_what_a_figure_cannot_show_is_told(config: str, gflow) -> None:
    gflow("sweep", config, "--over", "data.seed=0:2", "--kind", "descend", "-o", "a.nc")
    result = gflow("plot", "a.nc")
    assert result.exit_code == 2
    assert "on their common saves, and it has no flow" in result.stderr
    gflow("sweep", config, "--over", "flow.t_end=1.0,2.0", "--kind", "integrate", "-o", "b.nc")
    told = gflow("plot", "b.nc").stderr
    assert "the saves differ from cell to cell; draw from the dataset itself, such as" in told


def test_a_figure_shows_models_of_different_sizes(config: str, gflow) -> None:
    Path("d.toml").write_text(
        '[data]\nsource = "teacher"\nsamples = 9\nseed = 1\n[start]\nseed = 1\n[flow]\nt_end = 1.0'
    )
    gflow("sweep", "d.toml", "--over", "model.dim=1,2", "-o", "a.nc")
    assert gflow("plot", "a.nc").exit_code == 0


def test_the_table_of_a_sweep_on_its_way() -> None:
    begun = Counts(total=1200, done=100, failed=0, running=64, reused=100, seconds=0.5)
    assert cells(begun) == {
        "cells": "1,200",
        "done": "100",
        "failed": "0",
        "running": "64",
        "time left": "unknown",
    }
    later = Counts(total=1200, done=590, failed=10, running=64, reused=100, seconds=100.0)
    assert time_left(later) == pytest.approx(120.0)
    assert cells(later)["time left"] == "2:00"


def test_the_table_leaves_out_no_change_once_it_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(perf_counter=lambda: 0.0)
    monkeypatch.setattr("gflow.cli.live.time", clock)
    drawn: list[object] = []
    monkeypatch.setattr(Display, "draw", lambda _, what: drawn.append(what))
    counts = Counts(total=2, done=1, failed=0, running=1, reused=0, seconds=0.5)
    with SweepTable(True) as table, SweepTable(False) as hidden:
        table.update(counts)
        clock.perf_counter = lambda: 9.0
        for one in (table, table, hidden):
            one.update(counts)
    assert len(drawn) == 2
