"""The command line: any arguments end with exit code 0, 1 or 2, and those above 0 in a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hostile import Rng, generators, inputs, pick

from gflow import configured
from gflow.cli import main
from gflow.cli.run import RunCommand
from gflow.errors import UsageError
from gflow.flow_run import FlowOptions

TINY = """
[model]
kind = "linear"
[data]
source = "teacher"
samples = 6
seed = 1
theta = [2.0, 0.0]
[start]
seed = 2
[flow]
t_end = 0.1
times = 3
[descent]
step_sizes = [0.05]
records = 3
"""
NAMES = tuple(str(name) for name in main.list_commands(click.Context(main)))
VALUES = (
    *("", " ", "0", "1", "-1", "2", "1e-3", "nan", "inf", "-inf", "1e400", "1_000", "0x10", "true"),
    *(
        "9223372036854775807",
        "9223372036854775808",
        "9" * 5000,
        "[1,2]",
        "[[]]",
        "[",
        "{a=1}",
        "a=b",
    ),
    *(
        "1,2",
        ",",
        "1,1",
        "linear",
        "tanh",
        "weak-tanh:1",
        "exact",
        "neumann:2",
        "auto",
        "euler",
        "rk4",
    ),
    *(
        "exprb43",
        "LSODA",
        "cuda",
        "cpu:7",
        "meta",
        "mps",
        "float32",
        "vector",
        "module",
        "é",
        "\udcff",
    ),
    *(
        "x.py:f",
        "own.csv",
        "gflow:diabetes.csv",
        "gflow:../x",
        "/etc/passwd",
        "a" * 5000,
        "--",
        "-o",
    ),
    *(
        "all",
        "ends",
        "flow.t_end=1",
        "start={seed=1}",
        "data.noise=-1",
        "a.b.c=1",
        "=",
        "=1",
        "run=1",
    ),
)
FILES = (
    *("tiny.toml", "tiny.toml", "run.nc", "no.toml", "no.nc", ".", "..", "/", "/dev/null", "fifo"),
    *("loop", "-dash.toml", "x" * 300, "x" * 5000 + ".nc", "\udcff.nc", "tiny.toml/x", ""),
    *("own.csv", "broken.nc", "locked", "-", "~", "run.nc.part", "a\nb.toml"),
)
OUTPUTS = ("out.nc", "out.png", "out", "tiny.toml", "no/out.nc", ".", "", "x" * 300 + ".nc", "fifo")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files of all kinds in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("tiny.toml", "-dash.toml", "a\nb.toml"):
        Path(name).write_text(TINY)
    Path("own.csv").write_text("a,b\n1,2\n3,4\n5,7\n")
    Path("broken.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    os.mkfifo("fifo")
    Path("loop").symlink_to("loop")
    Path("locked").mkdir(mode=0o000)
    assert CliRunner().invoke(main, ["compare", "tiny.toml", "-o", "run.nc"]).exit_code == 0
    return tmp_path


@pytest.fixture
def rehearsed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go as far as the integration, which may take as long as is asked for."""
    assert (place / "run.nc").exists()

    def rehearse(config: Any, kind: str, folder: Path, **_: object) -> None:
        configured.check_tables(config, kind)  # type: ignore[arg-type]
        sizes = (config.model.dim or 0, config.model.width or 0)
        if max(*sizes, getattr(config.data, "samples", 0)) < 10_000:
            problem, _data = configured.make_problem(config, folder)
            configured.make_start(config, problem.model)
        if kind != "descend":
            arguments = configured.flow_arguments(config)
            arguments.pop("events")
            FlowOptions(**arguments)
        raise UsageError("It was rehearsed.")

    monkeypatch.setattr(configured, "run_config", rehearse)


def arguments(rng: Rng) -> list[str]:
    """A command line of known words in an order that may be wrong."""
    name = pick(rng, NAMES)
    if name in ("advise", "resume", "sweep"):  # which compute
        name = pick(rng, ("integrate", "show"))
    command = main.get_command(click.Context(main), name)
    assert command is not None
    found = [name] if rng.random() < 0.97 else [pick(rng, ("shwo", "", "-x", "é", "\udcff"))]
    found += [pick(rng, FILES) for _ in range(pick(rng, (0, 1, 1, 1, 1, 2)))]
    options = [one for one in command.get_params(click.Context(command)) if one.opts]
    flags = [one for one in options if isinstance(one, click.Option)]
    for _ in range(pick(rng, (0, 1, 1, 2, 3))):
        if not flags:
            break
        option = pick(rng, flags)
        flag = pick(rng, [*option.opts, *option.secondary_opts])
        value = [] if option.is_flag else [pick(rng, VALUES)]
        if flag in ("-o", "--output"):
            value = [pick(rng, OUTPUTS)]
        found += [flag, *value] if rng.random() < 0.9 else [f"{flag}={pick(rng, VALUES)}"]
    if isinstance(command, RunCommand) and rng.random() < 0.7:
        found += ["--overwrite", "-o", "out.nc"]
    return found


@inputs("command line")
@pytest.mark.usefixtures("rehearsed")
def test_odd_command_lines(place: Path, seeds: range) -> None:
    for seed, rng in generators(seeds):
        typed = arguments(rng)
        result = CliRunner().invoke(main, typed)
        told = f"seed {seed}: {typed}\n{result.output[:2000]}"
        assert result.exception is None or isinstance(result.exception, SystemExit), told
        assert result.exit_code in (0, 1, 2), told
        assert "internal error" not in result.output, told
        assert "Traceback" not in result.output, told
        assert result.exit_code == 0 or result.output.strip(), told
        for path in place.glob("out*"):
            path.unlink()


GFLOW = [sys.executable, "-m", "gflow"]


def run(*typed: str, **changes: str | None) -> subprocess.CompletedProcess[bytes]:
    given = os.environ | {key: value for key, value in changes.items() if value is not None}
    env = {key: value for key, value in given.items() if key not in changes or changes[key]}
    return subprocess.run([*GFLOW, *typed], capture_output=True, env=env, timeout=60)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "changes",
    [
        {"TERM": "dumb", "COLUMNS": "5", "NO_COLOR": "1", "HOME": None},
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    ],
    ids=["narrow", "ascii"],
)
def test_poor_surroundings(changes: dict[str, str | None]) -> None:
    done = run("show", "run.nc", **changes)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Where the flow ended" in done.stdout


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("how", "code", "told"),
    [
        ("| head -c 0", 0, ""),
        (">&-", 0, ""),
        ("> /dev/full", 1, "Error: No space left on device.\n"),
    ],
)
def test_an_output_that_takes_nothing(how: str, code: int, told: str) -> None:
    typed = f"{sys.executable} -m gflow show run.nc {how}"
    done = subprocess.run(["sh", "-c", typed], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", told)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("typed", [["show", "fifo"], ["integrate", "fifo"], ["plot", "fifo"]])
def test_a_pipe_is_no_file(typed: list[str]) -> None:
    done = run(*typed)
    assert done.returncode == 2
    assert b"device" in done.stderr
