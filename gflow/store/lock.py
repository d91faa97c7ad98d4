"""One writer at a time, across processes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Self

from gflow.errors import LockedError, StoreError


class Lock:
    """The right to write a file; the system takes it from a process that dies.

    Raises
    ------
    LockedError
        If another process has it.
    """

    def __init__(self, target: Path) -> None:
        self._path = target.with_name(f".{target.name}.lock")
        self._file = -1
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        while True:
            file = self._open(target)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                raise LockedError(f"{target} is being written by another process.") from None
            except OSError:  # a file system without locks
                pass
            if self._is_current(file):
                self._file = file
                return
            os.close(file)  # its last owner has removed it

    def _open(self, target: Path) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StoreError(
                f"The folder {target.parent} cannot be written to: {error.strerror}."
            ) from None

    def _is_current(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        except FileNotFoundError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others write."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._file)
            self._file = -1
