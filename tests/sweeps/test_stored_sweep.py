"""The configuration that a sweep's dataset has makes the sweep again."""

from __future__ import annotations

import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

import gflow
from gflow.sweeps import run_sweep
from gflow.sweeps.over import read_axes

pytestmark = pytest.mark.usefixtures("inline")

TABLE = "a,y\n1,2\n2,3\n3,5\n"
FILE = {"source": "file", "path": "a.csv", "inputs": ["a"], "target": "y"}


def rerun(name: str, output: str):
    """Make a sweep again as the first lines of its configuration tell."""
    text = gflow.open(name).attrs["config"]
    Path("sweep.toml").write_text(text)
    command = shlex.split(text.splitlines()[1].removeprefix("# "))
    assert command[:3] == ["gflow", "sweep", "sweep.toml"]
    given = list(zip(command[3::2], command[4::2], strict=True))
    over = [value for name, value in given if name == "--over"]
    done = run_sweep(
        "sweep.toml",
        over,
        Path(output),
        kind=dict(given)["--kind"],
        workers=int(dict(given)["--workers"]),
        command="",
    )
    return text, done


def same(first, second):
    assert first.children.keys() == second.children.keys()
    for name in first.children:
        one, two = (tree[name].to_dataset() for tree in (first, second))
        assert one.variables.keys() == two.variables.keys()
        for key in one.variables.keys() - {"wall_seconds"}:
            np.testing.assert_array_equal(one[key].values, two[key].values, err_msg=str(key))


@pytest.mark.parametrize(
    ("kind", "over"),
    [
        ("integrate", {"data.seed": range(3), "start.scale": [0.1, 0.3]}),
        ("compare", {"flow.rtol": [1e-4, 1e-6], "flow.method": ["auto", "torchdiffeq:dopri5"]}),
        ("descend", {"descent.step_sizes": [[0.1, 0.05], [0.3]], "run.threads": [1]}),
    ],
)
def test_it_makes_identical_data(base, kind, over):
    base["descent"]["t_end"] = 1.0
    run_sweep(base, over, Path("s.nc"), kind=kind, workers=2, command="")
    text, done = rerun("s.nc", "t.nc")
    assert done.well == done.cells > 1
    same(gflow.open("s.nc"), gflow.open("t.nc"))
    assert tomllib.loads(text).get("run", {}) == ({} if "run.threads" in over else {"threads": 1})


def test_it_has_the_digests_of_files_and_refuses_changed_ones(base, watched):
    Path("a.csv").write_text(TABLE)
    base |= {"data": FILE}
    base["model"] = {"kind": "module", "factory": "maker.py:make", "dim": 1}
    run_sweep(base, {"start.seed": [1, 2]}, Path("s.nc"), kind="integrate", command="")
    text, done = rerun("s.nc", "t.nc")
    assert (done.well, done.reused) == (2, 0)
    same(gflow.open("s.nc"), gflow.open("t.nc"))
    for name in ("a.csv", "maker.py"):
        assert f"# Needs {name}, relative to this file's folder." in text
    assert len(tomllib.loads(text)["model"]["factory_sha256"]) == 64
    Path("a.csv").write_text(TABLE + "4,7\n")
    _, done = rerun("s.nc", "u.nc")
    assert done.well == 0
    assert "a.csv" in done.first_failure


def test_what_differs_from_cell_to_cell_has_no_one_digest(base, tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(TABLE)
    base["data"] = FILE
    over = {"data.path": ["a.csv", "b.csv"]}
    run_sweep(base, over, Path("s.nc"), kind="integrate", command="")
    text, done = rerun("s.nc", "t.nc")
    assert "sha256" not in text
    assert done.well == 2


def test_a_file_that_is_not_there_has_no_digest(base):
    base["data"] = FILE
    run_sweep(base, {"start.seed": [1, 2]}, Path("s.nc"), kind="integrate", command="")
    assert "sha256" not in gflow.open("s.nc").attrs["config"]


def test_a_part_is_found_again_whatever_digest_is_asked_for(base, inline):
    Path("a.csv").write_text(TABLE)
    base["data"] = FILE
    run_sweep(base, {"start.seed": [1, 2]}, Path("s.nc"), kind="integrate", command="")
    shutil.move("s.nc.parts", "t.nc.parts")
    assert rerun("s.nc", "t.nc")[1].reused == 2


@pytest.mark.parametrize(
    "values",
    [
        [1e-300, 0.1 + 0.2, 1 / 3],
        [[0.1, 1 / 3], [0.5]],
        ["a b", 'with "quotes", and commas', "[x]"],
        [True, False],
        [np.float64(0.1), 3],
    ],
)
def test_the_text_of_an_axis_has_its_values(values):
    key = {list: "descent.step_sizes", str: "data.path", bool: "diagnostics.gradient_norm"}
    name = key.get(type(values[0]), "flow.rtol")
    axis = read_axes({name: values})[0]
    assert read_axes([axis.text])[0].values == axis.values
