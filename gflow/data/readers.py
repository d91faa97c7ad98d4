"""Numeric columns of CSV and netCDF files, with every wrong cell told in a sentence."""

from __future__ import annotations

import csv
import io
import math
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gflow import inspection
from gflow.errors import DataError
from gflow.wording import did_you_mean, show, similar_files

if TYPE_CHECKING:
    import xarray as xr

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
NETCDF_SUFFIXES = (".nc", ".nc4")

_CLASSES = "; classes that are words must be numbered, from 0 on"

BYTES_A_LETTER = 8
"""Memory that reading a table takes, for each byte of it."""


class Columns(NamedTuple):
    """Inputs x (n, d), targets y (n,) or (n, k), all float64 and finite, and the inputs' names."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    names: tuple[str, ...]


def read_table(path: str | Path, inputs: Sequence[str], target: str | Sequence[str]) -> Columns:
    """Read input columns, and a target column or several.

    Numbers are read exactly: each decimal becomes the nearest float64.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv`` or ``.txt``: UTF-8 text with a header line, separated by commas,
        semicolons or tabs; blank lines are skipped. ``.nc`` or ``.nc4``: netCDF.
    inputs
        Column names, or patterns such as ``"p*"`` for all that match but the targets. In netCDF:
        variables on the target's dimension, or one variable of shape
        (sample, feature), all of whose columns are used.
    target
        Column name, or one-dimensional variable; several give targets (n, k).

    Raises
    ------
    DataError
        If the file or a column is missing, unreadable or ambiguous, a cell used is not a finite
        number, or there are fewer than two rows.
    """
    path = Path(path)
    _check_file(path)
    read = _read_csv if path.suffix.lower() in CSV_SUFFIXES else _read_netcdf
    columns = read(path, inputs, [target] if isinstance(target, str) else target)
    if isinstance(target, str):
        columns = columns._replace(y=np.ascontiguousarray(columns.y[:, 0]))
    if len(columns.y) < 2:
        raise DataError(f"{path} has {len(columns.y)} rows of data; at least 2 are needed.")
    return columns


def _check_file(path: Path) -> None:
    suffixes = CSV_SUFFIXES + NETCDF_SUFFIXES
    try:
        status = path.stat()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.{similar_files(path, suffixes)}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    if S_ISDIR(status.st_mode):
        raise DataError(f"{path} is a folder; give the file in it.")
    if not S_ISREG(status.st_mode):
        raise DataError(f"{path} is a device or a pipe; give an ordinary file.")
    if path.suffix.lower() not in suffixes:
        known = ", ".join(suffixes)
        raise DataError(f"{path} has the suffix {show(path.suffix)}; gflow reads {known}.")
    if status.st_size == 0:
        raise DataError(f"{path} is empty.")


def _read_csv(path: Path, inputs: Sequence[str], targets: Sequence[str]) -> Columns:
    text = _text(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    rows = (row for row in reader if any(cell.strip() for cell in row))
    values = array("d")
    try:
        header = [cell.strip() for cell in next(rows, [])]
        inputs = _matched(path, inputs, header, targets)
        wanted = [(name, _position(path, header, name)) for name in (*inputs, *targets)]
        for row in rows:
            values.extend(_numbers(row, len(header), wanted, path, reader.line_num))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from None
    table = np.array(values).reshape(-1, len(wanted))
    x, y = np.split(table, [len(inputs)], axis=1)
    return Columns(np.ascontiguousarray(x), np.ascontiguousarray(y), tuple(inputs))


def _matched(
    path: Path, inputs: Sequence[str], known: Iterable[str], targets: Sequence[str]
) -> list[str]:
    """The inputs, each pattern that is no name itself replaced by the names that it matches."""
    free, found = [name for name in known if name not in targets], dict[str, None]()
    for one in inputs:
        pattern = one not in free and any(sign in one for sign in "*?[")
        names = [name for name in free if fnmatchcase(name, one)] if pattern else [one]
        if not names:
            raise DataError(f"{path} has no column like {show(one)} beside the target.")
        found |= dict.fromkeys(names)
    return list(found)


def _text(path: Path) -> str:
    size, limit = path.stat().st_size, inspection.memory_limit() // BYTES_A_LETTER
    if size > limit:
        raise DataError(f"{path} has {size / 1e9:.1f} GB; at most {limit / 1e9:.1f} GB fit here.")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} is not UTF-8 text (line {line}); save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from None


def _delimiter(text: str) -> str:
    first_line = re.match(r"\s*([^\r\n]*)", text)
    unquoted = re.sub(r'"[^"]*"', "", first_line[1] if first_line else "")
    return max(",;\t", key=unquoted.count)


def _position(path: Path, header: Sequence[str], name: str) -> int:
    if header.count(name) > 1:
        raise DataError(f"{path} has {header.count(name)} columns named {show(name)}; rename them.")
    if name not in header:
        raise DataError(f"{path} has no column {show(name)}{did_you_mean(name, header)}")
    return header.index(name)


def _numbers(
    row: Sequence[str], width: int, wanted: Sequence[tuple[str, int]], path: Path, line: int
) -> list[float]:
    if len(row) < width or any(row[width:]):
        raise DataError(f"{path}, line {line} has {len(row)} cells; the header has {width}.")
    cells = [row[position] for _, position in wanted]
    try:
        numbers = list(map(float, cells))
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)) or "_" in "".join(cells):  # Python reads 1_0 as 10
        wrong = next(i for i, cell in enumerate(cells) if not _is_finite_number(cell))
        found = f"holds {show(cells[wrong].strip())}" if cells[wrong].strip() else "is empty"
        raise DataError(
            f"{path}, line {line}: column {show(wanted[wrong][0])} {found}; it must be a finite "
            f"number, with a decimal point{_CLASSES if cells[wrong].strip().isalpha() else ''}."
        )
    return numbers


def _is_finite_number(text: str) -> bool:
    try:
        return "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def _read_netcdf(path: Path, inputs: Sequence[str], targets: Sequence[str]) -> Columns:
    inspection.begin()
    import xarray as xr

    wrong = inspection.fault(path, [*inputs, *targets])
    if wrong:
        raise DataError(f"{path} {wrong}")
    try:
        with xr.open_dataset(path, engine="netcdf4", decode_times=False) as dataset:
            inputs = _matched(path, inputs, map(str, dataset.data_vars), targets)
            found = {name: _variable(path, dataset, name) for name in (*inputs, *targets)}
    except DataError:
        raise
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise DataError(f"{path} cannot be read as netCDF: {reason}.") from None
    y = found[targets[0]]
    for name in targets:
        if found[name].ndim != 1:
            dims = found[name].ndim
            raise DataError(f"{path}: target {show(name)} has {dims} dimensions; it must have 1.")
    first = found[inputs[0]]
    if len(inputs) == 1 and first.ndim == 2 and y.dims[0] in first.dims:
        x = first.transpose(y.dims[0], ...)
        return Columns(_array(x), _stacked(found, targets), _feature_names(inputs[0], x))
    for name in (*inputs, *targets):
        if found[name].dims != y.dims:
            raise DataError(
                f"{path}: {show(name)} has dimensions {_sizes(found[name])}, but the target "
                f"{show(targets[0])} has {_sizes(y)}; they must be the same."
            )
    return Columns(_stacked(found, inputs), _stacked(found, targets), tuple(inputs))


def _stacked(found: Mapping[str, xr.DataArray], names: Sequence[str]) -> NDArray[np.float64]:
    return np.stack([_array(found[name]) for name in names], axis=1)


def _variable(path: Path, dataset: xr.Dataset, name: str) -> xr.DataArray:
    if name not in dataset.variables:
        known = map(str, dataset.variables)
        raise DataError(f"{path} has no variable {show(name)}{did_you_mean(name, known)}")
    variable = dataset[name].load()
    if variable.dtype.kind not in "iuf":
        raise DataError(f"{path}: variable {show(name)} is {variable.dtype}, not numeric.")
    bad = np.argwhere(~np.isfinite(variable.values))
    if len(bad):
        at = ", ".join(f"{dim} {i}" for dim, i in zip(variable.dims, bad[0], strict=True))
        value = variable.values[tuple(bad[0])]
        raise DataError(f"{path}: variable {show(name)} is {value} at {at} (counted from 0).")
    return variable


def _array(variable: xr.DataArray) -> NDArray[np.float64]:
    return np.ascontiguousarray(variable.values, dtype=np.float64)


def _sizes(variable: xr.DataArray) -> str:
    return f"({', '.join(f'{dim} = {size}' for dim, size in variable.sizes.items())})"


def _feature_names(name: str, x: xr.DataArray) -> tuple[str, ...]:
    labels = x.coords.get(x.dims[1])
    if labels is not None and labels.dtype.kind in "OTU":
        return tuple(map(str, labels.values))
    return tuple(f"{name}[{i}]" for i in range(x.shape[1]))
