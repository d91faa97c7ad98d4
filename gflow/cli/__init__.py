"""The command line: thin commands, each imported when it is used."""

from __future__ import annotations

import click

import gflow
from gflow.cli.group import LazyGroup

__all__ = ["main"]

COMMANDS = {
    "integrate": "gflow.cli.run:integrate",
    "descend": "gflow.cli.run:descend",
    "compare": "gflow.cli.run:compare",
    "sweep": "gflow.cli.sweep:sweep",
    "resume": "gflow.cli.resume:resume",
    "show": "gflow.cli.show:show",
    "plot": "gflow.cli.plot:plot",
    "methods": "gflow.cli.methods:methods",
    "advise": "gflow.cli.advise:advise",
    "study": "gflow.cli.study:study",
}
"""Where each command lives; a new one is one file and one line."""

EPILOG = """\b
Examples:
  gflow compare linear.toml -o run.nc       the flow, and gradient descent beside it
  gflow integrate linear.toml --rtol 1e-8   one key of the file changed
  gflow sweep a.toml --over data.seed=0:20  the same for many values of a key
  gflow resume run.nc                       a run that was stopped or killed, gone on with
  gflow show run.nc                         what came out
  gflow plot run.nc -o run.png              a figure of it
  gflow methods                             the integrators to choose from
  gflow advise linear.toml                  step sizes, time scales and the integrator that fit
  gflow study list                          results reproduced, each with its claims and figure

Exit codes: 0 for success, 1 for a run that failed (what there is of it is kept), 2 for a wrong
request. With GFLOW_DEBUG=1 an internal error shows its traceback.
"""


@click.command(
    cls=LazyGroup,
    homes=COMMANDS,
    name="gflow",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(gflow.__version__, message="gflow %(version)s")
def main() -> None:
    """Gradient flow of deep equilibrium models, integrated with error control.

    A configuration (TOML) describes the model, the data, the flow and gradient descent; a run
    writes one labelled netCDF file.
    """
