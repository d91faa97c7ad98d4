"""Ctrl-C as an exception, and kept waiting where an exception would do harm."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; Python ends by the signal, whatever the exit code, once its own has passed `exec`."""


def interrupt(*_: object) -> NoReturn:
    """Raise it; a handler of the signal."""
    raise Interrupted


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Context in which Ctrl-C waits for the end, for netCDF files being written or read.

    An exception amid xarray's work on one leaves its lock taken: closing that file, and every later
    one, would wait for ever. A second Ctrl-C meanwhile is let through.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    waiting: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        waiting.append(number)
        if len(waiting) > 1:
            before(number, frame)

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            before(signal.SIGINT, sys._getframe())
