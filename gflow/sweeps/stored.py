"""The configuration of a sweep as its dataset keeps it: able to make the sweep again."""

from __future__ import annotations

import contextlib
import shlex

import tomli_w

from gflow.config import with_values
from gflow.errors import GflowError
from gflow.stored_config import Read, files_read, needs, plain
from gflow.sweeps.plan import Plan, threads_of


def stored_sweep(plan: Plan, workers: int) -> str:
    """The TOML text of the keys that all cells share, and in its first lines the command.

    It has the number of threads, and the digests of the files that all cells read. The number of
    workers decides which flows are integrated together.
    """
    swept = {axis.key for axis in plan.axes}
    config = plan.config(plan.accepted[0])
    read: list[Read] = []
    with contextlib.suppress(GflowError, OSError, ValueError):  # the cells tell what is wrong
        read = [one for one in files_read(config, plan.folder) if one.key not in swept]
    used = {"run.threads": threads_of(config), **{one.digest_key: one.digest for one in read}}
    tables = with_values(plan.base, {key: used[key] for key in used.keys() - swept})
    over = " ".join(f"--over {shlex.quote(axis.text)}" for axis in plan.axes)
    lines = [
        "# Of a dataset that gflow sweep wrote; made again from this, saved as sweep.toml, by",
        f"# gflow sweep sweep.toml --kind {plan.kind} --workers {workers} {plain(over)}",
    ]
    return "\n".join([*lines, *needs(read), "", tomli_w.dumps(tables)])
