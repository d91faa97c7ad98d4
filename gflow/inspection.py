"""NetCDF files of unknown origin: read once in another process before they are read in this one.

What can go wrong there, and only there, is told in :mod:`gflow.inspector`. The other process is
started once and kept: the first file costs a fraction of a second, each further one milliseconds
and the time to read it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

SCRIPT = Path(__file__).with_name("inspector.py")
PATIENCE = 10
"""Seconds that a file may take, beside those that its size accounts for."""
LEAST_LIMIT = 2**32

_lock = threading.Lock()
_processes: dict[int, subprocess.Popen[str]] = {}


def begin() -> None:
    """Start the other process, so that it loads its libraries while this one loads its own."""
    with _lock:
        _process()


def fault(path: Path, names: Sequence[str] | None = None) -> str:
    """What is wrong with a netCDF file, as the end of a sentence that starts with its name.

    Parameters
    ----------
    path : Path
    names : sequence of str, optional
        Names or patterns of the variables that will be read; all unless given.

    Returns
    -------
    str
        Empty if nothing is, or where there is no such process to be had (it needs ``os.fork``).
    """
    request = {
        "path": os.path.abspath(path),
        "names": None if names is None else list(names),
        "bytes": memory_limit(),
        "seconds": PATIENCE,
    }
    with _lock:
        process = _process()
        if process is None or process.stdin is None or process.stdout is None:
            return ""
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            return str(json.loads(process.stdout.readline()))
        except (OSError, ValueError):  # it could not load its libraries, or was ended
            return ""


def memory_limit() -> int:
    """Bytes that the data of a file may take: those that are free, and 4 GiB at least."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        free = 0
    return max(LEAST_LIMIT, free)


def _process() -> subprocess.Popen[str] | None:
    """That of this process, which a fork of it does not share."""
    running = _processes.get(os.getpid())
    if running is not None and running.poll() is None:
        return running
    _close(running)
    if not hasattr(os, "fork") or not sys.executable:
        return None
    started = subprocess.Popen(
        [sys.executable, "-P", str(SCRIPT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        text=True,
        start_new_session=True,
    )
    _processes[os.getpid()] = started
    return started


def _close(process: subprocess.Popen[str] | None) -> None:
    if process is not None:
        with contextlib.suppress(OSError), process:
            process.kill()


@atexit.register
def _end() -> None:
    _close(_processes.pop(os.getpid(), None))
