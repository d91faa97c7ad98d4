"""Compiling C at use, once for a user and a processor: what is made stays in the user's cache."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np

SWITCH = "GFLOW_COMPILED"
"""The environment variable that, set to 0, leaves everything to PyTorch."""
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-shared", "-fPIC")
NATIVE = (("-march=native",), ())
"""For this machine, or where the compiler does not know how, for any like it."""
LIMIT = 20.0
"""Seconds after which a compiler is given up."""


class CannotCompileError(Exception):
    """Why there is no machine code, as the end of a sentence."""


def library(source: str) -> ctypes.CDLL:
    """The functions of a C source.

    Raises
    ------
    CannotCompileError
        If they are switched off, there is no compiler, or it fails.
    """
    if switched_off():
        raise CannotCompileError(f"compiled code is switched off by {SWITCH}=0")
    found = list(filter(None, map(shutil.which, COMPILERS)))
    reason = f"no C compiler named {', '.join(COMPILERS)} was found"
    for compiler in {os.path.realpath(path): path for path in found}.values():
        made = _made(compiler, source)
        if not isinstance(made, str):
            return made
        reason = made
    raise CannotCompileError(reason)


def switched_off() -> bool:
    """Whether everything is to be left to PyTorch."""
    return os.environ.get(SWITCH, "") == "0"


@lru_cache(maxsize=32)
def _made(compiler: str, source: str) -> ctypes.CDLL | str:
    """The library, or why there is none; a compiler that fails is not asked twice."""
    told = "\n".join([source, compiler, *FLAGS, *_machine()])
    key, folder = hashlib.sha256(told.encode()).hexdigest(), _folder()
    kept = _kept(folder, key)
    if kept is not None:
        return kept
    try:
        with tempfile.TemporaryDirectory(prefix="gflow-") as scratch:
            made = _compiled(compiler, source, Path(scratch))
            library = ctypes.CDLL(str(made))
            with contextlib.suppress(OSError):  # a folder that cannot be written costs time alone
                _keep(made.read_bytes(), folder, key)
            return library
    except (OSError, subprocess.SubprocessError) as error:
        return f"{compiler} could not be used ({_told(error)})"


def _compiled(compiler: str, source: str, folder: Path) -> Path:
    written, made = folder / "source.c", folder / "made.so"
    written.write_text(source)
    for native in NATIVE:
        command = [compiler, *FLAGS, *native, str(written), "-o", str(made), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=LIMIT)
            break
        except subprocess.CalledProcessError:
            if native == NATIVE[-1]:
                raise
    return made


def _folder() -> Path | None:
    """Where what was compiled is kept for this user, if there is a place for that."""
    caches = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(caches) if os.path.isabs(caches) else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None
    return base / "gflow" / "compiled"


def _kept(folder: Path | None, key: str) -> ctypes.CDLL | None:
    """A library that was kept, is whole, and that nobody else can have written."""
    with contextlib.suppress(OSError):
        for path in [] if folder is None else folder.glob(f"{key}-*.so"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if path.stem == f"{key}-{digest}" and _is_own(path):
                return ctypes.CDLL(str(path))
    return None


def _is_own(path: Path) -> bool:
    if not hasattr(os, "getuid"):
        return False
    found = path.stat(), path.parent.stat()
    return all(each.st_uid == os.getuid() and not each.st_mode & 0o022 for each in found)


def _machine() -> tuple[str, ...]:
    """What code for this processor depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = [line for line in lines if line.startswith(("flags", "Features"))]
    return platform.system(), platform.machine(), platform.processor(), *flags[:1]


def _keep(made: bytes, folder: Path | None, key: str) -> None:
    """Put the library into its place at once, for the user alone."""
    if folder is None:
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held, place = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(held, "wb") as file:
            file.write(made)
        os.replace(place, folder / f"{key}-{hashlib.sha256(made).hexdigest()}.so")
    except OSError:
        os.unlink(place)
        raise


def _told(error: Exception) -> str:
    """The first line that says what was wrong."""
    stderr = getattr(error, "stderr", None)
    said = stderr.decode(errors="replace") if stderr else str(error)
    lines = [line for line in said.splitlines() if "error" in line.lower()]
    return (lines or said.splitlines() or [type(error).__name__])[0].strip()


def source_of(
    files: Sequence[str], numbers: Mapping[str, float], tables: Mapping[str, np.ndarray]
) -> str:
    """Files of this package in their order, after the first one the constants that they name."""
    lines = []
    for name, number in numbers.items():
        lines.append(f"#define {name} {number!r}")
    for name, table in tables.items():
        shape = "".join(f"[{length}]" for length in table.shape)
        lines.append(f"static const double {name}{shape} = {_braced(table)};")
    texts = [resources.files(__package__).joinpath(file).read_text() for file in files]
    return "\n".join([texts[0], *lines, *texts[1:]])


def _braced(table: np.ndarray) -> str:
    if table.ndim == 0:
        return repr(float(table))
    return "{" + ", ".join(_braced(np.asarray(row)) for row in table) + "}"
