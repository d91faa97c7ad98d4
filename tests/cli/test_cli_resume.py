from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from same_data import assert_same_data
from test_cli_interruption import on_a_terminal, read_until

import gflow as package

EXISTS = "choose another name, or pass --overwrite to replace it.\n"


def test_an_interrupted_run_goes_on_to_the_same_bytes(gflow, config: str) -> None:
    arguments = ["integrate", config, "--method", "tsit5", "--rtol", "1e-10", "--times", "9"]
    assert gflow(*arguments, "-o", "whole.nc").exit_code == 0
    assert gflow(*arguments, "-o", "run.nc", "--max-steps", 12).exit_code == 1
    result = gflow("resume", "run.nc", "--max-steps", 10_000)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Flow: The run reached t_end.")
    assert_same_data(package.open("run.nc"), package.open("whole.nc"))
    assert "max_steps = 10000" in package.open("run.nc").attrs["config"]


def test_ctrl_c_and_resume(config: str) -> None:
    run = ["integrate", "--t-end", "10", "--method", "tsit5", "--set", "flow.rtol=1e-12", config]
    slow = [
        *run,
        "--threads",
        "1",
        "--set",
        "data.samples=200000",
        "--set",
        "run.checkpoint_seconds=0.01",
    ]
    with on_a_terminal([*slow, "-o", "run.nc"]) as (process, terminal):
        read_until(terminal, b"flow: t = ")
        process.send_signal(signal.SIGINT)
        told = read_until(terminal, b"go on with `gflow resume run.nc`")
        assert process.wait(timeout=60) == 1
    assert b"Traceback" not in told
    for arguments in ([*slow, "-o", "whole.nc"], ["resume", "run.nc"]):
        run = [sys.executable, "-m", "gflow", *arguments, "-q"]
        assert subprocess.run(run, check=False).returncode == 0
    assert_same_data(package.open("run.nc"), package.open("whole.nc"))


def test_a_complete_run_is_left_alone_or_extended(gflow, config: str) -> None:
    assert gflow("integrate", config, "-o", "run.nc").exit_code == 0
    before = Path("run.nc").read_bytes()
    result = gflow("resume", "run.nc")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "run.nc is complete; nothing was done. `gflow resume` with --t-end extends a flow.\n"
    )
    assert Path("run.nc").read_bytes() == before
    assert gflow("resume", "run.nc", "--t-end", 2).exit_code == 0
    times = package.open("run.nc")["flow"].time.values
    assert times.tolist() == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]
    assert "t_end = 2.0" in package.open("run.nc").attrs["config"]


def test_a_comparison_is_extended(gflow, saved: Path) -> None:
    result = gflow("resume", saved, "--t-end", 2)
    assert (result.exit_code, result.stderr) == (0, "")
    tree = package.open(saved)
    assert float(tree["flow"].time[-1]) == 2
    assert tree["descent"].time.max("record").values.tolist() == pytest.approx([2, 2])
    assert tree["comparison"].distance.notnull().all()


@pytest.mark.parametrize("kind", ["integrate", "descend", "compare"])
def test_the_configuration_of_an_extended_run_gives_identical_data(gflow, config, kind) -> None:
    """Step sizes that do not divide t_end record other updates the longer it is."""
    text = Path(config).read_text().replace("[0.05, 0.1]", "[0.07, 0.03]")
    Path(config).write_text(text.replace("times = 5", "times = 5\nmethod = 'auto'"))
    assert gflow(kind, config, "-o", "run.nc").exit_code == 0
    for end in (1.33, 2):
        assert gflow("resume", "run.nc", "--t-end", end).exit_code == 0
    Path("again.toml").write_text(gflow("show", "--config", "run.nc").stdout)
    assert gflow(kind, "again.toml").exit_code == 0
    first, second = package.open("run.nc"), package.open("again.nc")
    again = gflow(kind, "again.toml", "-o", "run.nc", "--resume")  # it is the file's own
    assert (again.exit_code, again.stdout.startswith("run.nc is complete")) == (0, True)
    for tree in (first, second):
        if "flow" in tree.children:
            tree["flow"] = tree["flow"].to_dataset().drop_vars("method_reason")
    assert_same_data(first, second)


def test_the_same_command_goes_on_where_it_may(gflow, config: str) -> None:
    run = ["integrate", config, "--method", "tsit5", "-o", "run.nc"]
    assert gflow(*run, "--resume").exit_code == 0  # there is none: it begins
    result = gflow(*run, "--resume")
    assert (result.exit_code, result.stdout.startswith("run.nc is complete")) == (0, True)
    result = gflow(*run)
    assert result.exit_code == 2
    told = "Error: run.nc exists: a run of this configuration, complete; "
    assert result.stderr == told + EXISTS
    result = gflow(*run, "--rtol", "1e-3", "--resume")
    assert result.exit_code == 2
    assert result.stderr == "Error: run.nc exists and is of another configuration; " + EXISTS
    result = gflow("compare", config, "-o", "run.nc", "--resume")
    assert result.stderr == "Error: run.nc exists and is of another configuration; " + EXISTS
    result = gflow(*run, "--resume", "--overwrite")
    assert result.exit_code == 2
    assert "opposites" in result.stderr


def test_an_unfinished_run_is_told(gflow, config: str) -> None:
    run = ["integrate", config, "--method", "tsit5", "-o", "run.nc", "--wall-seconds", "1e-9"]
    assert gflow(*run).exit_code == 1
    result = gflow(*run)
    assert result.exit_code == 2
    told = (
        "Error: run.nc exists: a run of this configuration, unfinished; --resume goes on with it; "
    )
    assert result.stderr == told + EXISTS


@pytest.fixture
def from_a_file(config: str) -> str:
    """A configuration whose data are beside it."""
    teacher = 'source = "teacher"\nsamples = 20\nseed = 1\ntheta = [2.0, 0.0]'
    columns = 'source = "file"\npath = "data.csv"\ninputs = ["a"]\ntarget = "b"'
    Path("file.toml").write_text(Path(config).read_text().replace(teacher, columns))
    Path("data.csv").write_text("a,b\n1,2\n3,5\n")
    return "file.toml"


def test_data_that_changed_are_refused(gflow, from_a_file: str) -> None:
    assert gflow("integrate", from_a_file, "-o", "run.nc").exit_code == 0
    Path("data.csv").write_text("a,b\n1,2\n3,4\n")
    result = gflow("resume", "run.nc", "--t-end", 9)
    assert result.exit_code == 2
    assert "data" in result.stderr
    assert float(package.open("run.nc")["flow"].time[-1]) == 1.0


def test_a_run_goes_on_from_any_folder(
    gflow, from_a_file: str, tmp_path: Path, monkeypatch
) -> None:
    Path("sub").mkdir()
    assert gflow("integrate", from_a_file, "-o", "sub/run.nc").exit_code == 0
    monkeypatch.chdir("/")
    result = gflow("resume", tmp_path / "sub" / "run.nc", "--t-end", 2)
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no.nc"], "Error: no.nc does not exist.\n"),
        (["tiny.toml"], "Error: tiny.toml"),
        (["saved.nc", "--t-end", "0.5"], "Error: t_end is 0.5; to extend saved.nc it must lie"),
        (["saved.nc", "--t-end", "soon"], "Usage: gflow resume"),
        ([], "Usage: gflow resume"),
    ],
)
def test_what_cannot_go_on_is_told(gflow, saved: Path, arguments: list[str], told: str) -> None:
    result = gflow("resume", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(told)


LIMITED = """\
import resource, sys
from gflow.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
main(sys.argv[2:])
"""


def _limited(size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that cannot write files of more than so many bytes."""
    run = [sys.executable, "-c", LIMITED, str(size), *arguments]
    return subprocess.run(run, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs limits")
def test_a_disk_that_takes_nothing_is_found_before_the_run(config: str) -> None:
    done = _limited(1000, "integrate", config)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: The folder . cannot be written to: File too large.\n"


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs limits")
def test_a_disk_that_fills_up_is_told_in_a_sentence(config: str) -> None:
    done = _limited(10_000, "integrate", config)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: tiny.nc could not be written: ")
    assert "Traceback" not in done.stderr
    assert not list(Path().glob(".tiny*"))
    assert not Path("tiny.nc").exists()
