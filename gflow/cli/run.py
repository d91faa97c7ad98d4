"""``gflow integrate``, ``gflow descend`` and ``gflow compare``."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gflow.cli.flags import KeyOption, key_options, overrides
from gflow.cli.group import say_error
from gflow.cli.interruption import Interruption
from gflow.cli.live import LiveLine, is_watched
from gflow.errors import StoreError
from gflow.status import Status
from gflow.store.files import check_dataset
from gflow.store.output import Output

if TYPE_CHECKING:
    import xarray as xr

    from gflow.configured import Kind
    from gflow.flow_run import Progress, ProgressCallback

NOTES = """Values are taken from CONFIG, then from --set, then from the flags below; the last one
given wins. Lists are separated by commas. The file is written as the run goes; Ctrl-C ends a run
early and keeps what there is, and `gflow resume` goes on with it.
"""


class RunCommand(click.Command):
    """A command with a flag for every key, which are made only when it is parsed."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(
            kind,
            callback=click.pass_context(functools.partial(run, kind)),
            help=f"{text}\n\n{NOTES}",
            params=[
                click.Argument(["config"], type=click.Path(path_type=Path)),
                click.Option(
                    ["-o", "--output"],
                    type=click.Path(path_type=Path),
                    help="Write to this file. Default: CONFIG's name with the suffix .nc, here.",
                ),
                click.Option(["--overwrite"], is_flag=True, help="Replace an existing file."),
                click.Option(
                    ["--resume"],
                    is_flag=True,
                    help="Go on with the file if it holds an unfinished run of this configuration; "
                    "begin if there is none, and do nothing if it is complete.",
                ),
                click.Option(
                    ["--set", "assignments"],
                    multiple=True,
                    metavar="KEY=VALUE",
                    help="Set a key, such as flow.rtol=1e-8, or a table, such as start={seed=1}. "
                    "It may be repeated.",
                ),
                click.Option(
                    ["-q", "--quiet"], is_flag=True, help="Print nothing unless the run fails."
                ),
            ],
        )
        self.kind = kind

    @functools.cached_property
    def key_options(self) -> list[KeyOption]:
        """The flags of the configuration's keys."""
        return key_options(self.kind)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The parameters, those of the keys last."""
        return [*super().get_params(ctx), *self.key_options]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, one section a table."""
        common = [param for param in super().get_params(ctx) if isinstance(param, click.Option)]
        sections: list[tuple[str, Sequence[click.Option]]] = [("Options", common)]
        for table, options in itertools.groupby(self.key_options, lambda option: option.table):
            sections.append((f"[{table}]", list(options)))
        for title, shown in sections:
            records = [option.get_help_record(ctx) for option in shown]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])


def run(
    kind: Kind,
    ctx: click.Context,
    /,
    config: Path,
    output: Path | None,
    overwrite: bool,
    resume: bool,
    assignments: tuple[str, ...],
    quiet: bool,
    **values: Any,
) -> int:
    """Run a configuration, write its dataset and return the exit code."""
    from gflow.config import load_config

    assert isinstance(ctx.command, RunCommand)
    checked = load_config(config, overrides(assignments, ctx.command.key_options, values))
    read = [config, *([config.parent / checked.data.path] if checked.data.source == "file" else [])]
    target = Path(output or f"{config.stem}.nc")
    if overwrite and resume:
        raise click.UsageError("--overwrite and --resume ask for opposites; keep one of them.")
    from gflow.configured import run_config, run_key

    key = run_key(checked, kind)
    if target.exists() and not overwrite:
        check_existing(target, key, resume)
        return go_on(target, quiet, {})
    check_dataset(target, overwrite, read)
    seconds = checked.run.checkpoint_seconds
    folder = os.path.relpath(config.parent.resolve(), target.parent.resolve())
    file = Output(target, seconds, overwrite, say_error, key=key, folder=folder)
    with file, watched(quiet) as progress:
        tree = run_config(
            checked, kind, config.parent, progress=progress, command=ctx.obj, output=file
        )
    return tell(tree, target, quiet)


def go_on(target: Path, quiet: bool, changes: Mapping[str, Any]) -> int:
    """Go on with a run from its file, and return the exit code."""
    from gflow.extending import is_complete
    from gflow.resuming import resume
    from gflow.store.files import open_tree

    if changes.get("t_end") is None and is_complete(open_tree(target)):
        if not quiet:
            click.echo(
                f"{shlex.quote(str(target))} is complete; nothing was done. `gflow resume` with "
                "--t-end extends a flow."
            )
        return 0
    with watched(quiet) as progress:
        tree = resume(target, progress=progress, tell=say_error, **changes)
    return tell(tree, target, quiet)


@contextlib.contextmanager
def watched(quiet: bool) -> Iterator[ProgressCallback]:
    """The context of a run that Ctrl-C ends early, shown by a line on a terminal."""
    with Interruption() as interruption, LiveLine(is_watched() and not quiet) as line:

        def report(progress: Progress) -> None:
            interruption.check()
            line.update(progress)

        yield report


def tell(tree: xr.DataTree, target: Path, quiet: bool) -> int:
    """Say how a run ended, and return the exit code."""
    succeeded = is_success(tree)
    if not (quiet and succeeded):
        click.echo("\n".join(conclusion(tree, target, succeeded)), err=not succeeded)
    return 0 if succeeded else 1


def check_existing(target: Path, key: str, resume: bool) -> None:
    """Refuse to touch an existing file, unless it is to be gone on with and it can be.

    Raises
    ------
    StoreError
        Saying what the file holds and what can be done.
    """
    from gflow.extending import is_complete
    from gflow.store.files import open_tree

    either = "choose another name, or pass --overwrite to replace it"
    try:
        tree = open_tree(target)
        same = tree.attrs.get("run_key") == key
        complete = not same or is_complete(tree)
    except StoreError:
        if target.is_dir():
            raise
        raise StoreError(f"{target} exists and is no run of gflow's; {either}.") from None
    if not same:
        raise StoreError(f"{target} exists and is of another configuration; {either}.")
    if not resume:
        state, more = ("complete", "") if complete else ("unfinished", "; --resume goes on with it")
        raise StoreError(f"{target} exists: a run of this configuration, {state}{more}; {either}.")


def is_success(tree: xr.DataTree) -> bool:
    """Whether the flow ended well, and gradient descent did at one step size at least.

    A descent that diverges at one step size of several is a finding, not a failure; one that was
    cut short is not.
    """
    groups = [_statuses(tree, name) for name in ("flow", "descent") if name in tree.children]
    cut_short = any({Status.INTERRUPTED, Status.WALL_LIMIT} & set(group) for group in groups)
    return not cut_short and all(any(status.ok for status in group) for group in groups)


def conclusion(tree: xr.DataTree, target: Path, succeeded: bool) -> list[str]:
    """How the run ended, where it is, and what to do next; one line each."""
    name = shlex.quote(str(target))
    told = [f"Flow: {tree['flow'].status_message.item()}"] if "flow" in tree.children else []
    if "descent" in tree.children:
        told.append(f"Gradient descent: {_descent_sentence(tree)}")
    if succeeded:
        return [*told, f"Wrote {name}; see it with `gflow show {name}` or `gflow plot {name}`."]
    seen = f"see it with `gflow show {name}` or `gflow plot {name}`"
    return [*told, f"The partial run is kept in {name}; {seen}{_way_on(tree, name)}."]


def _way_on(tree: xr.DataTree, name: str) -> str:
    """How an unfinished run goes on, if it can."""
    from gflow.extending import is_complete

    if "checkpoint" not in tree.children or is_complete(tree):
        return ""
    limited = "flow" in tree.children and _statuses(tree, "flow") == [Status.STEP_LIMIT]
    return f", go on with `gflow resume {name}{' --max-steps NUMBER' if limited else ''}`"


def _descent_sentence(tree: xr.DataTree) -> str:
    statuses = _statuses(tree, "descent")
    pairs = list(zip(tree["descent"].step_size.values, statuses, strict=True))
    failed = ", ".join(f"{eta:g} ({status})" for eta, status in pairs if not status.ok)
    reached = f"{sum(status.ok for status in statuses)} of {len(pairs)} step sizes reached t_end"
    return f"{reached}; not {failed}." if failed else f"{reached}."


def _statuses(tree: xr.DataTree, group: str) -> list[Status]:
    return [Status(str(value)) for value in tree[group].status.values.ravel()]


integrate = RunCommand("integrate", "Integrate the gradient flow that CONFIG describes.")
descend = RunCommand("descend", "Run gradient descent, at each step size that CONFIG gives.")
compare = RunCommand("compare", "Integrate the flow, and run gradient descent beside it.")
