"""Datasets that are read when they are used, and Zarr stores."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gflow import inspection
from gflow.errors import StoreError
from gflow.validation import validate
from gflow.wording import show

if TYPE_CHECKING:
    import xarray as xr

ZARR = ".zarr"
"""Suffix of a Zarr store, which is a folder."""

CODECS = {"blosc", "gzip", "lz4", "shuffle", "vlen-utf8", "zlib", "zstd"}
"""Codecs of a Zarr store that is read; others, such as pickle, may execute what they decode."""

Chunks = Mapping[str, int] | str | None


def need(package: str, extra: str, what: str) -> None:
    """Refuse, by a StoreError, what needs a package of an extra that is not installed."""
    if importlib.util.find_spec(package) is None:
        raise StoreError(f"{what} needs {package}, which is not installed; install gflow[{extra}].")


def open_lazy(path: Path, chunks: Chunks) -> xr.DataTree:
    """Open a dataset, validated, without reading its values unless `chunks` is None.

    Parameters
    ----------
    path : Path
        A netCDF4 file or a Zarr store.
    chunks : mapping, "auto" or None
        As :func:`xarray.open_datatree` takes them: ``{}`` for the file's own.

    Raises
    ------
    StoreError
        If it cannot be read, or needs a package that is not installed.
    SchemaError
        If it does not follow the schema.
    """
    import xarray as xr

    is_zarr = path.suffix == ZARR
    if is_zarr:
        need("zarr", "zarr", f"Reading {path}")
    if chunks is not None:
        need("dask", "zarr", "Reading with chunks")
    wrong = _zarr_fault(path) if is_zarr else _file_fault(path)
    if wrong:
        raise StoreError(f"{path} {wrong}")
    options: dict[str, Any] = {"engine": "zarr", "zarr_format": 2} if is_zarr else {}
    options |= {"chunks": chunks, "decode_times": False}
    try:
        tree = xr.open_datatree(path, **options)
        if chunks is None:
            with tree:
                tree = tree.load()
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = "Zarr" if is_zarr else "netCDF4"
        raise StoreError(f"{path} cannot be read as {what}: {reason}") from None
    validate(tree)
    return tree


def _file_fault(path: Path) -> str:
    return inspection.fault(path, ()) if path.is_file() else "does not exist."


def _zarr_fault(path: Path) -> str:
    """What is wrong with a store; its arrays may have harmless codecs alone."""
    if not path.is_dir():
        return "does not exist."
    try:
        for file in (*path.rglob(".zarray"), *path.rglob(".zmetadata")):
            unknown = set(_codecs(json.loads(file.read_bytes()))) - CODECS
            if unknown:
                return f"has the codec {show(min(unknown))}, by which gflow reads nothing."
    except (OSError, ValueError, RecursionError) as error:
        return f"cannot be read as Zarr: {str(error).splitlines()[0]}."
    return ""


def _codecs(metadata: Any) -> Iterator[str]:
    """The names of codecs anywhere in an array's or a store's metadata."""
    inner = metadata.values() if isinstance(metadata, dict) else metadata
    if isinstance(metadata, dict) and "id" in metadata:
        yield str(metadata["id"])
    for value in inner if isinstance(metadata, dict | list) else ():
        yield from _codecs(value)


def to_zarr(source: Path, target: Path) -> None:
    """Copy a netCDF4 file to a Zarr store, format 2, a chunk at a time."""
    need("zarr", "zarr", f"Writing {target}")
    with open_lazy(source, {}) as tree:
        tree.to_zarr(target, mode="w", zarr_format=2)
