"""The cells of a sweep: their configurations, checked before anything runs, and their keys."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import gflow
from gflow import user_code
from gflow.config import Config, config_from_dict, with_values
from gflow.configured import Kind, check_tables, decisive
from gflow.data import shipped
from gflow.errors import ConfigError, DataError
from gflow.integrators.registry import resolve
from gflow.sweeps.over import Axis
from gflow.times import is_count, save_times

_SHIPPED = "gflow:"
_SAVES = {"flow.t_end", "flow.times", "flow.spacing"}


@dataclass(frozen=True)
class Plan:
    """What a sweep runs.

    Attributes
    ----------
    base : mapping
        The configuration without the values of the axes.
    axes : sequence of Axis
    kind : str
    folder : Path
        That data paths are relative to.
    keys : list of str
        Of each cell: a digest of all that decides its result, "" if it is refused.
    refused : dict
        Cell to the sentence on why its configuration is refused.
    """

    base: Mapping[str, Any]
    axes: Sequence[Axis]
    kind: Kind
    folder: Path
    keys: list[str] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each axis."""
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def cells(self) -> int:
        """Number of cells; the last axis varies fastest."""
        return math.prod(self.shape)

    def index(self, cell: int) -> tuple[int, ...]:
        """Where a cell is."""
        return tuple(int(place) for place in np.unravel_index(cell, self.shape))

    def settings(self, cell: int) -> dict[str, Any]:
        """The values of a cell."""
        pairs = zip(self.axes, self.index(cell), strict=True)
        return {axis.key: axis.values[place] for axis, place in pairs}

    def config(self, cell: int) -> Config:
        """The configuration of a cell, or a ConfigError."""
        config = config_from_dict(with_values(self.base, self.settings(cell)))
        check_tables(config, self.kind)
        return config

    @functools.cached_property
    def by_save(self) -> bool:
        """Whether the flows' saves may differ from cell to cell."""
        flows = [self.config(cell).flow for cell in self.accepted[:1]]
        endless = any(flow and math.isinf(flow.t_end) and is_count(flow.times) for flow in flows)
        return endless or any(axis.key in _SAVES and len(axis.values) > 1 for axis in self.axes)

    @functools.cached_property
    def accepted(self) -> list[int]:
        """The cells whose configuration is not refused."""
        return [cell for cell in range(self.cells) if cell not in self.refused]


def make_plan(
    base: Mapping[str, Any], axes: Sequence[Axis], kind: Kind | None, folder: Path
) -> Plan:
    """Check every cell's configuration and find its key.

    Raises
    ------
    ConfigError
        If a key refuses one of its values, or every cell is refused.
    MethodError
        If there is no such method.
    """
    kind = kind or _kind_of(with_values(base, {axis.key: axis.values[0] for axis in axes}))
    plan, methods = Plan(base, axes, kind, folder), set()
    for cell in range(plan.cells):
        try:
            config = plan.config(cell)
            plan.keys.append(_key(config, kind, folder))
            if config.flow is not None and kind != "descend":
                methods.add(config.flow.method)
        except ConfigError as error:
            _blame(axes, str(error))
            plan.keys.append("")
            plan.refused[cell] = str(error)
    if len(plan.refused) == plan.cells:
        told = dict.fromkeys(plan.refused.values())
        others = f" ({len(told) - 1:,} other reasons in other cells)" if len(told) > 1 else ""
        raise ConfigError(f"No cell of the sweep can be configured{others}: {next(iter(told))}")
    for name in methods - {"auto"}:
        resolve(name)
    return plan


def grid_of(config: Config) -> np.ndarray | None:
    """The saves of a flow, 0 and a finite end among them; None if its end decides them."""
    flow = config.flow
    assert flow is not None
    endless = math.isinf(flow.t_end)
    if endless and is_count(flow.times):
        return None
    saves = save_times(flow.times, flow.t_end, flow.spacing)
    return np.union1d(saves, [0.0] if endless else [0.0, flow.t_end])


def _blame(axes: Sequence[Axis], message: str) -> None:
    """Raise if it is a key of the sweep that refuses its value, whatever the others are."""
    for line in message.split("\n"):
        for axis in axes:
            if line.startswith(f"{axis.key} is ") and "; it must be " in line:
                raise ConfigError(f"--over {axis.text[:80]}: {line}") from None


def _kind_of(raw: Mapping[str, Any]) -> Kind:
    if "flow" in raw and "descent" in raw:
        return "compare"
    return "descend" if "descent" in raw else "integrate"


def _key(config: Config, kind: Kind, folder: Path) -> str:
    """Digest of the configuration, the kind of run, gflow's version and the files it reads."""
    tables = json.dumps(decisive(config), sort_keys=True)
    parts = [tables, str(threads_of(config)), kind, gflow.__version__]
    if config.data.source == "file":
        parts.append(_digest(_data_file(config.data.path, folder)))
    if config.model.factory is not None:
        parts += map(_digest, _code(folder / config.model.factory.rpartition(":")[0]))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def threads_of(config: Config) -> int:
    """The number of threads of a cell: one, since many cells are run at once."""
    return config.run.threads or 1


def _data_file(path: str, folder: Path) -> Path:
    if not path.startswith(_SHIPPED):
        return folder / path
    try:
        return shipped(path.removeprefix(_SHIPPED))
    except DataError:
        return folder / path


def _code(path: Path) -> list[Path]:
    """A file of the user's and those that it imports from its folder, as far as it can be read."""
    try:
        return user_code.sources(path)
    except (OSError, ValueError):
        return [path]


@functools.cache
def _file_digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path) -> str:
    """Digest of a file's bytes; "" if it is none or cannot be read, which the run will tell."""
    try:
        found = path.stat()
        ordinary = stat.S_ISREG(found.st_mode)
        return _file_digest(path, found.st_size, found.st_mtime_ns) if ordinary else ""
    except (OSError, ValueError):
        return ""
