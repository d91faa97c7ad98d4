"""What the validator asks of a dataset's values, so that what reads it need not doubt them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from gflow.schema import LATER_ATTRIBUTES, ROOT_ATTRIBUTES
from gflow.status import Status

if TYPE_CHECKING:
    import xarray as xr

_ROOT = {"schema_version": Integral, "threads": Integral, "wall_seconds": Real}
_KNOWN = (*ROOT_ATTRIBUTES, *LATER_ATTRIBUTES, "run_key", "resumed")
_NUMBERS = ("rtol", "atol", "weight_decay")
_TEXTS = {
    "backward",
    "diagnosis",
    "event_kind",
    "feature",
    "invariant",
    "key",
    "method",
    "method_reason",
    "model",
    "parameter",
    "status",
    "status_message",
}
"""Variables and coordinates that hold text; of /problem, ``loss`` and ``data_source`` do too."""
_COUNTS = ("accepted", "event_count", "hessians", "linear_solves", "nfe", "record", "update")
_MAY_BE_EMPTY = ("byte", "event", "step")
_SHARED = ("wall_seconds",)
"""Variables that an ensemble has once."""


def value_faults(tree: xr.DataTree, swept: bool) -> Iterator[str]:
    """What is wrong with attributes, types, values and the agreement of groups.

    Parameters
    ----------
    tree : DataTree
    swept : bool
        Whether it is a sweep, whose cells may be missing.
    """
    for name, value in tree.attrs.items():
        if swept and isinstance(value, str) and value == "varies":
            continue
        kind = _ROOT.get(str(name), str) if name in _KNOWN else None
        if kind is not None and not isinstance(value, kind):
            yield f"the attribute {name} of / is no {_WORDS[kind]}"
    groups = {name: node.to_dataset(inherit=False) for name, node in tree.children.items()}
    ensemble = "flow" in groups and "trajectory" in groups["flow"].dims
    for name, data in groups.items():
        yield from _attributes(f"/{name}", data.attrs)
        for variable, array in data.variables.items():
            yield from _types(name, str(variable), array, swept)
            if not swept:
                yield from _values(f"/{name}", str(variable), array)
        if not swept and name in ("flow", "flow_steps", "reference"):
            yield from _trajectories(f"/{name}", data, ensemble)
    yield from _disagreements(groups)


_WORDS: Mapping[type, str] = {str: "text", Integral: "integer", Real: "number"}


def _attributes(place: str, attributes: Mapping[Any, Any]) -> Iterator[str]:
    for name, value in attributes.items():
        is_number = isinstance(value, Real)
        if name in _NUMBERS and not (is_number and math.isfinite(value)):
            yield f"the attribute {name} of {place} is no finite number"
        elif name in ("kind", "schedule") and not isinstance(value, str):
            yield f"the attribute {name} of {place} is no text"
        elif not (is_number or isinstance(value, str)):
            yield f"the attribute {name} of {place} is neither text nor one number"


def _types(group: str, name: str, array: xr.Variable, swept: bool) -> Iterator[str]:
    place = f"/{group}/{name}"
    for key in ("long_name", "units", "formula"):
        if not isinstance(array.attrs.get(key, ""), str):
            yield f"{key} of {place} is no text"
    is_text = array.dtype.kind in "UT" or (
        array.dtype.kind == "O" and all(isinstance(one, str) for one in array.values.ravel())
    )
    wants_text = name in _TEXTS or (group == "problem" and name in ("loss", "data_source"))
    if wants_text and not is_text:
        yield f"{place} is not text"
    elif name in _COUNTS and array.dtype.kind not in "iu":
        yield f"{place} is not of integers"
    elif not (wants_text or is_text) and array.dtype.kind not in "iufb":
        yield f"{place} is of {array.dtype}, neither numbers nor text"
    elif is_text and not (wants_text or swept) and name not in array.dims:
        yield f"{place} is text, not numbers"


def _values(place: str, name: str, array: xr.Variable) -> Iterator[str]:
    empty = [dim for dim, size in array.sizes.items() if not size and dim not in _MAY_BE_EMPTY]
    if empty:
        yield f"{place}: dimension {empty[0]} is empty"
    elif name == "status" and array.dtype.kind in "OUT":
        known = set(Status)
        odd = [str(one)[:40] for one in array.values.ravel() if str(one) not in known]
        if odd:
            yield f"{place}/status is {odd[0]!r}, which is no status"
    elif name == "step_size" and array.dims == ("step_size",) and array.dtype.kind in "iuf":
        values = array.values
        good = np.isfinite(values).all() and (values > 0).all()
        if not good or len(np.unique(values)) < len(values):
            yield f"{place}/step_size holds other than distinct positive numbers"
    elif array.dims == (name,) and name in ("time", "record", "trajectory"):
        if array.dtype.kind not in "iuf" or np.isnan(array.values).any():
            yield f"{place}/{name} holds other than numbers"
        elif not (np.diff(array.values) >= 0).all():
            yield f"{place}/{name} does not rise"


def _trajectories(place: str, data: xr.Dataset, ensemble: bool) -> Iterator[str]:
    for name, array in data.data_vars.items():
        if ensemble and array.dims[:1] != ("trajectory",) and name not in _SHARED:
            yield f"{place}/{name} does not start with the dimension trajectory"
        elif not ensemble and "trajectory" in array.dims:
            yield f"{place}/{name} has the dimension trajectory, which /flow has not"


def _disagreements(groups: Mapping[str, xr.Dataset]) -> Iterator[str]:
    """Dimensions of one name that are not the same in two groups."""
    first: dict[Any, tuple[str, xr.Variable]] = {}
    for group, data in groups.items():
        for dim in data.dims:
            if dim not in data.coords or dim in ("step", "event", "mode"):
                continue
            own = data.variables[dim]
            other, known = first.setdefault(dim, (group, own))
            if known is not own and not known.equals(own):  # type: ignore[no-untyped-call]
                yield f"/{group}: {dim} differs from that of /{other}"
