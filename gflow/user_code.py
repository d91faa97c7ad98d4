"""Python files of the user's: loaded as they are now, and failures in them placed."""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType


def load(path: Path) -> ModuleType:
    """A file as a module of a package that is its folder, read again when a file has changed."""
    real = path.resolve()
    return _module(real, max(one.stat().st_mtime_ns for one in sources(real)))


def sources(path: Path) -> list[Path]:
    """A file and those of the same folder that it imports, directly or not."""
    found, waiting = [], [path]
    while waiting:
        one = waiting.pop()
        if one in found or not one.is_file():
            continue
        found.append(one)
        text = one.read_text(encoding="utf-8")
        names = re.findall(r"^\s*from \.(\w+) import", text, re.MULTILINE)
        listed = re.findall(r"^\s*from \. import (.+)", text, re.MULTILINE)
        names += [name.split()[0] for line in listed for name in line.split(",")]
        waiting += [path.with_name(f"{name}.py") for name in names]
    return sorted(found)


def digest(path: Path) -> str:
    """SHA-256 of a file and of those that it imports, by name and content, in hexadecimals."""
    found = hashlib.sha256()
    for one in sources(path):
        found.update(f"{one.name} {one.stat().st_size}\n".encode())
        found.update(one.read_bytes())
    return found.hexdigest()


@functools.cache
def _module(path: Path, changed: float) -> ModuleType:
    package = ModuleType(f"_gflow_user_{abs(hash((path.parent, changed)))}")
    package.__path__ = [str(path.parent)]
    sys.modules[package.__name__] = package
    # Byte code is told apart by seconds and size alone: too coarse for a file being edited.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return importlib.import_module(f"{package.__name__}.{path.stem}")
    finally:
        sys.dont_write_bytecode = writes


def failure(name: str, path: Path, error: Exception) -> str:
    """The sentence on an error that a function of a file raised, with its line there."""
    return (
        f"{name} in {path}{_place_of(error, path.resolve())} failed: {type(error).__name__}: "
        f"{str(error).rstrip('.')}. GFLOW_DEBUG=1 shows the traceback."
    )


def _place_of(error: Exception, path: Path) -> str:
    """Where in the files of that folder it was raised."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.parent == path.parent:
            found = f" ({'' if file == path else f'{file.name}, '}line {trace.tb_lineno})"
        trace = trace.tb_next
    return found
