from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

import gflow as package
from gflow.cli.interruption import Interruption, LeaveAtOnce

# Millions of steps: no test waits for their end.
ENDLESS = ["--t-end", "10", "--method", "euler", "--step-size", "1e-6"]


@contextmanager
def on_a_terminal(arguments: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A command with standard error on a terminal, whose other end is given too."""
    master, slave = pty.openpty()
    run = [sys.executable, "-m", "gflow", *arguments]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=slave, text=True)
    os.close(slave)
    try:
        yield process, master
    finally:
        process.kill()
        process.communicate()
        os.close(master)


def read_until(terminal: int, text: bytes) -> bytes:
    """What a terminal shows, up to `text`."""
    seen, deadline = b"", time.monotonic() + 60
    while text not in seen:
        assert time.monotonic() < deadline, seen
        seen += os.read(terminal, 1024)
    return seen


@pytest.mark.parametrize(
    ("arguments", "phase", "group"),
    [
        (["integrate", *ENDLESS], b"flow: t = ", "flow"),
        (["compare", *ENDLESS], b"flow: t = ", "flow"),
        (["descend", "--step-sizes", "1e-6,2e-6", "--t-end", "10"], b"descent: t = ", "descent"),
    ],
)
def test_ctrl_c_ends_a_run_and_keeps_what_there_is(
    config: str, arguments: list[str], phase: bytes, group: str
) -> None:
    with on_a_terminal([*arguments, "--set", "descent.records=100000", config]) as (run, terminal):
        read_until(terminal, phase)
        run.send_signal(signal.SIGINT)
        told = read_until(terminal, b"The partial run is kept in tiny.nc;")
        assert run.wait(timeout=60) == 1
    assert b"Interrupted; what there is will be written." in told
    assert b"Traceback" not in told
    stored = package.open("tiny.nc")[group]
    assert set(map(str, np.atleast_1d(stored.status.values))) == {"interrupted"}
    assert np.isfinite(stored.loss.values).any()
    assert 0 < np.nanmax(stored.time.values) < 10


def test_the_second_ctrl_c_leaves_at_once() -> None:
    with Interruption() as interruption:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interruption.asked
        with pytest.raises(LeaveAtOnce):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("module", ["gflow.assemble", "gflow.store.files"])
def test_a_result_that_is_being_written_is_left_to_finish(module: str) -> None:
    scope = {"__name__": module, "signal": signal}
    exec("def write():\n    signal.raise_signal(signal.SIGINT)\n    return 'written'", scope)
    with Interruption() as interruption:
        assert scope["write"]() == "written"  # type: ignore[operator]
        with pytest.raises(KeyboardInterrupt):
            interruption.check()


def test_the_former_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        assert signal.getsignal(signal.SIGINT) != before
        interruption.check()
    assert signal.getsignal(signal.SIGINT) == before


def test_ctrl_c_while_the_command_line_is_imported_is_told() -> None:
    # Python's own exception, once through exec, would end it by the signal.
    code = (
        "import signal, sys, types; cli = types.ModuleType('gflow.cli');"
        "cli.main = lambda: exec('signal.raise_signal(signal.SIGINT)');"
        "sys.modules['gflow.cli'] = cli; from gflow.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "\nInterrupted; nothing was written.\n")
