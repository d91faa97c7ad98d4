"""gflow's own batched methods as the benchmarks run them: many problems, one ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gflow.flows import gradient_flow
from gflow.integrators.auto import choose_ensemble
from gflow.integrators.base import Settings
from gflow.integrators.ensemble import Plan, integrate_ensemble
from gflow.integrators.native import NativeMethod
from gflow.problem import Problem
from gflow.stacking import group_problems


def batched(
    name: str, problems: Sequence[Problem], starts: Tensor, times: Tensor, rtol: float
) -> tuple[Tensor, Mapping[str, float]]:
    """Theta (B, T, P) at the times, NaN for flows that did not arrive; the work of all of them.

    Stacking the problems counts, as it does for whoever hands gflow a list of them.
    """
    t_end = float(times[-1])
    settings = Settings(t_end, rtol, 1e-3 * rtol)
    theta = starts.new_full((len(starts), len(times), starts.shape[1]), torch.nan)
    work = {"gradients": 0.0, "hessians": 0.0}
    for indices, stacked in group_problems(problems):
        field, rows = gradient_flow(stacked), starts[indices]
        choice = choose_ensemble(name, field, rows, t_end, rtol)
        assert isinstance(choice.method, NativeMethod)
        plan = Plan(
            choice.method,
            settings,
            lambda i, of=indices: gradient_flow(problems[of[i]]),
            switch=choice.switch,
            other=choice.other,
            kernel=choice.kernel,
        )
        ends = integrate_ensemble(field, rows, times, plan)
        for i, end in zip(indices, ends, strict=True):
            work["gradients"] += end.nfe
            work["hessians"] += end.hessians
            if end.status.ok:
                theta[i] = end.theta
    return theta, work
