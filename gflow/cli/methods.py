"""``gflow methods``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gflow.integrators.base import MethodInfo

COLUMNS = {
    "name": "name",
    "order": "order",
    "adaptive": "adaptive",
    "implicit": "implicit",
    "device": "device",
    "evaluations": "nfe a step",
    "cost_mild": "mild",
    "cost_stiff": "stiff",
    "tightening": "tightening",
    "error_at_end": "error at the end",
    "error_between": "error between",
}
LEGEND = """\
Implicit methods suit stiff flows, and so do rkc2 and rkc4, which are not. Nfe counts field
evaluations. Mild and stiff are what a test problem of each kind took at rtol 1e-6: evaluations +
Jacobians (one of which costs a few evaluations where P is small, P of them where it is large). The
errors are the largest RMS of error / (atol + rtol |theta|) measured on the test problems, at the
end and at 100 times between: about 1 is what was asked for. Tightening is the factor on rtol and
atol that they include. A "-" stands for an order that varies and for what was not measured. A short
name such as dopri5 will do where it is unambiguous; auto chooses a method, and says why.
"""
AUTO = """\
auto is no method: it chooses one by the number of parameters, the stiffness that it measures at the
start, the tolerance and the device:

  not stiff                 tsit5, handing over to a stiff method if the flow turns out stiff
  stiff, P up to 500        expcol8; exprb43 for kinks and single precision; on the CPU LSODA for
                            P above 200, or 50 where the Jacobian is not symmetric
  rtol below 1e-7           expcol8 even if not stiff, if P is up to 50; on the CPU LSODA then if
                            P is up to 500
  stiff, P above 500        rkc2; rkc4 for rtol below 1e-4 if the flow is smooth
  ensembles                 tsit5 or the stiff method for all rows at once; rows that turn out
                            stiff go on with the latter

The run records what it chose and why; `gflow show` tells it.
"""


@click.command
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list with all details.")
def methods(name: str | None, as_json: bool) -> None:
    """List the integrators, or describe the one called NAME."""
    if name is not None and name.lower() == "auto":
        if as_json:
            raise click.UsageError("auto is no method and has no figures; leave out --json.")
        click.echo(AUTO, nl=False)
        return
    from gflow.integrators.registry import METHODS, resolve

    chosen = METHODS.values() if name is None else [resolve(name)]
    described = [describe(method.info) for method in chosen]
    if as_json:
        click.echo(json.dumps(described, indent=2))
    elif name is None:
        _print_all(described)
    else:
        _print_one(described[0])


def describe(info: MethodInfo) -> dict[str, Any]:
    """What is known of a method; None where it is not."""
    from gflow.integrators.measured import COSTS, MEASURED

    at_end, between = MEASURED.get(info.name, (None, None))
    costs = COSTS.get(info.name)
    return {
        "name": info.name,
        "order": info.order,
        "dense_order": info.dense_order,
        "adaptive": info.adaptive,
        "implicit": info.implicit,
        "device": "any" if info.any_device else "cpu",
        "evaluations": info.evaluations,
        "cost_mild": None if costs is None else _cost(*costs[:2]),
        "cost_stiff": None if costs is None else _cost(*costs[2:]),
        "tightening": info.tightening,
        "error_at_end": at_end,
        "error_between": between,
        "lands_on_saves": info.lands,
        "advice": info.advice,
        "source": info.source,
    }


def _print_all(described: Sequence[dict[str, Any]]) -> None:
    from gflow.cli.tables import print_table

    rows = [tuple(_cell(one[key]) for key in COLUMNS) for one in described]
    print_table("Methods", [tuple(COLUMNS.values()), *rows])
    click.echo(LEGEND)
    advice = [(one["name"], one["advice"], one["source"]) for one in described]
    print_table("When to take which", [("name", "advice", "source"), *advice])


def _print_one(described: dict[str, Any]) -> None:
    from gflow.cli.tables import print_table

    rows = [(COLUMNS.get(key, key.replace("_", " ")), _cell(v)) for key, v in described.items()]
    print_table(described["name"], rows[1:])
    click.echo(LEGEND, nl=False)


def _cost(evaluations: int, jacobians: int) -> str:
    return f"{evaluations}+{jacobians}" if jacobians else str(evaluations)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
