"""What a worker process does first; it imports little, so that it can be ended from the start."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait


def prepare(leash: Connection) -> None:
    """Make a worker leave Ctrl-C to its parent, and end with it or when it lets go of the leash."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(leash,), daemon=True).start()


def _leave_with(leash: Connection) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([leash, parent.sentinel])
    os._exit(1)
