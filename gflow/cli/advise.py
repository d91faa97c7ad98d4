"""``gflow advise``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gflow.cli.flags import overrides
from gflow.cli.interruption import Interruption
from gflow.cli.live import LiveLine, is_watched

if TYPE_CHECKING:
    from gflow.advice import Advice
    from gflow.config import Config
    from gflow.flow_run import Progress, ProgressCallback

NOTICE = "Interrupted; what is known by now will be printed."


@click.command
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key, such as start.seed=1. It may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all details.")
def advise(config: Path, assignments: tuple[str, ...], as_json: bool) -> int:
    """Say what suits the problem and the start that CONFIG describes.

    Follows the flow to its limit, whatever flow.t_end is, and tells the sharpness on the way, the
    largest stable step size of gradient descent, the time scales, and which integrator fits. It
    judges flow.t_end, flow.method and descent.step_sizes where CONFIG gives them. It gives up after
    flow.stop.wall_seconds (one minute if there is none), and exits with 1 if the flow has no limit.
    """
    from gflow.config import load_config

    checked = load_config(config, overrides(assignments, [], {}))
    with Interruption(NOTICE) as interruption, LiveLine(is_watched()) as line:

        def report(progress: Progress) -> None:
            interruption.check()
            line.update(progress)

        advice = advise_config(checked, config.parent, report)
    if as_json:
        from gflow.advice_text import as_dict

        click.echo(json.dumps(as_dict(advice), indent=2, allow_nan=False))
    else:
        _print(advice)
    return 0 if advice.settled else 1


def advise_config(config: Config, folder: Path, progress: ProgressCallback) -> Advice:
    """Advice for a configuration; data paths are relative to `folder`."""
    import torch

    from gflow.advice import advise
    from gflow.configured import make_problem, make_start

    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    problem, _ = make_problem(config, folder)
    start = make_start(config, problem.model)
    return advise(problem, start, progress=progress, **_given(config))


def _given(config: Config) -> dict[str, Any]:
    """The arguments that the configuration has."""
    flow, descent = config.flow, config.descent
    given: dict[str, Any] = {
        "t_end": descent.t_end if descent else None,
        "step_sizes": descent.step_sizes if descent else None,
    }
    if flow is not None:
        given |= {"method": flow.method, "rtol": flow.rtol, "atol": flow.atol}
        given |= {"wall_seconds": flow.stop.wall_seconds}
        given |= {"t_end": flow.t_end} if math.isfinite(flow.t_end) else {}
    return {name: value for name, value in given.items() if value is not None}


def _print(advice: Advice) -> None:
    from gflow.advice_text import conclusion, tables
    from gflow.cli.tables import print_table

    for title, rows in tables(advice):
        print_table(title, rows)
    for sentence in conclusion(advice):
        click.echo(sentence)
