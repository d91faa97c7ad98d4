from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import gflow
from gflow.errors import UsageError
from gflow.sweeps.local import DIED, LocalPool
from gflow.sweeps.parts import Part
from gflow.sweeps.work import Outcome


def part(*keys: str) -> Part:
    return Part(keys, tuple("" for _ in keys), "integrate", Path(), "")


def fatal(one: Part) -> Outcome:
    """Stands in for the work: a cell named "die" kills its worker, others fail with their name."""
    if "die" in one.keys:
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(failed={key: f"{key} {os.getpid()}" for key in one.keys})


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_cells_beside_a_deadly_one_are_run(monkeypatch, workers):
    monkeypatch.setattr("gflow.sweeps.local.run_part", fatal)
    parts = [part("a", "b"), part("c", "die", "d"), *map(part, "efgh")]
    outcomes = list(LocalPool(workers).run(parts))
    told = Counter(key for one in outcomes for key in one.failed)
    assert told == Counter(["a", "b", "c", "d", "die", *"efgh"])
    failed = {key: text for one in outcomes for key, text in one.failed.items()}
    assert failed.pop("die") == DIED
    assert all(text.startswith(f"{key} ") for key, text in failed.items())


def masked(one: Part) -> Outcome:
    """Stands in for the work: tells what its worker does with Ctrl-C, since when."""
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return Outcome(failed={one.keys[0]: f"{blocked} {ignored}"})


@pytest.mark.slow
def test_workers_have_ctrl_c_blocked_from_their_start(monkeypatch):
    monkeypatch.setattr("gflow.sweeps.local.run_part", masked)
    outcomes = list(LocalPool(2).run([part("a"), part("b")]))
    assert [list(one.failed.values()) for one in outcomes] == [["True True"]] * 2
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@dataclass
class Finished:
    outcome: Outcome | None

    def done(self) -> bool:
        return self.outcome is not None

    def exception(self) -> None:
        return None

    def result(self) -> Outcome:
        assert self.outcome is not None
        return self.outcome


def test_what_becomes_of_the_parts_at_a_death():
    suspects: deque[Part] = deque()
    done = Outcome(failed={"x": ""})
    entries = [
        (Finished(done), part("x")),
        (Finished(None), part("first")),
        (Finished(None), replace(part("several", "others"), deaths=1)),
        (Finished(None), replace(part("lone"), deaths=1)),
    ]
    told = list(LocalPool(2)._sort_out(entries, suspects))
    assert [one.failed for one in told] == [{"x": ""}, {"lone": DIED}]
    assert [(one.keys, one.deaths) for one in suspects] == [
        (("first",), 1),
        (("several",), 0),
        (("others",), 0),
    ]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gflow", "sweep", "module.toml", "--over", "start.seed=0:5"]
        + ["--workers", "1", "-o", "s.nc", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(pid: int) -> list[str]:
    """Processes that a process has started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def ran(folder: Path) -> list[tuple[int, int]]:
    """The cells that were begun, with their processes."""
    lines = (folder / "ran").read_text().splitlines()
    return [(int(cell), int(pid)) for cell, pid in (line.split() for line in lines)]


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_or_killed_sweep_goes_on(watched, number):
    (watched / "slow").write_text("0.5")
    process = start(watched)
    wait_for(lambda: len(list(watched.glob("s.nc.parts/*.nc"))) >= 2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    done = len(list(watched.glob("s.nc.parts/*.nc")))
    begun = ran(watched)
    assert done < 5
    assert not (watched / "s.nc").exists()
    if number == signal.SIGINT:
        assert process.returncode == 1
        assert "Interrupted; the cells that are done are kept." in errors
        assert errors.endswith("Error: Interrupted; the same command goes on from there.\n")
    wait_for(lambda: not any(is_alive(pid) for _, pid in begun))
    (watched / "slow").unlink()
    again = start(watched)
    out, errors = again.communicate(timeout=120)
    assert (again.returncode, errors) == (0, "")
    assert f"5 of 5 cells ended as asked. {done} had been run before." in out
    assert not list(watched.glob(".s.nc*"))
    assert len(ran(watched)) == len(begun) + 5 - done
    assert {cell for cell, _ in ran(watched)} == set(range(5))
    assert (gflow.open(watched / "s.nc")["sweep"].status == "t_end").all()


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/thread-self/children").exists(), reason="needs children in /proc"
)
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_ctrl_c_while_workers_start_is_told_in_a_sentence(watched, delay):
    (watched / "slow").write_text("5")
    process = start(watched)
    # The first child keeps track of resources; the second one is a worker.
    wait_for(lambda: len(children(process.pid)) >= 2)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    out, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert (process.returncode, out) == (1, "")
    assert errors == (
        "\nInterrupted; the cells that are done are kept. Ctrl-C again leaves at once.\n"
        "Error: Interrupted; the same command goes on from there.\n"
    )


@pytest.mark.slow
def test_workers_that_cannot_start_are_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        'import gflow\ngflow.sweep("c.toml", {"start.seed": [1]}, "s.nc", workers=1)\n'
    )
    (tmp_path / "c.toml").write_text(
        '[data]\nsource = "teacher"\nsamples = 5\nseed = 1\ntheta = [1.0, 0.0]\n'
        "[start]\nseed = 1\n[flow]\nt_end = 1.0\n"
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert f"{UsageError.__name__}: Worker processes cannot be started." in done.stderr
