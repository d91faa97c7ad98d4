"""``gflow show``."""

from __future__ import annotations

from pathlib import Path

import click

from gflow.cli.group import say_error
from gflow.errors import StoreError, UsageError
from gflow.wording import printable


@click.command
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@click.option(
    "--config",
    "config_only",
    is_flag=True,
    help="Print only the configuration, as TOML, to run it again.",
)
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="List every trajectory of an ensemble. Default: the first 20, those that ended early "
    "before the others.",
)
def show(files: tuple[Path, ...], config_only: bool, every: bool) -> int:
    """Summarise runs.

    Each FILE is a dataset that a run wrote.
    """
    if config_only:
        return _print_config(files)
    code = 0
    for path in files:
        try:
            _print_summary(path, every)
        except UsageError as error:
            say_error(str(error))
            code = error.exit_code
    return code


def _print_summary(path: Path, every: bool) -> None:
    from gflow.cli.tables import print_table
    from gflow.show import summary
    from gflow.store.files import open_tree

    sections = summary(open_tree(path), every)
    click.echo(f"{path}\n")
    for title, rows in sections:
        print_table(title, rows)


def _print_config(files: tuple[Path, ...]) -> int:
    from gflow.store.files import open_tree

    if len(files) > 1:
        raise click.UsageError("--config takes one FILE.")
    config = str(open_tree(files[0]).attrs["config"])
    if not config:
        raise StoreError(f"{files[0]} holds no configuration; it was made in Python.")
    click.echo(printable(config), nl=not config.endswith("\n"))
    return 0
