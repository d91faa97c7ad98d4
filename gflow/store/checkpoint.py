"""The group ``/checkpoint`` of a file: what its run needs to go on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

import gflow
from gflow.errors import StoreError
from gflow.schema import attributes
from gflow.store.codec import pack, unpack

if TYPE_CHECKING:
    import torch
    import xarray as xr

NAME = "checkpoint"

_NEEDED = ("kind", "theta0", "arguments", "beside", "problem", "folder")


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _are_grids(value: Any) -> bool:
    kinds = (int, str, float)
    return _is_mapping(value) and all(
        isinstance(one, list) and [type(part) for part in one] == [*kinds] for one in value.values()
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_PARTS: Mapping[str, Callable[[Any], bool]] = {
    "kind": lambda value: isinstance(value, str) and value in ("integrate", "descend", "compare"),
    "theta0": lambda value: getattr(value, "ndim", 0) in (1, 2) and hasattr(value, "cpu"),
    "arguments": _is_mapping,
    "beside": _are_texts,
    "method": _is_mapping,
    "flow": _is_mapping,
    "descent": _is_mapping,
    "reached": lambda value: isinstance(value, float),
    "resumed": _are_texts,
    "problem": _is_mapping,
    "folder": lambda value: isinstance(value, str),
    "grids": _are_grids,
    "checkpoint_seconds": lambda value: isinstance(value, int | float) and value >= 0,
}
"""What the parts of a checkpoint must be, as far as this can be said without using them."""


def checkpoint_group(payload: Mapping[str, Any]) -> xr.Dataset:
    """Plain data as a group of the dataset."""
    import xarray as xr

    packed = pack(payload)
    state = xr.Variable(("byte",), packed, attributes(NAME, "state"))
    attrs = {"gflow_version": gflow.__version__, "sha256": hashlib.sha256(packed.data).hexdigest()}
    return xr.Dataset({"state": state}, attrs=attrs)


def check_checkpoint(tree: xr.DataTree) -> None:
    """Raise a StoreError if there is no checkpoint."""
    if NAME not in tree.children:
        raise StoreError(
            "There is no checkpoint in it: only runs that are written as they go have one, by the "
            "command line or with output= in Python."
        )


def read_checkpoint(tree: xr.DataTree, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The plain data again.

    Raises
    ------
    StoreError
        If there is none, another version of gflow wrote it, or it is damaged.
    """
    check_checkpoint(tree)
    group = tree[NAME]
    version = group.attrs.get("gflow_version")
    if version != gflow.__version__:
        raise StoreError(
            f"Its checkpoint is of gflow {version}, and this is gflow {gflow.__version__}; go on "
            "with that version, or begin anew."
        )
    state = np.ascontiguousarray(group["state"].to_numpy())
    if hashlib.sha256(state.data).hexdigest() != group.attrs.get("sha256"):
        raise StoreError("The checkpoint is damaged: its bytes are not those that were written.")
    found = unpack(state, device)
    if not isinstance(found, dict):
        raise StoreError("The checkpoint cannot be read: it is no mapping.")
    odd = [name for name, fits in _PARTS.items() if name in found and not fits(found[name])]
    odd += [name for name in _NEEDED if name not in found]
    if odd:
        raise StoreError(f"The checkpoint cannot be read: its {odd[0]} is missing or damaged.")
    return found
