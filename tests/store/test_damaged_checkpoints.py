"""A checkpoint whose parts are not what they must be is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import gflow
from gflow.errors import StoreError
from gflow.store.checkpoint import NAME, checkpoint_group, read_checkpoint


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> xr.DataTree:
    problem = gflow.Problem(gflow.LinearDEQ(1), [[0.5], [1.0]], [1.0, 2.0])
    path: Path = tmp_path_factory.mktemp("runs") / "run.nc"
    gflow.integrate(problem, [0.1, 0.0], 1.0, times=3, stop={"max_steps": 3}, output=path)
    return gflow.open(path)


@pytest.mark.parametrize(
    "part",
    ["kind", "theta0", "arguments", "beside", "method", "reached", "resumed", "problem", "folder"],
)
@pytest.mark.parametrize("value", [7, [1, "x"], np.arange(3.0)], ids=["number", "list", "array"])
def test_a_damaged_part_is_named(tree: xr.DataTree, part: str, value: Any) -> None:
    payload = read_checkpoint(tree)
    damaged = tree.copy()
    damaged[NAME] = xr.DataTree(checkpoint_group({**payload, part: value}))
    with pytest.raises(StoreError, match=f"its {part} is missing or damaged"):
        read_checkpoint(damaged)


def test_a_missing_part_is_named(tree: xr.DataTree) -> None:
    payload = read_checkpoint(tree)
    del payload["folder"]
    damaged = tree.copy()
    damaged[NAME] = xr.DataTree(checkpoint_group(payload))
    with pytest.raises(StoreError, match="its folder is missing or damaged"):
        read_checkpoint(damaged)
