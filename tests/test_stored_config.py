"""The stored configuration makes the same run again, bit for bit, or says what has changed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch
import xarray as xr

from gflow.config import config_from_dict, load_config
from gflow.configured import run_config
from gflow.errors import ConfigError, DataError
from gflow.stored_config import seeds

TEACHER = """
[model]
kind = "linear"
[data]
source = "teacher"
samples = 20
seed = 1
dim_theta
[start]
seed = 2
[flow]
t_end = 1.0
times = 4
[descent]
step_sizes = [0.05, 0.1]
records = 4
""".replace("dim_theta", "theta = [2.0, 0.0]")

FILE = """
[data]
source = "file"
path = "PATH"
inputs = INPUTS
target = "TARGET"
input_scaling = "standard"
target_scaling = "range"
holdout = 0.25
seed = 3
[start]
seed = 2
[flow]
t_end = 0.5
times = 3
[descent]
step_sizes = [0.05]
records = 3
"""
SHIPPED = (
    FILE.replace("PATH", "gflow:diabetes.csv")
    .replace("INPUTS", '["age", "bmi"]')
    .replace("TARGET", "progression")
)
OWN = FILE.replace("PATH", "own.csv").replace("INPUTS", '["a"]').replace("TARGET", "b")
MODULE = """
[model]
kind = "module"
factory = "mine.py:make"
""" + OWN.replace("[start]\nseed = 2\n", "[start]\nseed = 5\n")

CODE = (
    "from .part import layer\n\n\ndef make(inputs, outputs):\n    return layer(inputs, outputs)\n"
)
PART = (
    "import torch\n\n\ndef layer(inputs, outputs):\n    return torch.nn.Linear(inputs, outputs)\n"
)
ROWS = "a,b\n" + "".join(f"{i / 7},{(i * i) % 5}\n" for i in range(12))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.csv").write_text(ROWS)
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "part.py").write_text(PART)
    return tmp_path


def made(folder: Path, text: str, **overrides: object) -> xr.DataTree:
    path = folder / "run.toml"
    path.write_text(text)
    config = load_config(path, {key.replace("__", "."): one for key, one in overrides.items()})
    return run_config(config, "compare", folder)


def numbers(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """All groups but for what the clock says."""
    groups = {name: node.to_dataset(inherit=False) for name, node in tree.children.items()}
    return {name: data.drop_vars("wall_seconds", errors="ignore") for name, data in groups.items()}


@pytest.mark.parametrize(
    "text", [TEACHER, SHIPPED, OWN, MODULE], ids=["teacher", "shipped", "file", "module"]
)
def test_the_stored_configuration_gives_identical_data(folder: Path, text: str) -> None:
    first = made(folder, text, flow__rtol=1e-7)
    again = made(folder, first.attrs["config"])
    assert tomllib.loads(first.attrs["config"])["flow"]["rtol"] == 1e-7
    assert again.attrs["config"] == first.attrs["config"]
    assert again.attrs["data_sha256"] == first.attrs["data_sha256"]
    before, after = numbers(first), numbers(again)
    assert before.keys() == after.keys() >= {"flow", "descent", "comparison"}
    for name, data in before.items():
        xr.testing.assert_identical(data, after[name])


def test_every_key_that_was_used_is_there(folder: Path) -> None:
    stored = tomllib.loads(made(folder, TEACHER).attrs["config"])
    assert stored["run"]["threads"] == torch.get_num_threads()
    assert stored["flow"]["atol"] == 1e-9
    assert stored["diagnostics"]["sharpness"] is True
    config_from_dict(stored)


def test_the_text_tells_what_must_lie_beside_it(folder: Path) -> None:
    text = made(folder, MODULE).attrs["config"]
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert "gflow compare" in comments[0]
    assert [line.split()[2].rstrip(",") for line in comments[1:]] == [
        "own.csv",
        "mine.py",
        "part.py",
    ]
    assert str(folder) not in text


def test_a_changed_data_file_is_refused(folder: Path) -> None:
    text = made(folder, OWN).attrs["config"]
    (folder / "own.csv").write_text(ROWS.replace("4\n", "3\n", 1))
    with pytest.raises(DataError, match=r"own\.csv is not the file that data\.sha256 tells of"):
        made(folder, text)


@pytest.mark.parametrize("name", ["mine.py", "part.py"])
def test_a_changed_factory_is_not_run(folder: Path, name: str) -> None:
    text = made(folder, MODULE).attrs["config"]
    path = folder / name
    path.write_text(path.read_text() + "\nraise SystemExit('it was run')\n")
    with pytest.raises(ConfigError, match=r"has changed, and was not run"):
        made(folder, text)


def test_the_run_tells_its_kind_its_seeds_and_when_it_was(folder: Path) -> None:
    attrs = made(folder, MODULE).attrs
    assert attrs["kind"] == "compare"
    assert attrs["seeds"] == "data.seed = 3, start.seed = 5"
    assert attrs["started_at"] <= attrs["finished_at"]
    assert attrs["finished_at"].endswith("+00:00")


def test_a_seed_that_drew_nothing_is_none() -> None:
    raw = tomllib.loads(OWN.replace("holdout = 0.25\n", ""))
    assert seeds(config_from_dict(raw)) == "start.seed = 2"
    raw["start"] = {"theta": [0.0, 0.1]}
    assert seeds(config_from_dict(raw)) == ""
