"""Where a dataset comes from: what is needed to trust it and to make it again."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import gflow
from gflow.data import sha256
from gflow.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gflow.problem import Problem

PACKAGES = ("torch", "torchdiffeq", "scipy", "numpy", "xarray", "netCDF4")


@dataclass(frozen=True)
class Provenance:
    """What the caller knows of a run's origin.

    Attributes
    ----------
    command : str or None
        As typed; None for that of the running program.
    config : str
        TOML text, empty for a run from Python.
    data_source : str
        One line on where the data come from.
    feature_names : sequence of str or None
        Names of the inputs.
    seeds : str
        Such as ``data.seed = 0, start.seed = 1``; empty where they are not known.
    """

    command: str | None = None
    config: str = ""
    data_source: str = "arrays given in Python"
    feature_names: Sequence[str] | None = None
    seeds: str = ""


def root_attributes(
    problems: Sequence[Problem],
    provenance: Provenance,
    wall_seconds: float,
    kind: str = "",
    started: datetime | None = None,
) -> dict[str, Any]:
    """The attributes of a dataset's root, as :data:`gflow.schema.ROOT_ATTRIBUTES` lists them.

    Parameters
    ----------
    problems : sequence of Problem
    provenance : Provenance
    wall_seconds : float
    kind : str
        Of run: ``integrate``, ``descend`` or ``compare``.
    started : datetime, optional
        In UTC; now unless given.
    """
    import torch

    now = datetime.now(UTC)
    return {
        "schema_version": SCHEMA_VERSION,
        "gflow_version": gflow.__version__,
        "created_at": now.isoformat(timespec="seconds"),
        "kind": kind,
        "started_at": (started or now).isoformat(timespec="milliseconds"),
        "finished_at": now.isoformat(timespec="milliseconds"),
        "seeds": provenance.seeds,
        "command": _command() if provenance.command is None else provenance.command,
        "config": provenance.config,
        "wall_seconds": wall_seconds,
        "versions": versions(),
        "device": _device_name(problems[0]),
        "dtype": str(problems[0].dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "git_revision": git_revision(),
        "data_sha256": data_digest(problems),
    }


def _command() -> str:
    """The running program with its arguments; of its path the name alone, which tells no host."""
    program, *arguments = sys.argv or [""]
    return " ".join([Path(program).name, *arguments])


@functools.cache
def versions() -> str:
    """Versions of Python and the packages that decide the numbers, in one line."""
    found = [f"python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


@functools.cache
def git_revision() -> str:
    """Commit of the checkout that gflow runs from, with ``+dirty``; empty outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return ""
    revision = _git(folder, "rev-parse", "HEAD")
    dirty = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return revision + "+dirty" if revision and dirty else revision


_DIGESTS: WeakKeyDictionary[Problem, str] = WeakKeyDictionary()
"""Of problems whose runs are written again and again."""


def data_digest(problems: Sequence[Problem]) -> str:
    """Digest of all inputs and targets; empty if there are none."""
    if len(problems) > 1:
        return _digest(problems)
    if problems[0] not in _DIGESTS:
        _DIGESTS[problems[0]] = _digest(problems)
    return _DIGESTS[problems[0]]


def _digest(problems: Sequence[Problem]) -> str:
    with_data = [problem for problem in problems if problem.n_samples]
    arrays = [_array(tensor) for problem in with_data for tensor in (problem.x, problem.y)]
    return sha256(*arrays) if arrays else ""


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _device_name(problem: Problem) -> str:
    if problem.device.type != "cuda":
        return str(problem.device)
    import torch

    return f"{problem.device} ({torch.cuda.get_device_name(problem.device)})"
