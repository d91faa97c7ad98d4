from __future__ import annotations

import json
import shutil
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

import gflow
from gflow.errors import StoreError
from gflow.store.lock import Lock
from gflow.sweeps import run_sweep, sweep
from gflow.sweeps.folder import read_part
from gflow.sweeps.work import KEYS

pytestmark = pytest.mark.usefixtures("inline")

OVER = {"data.seed": range(3), "flow.rtol": [1e-3, 1e-5]}


def run(base, output="s.nc", over=OVER, **settings):
    return run_sweep(base, over, Path(output), command="test", **{"workers": 1} | settings)


def interrupted(after):
    def progress(counts):
        if counts.done >= after:
            raise KeyboardInterrupt

    return progress


def same(first, second):
    for name in first.children:
        one, two = (tree[name].to_dataset().drop_attrs() for tree in (first, second))
        ignored = [key for key in one.data_vars if str(key) == "wall_seconds"]
        xr.testing.assert_identical(one.drop_vars(ignored), two.drop_vars(ignored))


@pytest.mark.parametrize("kind", ["integrate", "descend"])
def test_an_interrupted_sweep_goes_on_where_it_was(base, inline, kind):
    base["descent"]["t_end"] = 1.0
    with pytest.raises(KeyboardInterrupt):
        run(base, kind=kind, progress=interrupted(2))
    assert not Path("s.nc").exists()
    before = list(inline.ran)
    assert 2 <= len(before) < 6
    done = run(base, kind=kind)
    assert (done.well, done.reused) == (6, len(before))
    assert len(inline.ran) == len(set(inline.ran)) == 6
    if kind == "descend":
        run(base, "whole.nc", kind=kind, workers=3)
        same(gflow.open("s.nc"), gflow.open("whole.nc"))


def test_more_values_reuse_what_is_there(base, inline):
    run(base, kind="descend", over={"data.seed": [1, 2]})
    with pytest.raises(StoreError, match=r"s\.nc exists"):
        run(base, kind="descend", over={"data.seed": [0, 1, 2]})
    inline.ran.clear()
    done = run(base, kind="descend", over={"data.seed": [0, 1, 2]}, overwrite=True)
    assert (done.reused, len(inline.ran)) == (2, 1)
    run(base, kind="descend", over={"data.seed": [2]}, overwrite=True)
    assert len(inline.ran) == 1
    assert gflow.open("s.nc")["descent"].sizes["data.seed"] == 1


def test_what_is_no_part_or_was_changed_is_told_and_not_trusted(base, inline):
    run(base, kind="descend", over={"data.seed": range(4)})
    parts = sorted(Path("s.nc.parts").iterdir())
    assert len(parts) == 4
    parts[0].write_bytes(parts[0].read_bytes()[:2000])
    with netCDF4.Dataset(parts[1], "a") as file:
        file["descent"]["loss"][0, 1] += 1e-9
    with netCDF4.Dataset(parts[2], "a") as file:
        file.setncattr(KEYS, json.dumps(["0" * 64]))
    run(base, "other.nc", kind="descend", over={"start.seed": [1]})
    Path("s.nc.parts/notes.nc").write_text("mine")
    inline.ran.clear()
    told: list[str] = []
    done = run(base, kind="descend", over={"data.seed": range(4)}, overwrite=True, tell=told.append)
    assert (done.reused, len(inline.ran), done.well) == (1, 3, 4)
    assert len(told) == 4
    assert all(one.endswith("It is left alone, and its cells are run again.") for one in told)
    assert Path("s.nc.parts/notes.nc").read_text() == "mine"


def test_an_ordinary_run_in_the_folder_is_no_part(base):
    problem = gflow.Problem(gflow.LinearDEQ(dim=1), x=[[1.0]], y=[1.0])
    gflow.save(gflow.integrate(problem, [0.1, 0.0], t_end=1, times=3), "run.nc")
    with pytest.raises(StoreError, match=r"run\.nc is no part of a sweep"):
        read_part(Path("run.nc"))


def test_a_cell_that_failed_is_tried_again(base, inline, tmp_path):
    base["data"] = {"source": "file", "path": "a.csv", "inputs": ["a"], "target": "y"}
    over = {"start.seed": [1, 2]}
    assert run(base, over=over).well == 0
    (tmp_path / "a.csv").write_text("a,y\n1,2\n2,3\n")
    done = run(base, over=over, overwrite=True)
    assert (done.well, done.reused) == (2, 0)
    (tmp_path / "a.csv").write_text("a,y\n1,2\n2,5\n")
    assert run(base, over=over, overwrite=True).reused == 0


def ending(workers, status):
    """Workers of which the first cell of every part ends so."""

    class Ending(workers):
        def run(self, parts):
            for outcome in super().run(parts):
                for done in outcome.done:
                    found = done.tree["flow"].status.astype(object)
                    found[dict.fromkeys(found.dims, 0)] = status
                    done.tree["flow"]["status"] = found
                yield outcome

    return Ending


@pytest.mark.parametrize("seeds", [[1], [1, 2, 3]])
@pytest.mark.parametrize(("status", "retried"), [("interrupted", 1), ("wall_limit", 0)])
def test_what_was_interrupted_is_run_again(base, inline, monkeypatch, seeds, status, retried):
    over = {"data.seed": seeds}
    with monkeypatch.context() as patched:
        patched.setattr("gflow.sweeps.run.LocalPool", ending(inline, status))
        first = run(base, kind="integrate", over=over)
    count = first.statuses[status]
    assert count == (1 if len(seeds) == 1 else 2)
    again = run(base, kind="integrate", over=over, overwrite=True)
    assert again.reused == len(seeds) - count * retried
    assert again.statuses[status] == count * (1 - retried)
    whole = run(base, kind="integrate", over=over, overwrite=True)
    assert whole.reused == len(seeds)


def test_one_sweep_at_a_time_writes_an_output(base, inline):
    with Lock(Path("s.nc")):
        with pytest.raises(StoreError, match=r"s\.nc is being written by another process\."):
            run(base, kind="integrate")
        assert inline.ran == []
        assert not Path("s.nc.parts").exists()
    assert run(base, kind="integrate").well == 6
    assert not Path(".s.nc.lock").exists()


def test_what_a_killed_sweep_had_begun_to_write_is_removed(base):
    Path("s.nc.parts").mkdir()
    left = [Path(".s.nc.abcdefgh.part"), Path("s.nc.parts/.0a.nc.xyzxyzxy.part")]
    others = [Path(".s.nc2.abcdefgh.part"), Path("s.nc.parts/notes.part")]
    left[0].mkdir()
    for path in (left[0] / "sweep.nc", left[1], *others):
        path.write_text("some")
    run(base, kind="integrate")
    assert [path.exists() for path in (*left, *others)] == [False, False, True, True]


def test_the_folder_may_be_deleted(base):
    run(base, kind="descend")
    first = gflow.open("s.nc")
    shutil.rmtree("s.nc.parts")
    done = run(base, kind="descend", overwrite=True)
    assert done.reused == 0
    same(first, gflow.open("s.nc"))


def test_progress_counts_cells(base):
    told = []
    base["model"] = {"kind": "linear"}
    over = {"data.seed": [1, 2], "model.kind": "linear,vector"}
    run(base, kind="descend", over=over, progress=told.append)
    assert [(one.total, one.done, one.failed) for one in told] == [
        (4, 0, 2),
        (4, 1, 2),
        (4, 2, 2),
    ]


def test_the_function_returns_the_dataset(base):
    tree = sweep(base, {"data.seed": [1]}, "s.nc", kind="descend")
    assert np.isfinite(tree["descent"].loss).all()
