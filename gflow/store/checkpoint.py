"""The group ``/checkpoint`` of a file: what its run needs to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gflow
from gflow.errors import StoreError
from gflow.schema import attributes
from gflow.store.codec import pack, unpack

if TYPE_CHECKING:
    import torch
    import xarray as xr

NAME = "checkpoint"


def checkpoint_group(payload: Mapping[str, Any]) -> xr.Dataset:
    """Plain data as a group of the dataset."""
    import xarray as xr

    state = xr.Variable(("byte",), pack(payload), attributes(NAME, "state"))
    return xr.Dataset({"state": state}, attrs={"gflow_version": gflow.__version__})


def read_checkpoint(tree: xr.DataTree, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The plain data again.

    Raises
    ------
    StoreError
        If there is none, or another version of gflow wrote it.
    """
    if NAME not in tree.children:
        raise StoreError(
            "There is no checkpoint in it: only runs that are written as they go have one, by the "
            "command line or with output= in Python."
        )
    group = tree[NAME]
    version = group.attrs.get("gflow_version")
    if version != gflow.__version__:
        raise StoreError(
            f"Its checkpoint is of gflow {version}, and this is gflow {gflow.__version__}; go on "
            "with that version, or begin anew."
        )
    found = unpack(group["state"].to_numpy(), device)
    if not isinstance(found, dict):
        raise StoreError("The checkpoint cannot be read: it is no mapping.")
    return found
