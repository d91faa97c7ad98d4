"""torchdiffeq's dopri5; a batch shares one step, judged by the RMS over the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torchdiffeq import odeint

import gflow
from gflow.flows import gradient_flow

Array = np.ndarray
Solve = Callable[[float], tuple[Array, Mapping[str, float]]]


class _Counted:
    """A field that counts its evaluations."""

    def __init__(self, field: Callable[..., torch.Tensor]) -> None:
        self.field, self.calls = field, 0

    def __call__(self, t: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.field(t, theta)


def _integrate(field: Any, start: torch.Tensor, times: torch.Tensor, rtol: float) -> torch.Tensor:
    """Theta at the times, (T, ...)."""
    choices = {"rtol": rtol, "atol": 1e-3 * rtol, "method": "dopri5"}
    with torch.no_grad():
        found: torch.Tensor = odeint(field, start, times, **choices)
    return found


def stiff(flows: list[Any]) -> dict[str, Solve]:
    """The stiff flows one after the other, the field being gflow's; minutes in all."""
    problems = [
        gflow.Problem(gflow.SingleIndexDEQ(10, f"weak-tanh:{f.epsilon}"), f.x, f.y) for f in flows
    ]

    def solve(rtol: float) -> tuple[Array, Mapping[str, float]]:
        ends, gradients = [], 0
        for flow, problem in zip(flows, problems, strict=True):
            field = _Counted(gradient_flow(problem))
            times = torch.tensor([0.0, flow.t_end], dtype=torch.float64)
            ends.append(_integrate(field, torch.from_numpy(flow.start), times, rtol)[-1].numpy())
            gradients += field.calls
        return np.array(ends), {"gradients": gradients}

    return {"torchdiffeq dopri5": solve}


def ensemble(flows: Any) -> dict[str, Solve]:
    """The linear ensemble in one batch."""
    twice, xi = 2 * torch.from_numpy(flows.sigma), torch.from_numpy(flows.xi)
    start, times = torch.from_numpy(flows.start), torch.from_numpy(flows.times)

    def function(t: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        inverse = 1 / (1 - theta[:, -1:])
        phi = theta[:, :-1] * inverse
        slope = twice * (xi - phi) * inverse
        return torch.cat([slope, (slope * phi).sum(1, keepdim=True)], 1)

    def solve(rtol: float) -> tuple[Array, Mapping[str, float]]:
        field = _Counted(function)
        theta = _integrate(field, start, times, rtol).transpose(0, 1)
        return theta.numpy(), {"gradients": field.calls * len(start)}

    return {"torchdiffeq dopri5, one step for all": solve}
