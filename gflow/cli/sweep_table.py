"""The table that shows how a sweep gets on, on a terminal's standard error."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Self

from gflow.cli.live import DELAY, duration

if TYPE_CHECKING:
    from rich.live import Live

    from gflow.sweeps import Counts


class SweepTable:
    """A table of two rows, redrawn in place and gone at the end; nothing if not `shown`."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._live: Live | None = None
        self._due = 0.0

    def __enter__(self) -> Self:
        self._due = time.perf_counter() + DELAY
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, counts: Counts) -> None:
        """Show the counts, if it is time."""
        if self._shown and time.perf_counter() >= self._due:
            self._draw(cells(counts))

    def _draw(self, row: dict[str, str]) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.table import Table

        table = Table(*row, box=None, padding=(0, 3, 0, 0))
        table.add_row(*row.values())
        if self._live is None:
            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(table, refresh=True)


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
