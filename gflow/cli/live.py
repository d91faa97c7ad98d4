"""What shows how a long run gets on, on a terminal's standard error."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from gflow.flow_run import Progress

DELAY = 0.5
"""Seconds for which a run is too short to be shown."""
INTERVAL = 0.1
"""Seconds between two updates."""


def is_watched() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr.isatty()


class Display:
    """Something redrawn in place and gone at the end; nothing if not `shown`."""

    interval = INTERVAL

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

    def due(self) -> bool:
        """Whether it is shown and time to draw it, which puts off the next time."""
        now = time.perf_counter()
        if not self._shown or now < self._due:
            return False
        self._due = now + self.interval
        return True

    def draw(self, drawn: RenderableType) -> None:
        """Draw it as it is now."""
        from rich.console import Console
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(drawn, refresh=True)


class LiveLine(Display):
    """One line on a run."""

    _first: tuple[float, Progress] | None = None

    def update(self, progress: Progress) -> None:
        """Show the progress, if it is time."""
        now = time.perf_counter()
        if self._first is None or self._first[1].what != progress.what:
            self._first = now, progress
        if self.due():
            began, first = self._first
            left = time_left(first.fraction, progress.fraction, now - began)
            self._draw(describe(progress, left))

    def _draw(self, text: str) -> None:
        from rich.text import Text

        self.draw(Text(text, no_wrap=True, overflow="ellipsis"))


def describe(progress: Progress, left: float) -> str:
    """The line's text; `left` is in seconds, NaN if unknown."""
    parts = [f"{progress.what}: t = {progress.t:.4g}"]
    if not math.isnan(progress.fraction):
        parts[0] += f" ({progress.fraction:.0%})"
    parts.append("time left unknown" if math.isnan(left) else f"{duration(left)} left")
    parts += [f"loss {progress.loss:.3e}", f"gradient {progress.gradient_norm:.2e}"]
    if progress.what == "flow":
        parts += [f"step {progress.dt:.2g}", f"nfe {progress.nfe}"]
    return "  ".join(parts)


def time_left(first: float, fraction: float, seconds: float) -> float:
    """Seconds to the end, if the clock goes on as it went from `first` to `fraction`."""
    return seconds * (1 - fraction) / (fraction - first) if fraction > first else math.nan


def duration(seconds: float) -> str:
    """Seconds as 3:05 or 1:03:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
