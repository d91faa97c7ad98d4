"""Runs that are killed at any moment: their files are whole, and they go on to the same bytes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import killed_runs
import numpy as np
import pytest
import xarray as xr
from same_data import assert_same_data

import gflow
from gflow.diagnostics import energy

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
CASES = [
    ("integrate", "native:tsit5"),
    ("integrate", "native:expcol8"),
    ("integrate", "native:exprb43"),
    ("integrate", "native:rkc2"),
    ("integrate", "auto"),
    ("integrate", "scipy:LSODA"),
    ("descend", "none"),
    ("compare", "native:tsit5"),
]
ROUNDS = 50


def _kill(child):
    """Kill a process, unless it has just come to its end by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


class Forge:
    """The parent of the runs."""

    def __init__(self):
        folder = Path(killed_runs.__file__).parent
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, str(folder / "killed_runs.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._read() == "ready"

    def _read(self):
        return self._process.stdout.readline().strip()

    def begin(self, case, path, log):
        """The number of its process."""
        self._process.stdin.write(f"{' '.join(case)} {path} {log}\n")
        self._process.stdin.flush()
        return int(self._read())

    def ended(self):
        """The exit code, once it has ended."""
        return int(self._read())

    def run(self, case, path, log, seconds=None):
        """Run it, killed after some seconds; the exit code and how long it took."""
        child, began = self.begin(case, path, log), time.perf_counter()
        killer = None
        if seconds is not None:
            killer = threading.Timer(seconds, _kill, (child,))
            killer.start()
        code = self.ended()
        if killer is not None:
            killer.cancel()
        return code, time.perf_counter() - began

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture
def forge():
    forge = Forge()
    yield forge
    forge.close()


def _opened(path):
    """By xarray alone, then checked."""
    with xr.open_datatree(path) as lazy:
        tree = lazy.load()
    gflow.validate(tree)
    return tree


def _logged(log):
    return [float(line) for line in log.read_text().splitlines()] if log.exists() else []


def _check_killed(path, log, whole):
    """It holds the last checkpoint, and nothing that the whole run does not."""
    noted = _logged(log)
    if not path.exists():
        assert not noted
        return
    tree = _opened(path)
    name = "descent" if "descent" in tree.children else "flow"
    group, other = tree[name], whole[name]
    if noted:
        assert float(np.nanmax(group["time"].values)) >= noted[-1]
    if name == "flow":
        inside = np.isin(group.time.values, other.time.values)
        assert inside[:-1].all()
        places = np.searchsorted(other.time.values, group.time.values[inside])
        assert np.array_equal(group.theta.values[inside], other.theta.values[places])
        assert np.isfinite(group.loss.values).all()
    else:
        there = group["update"].values >= 0
        assert np.array_equal(group.theta.values[there], other.theta.values[there])


def _assert_equal(tree, whole, exact):
    if exact:
        assert_same_data(tree, whole)
        return
    np.testing.assert_array_equal(tree["flow"].time, whole["flow"].time)
    np.testing.assert_allclose(tree["flow"].theta, whole["flow"].theta, rtol=1e-5, atol=1e-6)


def _kill_and_go_on(forge, folder, case, whole, length, chance):
    path, log = folder / "run.nc", folder / "log"
    killed = 0
    for attempt in range(100):
        code, _ = forge.run(case, path, log, chance.uniform(0.0, length) if attempt < 2 else None)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
        _check_killed(path, log, whole)
        log.unlink(missing_ok=True)
    assert code == 0
    _assert_equal(_opened(path), whole, case[1] != "scipy:LSODA")
    assert {one.name for one in folder.iterdir()} <= {"log", "run.nc"}  # no parts, no locks
    return killed


@pytest.mark.parametrize("case", CASES[:1] + CASES[-2:], ids=" ".join)
def test_a_killed_run_goes_on_to_the_same_bytes(case, forge, tmp_path):
    whole, length = _whole(forge, tmp_path, case)
    (tmp_path / "killed").mkdir()
    _kill_and_go_on(forge, tmp_path / "killed", case, whole, length, random.Random(1))


def _whole(forge, folder, case):
    path = folder / f"{'-'.join(case).replace(':', '-')}.nc"
    code, length = forge.run(case, path, folder / "whole.log")
    assert code == 0
    return _opened(path), length


@pytest.mark.slow
def test_fifty_kills_at_random_moments_lose_nothing(forge, tmp_path):
    chance = random.Random(2026)
    wholes = [_whole(forge, tmp_path, case) for case in CASES]
    kills = rounds = 0
    while kills < ROUNDS:
        case, (whole, length) = CASES[rounds % len(CASES)], wholes[rounds % len(CASES)]
        folder = tmp_path / str(rounds)
        folder.mkdir()
        kills += _kill_and_go_on(forge, folder, case, whole, length, chance)
        rounds += 1
        assert rounds < 4 * ROUNDS
    assert kills >= ROUNDS


def test_a_run_by_itself_gives_the_bytes_of_one_that_is_kept(forge, tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "BATCH", 4)
    whole, _ = _whole(forge, tmp_path, CASES[0])
    assert_same_data(killed_runs.run(*CASES[0]), whole)


@pytest.mark.slow
def test_a_running_file_is_read_a_thousand_times(forge, tmp_path):
    path, log = tmp_path / "run.nc", tmp_path / "log"
    case = ("forever", "native:tsit5")
    child = forge.begin(case, path, log)
    try:
        while not path.exists():
            time.sleep(0.01)
        ends = [float(_opened(path)["flow"].time[-1]) for _ in range(1000)]
    finally:
        os.kill(child, signal.SIGKILL)
    assert forge.ended() == -signal.SIGKILL
    assert ends == sorted(ends)
    assert len(set(ends)) > 100
