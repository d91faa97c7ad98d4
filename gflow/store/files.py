"""Datasets on disk: netCDF4 that plain ``xarray.open_datatree`` opens."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gflow.errors import StoreError
from gflow.schema import validate
from gflow.wording import similar_files

if TYPE_CHECKING:
    import xarray as xr

SUFFIXES = (".nc", ".nc4")


def check_output(path: str | Path, overwrite: bool = False) -> Path:
    """Check that a dataset can be written to `path`, before any work is done for it.

    Raises
    ------
    StoreError
        If the file exists and `overwrite` is false, or its folder cannot be written to.
    """
    target = Path(path)
    if target.is_dir():
        raise StoreError(f"{target} is a folder; name a file in it, e.g. {target / 'run.nc'}.")
    if target.exists() and not overwrite:
        raise StoreError(
            f"{target} exists; choose another name, or pass --overwrite (overwrite=True in Python)."
        )
    folder = target.parent
    if not folder.is_dir():
        raise StoreError(f"The folder {folder} does not exist; create it first.")
    if not os.access(folder, os.W_OK):
        raise StoreError(f"The folder {folder} cannot be written to; choose another one.")
    return target


def check_dataset(path: str | Path, overwrite: bool = False, inputs: Sequence[Path] = ()) -> Path:
    """The same for a dataset, which is a .nc file and none of the run's `inputs`."""
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise StoreError(f"{target} must end in {' or '.join(SUFFIXES)}, as netCDF4 files do.")
    if any(target.resolve() == one.resolve() for one in inputs):
        raise StoreError(f"{target} is an input of this run; write to another file.")
    return check_output(target, overwrite)


def save(tree: xr.DataTree, path: str | Path, overwrite: bool = False) -> Path:
    """Write a validated tree; the file appears whole or not at all.

    Parameters
    ----------
    tree : xarray.DataTree
        From :func:`gflow.integrate`, :func:`gflow.descend` or :func:`gflow.compare`.
    path : str or Path
        E.g. ``"run.nc"``.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    StoreError
        If the file exists, or cannot be written.
    SchemaError
        If the tree is no gflow dataset.
    """
    target = check_dataset(path, overwrite)
    validate(tree)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        tree.to_netcdf(part, engine="netcdf4", format="NETCDF4")
        # mkstemp makes files that only their owner reads; a result is an ordinary file.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(target)
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{target} could not be written: {error}.") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    return target


def open_tree(path: str | Path) -> xr.DataTree:
    """Read a dataset into memory, validated.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    StoreError
        If there is no such file, or it is no netCDF4 file.
    SchemaError
        If it does not follow the schema.
    """
    import xarray as xr

    source = Path(path)
    if not source.is_file():
        what = "is a folder, not a file" if source.is_dir() else "does not exist"
        raise StoreError(f"{source} {what}.{similar_files(source, SUFFIXES)}")
    try:
        with xr.open_datatree(source, engine="netcdf4") as lazy:
            tree = lazy.load()
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(f"{source} cannot be read as netCDF4: {reason}") from None
    validate(tree)
    return tree
