from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gflow.cli import main

CONFIG = """\
[model]
kind = "linear"

[data]
source = "teacher"
samples = 20
seed = 1
theta = [2.0, 0.0]

[start]
seed = 2

[flow]
t_end = 1.0
times = 5

[descent]
step_sizes = [0.05, 0.1]
records = 5
"""

Gflow = Callable[..., Result]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small configuration in the current folder, which is empty but for it."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(CONFIG, encoding="utf-8")
    return "tiny.toml"


@pytest.fixture
def gflow() -> Gflow:
    """The command line."""
    return lambda *arguments: CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def saved(config: str, gflow: Gflow) -> Path:
    """The file of a small comparison."""
    assert gflow("compare", config, "-o", "saved.nc").exit_code == 0
    return Path("saved.nc")
