"""Datasets on disk: netCDF4 that plain ``xarray.open_datatree`` opens."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING

from gflow import inspection
from gflow.ctrl_c import undisturbed
from gflow.errors import StoreError
from gflow.store import lazy
from gflow.validation import validate
from gflow.wording import similar_files

if TYPE_CHECKING:
    import xarray as xr

    from gflow.store.lazy import Chunks

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
    folder = behind(target).parent
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
    replace_file(tree, target)
    return target


def replace_file(tree: xr.DataTree, target: Path) -> None:
    """Write a validated tree in the place of whatever is there, whole or not at all.

    Raises
    ------
    StoreError
        If it cannot be written.
    SchemaError
        If the tree is no gflow dataset.
    """
    validate(tree)
    with undisturbed():
        _replace(tree, target)


def _replace(tree: xr.DataTree, target: Path) -> None:
    part: Path | None = None
    try:
        place = behind(target)
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.", suffix=".part")
        os.close(handle)
        part = Path(name)
        tree.to_netcdf(part, engine="netcdf4", format="NETCDF4")
        # mkstemp makes files that only their owner reads; a result is an ordinary file.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(place)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"{target} could not be written: {reason}.") from None
    finally:
        with contextlib.suppress(OSError):
            if part is not None:
                part.unlink()


def behind(target: Path) -> Path:
    """The file to which a link leads, which stays a link; any other path as it is."""
    return target.resolve() if target.is_symlink() else target


Version = tuple[int, int, int]


def version_of(path: Path) -> Version | None:
    """What tells a file from one that has taken its place; None if there is none."""
    try:
        told = path.stat()
    except (OSError, ValueError):
        return None
    return told.st_ino, told.st_mtime_ns, told.st_size


def clear(folder: Path, name: str | None = None) -> None:
    """Remove what a killed process had begun to write in the place of a file, or of any one.

    Only the one who holds the lock may.
    """
    pattern = "*" if name is None else glob.escape(name)
    for part in folder.glob(f".{pattern}.????????.part"):
        with contextlib.suppress(OSError):
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink()


def check_file(source: Path) -> None:
    """Check that there is an ordinary file to read.

    Raises
    ------
    StoreError
        If there is none, or it is a folder, a pipe or a device.
    """
    try:
        mode = source.stat().st_mode
    except FileNotFoundError:
        hint = similar_files(source, SUFFIXES)
        raise StoreError(f"{source} does not exist.{hint}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"{source} cannot be read: {reason}.") from None
    if not S_ISREG(mode):
        raise StoreError(f"{source} is {'a folder' if S_ISDIR(mode) else 'a device'}, not a file.")


def open_tree(path: str | Path, chunks: Chunks = None) -> xr.DataTree:
    """Read a dataset into memory, validated; or open it, to be read as it is used.

    Nothing in the file is executed and no other file is followed; what it declares is checked
    before it is loaded, see :mod:`gflow.inspection`.

    Parameters
    ----------
    path : str or Path
    chunks : mapping or "auto", optional
        Open it lazily, backed by dask arrays of these chunks; ``{}`` for the file's own.

    Raises
    ------
    StoreError
        If there is no such file, or it is no netCDF4 file or Zarr store, or a damaged one.
    SchemaError
        If it does not follow the schema.
    """
    inspection.begin()
    import xarray as xr

    source = Path(path)
    if source.suffix != lazy.ZARR:
        check_file(source)
        wrong = inspection.fault(source, None if chunks is None else [])
        if wrong:
            raise StoreError(f"{source} {wrong}")
    if chunks is not None or source.suffix == lazy.ZARR:
        return lazy.open_lazy(source, chunks)
    try:
        with (
            undisturbed(),
            xr.open_datatree(source, engine="netcdf4", decode_times=False) as opened,
        ):
            tree = opened.load()
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise StoreError(f"{source} cannot be read as netCDF4: {reason}") from None
    validate(tree)
    return tree
