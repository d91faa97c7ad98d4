"""A sweep's dataset on disk: written cell by cell, so that it need not fit into memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr

from gflow.errors import StoreError
from gflow.schema import attributes
from gflow.store.files import SUFFIXES, check_dataset, check_output
from gflow.store.lazy import ZARR, need, to_zarr
from gflow.sweeps.cells import Groups
from gflow.sweeps.layout import Layout, coordinate_attributes
from gflow.sweeps.over import Axis
from gflow.validation import validate
from gflow.wording import any_of

_PACKED = "flow_steps"
"""The group that is padded most, and is compressed for it."""


class Writer:
    """A netCDF4 file of a sweep, which takes the cells in any order.

    Parameters
    ----------
    path : Path
    axes : sequence of Axis
    layout : Layout
        Finished.
    """

    def __init__(self, path: Path, axes: Sequence[Axis], layout: Layout) -> None:
        self.axes, self.layout = axes, layout
        self.file = netCDF4.Dataset(path, "w", format="NETCDF4")
        for name in layout.groups:
            self._make_group(name)

    def write(self, index: tuple[int, ...], groups: Groups) -> None:
        """Write a cell; {} writes that there is nothing."""
        # Slices, since netCDF4 takes no single text at a place of its own.
        place = tuple(slice(one, one + 1) for one in index)
        lead = (1,) * len(index)
        for name in self.layout.groups:
            target = self.file[name]
            for key, values in self.layout.values(name, groups):
                target.variables[key][place] = values.reshape(lead + values.shape)

    def write_sweep(self, tables: Mapping[str, np.ndarray], attrs: Mapping[str, Any]) -> None:
        """Write the group ``/sweep``: tables over the axes, and its attributes."""
        group = self.file.createGroup("sweep")
        self._make_axes(group)
        for name, table in tables.items():
            kind = str if table.dtype == object else table.dtype
            variable = group.createVariable(name, kind, [axis.key for axis in self.axes])
            variable.setncatts(attributes("sweep", name))
            variable[:] = table
        group.setncatts(dict(attrs))

    def write_root(self, attrs: Mapping[str, Any]) -> None:
        """Write the root's attributes."""
        self.file.setncatts(dict(attrs))

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _make_group(self, name: str) -> None:
        made, group = self.layout.groups[name], self.file.createGroup(name)
        self._make_axes(group)
        for dim, labels in made.labels.items():
            _make_coordinate(group, dim, labels, coordinate_attributes(dim))
        sizes = tuple(1 for _ in self.axes)
        for key, variable in made.variables.items():
            chunks = (*sizes, *made.shape(key))
            packed = name == _PACKED and variable.kind != "U" and 0 not in chunks
            options: Any = {"compression": "zlib", "chunksizes": chunks} if packed else {}
            dims = [axis.key for axis in self.axes] + list(variable.dims)
            target = group.createVariable(key, variable.dtype, dims, **options)
            target.setncatts(variable.attrs)
        group.setncatts(made.attrs)

    def _make_axes(self, group: Any) -> None:
        for axis in self.axes:
            told = {"long_name": f"the key {axis.key} of the configuration", "units": "1"}
            _make_coordinate(group, axis.key, axis.labels, told)


def check_target(target: Path, overwrite: bool, inputs: Sequence[Path]) -> None:
    """Check that a dataset can be written there, before any work is done for it.

    Raises
    ------
    StoreError
        If the path is none of a .nc file or a .zarr store, exists and `overwrite` is false, is
        something else or one of the `inputs`, or cannot be written.
    """
    if target.suffix != ZARR:
        if target.suffix not in SUFFIXES:
            raise StoreError(f"{target} must end in {any_of([*SUFFIXES, ZARR])}.")
        check_dataset(target, overwrite, inputs)
        return
    for package in ("zarr", "dask"):
        need(package, "zarr", f"Writing {target}")
    if target.exists() and not (target / ".zgroup").exists():
        raise StoreError(f"{target} is no Zarr store; choose another name.")
    if target.exists() and not overwrite:
        raise StoreError(
            f"{target} exists; choose another name, or pass --overwrite (overwrite=True in Python)."
        )
    check_output(target.with_name(f".{target.name}.part"))


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A netCDF file to be written, which becomes `target` at the end, whole or not at all.

    For a target that ends in .zarr it is turned into a Zarr store, through dask, a chunk at a time.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    made = folder / "sweep.nc"
    try:
        yield made
        with xr.open_datatree(made, engine="netcdf4") as tree:
            validate(tree)
        if target.suffix == ZARR:
            to_zarr(made, folder / "sweep.zarr")
            made = folder / "sweep.zarr"
        _replace(made, target)
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{target} could not be written: {error}.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(made: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(made, target)


def _make_coordinate(group: Any, name: str, labels: np.ndarray, attrs: Mapping[str, str]) -> None:
    group.createDimension(name, len(labels))
    variable = group.createVariable(name, str if labels.dtype == object else labels.dtype, (name,))
    variable.setncatts(dict(attrs))
    variable[:] = labels
