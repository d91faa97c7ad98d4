"""The folder beside a sweep's dataset that holds its finished parts, each an ordinary file.

A part is written whole or not at all, under a name made of its cells' keys, with a digest of all
that it holds. What is there is trusted only if it reads, follows the schema and has that digest; so
an interrupted sweep goes on from the parts it finds, whatever ended it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import xarray as xr

from gflow.errors import StoreError
from gflow.store.files import clear, open_tree, save
from gflow.sweeps.work import KEYS, Done

SUFFIX = ".parts"

DIGEST = "sweep_digest"
"""Root attribute: the digest of a part's groups."""

Tell = Callable[[str], None]


class Place(NamedTuple):
    """Where a cell's result is: a file, and the trajectory in it."""

    path: Path
    row: int


def folder_of(output: Path) -> Path:
    """The folder of the parts of a dataset."""
    return output.with_name(output.name + SUFFIX)


def make_folder(output: Path) -> Path:
    """Make the folder, unless it is there; what a killed sweep had begun to write is removed.

    Raises
    ------
    StoreError
        If it cannot be made.
    """
    folder = folder_of(output)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"The folder {folder} of the parts cannot be made: {error}.") from None
    clear(folder)
    return folder


def write_part(done: Done, folder: Path) -> dict[str, Place]:
    """Write a part's result; the keys of its cells with their places."""
    name = hashlib.sha256("".join(done.keys).encode()).hexdigest()[:32]
    done.tree.attrs[DIGEST] = digest_of(done.tree)
    path = save(done.tree, folder / f"{name}.nc", overwrite=True)
    return {key: Place(path, row) for row, key in enumerate(done.keys)}


def read_part(path: Path) -> Done:
    """Read a part and check that it is what was written.

    Raises
    ------
    StoreError
        If it is not.
    """
    tree = open_tree(path)
    try:
        keys = json.loads(str(tree.attrs[KEYS]))
    except (KeyError, ValueError):
        raise StoreError(f"{path} is no part of a sweep.") from None
    if tree.attrs.get(DIGEST) != digest_of(tree):
        raise StoreError(f"{path} does not hold what was written to it.")
    return Done(tuple(map(str, keys)), tree)


def find_parts(
    folder: Path, wanted: set[str], use: Callable[[Done, dict[str, Place]], set[str]], tell: Tell
) -> None:
    """Look for the results of cells that have been run.

    Parameters
    ----------
    folder : Path
    wanted : set of str
        Keys.
    use : callable
        Given each part that has cells wanted, with these cells' places; returns the keys of those
        that it takes.
    tell : callable
        Given a sentence on each file that is no part, or is damaged; it is left alone.
    """
    left = set(wanted)
    for path in sorted(folder.glob("*.nc")):
        try:
            part = read_part(path)
        except StoreError as error:
            tell(f"{error} It is left alone, and its cells are run again.")
            continue
        new = {key: Place(path, row) for row, key in enumerate(part.keys) if key in left}
        if new:
            left -= use(part, new)


def digest_of(tree: xr.DataTree) -> str:
    """Digest of names, dimensions and values of all groups, the same before and after a file."""
    digest = hashlib.sha256(str(tree.attrs.get(KEYS)).encode())
    for name, node in sorted(tree.children.items()):
        data = node.to_dataset(inherit=False)
        for variable in sorted(data.variables, key=str):
            array = data[variable]
            digest.update(f"{name}/{variable}{array.dims}{array.shape}".encode())
            plain = array.values
            if plain.dtype.kind in "fiub":
                digest.update(plain.astype("<f8").tobytes())
            else:
                digest.update("\0".join(map(str, plain.ravel())).encode())
    return digest.hexdigest()
