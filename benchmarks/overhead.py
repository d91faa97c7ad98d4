"""What the integrators cost beside the field, Jacobian and jvp evaluations that they ask for.

Tanh single-index DEQs with the targets of a noisy teacher. A run is recorded once, call by call,
with the warm starts that the method puts back; then runs and replays of just those calls take turns
on one clock. The ratio is the median over rounds of run / replay: for the integration alone with
101 saves, and for the whole of gflow.integrate, dataset included, with the diagnostics off and the
ends saved (the loss is recorded at every save). `cpu_ratio` is the same by processor time, which
other work on the machine disturbs less.

Usage: python benchmarks/overhead.py [--only auto,dopri5] [--repeats 5] [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from harness import OURS, Measurement, Options, clocked, options, report
from matplotlib.figure import Figure
from torch import Tensor

import gflow
from gflow.errors import MethodError
from gflow.flow_run import FlowOptions, run_flow
from gflow.flows import flow_field, gradient_flow
from gflow.integrators.base import Field
from gflow.integrators.registry import resolve
from gflow.integrators.trajectory import Trajectory
from gflow.recording import DIAGNOSTICS

CASES = {"small": (1_000, 10, 30.0, 1.5), "large": (100_000, 100, 10.0, 1.05)}
"""n, d, t_end and the largest ratio that is allowed."""
METHODS = ("auto", "expcol8", "exprb43", "rkc2", "rkc4", "tsit5", "torchdiffeq:dopri5")
SAVES = 101
OFF = dict.fromkeys(DIAGNOSTICS, False)
EVALUATIONS = ("function", "many", "jacobian", "jvp")
Call = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Case:
    """A flow and how it is integrated."""

    problem: gflow.Problem
    start: Tensor
    t_end: float
    method: str

    def integration(self) -> Any:
        """The integration alone."""
        options = FlowOptions(
            self.t_end, self.method, 1e-6, 1e-9, SAVES, "linear", None, None, "gradient"
        )
        return run_flow(self.problem, self.start, options)

    def whole(self) -> Any:
        """The public call, without diagnostics and saves."""
        return gflow.integrate(
            self.problem,
            self.start,
            self.t_end,
            method=self.method,
            times=2,
            diagnostics=OFF,
            store_data=False,
        )

    def recorded(self) -> tuple[list[Call], Trajectory]:
        """The calls of the integration, and its trajectory."""
        calls: list[Call] = []
        noted = lambda flow, problem: _recorder(flow_field(flow, problem), calls)  # noqa: E731
        with patch("gflow.flow_run.flow_field", noted):
            return calls, self.integration()[0]

    @torch.no_grad()
    def replay(self, calls: list[Call]) -> None:
        """Just these calls, on a fresh field."""
        field = gradient_flow(self.problem)
        known: dict[str, Callable[..., Any]] = {name: getattr(field, name) for name in EVALUATIONS}
        known["restore"] = field.memory.restore
        for name, arguments in calls:
            known[name](*arguments)


def _recorder(field: Field, calls: list[Call]) -> Field:
    """The field, noting its calls and the warm starts that were put back before them."""

    def noting(name: str, evaluate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*arguments: Any) -> Tensor:
            if field.memory is not None and field.memory.last is None:
                calls.append(("restore", (field.memory.value,)))
            calls.append((name, arguments))
            return evaluate(*arguments)

        return call

    return replace(field, **{name: noting(name, getattr(field, name)) for name in EVALUATIONS})


def problem(n: int, d: int) -> tuple[gflow.Problem, Tensor]:
    """Inputs of variances logspace(-1, 1), a tanh teacher with noise 0.1, and a start."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)) * np.sqrt(np.logspace(-1, 1, d) / d)
    model = gflow.SingleIndexDEQ(d, "tanh")
    teacher = np.append(rng.normal(size=d), 0.2)
    targets = gflow.Problem(model, x, np.zeros(n)).predict(teacher).numpy()
    found = gflow.Problem(model, x, targets + 0.1 * rng.normal(size=n))
    return found, found.theta(np.append(0.5 * rng.normal(size=d), -0.2))


def measure(size: str, case: Case, repeats: int) -> list[Measurement]:
    """Ratios of the integration alone and of the whole call to the replay, in alternation."""
    calls, run = case.recorded()
    limit = CASES[size][-1]
    kinds = {"integration": case.integration, "gflow.integrate": case.whole}
    clocks: dict[str, list[tuple[float, float]]] = {name: [] for name in (*kinds, "replay")}
    for _ in range(repeats + 1):
        for name, function in kinds.items():
            clocks[name].append(both_clocks(function))
        clocks["replay"].append(both_clocks(lambda: case.replay(calls)))
    counts = {name: sum(call[0] == name for call in calls) for name in EVALUATIONS}
    replay = np.array(clocks["replay"][1:])
    found = []
    for name in kinds:
        spent = np.array(clocks[name][1:])
        ratio, cpu_ratio = np.median(spent / replay, axis=0).tolist()
        times = {"cpu_ratio": cpu_ratio, "replay_seconds": float(np.median(replay[:, 0]))}
        found.append(
            Measurement(
                contender=f"{OURS} {case.method}, {size}, {name}",
                setting="rtol=1e-06",
                tolerance=1e-6,
                error=ratio,
                seconds=float(np.median(spent[:, 0])),
                work={**times, **counts},
                meets=ratio <= limit,
                note=run.method,
            )
        )
        print(f"{found[-1].contender} ({run.method}): {ratio:.3f}, cpu {cpu_ratio:.3f}", flush=True)
    return found


def both_clocks(function: Callable[[], Any]) -> tuple[float, float]:
    """Wall time and processor time of a call."""
    began = time.process_time()
    wall = clocked(function)[1]
    return wall, time.process_time() - began


def registered(method: str, omissions: dict[str, str]) -> bool:
    """Whether the registry knows a method; if not, that is an omission."""
    try:
        resolve(method)
    except MethodError:
        omissions[method] = "The registry does not have it."
        return False
    return True


def bars(title: str, measurements: Sequence[Measurement]) -> Figure:
    """A panel a size, a pair of bars a method, a line where the ratio is to stay below."""
    split = [each.contender.removeprefix(f"{OURS} ").split(", ") for each in measurements]
    sizes = list(dict.fromkeys(size for _, size, _ in split))
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, len(sizes), squeeze=False)[0]
    for size, axes in zip(sizes, panels, strict=True):
        methods = list(dict.fromkeys(method for method, of, _ in split if of == size))
        for shift, kind in ((-0.2, "integration"), (0.2, "gflow.integrate")):
            ratios = [
                each.error
                for each, (_, *rest) in zip(measurements, split, strict=True)
                if rest == [size, kind]
            ]
            axes.barh(np.arange(len(ratios)) + shift, ratios, 0.4, label=kind)
        n, d, _, limit = CASES[size]
        axes.axvline(limit, color="black", linestyle="--", label=f"{limit:g}")
        axes.set(title=f"n = {n:,}, d = {d}", xlabel="ratio")
        axes.set_xlim(0.9, 0.9 + 1.4 * (axes.get_xlim()[1] - 0.9))  # room for the legend
        axes.set_yticks(range(len(methods)), methods)
        axes.invert_yaxis()
        axes.legend(fontsize="small")
    figure.suptitle(title.partition(" (")[0])
    return figure


def main() -> None:
    """All methods on both sizes."""
    given: Options = options(__doc__ or "")
    torch.set_num_threads(1)
    omissions: dict[str, str] = {}
    found: list[Measurement] = []
    for size, (n, d, t_end, _) in CASES.items():
        if given.quick and size != "small":
            continue
        flow, start = problem(n, d)
        for method in METHODS:
            if given.only and not any(part in method for part in given.only):
                continue
            if method != "auto" and not registered(method, omissions):
                continue
            found += measure(size, Case(flow, start, t_end, method), given.repeats)
    title = "Wall time over the time of the evaluations alone (the column error)"
    report("overhead", title, found, omissions, {"cases": CASES}, given.output, bars)


if __name__ == "__main__":
    main()
