"""The group of commands: lazy imports, and an exit code and a sentence for every error."""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from gflow.cli.interruption import LeaveAtOnce
from gflow.errors import GflowError
from gflow.wording import did_you_mean, printable, show


class LazyGroup(click.Group):
    """A group that imports a command when it is used.

    Parameters
    ----------
    homes : mapping
        Command name to ``"module:attribute"``.
    """

    def __init__(self, *, homes: Mapping[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        self.homes = homes

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of use."""
        return list(self.homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        if cmd_name not in self.homes:
            return None
        module, _, name = self.homes[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        if args[0] not in self.homes and not args[0].startswith("-"):
            hint = did_you_mean(args[0], self.homes)
            ctx.fail(f"Command {show(args[0])} is unknown{hint}")
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, *_: Any, **settings: Any) -> Any:
        """Run a command line and exit; the command finds it, as typed, in ``ctx.obj``."""
        _mend_streams()
        typed = list(sys.argv[1:] if args is None else args)
        settings |= {"standalone_mode": False, "prog_name": "gflow"}
        settings["obj"] = shlex.join(["gflow", *typed])
        run = super().main
        sys.exit(_flushed(exit_code(lambda: run(typed, **settings))))


def exit_code(run: Callable[[], Any]) -> int:
    """Run something that returns an exit code or None, and tell its errors in sentences."""
    try:
        return int(run() or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except GflowError as error:
        if os.environ.get("GFLOW_DEBUG"):
            traceback.print_exc()
        say_error(str(error))
        return error.exit_code
    except LeaveAtOnce:
        click.echo("Left at once; what had been written by then is kept.", err=True)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted; nothing was written.", err=True)
    except OSError as error:
        if os.environ.get("GFLOW_DEBUG"):
            traceback.print_exc()
        place = f"{str(error.filename)[:200]}: " if error.filename else ""
        say_error(f"{place}{error.strerror or error}.")
    except Exception as error:
        if os.environ.get("GFLOW_DEBUG"):
            traceback.print_exc()
        text = " ".join(str(error).split())
        if isinstance(error, MemoryError) or "can't allocate memory" in text:
            say_error("There is not enough memory; ask for fewer samples, saves or parameters.")
            return 1
        say_error(
            f"internal error: {type(error).__name__}: {text}; please report it with the traceback "
            "that GFLOW_DEBUG=1 shows."
        )
    return 1


def _mend_streams() -> None:
    """Closed streams take what is written; letters that one cannot show are written as codes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _flushed(code: int) -> int:
    """The exit code once all output is written; what cannot be is dropped, and told."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Else Python tries again as it exits, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and error.errno != errno.EPIPE:
            say_error(f"{error.strerror}.")
            return 1
    return code


def say_error(message: str) -> None:
    """Print an error as click does; further lines are indented."""
    click.echo("Error: " + printable(message).replace("\n", "\n       "), err=True)
