"""Parts: cells that are run together, in one process."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gflow.config import Config, TeacherData
from gflow.configured import Kind
from gflow.sweeps.plan import Plan
from gflow.times import is_count

LARGEST = 64
"""Cells of a part at most."""

_OWN_KEYS = ("epsilon", "activation", "backward")
"""Keys of [model] in which the flows of an ensemble may differ."""


@dataclass(frozen=True)
class Part:
    """What a worker is sent; text alone, so that it means the same anywhere.

    Attributes
    ----------
    keys : tuple of str
        Of the cells.
    configs : tuple of str
        Their configurations, TOML.
    kind : str
    folder : Path
        That data paths are relative to.
    command : str
        Recorded in the datasets.
    deaths : int
        Workers that died while they ran it.
    """

    keys: tuple[str, ...]
    configs: tuple[str, ...]
    kind: Kind
    folder: Path
    command: str
    deaths: int = 0

    def split(self) -> list[Part]:
        """A part for each cell, as if none of its workers had died."""
        pairs = zip(self.keys, self.configs, strict=True)
        return [replace(self, keys=(key,), configs=(one,), deaths=0) for key, one in pairs]


def divide(plan: Plan, cells: Sequence[int], workers: int, command: str) -> list[Part]:
    """Parts of bounded size for some cells, so many that each worker has two at least.

    Flows that differ only in their data, start, activation, epsilon or backward go together, as an
    ensemble; all else goes alone.
    """
    size = max(1, min(LARGEST, math.ceil(len(cells) / (2 * workers))))
    families: dict[str, list[tuple[str, str]]] = {}
    for cell in cells:
        config = plan.config(cell)
        family = _family(config, plan.kind) or f"cell {cell}"
        families.setdefault(family, []).append((plan.keys[cell], config.to_toml()))
    parts = []
    for members in families.values():
        for start in range(0, len(members), size):
            keys, configs = zip(*members[start : start + size], strict=True)
            parts.append(Part(keys, configs, plan.kind, plan.folder.resolve(), command))
    return parts


def _family(config: Config, kind: Kind) -> str | None:
    """What the flows of one ensemble have in common; None for a run that goes alone.

    Saves that depend on a flow's end, a budget of seconds and stored data are a run's own.
    """
    flow = config.flow
    if kind != "integrate" or flow is None or config.model.kind == "module":
        return None
    placed_later = math.isinf(flow.t_end) and is_count(flow.times)
    if placed_later or flow.stop.wall_seconds is not None or config.run.store_data:
        return None
    common: dict[str, Any] = config.model_dump(exclude={"data", "start"})
    own = [common["model"].pop(name) for name in _OWN_KEYS]
    # Trajectories share their evaluation set, which a teacher's model labels.
    shared = [config.data.model_dump(), own] if _has_evaluation(config) else []
    return json.dumps([common, shared], default=str)


def _has_evaluation(config: Config) -> bool:
    data = config.data
    aside = data.evaluation_samples if isinstance(data, TeacherData) else data.holdout
    return aside > 0
