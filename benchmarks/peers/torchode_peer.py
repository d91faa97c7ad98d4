"""torchode's Tsit5 in float64: every trajectory has its own step, all advance in lockstep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torchode

Array = np.ndarray
Solve = Callable[[float], tuple[Array, Mapping[str, float]]]


def ensemble(flows: Any) -> dict[str, Solve]:
    """Tsit5 on the linear ensemble, with torchode's integral controller and with its PID."""
    twice, xi = 2 * torch.from_numpy(flows.sigma), torch.from_numpy(flows.xi)
    start = torch.from_numpy(flows.start)
    times = torch.from_numpy(flows.times).expand(len(start), -1).contiguous()

    def field(t: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        inverse = 1 / (1 - theta[:, -1:])
        phi = theta[:, :-1] * inverse
        slope = (twice * (xi - phi)) * inverse
        return torch.cat([slope, (slope * phi).sum(1, keepdim=True)], 1)

    def solver(controller: Callable[..., Any]) -> Solve:
        def solve(rtol: float) -> tuple[Array, Mapping[str, float]]:
            term = torchode.ODETerm(field)
            control = controller(atol=1e-3 * rtol, rtol=rtol, term=term)
            adjoint = torchode.AutoDiffAdjoint(torchode.Tsit5(term), control)
            with torch.no_grad():
                found = adjoint.solve(torchode.InitialValueProblem(start, t_eval=times))
            theta = (
                found.ys.numpy() if bool((found.status == 0).all()) else found.ys.numpy() * math.nan
            )
            steps = found.stats["n_steps"]
            return theta, {"steps": float(steps.sum()), "longest": float(steps.max())}

        return solve

    def pid(**tolerances: Any) -> Any:
        return torchode.PIDController(**tolerances, pcoeff=0.2, icoeff=0.5, dcoeff=0.0)

    return {
        "torchode Tsit5": solver(torchode.IntegralController),
        "torchode Tsit5 PI": solver(pid),
    }
