"""``gflow plot``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click


@click.command
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write to this file; its suffix decides the format. Default: FILE's name with the suffix "
    ".png, here.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def plot(file: Path, output: Path | None, overwrite: bool) -> None:
    """Draw a run.

    FILE is a dataset that a run wrote; the figure is drawn from it alone.
    """
    from gflow.plot import plot_run

    target = output or Path(f"{file.stem}.png")
    plot_run(file, target, overwrite=overwrite)
    click.echo(f"Wrote {shlex.quote(str(target))}.")
