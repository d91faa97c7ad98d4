"""The form of a sweep's dataset, found by looking at every cell once."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from gflow.schema import COORDINATES, attributes
from gflow.status import Status
from gflow.sweeps.cells import Groups
from gflow.sweeps.work import VARIES

ENDS: Mapping[str, Callable[[str, str], str]] = {"started_at": min, "finished_at": max}
"""Attributes of the root that tell the first or the last of all cells."""

_OWN = ("step", "event", "mode")
"""Dimensions that are each group's own; the labels of the others are those of all groups."""


@dataclass
class Variable:
    """Dimensions within a cell, kind of the values ("f", "i" or "U"), and attributes."""

    dims: tuple[str, ...]
    kind: str
    attrs: dict[str, Any]

    @property
    def fill(self) -> Any:
        """What stands where a cell has no value: NaN, -1 or nothing."""
        return {"f": np.nan, "i": -1, "U": ""}[self.kind]

    @property
    def dtype(self) -> Any:
        """As netCDF4 takes it."""
        return {"f": np.float64, "i": np.int64, "U": str}[self.kind]


@dataclass
class Group:
    """A group of the dataset.

    Attributes
    ----------
    variables : dict of str to Variable
    labels : dict of str to array
        Of the dimensions within a cell.
    attrs : dict
        Those that the cells share; of text that differs, ``varies``.
    varying : dict
        Attributes that differ, with the kind of their values; they are variables.
    """

    variables: dict[str, Variable] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    varying: dict[str, str] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a variable within a cell."""
        return tuple(len(self.labels[dim]) for dim in self.variables[name].dims)


class Layout:
    """Grows as cells are added; :meth:`finish` then makes it the one that fits all.

    Attributes
    ----------
    groups : dict of str to Group
    attrs : dict
        Of the root: those that all parts share, else ``varies``.
    """

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.attrs: dict[str, Any] = {}
        self._seen: dict[tuple[str, str], dict[Any, np.ndarray]] = {}

    def add_root(self, attrs: Mapping[Any, Any], without: Container[str]) -> None:
        """Take note of the root's attributes of a part, but for some."""
        for name, value in attrs.items():
            if name in without or _same(self.attrs.setdefault(name, value), value):
                continue
            ends = ENDS.get(str(name))
            self.attrs[name] = VARIES if ends is None else ends(self.attrs[name], value)

    def add(self, groups: Groups) -> None:
        """Take note of a cell."""
        for name, data in groups.items():
            self._add_group(self.groups.setdefault(name, Group()), data)
            for dim in map(str, data.dims):
                seen = self._seen.setdefault(_place_of(name, dim), {})
                values = data.variables[dim].values
                seen[tuple(values.tolist())] = values
                self.groups[name].labels[dim] = values

    def _add_group(self, group: Group, data: xr.Dataset) -> None:
        for key, array in data.variables.items():
            if key in data.coords:
                continue
            name, kind = str(key), _kind(array)
            dims = tuple(map(str, array.dims))
            known = group.variables.setdefault(name, Variable(dims, kind, dict(array.attrs)))
            known.kind = kind if known.kind == kind else _common(known.kind, kind)
        for name, value in data.attrs.items():
            if name in group.varying or not _same(group.attrs.setdefault(name, value), value):
                number = isinstance(value, int | float | np.number)
                other = group.varying.setdefault(name, "f" if number else "U")
                group.varying[name] = other if number else "U"
                group.attrs[name] = VARIES

    def finish(self) -> None:
        """Settle on the labels of all cells, and on variables for the attributes that differ."""
        union = {place: _union(found.values()) for place, found in self._seen.items()}
        for name, group in self.groups.items():
            group.labels = {dim: union[_place_of(name, dim)] for dim in group.labels}
            for attribute, kind in group.varying.items():
                described = Variable((), kind, _attributes(name, attribute))
                group.variables.setdefault(attribute, described)
                if kind != "U":
                    del group.attrs[attribute]

    def values(self, name: str, groups: Groups) -> Iterable[tuple[str, Any]]:
        """The variables of a cell in a group, each filled up to the shape that all cells have."""
        group, data = self.groups[name], groups.get(name)
        own = {} if data is None else data.variables
        places = {
            dim: _places(group.labels[dim], own[dim].values) for dim in group.labels if dim in own
        }
        for key, variable in group.variables.items():
            fill = str(Status.NOT_RUN) if key == "status" else variable.fill
            whole = np.full(group.shape(key), fill, dtype=_memory(variable))
            if key in own:
                values = own[key].transpose(*variable.dims).values.astype(whole.dtype)
                where = [places[dim] for dim in variable.dims]
                whole[np.ix_(*where) if where else ...] = values
            elif data is not None and key in data.attrs:
                value = data.attrs[key]
                whole[()] = str(value) if variable.kind == "U" else value
            yield key, whole


def coordinate_attributes(name: str) -> dict[str, str]:
    """Of a dimension within a cell."""
    long_name, units = COORDINATES.get(name, (name, "1"))
    return {"long_name": long_name, "units": units}


def _place_of(group: str, dim: str) -> tuple[str, str]:
    """Whose labels a dimension has: the group's, or those of all."""
    return (group if dim in _OWN else "", dim)


def _same(first: Any, second: Any) -> bool:
    return bool(np.array_equal(first, second))


def _memory(variable: Variable) -> Any:
    return object if variable.kind == "U" else variable.dtype


def _kind(array: xr.Variable) -> str:
    if array.dtype.kind in "iub":
        return "i"
    return "f" if array.dtype.kind == "f" else "U"


def _common(first: str, second: str) -> str:
    return "f" if {first, second} <= {"f", "i"} else "U"


def _union(found: Iterable[np.ndarray]) -> np.ndarray:
    """All labels: in the order of the longest, the others' behind it."""
    ordered = sorted(found, key=len, reverse=True)
    labels = list(dict.fromkeys(label for one in ordered for label in one.tolist()))
    words = any(isinstance(label, str) for label in labels)
    return np.array(labels, dtype=object if words else None)


def _places(labels: np.ndarray, own: np.ndarray) -> np.ndarray:
    if np.array_equal(labels, own):
        return np.arange(len(own))
    where = {label: place for place, label in enumerate(labels.tolist())}
    return np.array([where[label] for label in own.tolist()], dtype=np.int64)


def _attributes(group: str, name: str) -> dict[str, str]:
    known = attributes(group, name)
    if known["long_name"] != name:
        return known
    return known | {"formula": "attribute of each cell's run"}
