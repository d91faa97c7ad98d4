"""Reads netCDF files first, in processes that may be lost; run as a script, without gflow.

A damaged or hostile file can make the netCDF library loop for ever, crash the process, ask for
terabytes, or read other files: it follows links and virtual data sets wherever they point. Each
file is therefore read in a fork of this process, with a limit on time and memory. A request is a
line of JSON, the answer another: what is wrong with the file, empty if nothing is.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import netCDF4
import numpy as np

BYTES_A_SECOND = 20_000_000
"""Speed at which a file is read at least."""
DESCRIPTORS = "/dev/fd"
MOST_GROUPS = 10_000
POINTER = 16
"""Bytes of a text or of another value of variable length, beside what it holds."""


def main() -> None:
    """Answer requests until there are none."""
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for line in sys.stdin:
        answers.write(json.dumps(examine(json.loads(line))) + "\n")
        answers.flush()


def examine(request: dict[str, Any]) -> str:
    """Read a file in a fork, and say what became of it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os.write(writing, _look(request).encode("utf-8", "backslashreplace")[:2000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return said
    if os.WTERMSIG(status) == signal.SIGALRM:
        return "is damaged: the netCDF library does not come to an end with it."
    return "is damaged: the netCDF library crashes on it."


def _look(request: dict[str, Any]) -> str:
    try:
        warnings.simplefilter("ignore")
        signal.alarm(request["seconds"])
        limit = request["bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (2 * limit + 2**32,) * 2)
        return _read(request["path"], request["names"], limit, request["seconds"])
    except MemoryError:
        return "asks for more memory than there is."
    except RecursionError:
        return "nests its groups too deeply."
    except Exception as error:
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = told.split("\n")[0]
        return f"cannot be read as netCDF4: {reason}."


def _read(path: str, names: list[str] | None, limit: int, seconds: int) -> str:
    with netCDF4.Dataset(path) as file:
        opened = len(os.listdir(DESCRIPTORS))
        foreign = _others(path)
        variables = list(_wanted(file, names))
        total = sum(map(_size, variables))
        if total > limit:
            return (
                f"declares {total / 1e9:,.0f} GB of data; at most {limit / 1e9:,.0f} GB fit here."
            )
        signal.alarm(seconds + total // BYTES_A_SECOND)
        for variable in variables:
            _ = variable[...]
        if foreign or len(os.listdir(DESCRIPTORS)) > opened:
            return "holds links to other files, which are not followed; store the data itself."
        # Raw data in another file is opened and closed again: this fails where no file can be.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
        for variable in variables:
            if variable.dtype is not str and variable.chunking() == "contiguous":
                _ = variable[...]
    return ""


def _others(path: str) -> bool:
    """Whether another regular file than this one is open."""
    mine, found = os.stat(path), []
    for name in os.listdir(DESCRIPTORS):
        try:
            found.append(os.fstat(int(name)))
        except OSError:  # that of the listing itself
            continue
    files = [(one.st_dev, one.st_ino) for one in found if one.st_mode & 0o170000 == 0o100000]
    return any(one != (mine.st_dev, mine.st_ino) for one in files)


def _wanted(file: netCDF4.Dataset, names: list[str] | None) -> Iterator[netCDF4.Variable[Any]]:
    """The variables of all groups; of the file itself those of such names, and its coordinates."""
    groups = list(_groups(file))
    for group in groups:
        group.set_auto_maskandscale(False)
        for name, variable in group.variables.items():
            _ = variable.__dict__
            like = names is None or any(name == one or fnmatchcase(name, one) for one in names)
            if like or (name in group.dimensions and variable.ndim == 1):
                yield variable
            elif variable.dtype is str and variable.size:
                _ = variable[(0,) * variable.ndim]  # as xarray does of every text


def _groups(file: netCDF4.Dataset) -> Iterator[netCDF4.Dataset]:
    waiting, count = [file], 0
    while waiting:
        group = waiting.pop()
        count += 1
        if count > MOST_GROUPS:
            raise RecursionError
        _ = group.__dict__
        yield group
        waiting += group.groups.values()


def _size(variable: netCDF4.Variable[Any]) -> int:
    kind = variable.dtype
    size = POINTER if kind is str or variable._isvlen else np.dtype(kind).itemsize
    return math.prod(map(int, variable.shape)) * size


if __name__ == "__main__":
    main()
