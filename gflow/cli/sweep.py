"""``gflow sweep``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gflow.cli.interruption import Interruption
from gflow.cli.live import is_watched
from gflow.cli.sweep_table import SweepTable

if TYPE_CHECKING:
    from gflow.configured import Kind
    from gflow.sweeps import Counts, Finished

NOTICE = "Interrupted; the cells that are done are kept."


@click.command(
    epilog="""\b
Examples:
  gflow sweep linear.toml --over data.seed=0:20 --over flow.rtol=1e-4,1e-8 -o sweep.nc
  gflow sweep linear.toml --over descent.step_sizes=0.1,0.05 --kind descend
"""
)
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--over",
    multiple=True,
    required=True,
    metavar="KEY=VALUES",
    help="A key of the configuration and its values: a list such as 0.5,0.25, or integers from:to "
    "or from:to:step, the end excluded. For a key that takes a list each value is a list of one; "
    "[0.1,0.2],[0.3] gives lists. It may be repeated: all combinations are run.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write to this file, or to this Zarr store if it ends in .zarr. Default: CONFIG's name "
    "with the ending -sweep.nc, here.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing dataset.")
@click.option(
    "--kind",
    type=click.Choice(["integrate", "descend", "compare"]),
    help="What is run. Default: compare if there are [flow] and [descent], else the one there is.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key, such as flow.rtol=1e-8, or a table, such as start={seed=1}. It may be "
    "repeated.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Number of processes. Default: the number of CPUs."
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Run on the Dask cluster of this scheduler, such as tcp://node1:8786, instead.",
)
@click.option(
    "-q", "--quiet", is_flag=True, help="Print nothing unless a cell does not end as asked."
)
@click.pass_context
def sweep(
    ctx: click.Context,
    config: Path,
    over: tuple[str, ...],
    output: Path | None,
    overwrite: bool,
    kind: Kind | None,
    assignments: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    quiet: bool,
) -> int:
    """Run CONFIG for every combination of values of some of its keys.

    The result is one dataset with the keys as dimensions. A cell that fails is NaN, with its status
    and a sentence in the group /sweep. What is done is kept in a folder beside the dataset, so that
    the same command goes on where an earlier one was interrupted.
    """
    from gflow.config import parse_override
    from gflow.sweeps import run_sweep

    target = output or Path(f"{config.stem}-sweep.nc")
    with Interruption(NOTICE) as interruption, SweepTable(is_watched() and not quiet) as table:

        def report(counts: Counts) -> None:
            interruption.check()
            table.update(counts)

        try:
            done = run_sweep(
                config,
                over,
                target,
                overrides=dict(parse_override(text) for text in assignments),
                kind=kind,
                workers=workers,
                scheduler=scheduler,
                overwrite=overwrite,
                progress=report,
                tell=lambda sentence: click.echo(f"Note: {sentence}", err=True),
                command=ctx.obj,
            )
        except KeyboardInterrupt:
            raise click.ClickException(
                "Interrupted; the same command goes on from there."
            ) from None
    well = done.well == done.cells
    if not (quiet and well):
        click.echo("\n".join(conclusion(done)), err=not well)
    return 0 if well else 1


def conclusion(done: Finished) -> list[str]:
    """How the cells ended, and where the dataset is; one line each."""
    told = f"{done.well} of {done.cells} cells ended as asked"
    others = [f"{count} {one}" for one, count in done.statuses.most_common() if not one.ok]
    told += f"; {', '.join(others)}." if others else "."
    if done.reused:
        told += f" {done.reused} had been run before."
    name = shlex.quote(str(done.path))
    return [
        told,
        *([f"The first that did not: {done.first_failure}"] if done.first_failure else []),
        f"Wrote {name}; see it with `gflow show {name}`. The folder {done.parts} has the cells; "
        "keep it to add values, or delete it.",
    ]
