"""Tables on standard output: fitted to a terminal, plain and unwrapped elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from gflow.wording import printable

_UNLIMITED = 10_000


def print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells under a title, and a blank line.

    Rows of two cells are a name and a value; of wider rows the first one is the header.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal, wide = sys.stdout.isatty(), len(rows[0]) > 2
    header, body = (rows[0], rows[1:]) if wide else ([""] * len(rows[0]), rows)
    wraps = [any(" " in row[column] for row in body) for column in range(len(header))]
    table = Table(box=None, show_header=wide, pad_edge=False, padding=(0, 2, 0, 0))
    for column, name in enumerate(header):
        heading = Text(name.replace(" ", "\n") if terminal else name)
        style = "cyan" if column == 0 else ""
        table.add_column(heading, style=style, no_wrap=not wraps[column], overflow="fold")
    for row in body:
        table.add_row(*(Text(printable(cell)) for cell in row))
    width = None if terminal and any(wraps) else _UNLIMITED
    console = Console(width=width, force_terminal=terminal)
    with console.capture() as captured:
        console.print(Text(title, style="bold"), table, sep="\n")
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")
