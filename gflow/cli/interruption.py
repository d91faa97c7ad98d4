"""Ctrl-C: the first one ends a run, which is written; the second one leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Self

from gflow.ctrl_c import interrupt

_FINISHING = ("gflow.assemble", "gflow.store")
"""Modules that are left to finish, since without them everything computed would be lost."""

NOTICE = "Interrupted; what there is will be written."


class LeaveAtOnce(BaseException):
    """The second Ctrl-C; no run catches it."""


class Interruption:
    """Context in which Ctrl-C is handled; ``asked`` says whether there was one."""

    def __init__(self, notice: str = NOTICE) -> None:
        self.asked = False
        self._notice = f"\n{notice} Ctrl-C again leaves at once.\n".encode()

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """End what is running, if an earlier part of the run was interrupted."""
        if self.asked:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise LeaveAtOnce
        self.asked = True
        # A signal may come in the middle of a print, which Python's own streams do not bear.
        with contextlib.suppress(OSError):
            os.write(2, self._notice)
        if not _is_finishing(frame):
            interrupt()


def _is_finishing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_FINISHING):
            return True
        frame = frame.f_back
    return False
