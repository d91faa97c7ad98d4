"""Provenance: everything needed to trust a dataset is in its root."""

from __future__ import annotations

import re
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import torch

import gflow
from gflow.schema import LATER_ATTRIBUTES, ROOT_ATTRIBUTES
from gflow.store import provenance


@pytest.fixture
def problem() -> gflow.Problem:
    return gflow.Problem(gflow.LinearDEQ(1), [[0.5], [1.0]], [1.0, 2.0], dtype="float32")


def test_the_root_has_exactly_the_schema_s_attributes(problem: gflow.Problem) -> None:
    attributes = provenance.root_attributes([problem], provenance.Provenance("c", "d"), 1.5)
    assert set(attributes) == {*ROOT_ATTRIBUTES, *LATER_ATTRIBUTES}
    assert attributes["command"] == "c"
    assert attributes["config"] == "d"
    assert attributes["wall_seconds"] == 1.5
    assert attributes["dtype"] == "float32"
    assert attributes["device"] == "cpu"
    assert attributes["threads"] == torch.get_num_threads()
    assert datetime.fromisoformat(attributes["created_at"]).tzinfo is not None


def test_versions_name_the_packages_that_decide_the_numbers() -> None:
    text = provenance.versions()
    assert f"torch {torch.__version__.split('+')[0]}" in text
    for name in ("python", "torchdiffeq", "scipy", "numpy", "xarray", "netCDF4"):
        assert re.search(rf"\b{name} \d", text)


def test_the_revision_is_that_of_the_checkout() -> None:
    folder = Path(gflow.__file__).resolve().parents[1]
    provenance.git_revision.cache_clear()
    revision = provenance.git_revision()
    if not (folder / ".git").exists():
        assert revision == ""
        return
    head = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert revision in (head, head + "+dirty")


def test_the_hash_follows_the_data(problem: gflow.Problem) -> None:
    def digest(p: gflow.Problem) -> str:
        return str(provenance.root_attributes([p], provenance.Provenance(), 0.0)["data_sha256"])

    assert digest(problem) == digest(problem)
    assert digest(problem) != digest(problem.on([[0.5], [1.0]], [1.0, 2.5]))
