from __future__ import annotations

import shutil
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from gflow.sweeps.parts import Part
from gflow.sweeps.work import Outcome, run_part


class Inline:
    """Workers that are this process; it keeps the keys of the cells it ran."""

    ran: list[str]

    def __init__(self, workers: int) -> None:
        self.workers, self.running = workers, []

    def run(self, parts: Sequence[Part]) -> Generator[Outcome]:
        for part in parts:
            type(self).ran.extend(part.keys)
            yield run_part(part)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch, tmp_path) -> type[Inline]:
    """Sweeps without other processes, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gflow.sweeps.run.LocalPool", Inline)
    monkeypatch.setattr(Inline, "ran", [], raising=False)
    return Inline


@pytest.fixture
def base() -> dict:
    """A small configuration with [flow] and [descent]."""
    return {
        "model": {"kind": "linear"},
        "data": {"source": "teacher", "samples": 20, "seed": 1, "theta": [2.0, 0.0]},
        "start": {"seed": 2},
        "flow": {"t_end": 1.0, "times": 5, "rtol": 1e-5},
        "descent": {"step_sizes": [0.05], "records": 5},
    }


MODULE = """\
[model]
kind = "module"
factory = "maker.py:make"
dim = 2

[data]
source = "teacher"
samples = 5
seed = 1
theta = [1.0, 0.5, 0.0]

[start]
seed = 1

[flow]
t_end = 0.5
times = 3
"""


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with module.toml, whose factory tells which cells it was called for."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).with_name("maker.py"), tmp_path)
    (tmp_path / "module.toml").write_text(MODULE)
    return tmp_path
