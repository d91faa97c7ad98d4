"""A fourth-order stabilised method: rkc2's price, and accuracy beyond moderate."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import MethodInfo
from gflow.integrators.control import Controller
from gflow.integrators.native import State, Trial
from gflow.integrators.rkc4_tableau import DEGREES, REACHES, rkc4_tableau
from gflow.integrators.stabilized import Ending, StabilizedMethod, hermite_rows
from gflow.integrators.system import System, column

STALE = 0.03
"""Part of the start's slope that the stages get wrong which counts as an error.

The weighted stages give h f(theta) to the same order as the embedded error, and it is known. On
smooth problems it is some five times the error, and changes few steps; across a narrow valley that
bends, where the embedded estimate sees a sixtieth, the error is 2.4 times as large. Errors on
:func:`gflow.integrators.testbed.valley`, with rates from 10 to 1e5 and rtol from 1e-2 to 1e-6, were
then at most 4 tolerances (up to 480 without).
"""


class RKC4(StabilizedMethod):
    """Stages by a Chebyshev recurrence, weights that give ROCK4's stability polynomial.

    See :mod:`gflow.integrators.rkc4_tableau` for the derivation and its sources. No weighted stage
    lies in the last tenth or so of a step, where the estimate is therefore blind to jumps.
    """

    info = MethodInfo(
        name="native:rkc4",
        order=4,
        dense_order=3,
        adaptive=True,
        implicit=False,
        any_device=True,
        advice="stiff smooth flows of many parameters, from gradients alone; tight tolerances",
        source="stages of our own; stability polynomial of Abdulle (2002)",
        evaluations=10,
    )
    controller = Controller(4)
    degrees = np.array(DEGREES)
    reaches = np.array(REACHES)

    def attempt(
        self, system: System, t: np.ndarray, dt: np.ndarray, theta: Tensor, state: State
    ) -> Trial:
        """All weighted sums grow along with the stages, so that none is kept."""
        first, width = state.cache["value"], column(dt, theta)
        degree = self.stages(dt, state)
        tableau, weights = rkc4_tableau(degree), _weights(degree, theta.dtype, theta.device)
        still = system.field.autonomous
        sums = theta.new_zeros(4, theta.numel())
        rise, distance = torch.zeros_like(theta), torch.zeros_like(theta)
        value = first
        for j in range(degree):
            scale, drive = tableau.scale[j], tableau.drive[j]
            if j:
                point = torch.add(theta, distance, alpha=scale)
                value = system.value(t if still else t + tableau.nodes[j] * dt, point)
            sums.addr_(weights[j], value.reshape(-1))
            rise.addcmul_(width, torch.sub(value, first, alpha=1 - scale), value=drive)
            distance += rise
        change, embedded, start, end = width * sums.view(4, *theta.shape)
        stale = torch.addcmul(start, width, first, value=-1)
        error = torch.maximum(embedded.abs(), STALE * stale.abs())
        last = system.value(t + dt, theta + change)
        dense = hermite_rows(theta, change, start, end)
        return Trial(theta + change, error, dense, Ending(last, last - value, degree))


@lru_cache(maxsize=128)
def _weights(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights (s, 4) of the solution, the error and the slopes at both ends."""
    tableau = rkc4_tableau(degree)
    rows = (tableau.weights, tableau.error, tableau.start, tableau.end)
    return torch.tensor(rows, dtype=dtype, device=device).T.contiguous()


RKC4_METHOD = RKC4()
