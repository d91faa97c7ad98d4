"""The configuration as a dataset keeps it: complete, and able to make the run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gflow import user_code
from gflow.config import Config, FileData
from gflow.data import SHIPPED, data_file, file_digest
from gflow.models.factory import split_factory


def stored_config(config: Config, kind: str, folder: Path) -> str:
    """The TOML text that makes a run again, with what must lie beside it in its first lines.

    Every key has the value that was used, the number of threads among them. Of the files that the
    run read it has the digests, so that one that has changed is refused.

    Parameters
    ----------
    config : Config
        After everything that was set by flags.
    kind : str
        ``integrate``, ``descend``, ``compare`` or ``sweep``.
    folder : Path
        That paths are relative to.
    """
    run = config.run.model_copy(update={"threads": torch.get_num_threads()})
    used: dict[str, Any] = {"run": run}
    beside: list[str] = []
    if isinstance(config.data, FileData):
        digest = file_digest(data_file(config.data, folder))
        used |= {"data": config.data.model_copy(update={"sha256": digest})}
        beside += [] if config.data.path.startswith(SHIPPED) else [config.data.path]
    if config.model.factory is not None:
        file, _ = split_factory(config.model.factory)
        digest = user_code.digest(folder / file)
        used |= {"model": config.model.model_copy(update={"factory_sha256": digest})}
        beside += [str(Path(file).with_name(one.name)) for one in user_code.sources(folder / file)]
    lines = [f"# Of a dataset that gflow {kind} wrote; the same command makes it again from this."]
    lines += [f"# Needs {name}, relative to this file's folder." for name in map(_plain, beside)]
    return "\n".join([*lines, "", config.model_copy(update=used).to_toml()])


def seeds(config: Config) -> str:
    """The seeds that were used, such as ``data.seed = 0, start.seed = 1``."""
    drawn = not isinstance(config.data, FileData) or config.data.holdout > 0
    start = None if config.start is None else config.start.seed
    found = {"data.seed": config.data.seed if drawn else None, "start.seed": start}
    return ", ".join(f"{key} = {seed}" for key, seed in found.items() if seed is not None)


def _plain(name: str) -> str:
    """A name as a comment of TOML may hold it."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
