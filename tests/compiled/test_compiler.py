"""Compiling at use, and the sentences where that cannot be done."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from gflow.compiled import compiler
from gflow.compiled.compiler import CannotCompileError, library, source_of

compiles = pytest.mark.skipif(
    not any(map(shutil.which, compiler.COMPILERS)), reason="there is no C compiler"
)
TWICE = "double twice(double x) { return 2 * x; }"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache, on disk and in memory."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    compiler._made.cache_clear()
    yield folder / "gflow" / "compiled"
    compiler._made.cache_clear()


@compiles
def test_what_is_compiled_runs_and_leaves_no_folder(monkeypatch, tmp_path):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    twice = library(TWICE).twice
    twice.argtypes, twice.restype = [ctypes.c_double], ctypes.c_double
    assert twice(1.5) == 3.0
    assert not list((tmp_path / "temporary").iterdir())


@compiles
def test_it_is_compiled_once(monkeypatch, cache):
    first = library(TWICE)
    (kept,) = cache.iterdir()
    assert not kept.stat().st_mode & 0o077
    monkeypatch.setattr(compiler, "_compiled", None)
    assert library(TWICE) is first
    compiler._made.cache_clear()
    assert library(TWICE).twice  # as another process would


@compiles
@pytest.mark.parametrize(
    "damage", ["junk", "cut", "others may write it", "others may write the folder"]
)
def test_a_cache_that_cannot_be_trusted_is_replaced(monkeypatch, cache, damage):
    library(TWICE)
    (kept,) = cache.iterdir()
    if damage in ("junk", "cut"):
        content = kept.read_bytes()[:4096] if damage == "cut" else b"junk"
        kept.unlink()  # the library is loaded, and must not change under it
        kept.write_bytes(content)
    else:
        (kept if "it" in damage.split() else cache).chmod(0o777)
    compiler._made.cache_clear()
    compiled, times = compiler._compiled, []
    monkeypatch.setattr(
        compiler, "_compiled", lambda *given: times.append(given) or compiled(*given)
    )
    assert library(TWICE).twice
    assert len(times) == 1


def _no_home(monkeypatch):
    def missing(cls):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", classmethod(missing))


def _in_the_way(monkeypatch):
    path = Path(os.environ["XDG_CACHE_HOME"])
    path.write_text("a file")


def _no_user(monkeypatch):
    library(TWICE)
    compiler._made.cache_clear()
    monkeypatch.delattr(os, "getuid")


@compiles
@pytest.mark.parametrize("trouble", [_no_home, _in_the_way, _no_user])
def test_no_cache_can_be_had(monkeypatch, trouble):
    trouble(monkeypatch)
    assert library(TWICE).twice
    assert not Path("relative").exists()


@compiles
def test_the_next_compiler_is_tried(monkeypatch, tmp_path):
    _stand_in(tmp_path, "exit 1")
    real = next(filter(None, map(shutil.which, compiler.COMPILERS)))
    paths = {"cc": str(tmp_path / "cc"), "gcc": real}
    monkeypatch.setattr(shutil, "which", paths.get)
    assert library(TWICE).twice


@compiles
def test_many_processes_compile_at_once(cache):
    code = f"from gflow.compiled.compiler import library; print(library({TWICE!r}).twice)"
    many = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [one.wait() for one in many] == [0] * 4
    assert len(list(cache.iterdir())) == 1


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("GFLOW_COMPILED", "0")
    with pytest.raises(CannotCompileError, match="switched off by GFLOW_COMPILED=0"):
        library(TWICE)


def test_no_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CannotCompileError, match="no C compiler named cc, gcc, clang was found"):
        library(TWICE)


def _stand_in(folder, script):
    """A compiler that does what a script says."""
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'note: no' >&2; echo 'fatal error: math.h is missing' >&2; exit 1", "math.h is mis"),
        ("exit 3", "exit status 3"),
        ("exit 0", "made.so"),
        ('for f in "$@"; do case $f in *.so) echo junk > '
         '"$f";; esac; done', "made.so"),
        ("sleep 5", "timed out"),
        (r"printf 'error \351\n' >&2; exit 1", "error \ufffd"),
    ],
    ids=["fails", "is silent", "writes nothing", "writes junk", "hangs", "odd bytes"],
)  # fmt: skip
def test_a_compiler_that_cannot_be_used(monkeypatch, tmp_path, script, reason):
    _stand_in(tmp_path, script)
    monkeypatch.setattr(shutil, "which", {"cc": str(tmp_path / "cc")}.get)
    monkeypatch.setattr(compiler, "LIMIT", 0.3)
    with pytest.raises(CannotCompileError, match=reason) as told:
        library(TWICE)
    assert str(tmp_path / "cc") in str(told.value)
    monkeypatch.setattr(compiler, "_compiled", None)
    with pytest.raises(CannotCompileError, match=reason):  # not asked again
        library(TWICE)


@compiles
def test_a_compiler_that_does_not_know_this_machine(monkeypatch, tmp_path):
    real = next(filter(None, map(shutil.which, compiler.COMPILERS)))
    refuse = 'case "$*" in *native*) echo "error: unknown" >&2; exit 1;; esac'
    _stand_in(tmp_path, f'{refuse}\nexec {real} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert library(TWICE).twice


def test_constants_come_after_the_first_file():
    text = source_of(
        ("lanes.h", "linear.c"),
        {"COUNT": 3, "PART": 0.1},
        {"TABLE": np.array([[1.0, 2.0], [0.5, 1 / 3]])},
    )
    assert "#define COUNT 3\n#define PART 0.1\n" in text
    assert "static const double TABLE[2][2] = {{1.0, 2.0}, {0.5, 0.3333333333333333}};" in text
    assert text.index("typedef") < text.index("COUNT") < text.index("field(")
