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
LIMIT = 60.0
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
    if os.environ.get(SWITCH, "") == "0":
        raise CannotCompileError(f"compiled code is switched off by {SWITCH}=0")
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise CannotCompileError(f"no C compiler named {', '.join(COMPILERS)} was found")
    made = _made(compiler, source)
    if isinstance(made, str):
        raise CannotCompileError(made)
    return made


@lru_cache(maxsize=32)
def _made(compiler: str, source: str) -> ctypes.CDLL | str:
    """The library, or why there is none; a compiler that fails is not asked twice."""
    told = "\n".join([source, compiler, *FLAGS, *_machine()])
    kept = _folder() / f"{hashlib.sha256(told.encode()).hexdigest()}.so"
    with contextlib.suppress(OSError):  # there is none yet, or it is damaged
        if _is_own(kept):
            return ctypes.CDLL(str(kept))
    try:
        with tempfile.TemporaryDirectory(prefix="gflow-") as folder:
            made = _compiled(compiler, source, Path(folder))
            library = ctypes.CDLL(str(made))
            with contextlib.suppress(OSError):  # a folder that cannot be written costs time alone
                _keep(made, kept)
            return library
    except (OSError, subprocess.SubprocessError) as error:
        return f"{compiler} could not be used ({_told(error)})"


def _compiled(compiler: str, source: str, folder: Path) -> Path:
    written, made = folder / "source.c", folder / "made.so"
    written.write_text(source)
    for native in NATIVE:
        command = [compiler, *FLAGS, *native, str(written), "-o", str(made), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT)
            break
        except subprocess.CalledProcessError:
            if native == NATIVE[-1]:
                raise
    return made


def _folder() -> Path:
    """Where what was compiled is kept, for this user and processor."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(caches) / "gflow" / "compiled"


def _is_own(path: Path) -> bool:
    """Whether nobody else can have written there."""
    return all(
        each.stat().st_uid == os.getuid() and not each.stat().st_mode & 0o022
        for each in (path, path.parent)
    )


def _machine() -> tuple[str, ...]:
    """What code for this processor depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = [line for line in lines if line.startswith(("flags", "Features"))]
    return platform.system(), platform.machine(), platform.processor(), *flags[:1]


def _keep(made: Path, kept: Path) -> None:
    """Put the library into its place at once, for the user alone."""
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    held, place = tempfile.mkstemp(dir=kept.parent)
    try:
        with os.fdopen(held, "wb") as file:
            file.write(made.read_bytes())
        os.replace(place, kept)
    except OSError:
        os.unlink(place)
        raise


def _told(error: Exception) -> str:
    """The first line that says what was wrong."""
    said = getattr(error, "stderr", None) or str(error)
    lines = [line for line in str(said).splitlines() if "error" in line.lower()]
    return (lines or str(said).splitlines() or [type(error).__name__])[0].strip()


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
