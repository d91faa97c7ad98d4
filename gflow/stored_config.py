"""The configuration as a dataset keeps it: complete, and able to make the run again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from gflow import user_code
from gflow.config import Config, FileData, config_from_dict, with_values
from gflow.data import SHIPPED, data_file, file_digest
from gflow.models.factory import split_factory


class Read(NamedTuple):
    """A file that a run reads: the key that names it, those of its folder, and its digest."""

    key: str
    beside: list[str]
    digest_key: str
    digest: str


def stored_config(config: Config, kind: str, folder: Path) -> str:
    """The TOML text that makes a run again, with what must lie beside it in its first lines.

    Every key has the value that was used, the number of threads among them. Of the files that the
    run read it has the digests, so that one that has changed is refused.

    Parameters
    ----------
    config : Config
        After everything that was set by flags.
    kind : str
        ``integrate``, ``descend`` or ``compare``.
    folder : Path
        That paths are relative to.
    """
    read = files_read(config, folder)
    used = {"run.threads": torch.get_num_threads(), **{one.digest_key: one.digest for one in read}}
    tables = with_values(config.model_dump(exclude_none=True), used)
    lines = [f"# Of a dataset that gflow {kind} wrote; the same command makes it again from this."]
    return "\n".join([*lines, *needs(read), "", config_from_dict(tables).to_toml()])


def files_read(config: Config, folder: Path) -> list[Read]:
    """The files that a run reads, beside its configuration."""
    found = []
    if isinstance(config.data, FileData):
        beside = [] if config.data.path.startswith(SHIPPED) else [config.data.path]
        digest = file_digest(data_file(config.data, folder))
        found.append(Read("data.path", beside, "data.sha256", digest))
    if config.model.factory is not None:
        file = Path(split_factory(config.model.factory)[0])
        beside = [str(file.with_name(one.name)) for one in user_code.sources(folder / file)]
        digest = user_code.digest(folder / file)
        found.append(Read("model.factory", beside, "model.factory_sha256", digest))
    return found


def needs(read: Iterable[Read]) -> list[str]:
    """Comments of TOML that tell what must lie beside it."""
    names = [name for one in read for name in one.beside]
    return [f"# Needs {plain(name)}, relative to this file's folder." for name in names]


def seeds(config: Config) -> str:
    """The seeds that were used, such as ``data.seed = 0, start.seed = 1``."""
    drawn = not isinstance(config.data, FileData) or config.data.holdout > 0
    start = None if config.start is None else config.start.seed
    found = {"data.seed": config.data.seed if drawn else None, "start.seed": start}
    return ", ".join(f"{key} = {seed}" for key, seed in found.items() if seed is not None)


def plain(name: str) -> str:
    """A text as a comment of TOML may hold it."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
