"""``gflow resume``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--t-end", type=float, help="Extend the flow to this end, also if it is complete.")
@click.option(
    "--max-steps",
    type=click.IntRange(min=1),
    help="A larger step limit, counting all from the start.",
)
@click.option(
    "--wall-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="A budget of wall-clock time from now on. Default: that of the run, anew.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing unless the run fails.")
def resume(
    file: Path,
    t_end: float | None,
    max_steps: int | None,
    wall_seconds: float | None,
    quiet: bool,
) -> int:
    """Go on with a run that was interrupted or killed, or extend it.

    FILE is the run's dataset, in which the whole run is then. Native methods go on bit for bit; a
    wrapped back-end begins anew at its last accepted point.
    """
    from gflow.cli.run import go_on

    changes = {"t_end": t_end, "max_steps": max_steps, "wall_seconds": wall_seconds}
    return go_on(file, quiet, changes)
