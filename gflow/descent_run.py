"""One problem's descents: from a plan to the iterates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gflow.descent import Descent, gradient_descent, record_times
from gflow.descent.clock import Records
from gflow.descent.run import DescentKeeper
from gflow.flow_run import Progress, ProgressCallback, Ticker, loss_and_norm
from gflow.flows import Flow
from gflow.problem import Problem


@dataclass(frozen=True)
class DescentPlan:
    """The arguments of :func:`gflow.descend` that decide what is run."""

    step_sizes: Sequence[float]
    t_end: float
    records: Records
    spacing: str
    wall_seconds: float
    flow: Flow
    schedule: str

    def times(self) -> list[float]:
        """Every time at which an iterate will be recorded, increasing."""
        return record_times(
            self.step_sizes, self.t_end, self.records, self.spacing, self.flow, self.schedule
        )

    def size(self, start: Tensor) -> float:
        """Bytes of the iterates that will be recorded."""
        count = self.records if isinstance(self.records, int) else len(self.records)
        return 8.0 * len(self.step_sizes) * count * start.numel()


def run_descent(
    problem: Problem,
    start: Tensor,
    plan: DescentPlan,
    callback: ProgressCallback | None,
    keeper: DescentKeeper | None = None,
    state: Mapping[str, Any] | None = None,
) -> Descent:
    """Run the descents, and tell a callback how they get on."""
    ticker = Ticker()

    def report(fraction: float, theta: Tensor) -> None:
        if callback is not None and ticker.due():
            loss, norm = loss_and_norm(problem, theta)
            t = fraction * plan.t_end
            callback(Progress(fraction, t, loss, norm, math.nan, 0, "descent"))

    return gradient_descent(
        problem,
        start,
        plan.step_sizes,
        plan.t_end,
        plan.records,
        plan.spacing,
        wall_seconds=plan.wall_seconds,
        progress=report,
        flow=plan.flow,
        schedule=plan.schedule,
        keeper=keeper,
        state=state,
    )
