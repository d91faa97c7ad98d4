"""The table that shows how a sweep gets on, on a terminal's standard error."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gflow.cli.live import Display, duration

if TYPE_CHECKING:
    from gflow.sweeps import Counts


class SweepTable(Display):
    """A table of two rows; it changes seldom, so that no change is left out."""

    interval = 0.0

    def update(self, counts: Counts) -> None:
        """Show the counts, if it is time."""
        if self.due():
            self._draw(cells(counts))

    def _draw(self, row: dict[str, str]) -> None:
        from rich.table import Table

        table = Table(*row, box=None, padding=(0, 3, 0, 0))
        table.add_row(*row.values())
        self.draw(table)


def cells(counts: Counts) -> dict[str, str]:
    """The table's columns: names and values."""
    left = time_left(counts)
    return {
        "cells": f"{counts.total:,}",
        "done": f"{counts.done:,}",
        "failed": f"{counts.failed:,}",
        "running": f"{counts.running:,}",
        "time left": "unknown" if math.isnan(left) else duration(left),
    }


def time_left(counts: Counts) -> float:
    """Seconds to the end if it goes on as it went; NaN if none is done yet."""
    ended = counts.done + counts.failed
    now = ended - counts.reused
    return counts.seconds * (counts.total - ended) / now if now > 0 else math.nan
