"""The data of a run: drawn from a teacher, or read from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gflow.data.readers import Columns, read_table
from gflow.errors import DataError
from gflow.inspection import memory_limit
from gflow.wording import did_you_mean, show

if TYPE_CHECKING:
    from gflow.config import FileData, TeacherData

__all__ = [
    "SHIPPED",
    "Array",
    "Columns",
    "Dataset",
    "Predict",
    "data_file",
    "file_digest",
    "load_data",
    "read_table",
    "shipped",
]

Array = NDArray[np.float64]
Predict = Callable[[Array, Array], Array]
SHIPPED = "gflow:"
"""What the path of a data set in the package starts with."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and targets.

    Attributes
    ----------
    x
        Training inputs, shape (n, d), float64.
    y
        Training targets, shape (n,) or (n, k), float64.
    x_evaluation, y_evaluation
        Evaluation inputs (m, d) and targets (m,) or (m, k), or None.
    feature_names
        Names of the d inputs.
    source
        Where the data come from, in one line.
    theta_target
        The teacher's parameters (d + 1,), or None.
    """

    x: Array
    y: Array
    x_evaluation: Array | None
    y_evaluation: Array | None
    feature_names: tuple[str, ...]
    source: str
    theta_target: Array | None = None

    @cached_property
    def sha256(self) -> str:
        """Digest of x and y."""
        return sha256(self.x, self.y)


def sha256(*arrays: Array) -> str:
    """Digest of shape, dtype and little-endian bytes of arrays, in hexadecimals."""
    digest = hashlib.sha256()
    for values in arrays:
        plain = np.ascontiguousarray(values, dtype="<f8")
        digest.update(f"{plain.dtype.str}{plain.shape}".encode())
        digest.update(plain.tobytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimals.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def data_file(config: FileData, folder: Path) -> Path:
    """The file that a configuration names; its path is relative to a folder, or a shipped one."""
    name = config.path.removeprefix(SHIPPED)
    return shipped(name) if config.path.startswith(SHIPPED) else folder / name


def load_data(
    config: TeacherData | FileData, predict: Predict | None, dim: int | None, folder: Path
) -> Dataset:
    """Draw or read the data that a configuration describes.

    Parameters
    ----------
    config
        The table [data].
    predict
        The teacher: ``predict(theta, x)`` with theta (P,) and x (n, d) gives y (n,). A file needs
        none.
    dim
        Number of inputs d that the model takes; None if the data decide.
    folder
        Folder that a file's path is relative to.

    Raises
    ------
    DataError
        If the data cannot be drawn or read, or have another number of inputs than `dim`.
    """
    data = _teacher(config, predict, dim) if config.source == "teacher" else _file(config, folder)
    if dim is not None and data.x.shape[1] != dim:
        raise DataError(f"The data have {data.x.shape[1]} inputs, but model.dim is {dim}.")
    return data


def shipped(name: str) -> Path:
    """Return the path of a data set in the package, such as "diabetes.csv".

    Raises
    ------
    DataError
        If there is none of that name.
    """
    folder = Path(str(files("gflow") / "datasets"))
    names = sorted(path.name for path in folder.glob("*.csv"))
    if name not in names:
        raise DataError(f"gflow ships no data set {show(name)}{did_you_mean(name, names)}")
    return folder / name


def _teacher(config: TeacherData, predict: Predict | None, dim: int | None) -> Dataset:
    if predict is None or (dim is None and config.theta is None):
        raise DataError("A teacher needs a model, and its model.dim or data.theta.")
    _check_size(config, len(config.theta) - 1 if config.theta else dim or 0)
    try:
        theta, x, x_evaluation, noise = _draws(config, dim or 0)
    except (MemoryError, OverflowError, ValueError) as error:
        raise DataError(f"The teacher's samples cannot be drawn: {error}.") from None
    d = theta.size - 1
    has_evaluation = config.evaluation_samples > 0
    return Dataset(
        x=x,
        y=_finite(predict(theta, x) + noise),
        x_evaluation=x_evaluation if has_evaluation else None,
        y_evaluation=_finite(predict(theta, x_evaluation)) if has_evaluation else None,
        feature_names=tuple(f"x[{i}]" for i in range(d)),
        source=f"teacher: {config.samples} {config.distribution} samples of {d} inputs, "
        f"noise {config.noise:g}, numpy.random.default_rng({config.seed})",
        theta_target=theta,
    )


def _check_size(config: TeacherData, dim: int) -> None:
    """Refuse samples that would not fit into the memory, before they are drawn."""
    size, limit = (config.samples + config.evaluation_samples) * (dim + 3) * 8, memory_limit()
    if size > limit:
        raise DataError(
            f"The teacher's samples would take {size / 1e9:,.0f} GB of memory; at most "
            f"{limit / 1e9:,.0f} GB fit here. Lower data.samples, data.evaluation_samples or "
            "model.dim."
        )


def _draws(config: TeacherData, dim: int) -> tuple[Array, Array, Array, Array]:
    """Draw theta, x, x_evaluation and noise, in the order that the configuration promises."""
    rng = np.random.default_rng(config.seed)
    if config.theta is None:
        theta1 = rng.normal(size=dim)
        theta = np.append(theta1 / np.linalg.norm(theta1), 0.0)
    else:
        theta = np.array(config.theta)
    x, x_evaluation = (
        rng.uniform(config.low, config.high, size=(n, theta.size - 1))
        if config.distribution == "uniform"
        else rng.normal(size=(n, theta.size - 1))
        for n in (config.samples, config.evaluation_samples)
    )
    return theta, x, x_evaluation, rng.normal(scale=config.noise, size=config.samples)


def _finite(y: Array) -> Array:
    if not np.isfinite(y).all():
        raise DataError(
            "The teacher's targets are not all finite; change data.theta or data.noise."
        )
    return y


def _file(config: FileData, folder: Path) -> Dataset:
    path = data_file(config, folder)
    x, y, names = read_table(path, config.inputs, config.target)
    if config.sha256 not in (None, file_digest(path)):
        raise DataError(
            f"{path} is not the file that data.sha256 tells of: it has changed. Restore it, or "
            "leave data.sha256 out."
        )
    train, evaluation = _split(len(y), config)
    data = Dataset(
        x=x[train],
        y=y[train],
        x_evaluation=x[evaluation] if len(evaluation) else None,
        y_evaluation=y[evaluation] if len(evaluation) else None,
        feature_names=names,
        source=f"{config.path}: {show(config.inputs, 200)} -> {show(config.target)}, scaling "
        f"{config.input_scaling} -> {config.target_scaling}, holdout {config.holdout:g} by "
        f"numpy.random.default_rng({config.seed})",
    )
    return _scaled(data, config)


def _split(n: int, config: FileData) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows to train on and those set aside, each in the file's order."""
    aside = round(config.holdout * n)
    if n - aside < 2 or (config.holdout and not aside):
        raise DataError(
            f"data.holdout = {config.holdout:g} sets {aside} of {n} rows aside; at least 1 must be "
            "set aside and 2 must stay."
        )
    order = np.random.default_rng(config.seed).permutation(n)
    return np.sort(order[aside:]), np.sort(order[:aside])


def _scaled(data: Dataset, config: FileData) -> Dataset:
    x_map = _affine(data.x, config.input_scaling, data.feature_names)
    columns = data.y.reshape(len(data.y), -1)
    y_map = _affine(columns, config.target_scaling, config.targets)
    x_evaluation, y_evaluation = data.x_evaluation, data.y_evaluation
    if x_evaluation is not None and y_evaluation is not None:
        x_evaluation = _apply(x_map, x_evaluation)
        shape = y_evaluation.shape
        y_evaluation = _apply(y_map, y_evaluation.reshape(shape[0], -1)).reshape(shape)
    return replace(
        data,
        x=_apply(x_map, data.x),
        y=_apply(y_map, columns).reshape(data.y.shape),
        x_evaluation=x_evaluation,
        y_evaluation=y_evaluation,
    )


def _affine(columns: Array, scaling: str, names: tuple[str, ...]) -> tuple[Array, Array]:
    """Return centre and unit of each column, fitted on the training rows."""
    low, high = columns.min(axis=0), columns.max(axis=0)
    constant = [name for name, same in zip(names, low == high, strict=True) if same]
    if constant and scaling not in ("none", "unit"):
        raise DataError(
            f'Column {show(constant[0])} is constant in the training rows; scaling "{scaling}" '
            "cannot scale it. Leave it out, or take another scaling."
        )
    with np.errstate(all="ignore"):
        if scaling == "standard":
            return columns.mean(axis=0), columns.std(axis=0)
        if scaling == "unit":
            return np.zeros_like(low), np.full_like(low, abs(columns).max() or 1.0)
        if scaling == "range":
            return (low + high) / 2, (high - low) / 1.8
    return np.zeros_like(low), np.ones_like(low)


def _apply(affine: tuple[Array, Array], columns: Array) -> Array:
    centre, unit = affine
    with np.errstate(all="ignore"):
        scaled: Array = (columns - centre) / unit
    if not (np.isfinite(unit).all() and np.isfinite(scaled).all()):
        raise DataError("Scaling overflows: the columns hold values too large or too close by.")
    return scaled
