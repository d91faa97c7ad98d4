"""A run's file on disk: one writer at a time, and a whole dataset at every moment."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gflow.errors import LockedError, StoreError, WriteError
from gflow.store.files import Version, behind, check_dataset, clear, replace_file, version_of
from gflow.store.lock import Lock

if TYPE_CHECKING:
    import xarray as xr

SECONDS = 10.0
"""Between two checkpoints unless asked otherwise."""
FIRST = 1.0
"""Seconds after which the first checkpoint is written, at most."""
SHARE = 0.02
"""Part of a run's time that checkpoints may take: a costly one is followed by a longer pause."""
PROBE = 4096
"""Bytes written to see whether a folder takes any."""


class Output:
    """A run's file, replaced whole from time to time as the run goes on.

    A context: on entering it the file is this process's alone; where something is wrong with the
    folder, that is found here, before anything is computed.

    Parameters
    ----------
    path : str or Path
    seconds : float
        Between two checkpoints: as little as that, and so much that they take 2 % of the time; 0
        writes at every opportunity.
    overwrite : bool
        Replace an existing file.
    tell : callable, optional
        Told in a sentence when a checkpoint could not be written; by default a warning.
    continued : mapping, optional
        The checkpoint from which the run goes on.
    key : str
        Of the configuration that the file is of; empty for a run from Python.
    folder : str
        The configuration's folder, relative to the file's.
    version : tuple, optional
        Of the file that was read to go on from it, :func:`gflow.store.files.version_of`.

    Attributes
    ----------
    written : int
        Checkpoints so far.
    spent : float
        Seconds that they took, with the making of what was written.

    Raises
    ------
    StoreError
        On entering: if the file exists, its folder cannot be written to, or another process is
        writing the file.
    """

    def __init__(
        self,
        path: str | Path,
        seconds: float = SECONDS,
        overwrite: bool = False,
        tell: Callable[[str], None] | None = None,
        *,
        continued: Mapping[str, Any] | None = None,
        key: str = "",
        folder: str = "",
        version: Version | None = None,
    ) -> None:
        self.path = Path(path)
        self.seconds, self._overwrite = seconds, overwrite
        self._tell = tell or _warn
        self.continued, self.key, self.folder = continued, key, folder
        self._version = version
        self._lock: Lock | None = None
        self._due = self._began = 0.0
        self._troubled = False
        self.written, self.spent = 0, 0.0

    def __enter__(self) -> Self:
        check_dataset(self.path, self._overwrite)
        place = behind(self.path)
        self._lock = Lock(place)
        try:
            check_dataset(self.path, self._overwrite)
            if self._version not in (None, version_of(self.path)):
                raise LockedError(
                    f"{self.path} has been written by another process meanwhile; nothing was done."
                )
            clear(place.parent, place.name)
            _probe(place)
        except BaseException:
            self._lock.release()
            raise
        self._due = time.perf_counter() + min(FIRST, self.seconds)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._lock is not None
        self._lock.release()

    def reserve(self, size: float) -> None:
        """Refuse a run whose file, of about so many bytes, would not fit on the disk.

        Raises
        ------
        StoreError
            If it would not: a file and the one that replaces it are there together for a moment.
        """
        free = shutil.disk_usage(behind(self.path).parent).free
        if 2 * size > free:
            raise StoreError(
                f"{self.path} would take about {_bytes(size)}, twice for a moment, and its disk "
                f"has {_bytes(free)} left; save less often, store less of theta (store_theta), or "
                "write elsewhere."
            )

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        if time.perf_counter() < self._due:
            return False
        self._began = time.perf_counter()
        return True

    def checkpoint(self, tree: xr.DataTree) -> None:
        """Write what there is so far; if that fails, say so once and go on."""
        try:
            replace_file(tree, self.path)
            self.written += 1
            self._troubled = False
        except StoreError as error:
            if not self._troubled:
                self._tell(f"{error} The run goes on, and tries again at its next checkpoint.")
            self._troubled = True
        self.postpone()

    def postpone(self) -> None:
        """Let the time to the next checkpoint begin."""
        now = time.perf_counter()
        took = now - self._began
        self.spent += took
        self._due = now + (max(self.seconds, took / SHARE) if self.seconds else 0.0)

    def finish(self, tree: xr.DataTree) -> None:
        """Write the whole run.

        Raises
        ------
        WriteError
            If that fails; the last checkpoint is kept.
        """
        try:
            replace_file(tree, self.path)
        except StoreError as error:
            kept = "Nothing of the run is kept."
            if self.written:
                kept = (
                    f"Its last checkpoint is kept: when there is room, `gflow resume {self.path}` "
                    "goes on from there."
                )
            raise WriteError(f"{error} {kept}") from None


def _probe(target: Path) -> None:
    """Write a little, where a full disk or a folder without the right to write shows.

    Raises
    ------
    StoreError
        If that fails.
    """
    try:
        with tempfile.TemporaryFile(dir=target.parent) as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(
            f"The folder {target.parent} cannot be written to: {error.strerror}."
        ) from None


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _warn(sentence: str) -> None:
    warnings.warn(sentence, RuntimeWarning, stacklevel=2)
