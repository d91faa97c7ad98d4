"""What the fuzz tests share: how many inputs there are, how they are damaged and how judged."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gflow.errors import GflowError

Rng = np.random.Generator

COUNTS = {
    "config keys": (150, 3000),
    "config bytes": (200, 3000),
    "table text": (300, 3000),
    "table netcdf": (40, 700),
    "run bytes": (20, 800),
    "run values": (20, 400),
    "checkpoint": (100, 1000),
    "command line": (150, 1500),
    "arrays": (150, 1500),
}
"""Inputs of each kind: those of every day, and those of the slow tests."""

WIDER = int(os.environ.get("GFLOW_FUZZ", "1"))
"""Factor by which there are more inputs, each another one."""

LENGTHS = (0, 1, 127, 128, 255, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def inputs(kind: str) -> pytest.MarkDecorator:
    """Parametrize a test by the seeds of its inputs: ``seeds``, a range."""
    daily, full = (count * WIDER for count in COUNTS[kind])
    rest = pytest.param(range(daily, full), marks=pytest.mark.slow)
    return pytest.mark.parametrize("seeds", [range(daily), rest], ids=["some", "all"])


def generators(seeds: range) -> Iterator[tuple[int, Rng]]:
    """A generator of random numbers for each seed."""
    for seed in seeds:
        yield seed, np.random.default_rng(seed)


def outcome(seed: int, call: Callable[[], Any]) -> str:
    """Empty for a result, else the sentence; anything else that is raised is a failed test."""
    try:
        call()
    except GflowError as error:
        assert_sentence(seed, str(error))
        return str(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = "".join(traceback.format_tb(error.__traceback__)[-3:])
        pytest.fail(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}\n{where}")
    return ""


def assert_sentence(seed: int, text: str) -> None:
    """One sentence or a few: it ends as such, and has a length that is read."""
    assert text.strip(), f"seed {seed}: an error without words"
    assert len(text) < 10_000, f"seed {seed}: {len(text)} letters: {text[:300]}"
    assert "Traceback" not in text


def pick(rng: Rng, values: Any) -> Any:
    """One of several values, as it is."""
    return values[int(rng.integers(len(values)))]


def mutated(data: bytes, rng: Rng) -> bytes:
    """A damaged copy: bits flipped, ranges emptied, copied, cut or put elsewhere, sizes changed."""
    found = bytearray(data)
    for _ in range(pick(rng, (1, 1, 2, 4, 16))):
        size = len(found)
        if not size:
            break
        at, length = int(rng.integers(size)), int(rng.integers(1, 65))
        source = int(rng.integers(size))
        width = pick(rng, (1, 2, 4, 8))
        number = pick(rng, LENGTHS) % 256**width
        kind = int(rng.integers(9))
        if kind == 0:
            found[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            found[at] = int(rng.integers(256))
        elif kind == 2:
            found[at : at + length] = bytes(length)
        elif kind == 3:
            found[at : at + length] = found[source : source + length]
        elif kind == 4:
            found[at:at] = found[source : source + length]
        elif kind == 5:
            del found[at : at + length]
        elif kind == 6 and rng.random() < 0.2:
            del found[at:]
        else:
            found[at : at + width] = number.to_bytes(width, "little")
    return bytes(found)
