"""Ctrl-C as an exception."""

from __future__ import annotations

from typing import NoReturn


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; Python ends by the signal, whatever the exit code, once its own has passed `exec`."""


def interrupt(*_: object) -> NoReturn:
    """Raise it; a handler of the signal."""
    raise Interrupted
