"""Datasets on disk: what is written is read, and what cannot be is said."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import gflow
from gflow.ctrl_c import undisturbed
from gflow.errors import SchemaError, StoreError


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    problem = gflow.Problem(gflow.LinearDEQ(1), [[0.5], [1.0]], [1.0, 2.0], theta_target=[2, 0])
    return gflow.compare(
        problem,
        [0.1, 0.0],
        [0.01, 0.3],
        1.0,
        times=5,
        evaluation=([[2.0]], [4.0]),
        observables={"phi": lambda theta: theta[0] / (1 - theta[1]), "pair": lambda theta: theta},
    )


def test_a_saved_tree_comes_back_identical(tree: xr.DataTree, tmp_path: Path) -> None:
    path = gflow.save(tree, tmp_path / "run.nc")
    back = gflow.open(path)
    assert back.identical(tree)
    gflow.validate(back)


def test_plain_xarray_opens_the_file(tree: xr.DataTree, tmp_path: Path) -> None:
    path = gflow.save(tree, tmp_path / "run.nc")
    with xr.open_datatree(path) as plain:
        assert set(plain.children) == {
            "problem",
            "flow",
            "flow_steps",
            "descent",
            "comparison",
            "reference",
        }
        assert str(plain["flow"].status.values) == "t_end"


def test_an_ensemble_comes_back_identical(tmp_path: Path) -> None:
    problem = gflow.Problem(gflow.LinearDEQ(1), [[0.5], [1.0]], [1.0, 2.0])
    tree = gflow.integrate(problem, [[0.1, 0.0], [0.5, 1.0], [0.3, -1.0]], 1.0, times=4)
    assert gflow.open(gflow.save(tree, tmp_path / "run.nc")).identical(tree)


def test_nothing_is_left_beside_the_file(tree: xr.DataTree, tmp_path: Path) -> None:
    gflow.save(tree, tmp_path / "run.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["run.nc"]
    mode = stat.S_IMODE((tmp_path / "run.nc").stat().st_mode)
    assert mode & stat.S_IRUSR
    assert not mode & stat.S_IXUSR


def test_an_existing_file_is_kept_unless_asked(tree: xr.DataTree, tmp_path: Path) -> None:
    target = tmp_path / "run.nc"
    target.write_text("precious")
    with pytest.raises(StoreError, match="exists; choose another name, or pass --overwrite"):
        gflow.save(tree, target)
    assert target.read_text() == "precious"
    gflow.save(tree, target, overwrite=True)
    assert gflow.open(target).identical(tree)


def test_an_invalid_tree_is_not_written(tree: xr.DataTree, tmp_path: Path) -> None:
    broken = tree.copy()
    del broken.attrs["config"]
    with pytest.raises(SchemaError, match="lacks the attribute config"):
        gflow.save(broken, tmp_path / "run.nc")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_said_before_any_work(tmp_path: Path) -> None:
    from gflow.store.files import check_output

    with pytest.raises(StoreError, match="does not exist; create it first"):
        check_output(tmp_path / "no" / "run.nc")
    with pytest.raises(StoreError, match="is a folder; name a file in it"):
        check_output(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission_is_said(tmp_path: Path) -> None:
    from gflow.store.files import check_output

    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="cannot be written to"):
        check_output(tmp_path / "run.nc")


def test_a_missing_file_is_said_with_what_is_close(tree: xr.DataTree, tmp_path: Path) -> None:
    gflow.save(tree, tmp_path / "run.nc")
    with pytest.raises(StoreError, match=r"does not exist\. Did you mean run\.nc\?"):
        gflow.open(tmp_path / "rum.nc")
    with pytest.raises(StoreError, match="is a folder"):
        gflow.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + bytes(100), b"CDF\x01"])
def test_a_file_that_is_no_dataset_is_said(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.nc"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"odd\.nc cannot be read as netCDF4"):
        gflow.open(path)


def test_another_netcdf_file_is_refused(tmp_path: Path) -> None:
    xr.Dataset({"a": ("b", [1.0])}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(SchemaError, match="Not a gflow dataset"):
        gflow.open(tmp_path / "other.nc")


def test_a_dataset_is_a_netcdf_file_and_no_input(tmp_path: Path) -> None:
    from gflow.store.files import check_dataset

    with pytest.raises(StoreError, match=r"must end in \.nc or \.nc4"):
        check_dataset(tmp_path / "run.csv")
    source = tmp_path / "data.nc"
    source.touch()
    with pytest.raises(StoreError, match="is an input of this run"):
        check_dataset(source, overwrite=True, inputs=[source])


def test_ctrl_c_waits_until_a_file_is_whole(
    tree: xr.DataTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_netcdf = xr.DataTree.to_netcdf

    def disturbed(self: xr.DataTree, *given: Any, **named: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        to_netcdf(self, *given, **named)

    path = tmp_path / "run.nc"
    monkeypatch.setattr(xr.DataTree, "to_netcdf", disturbed)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
    try:
        with pytest.raises(KeyboardInterrupt):
            gflow.save(tree, path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert gflow.open(path).identical(tree)
    assert [one.name for one in tmp_path.iterdir()] == ["run.nc"]


def test_ctrl_c_is_let_through_the_second_time() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            assert not seen
            signal.raise_signal(signal.SIGINT)
            assert len(seen) == 1
        assert len(seen) == 2
    finally:
        signal.signal(signal.SIGINT, before)
