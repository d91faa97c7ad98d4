"""What a run records beside theta, checked before anything is computed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from numbers import Integral
from typing import Any

import xarray as xr
from torch import Tensor

from gflow import assemble
from gflow.diagnostics.pointwise import POINTWISE
from gflow.diagnostics.thresholds import Threshold, read_events
from gflow.errors import ProblemError
from gflow.flow_run import ProgressCallback
from gflow.problem import ArrayLike, Problem
from gflow.store.provenance import Provenance, root_attributes
from gflow.thinning import Choice, check_choice, keep_theta
from gflow.wording import did_you_mean

DIAGNOSTICS = (
    *(name for name in POINTWISE if name != "loss"),
    "evaluation_loss",
    "sharpness",
    "eigenvalues",
    "energy_residual",
    "error_estimate",
    "invariant_drift",
    "reference",
)
"""Names that ``diagnostics`` accepts; all are on unless switched off, but for ``eigenvalues``,
which takes a number, and ``error_estimate``, which costs a second run. The loss always is."""

OFF: dict[str, Any] = {"eigenvalues": 0, "error_estimate": False}
"""Those that are off by default."""

MOST_EIGENVALUES = 10_000

NO_DATA = "no data: the loss is a function of theta, given in Python"

STORE_LIMIT = 200_000
"""Numbers in x up to which inputs and targets are stored by default."""


@dataclass(frozen=True)
class Recording:
    """Diagnostics, evaluation set, observables and provenance of one call.

    Attributes
    ----------
    switches : mapping
        Every diagnostic with its switch.
    evaluation : (x, y) or None
    observables : mapping
        The user's functions of theta (P,).
    store_data : bool or None
        None stores data of at most :data:`STORE_LIMIT` numbers.
    store_theta : str or sequence of float
        At which saves, see :mod:`gflow.thinning`.
    progress : callable or None
    provenance : Provenance
    events : tuple of Threshold
    kind : str
        ``integrate``, ``descend`` or ``compare``.
    began : float
        Reading of the clock when the call began.
    started : datetime
        The same in UTC.
    """

    switches: Mapping[str, Any]
    evaluation: tuple[ArrayLike, ArrayLike] | None
    observables: assemble.Observables
    store_data: bool | None
    store_theta: Choice
    progress: ProgressCallback | None
    provenance: Provenance
    events: tuple[Threshold, ...] = ()
    kind: str = ""
    began: float = field(default_factory=time.perf_counter)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def evaluation_problem(self, problem: Problem) -> Problem | None:
        """The problem on the evaluation set."""
        return None if self.evaluation is None else problem.on(*self.evaluation)

    def tree(self, problems: Sequence[Problem], groups: Mapping[str, xr.Dataset]) -> xr.DataTree:
        """The whole dataset, ``/problem`` and the root's attributes included."""
        first, alike = problems[0], all(problem is problems[0] for problem in problems)
        small = sum(problem.x.numel() for problem in problems) <= STORE_LIMIT
        keep = alike and (small if self.store_data is None else self.store_data)
        names = self.provenance.feature_names or [f"x[{i}]" for i in range(first.model.dim)]
        described = assemble.problem_group(
            first, self.evaluation_problem(first) if keep else None, keep, names
        )
        any_data = any(problem.n_samples for problem in problems)
        source = self.provenance.data_source if any_data else NO_DATA
        described.attrs["data_source"] = source
        if not alike:
            described = assemble.described_apart(described, problems)
            source = f"{len(problems)} problems; {source}"
            described.attrs["data_source"] = source
        kept = {
            name: keep_theta(group, self.store_theta) if name in ("flow", "descent") else group
            for name, group in groups.items()
        }
        tree = xr.DataTree.from_dict({"problem": described, **kept})
        seconds = time.perf_counter() - self.began
        tree.attrs = root_attributes(problems, self.provenance, seconds, self.kind, self.started)
        return tree


def make_recording(
    kind: str, problem: Problem, theta0: Tensor, given: Mapping[str, Any]
) -> Recording:
    """Check everything that could fail after the run, before it.

    Parameters
    ----------
    kind : str
        ``integrate``, ``descend`` or ``compare``.
    problem : Problem
        Or the first of several.
    theta0 : Tensor, shape (P,)
    given : mapping
        The call's arguments by name, others among them; what is missing has its default.

    Raises
    ------
    ProblemError
        If a diagnostic is unknown or its switch is none, the evaluation set does not fit the
        problem, or an observable fails at theta0.
    """
    observables, diagnostics = given.get("observables"), given.get("diagnostics")
    evaluation = given.get("evaluation")
    for name, value in (("observables", observables), ("diagnostics", diagnostics)):
        if value is not None and not isinstance(value, Mapping):
            raise ProblemError(f"{name} is {value!r}; it must be a mapping from names.")
    if evaluation is not None and len(evaluation) != 2:
        raise ProblemError("evaluation must be a pair (x, y).")
    recording = Recording(
        _switches(diagnostics or {}),
        evaluation,
        observables or {},
        given.get("store_data"),
        check_choice(given.get("store_theta", "all")),
        given.get("progress"),
        given.get("provenance") or Provenance(),
        read_events(given.get("events"), problem, given.get("step_sizes")),
        kind,
    )
    recording.evaluation_problem(problem)
    assemble.check_observables(recording.observables, theta0)
    return recording


def _switches(given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if name not in DIAGNOSTICS:
            raise ProblemError(f"diagnostics.{name} is unknown{did_you_mean(name, DIAGNOSTICS)}")
        if name == "eigenvalues":
            _check_count(value)
            continue
        every = name == "sharpness" and value == "all"
        if not isinstance(value, bool) and not every:
            raise ProblemError(f"diagnostics.{name} is {value!r}; it must be True or False.")
    return dict.fromkeys(DIAGNOSTICS, True) | OFF | dict(given)


def _check_count(value: Any) -> None:
    if not isinstance(value, Integral) or value is True or not 0 <= int(value) <= MOST_EIGENVALUES:
        raise ProblemError(
            f"diagnostics.eigenvalues is {value!r}; it must be a number of eigenvalues to store, "
            f"such as 5, or 0 for none, and at most {MOST_EIGENVALUES}."
        )
