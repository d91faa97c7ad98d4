from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import gflow
from gflow.errors import SchemaError, StoreError
from gflow.store.lazy import need, to_zarr


class Bomb:
    """Touches a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    problem = gflow.Problem(gflow.LinearDEQ(dim=1), x=[[0.5], [1.0]], y=[1.0, 2.0])
    tree = gflow.integrate(problem, [0.1, 0.0], t_end=1.0, times=5)
    return gflow.save(tree, tmp_path / "run.nc")


def test_any_dataset_is_read_lazily_as_it_is_read_at_once(saved):
    whole = gflow.open(saved)
    for chunks in ({}, "auto", {"time": 2}):
        with gflow.open(saved, chunks=chunks) as tree:
            assert tree["flow"].theta.chunks is not None
            np.testing.assert_array_equal(tree["flow"].theta.values, whole["flow"].theta.values)
    assert gflow.open(saved, chunks=None)["flow"].theta.chunks is None


def test_a_zarr_store_holds_the_same(saved, tmp_path):
    to_zarr(saved, tmp_path / "run.zarr")
    whole, stored = gflow.open(saved), gflow.open(tmp_path / "run.zarr")
    assert stored.attrs == whole.attrs
    for name, node in whole.children.items():
        for key, array in node.data_vars.items():
            np.testing.assert_array_equal(stored[name][key].values, array.values)


def test_what_cannot_be_read_is_told(saved, tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        gflow.open(tmp_path / "no.zarr")
    with pytest.raises(StoreError, match="does not exist"):
        gflow.open(tmp_path / "no.nc", chunks={})
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(StoreError):
        gflow.open(tmp_path / "empty.zarr")
    (tmp_path / "text.nc").write_text("no")
    with pytest.raises(StoreError, match="cannot be read as netCDF4"):
        gflow.open(tmp_path / "text.nc", chunks={})
    to_zarr(saved, tmp_path / "run.zarr")
    shutil.rmtree(tmp_path / "run.zarr" / "flow_steps")
    (tmp_path / "run.zarr" / ".zmetadata").unlink()
    with pytest.raises((SchemaError, StoreError)):
        gflow.open(tmp_path / "run.zarr")


@pytest.mark.parametrize("consolidated", [True, False])
def test_a_store_with_pickles_is_refused_and_executes_nothing(saved, tmp_path, consolidated):
    numcodecs = pytest.importorskip("numcodecs")
    store, touched = tmp_path / "run.zarr", tmp_path / "touched"
    to_zarr(saved, store)
    told = {"zarr_format": 2, "shape": [5], "chunks": [5], "dtype": "<f8", "fill_value": None}
    told |= {"order": "C", "filters": None, "compressor": {"id": "pickle", "protocol": 5}}
    if consolidated:
        whole = json.loads((store / ".zmetadata").read_text())
        whole["metadata"]["flow/loss/.zarray"] = told
        (store / ".zmetadata").write_text(json.dumps(whole))
    else:
        (store / "flow/loss/.zarray").write_text(json.dumps(told))
    bomb = np.array(Bomb(touched), dtype=object)
    (store / "flow/loss/0").write_bytes(numcodecs.Pickle().encode(bomb))
    with pytest.raises(StoreError, match='has the codec "pickle"'):
        gflow.open(store)
    assert not touched.exists()


def test_a_package_that_is_missing_is_told():
    with pytest.raises(StoreError) as caught:
        need("no_such_package", "zarr", "Reading it")
    assert str(caught.value) == (
        "Reading it needs no_such_package, which is not installed; install gflow[zarr]."
    )
