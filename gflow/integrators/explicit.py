"""Explicit embedded Runge-Kutta pairs for batches of trajectories."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import MethodInfo
from gflow.integrators.control import Controller
from gflow.integrators.native import (
    BatchStep,
    Cache,
    Dense,
    NativeMethod,
    State,
    Trial,
    merge,
)
from gflow.integrators.system import System, column


@dataclass(frozen=True, eq=False)
class Tableau:
    """Coefficients of an embedded pair whose last stage is the next step's first.

    Attributes
    ----------
    c : array, shape (S,)
        Nodes.
    a : tuple of tuples
        Row i holds the i coefficients of stage i; the last row is the solution's weights.
    error : array, shape (S,)
        Weights of the error estimate.
    dense : array, shape (S, D)
        Weights of dense output at the fraction x: ``dense @ (x, x^2, ..., x^D)``.

    Raises
    ------
    ValueError
        If a row does not sum to its node, the weights do not integrate powers, the error estimate
        does not vanish on constants or dense output does not end in the solution.
    """

    c: np.ndarray
    a: tuple[tuple[float, ...], ...]
    error: np.ndarray
    dense: np.ndarray

    def __post_init__(self) -> None:
        weights = np.append(self.a[-1], 0.0)
        sums = [sum(row) - node for row, node in zip(self.a, self.c, strict=True)]
        powers = [weights @ self.c**k - 1 / (k + 1) for k in range(5)]
        ends = self.dense.sum(-1) - weights
        residuals = np.concatenate([sums, powers, [self.error.sum()], ends])
        if np.abs(residuals).max() > 1e-13:
            raise ValueError("the tableau violates its own identities")

    @lru_cache(maxsize=8)  # noqa: B019 - tableaus live as long as the program
    def arrays(self, dtype: Any) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
        """Rows of a from the second stage on, error weights, and dense weights (D, S)."""
        rows = tuple(np.array(row, dtype) for row in self.a[1:])
        return rows, self.error.astype(dtype), np.ascontiguousarray(self.dense.T, dtype)

    @lru_cache(maxsize=8)  # noqa: B019
    def tensors(
        self, dtype: torch.dtype, device: torch.device
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """The same as tensors."""
        rows, error, dense = self.arrays(np.dtype(np.float64))
        made = [torch.as_tensor(each, dtype=dtype, device=device) for each in (*rows, error, dense)]
        return tuple(made[:-2]), made[-2], made[-1]


_POWERS = torch.arange(1, 5)


class ExplicitPair(NativeMethod):
    """An explicit pair with a shared last and first stage.

    Parameters
    ----------
    info : MethodInfo
    tableau : Tableau
    """

    def __init__(self, info: MethodInfo, tableau: Tableau) -> None:
        assert info.order is not None
        self.info, self.tableau = info, tableau
        self.controller = Controller(info.order)

    @property
    def evaluations(self) -> int:
        """Of the field, by an attempt."""
        return len(self.tableau.c) - 1

    def prepare(self, system: System, t: np.ndarray, theta: Tensor) -> Cache:
        """The field at the accepted points."""
        return {"value": system.value(t, theta)}

    def attempt(
        self, system: System, t: np.ndarray, dt: np.ndarray, theta: Tensor, state: State
    ) -> Trial:
        """All stages in one tensor, each stage's increment one product with its row."""
        if len(theta) == 1 and theta.device.type == "cpu":
            return self._attempt_alone(system, float(t[0]), float(dt[0]), theta, state)
        tableau, width = self.tableau, column(dt, theta)
        rows_of_a, error_weights, _ = tableau.tensors(theta.dtype, theta.device)
        columns = theta.mT.shape
        flat = theta.new_empty(len(tableau.c), theta.numel())
        stages = flat.view(-1, *columns).mT
        stages[0] = state.cache["value"]
        point, still = theta, system.field.autonomous
        for i, row in enumerate(rows_of_a, start=1):
            point = torch.addcmul(theta, width, (row @ flat[:i]).view(columns).mT)
            stages[i] = system.value(t if still else t + tableau.c[i] * dt, point)
        error = width * (error_weights @ flat).view(columns).mT
        return Trial(point, error, self.dense(theta, width, stages), stages[-1])

    def dense(self, theta: Tensor, width: Tensor, stages: Tensor) -> Dense:
        """Dense output of steps (B, 1) from theta (B, P) with their stages (S, B, P)."""
        weights_of_powers = self.tableau.tensors(theta.dtype, theta.device)[-1]

        def dense(rows: Tensor, x: Tensor) -> Tensor:
            weights = torch.pow(x[:, None], _POWERS.to(x.device)) @ weights_of_powers
            change = (weights.T[:, :, None] * stages[:, rows]).sum(0)
            return torch.addcmul(theta[rows], width[rows], change)

        return dense

    @np.errstate(over="ignore", invalid="ignore")  # what is not finite is told by the driver
    def _attempt_alone(
        self, system: System, t: float, dt: float, theta: Tensor, state: State
    ) -> Trial:
        """The same for one row on the CPU, by numpy, whose small operations cost a third."""
        tableau, start = self.tableau, theta[0].numpy()
        rows_of_a, error_weights, dense_weights = tableau.arrays(start.dtype)
        stages = np.empty((len(tableau.c), len(start)), start.dtype)
        stages[0] = state.cache["value"][0].numpy()
        point, times = theta[0], (t + tableau.c * dt).tolist()
        for i, row in enumerate(rows_of_a, start=1):
            point = torch.from_numpy(start + dt * (row @ stages[:i]))
            stages[i] = system.alone(times[i], point).numpy()
        error = torch.from_numpy(dt * (error_weights @ stages))[None]

        def dense(rows: Tensor, x: Tensor) -> Tensor:
            powers = x.numpy()[:, None] ** np.arange(1, 5, dtype=start.dtype)
            return torch.from_numpy(start + dt * (powers @ dense_weights @ stages))

        return Trial(point[None], error, dense, torch.from_numpy(stages[-1:]))

    def renew(self, system: System, step: BatchStep, trial: Trial, state: State) -> Cache:
        """The last stage of the accepted steps."""
        return {"value": merge(step, trial.stages, state.cache["value"])}


def _product(*factors: tuple[float, ...]) -> list[float]:
    """Coefficients of x, ..., x^4 of a product of polynomials, each from its constant on."""
    total = np.ones(1)
    for factor in factors:
        total = np.convolve(total, factor)
    return [*total[1:], *[0.0] * (5 - len(total))]


TSIT5 = Tableau(
    np.array([0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1]),
    (
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.028269050394068383,
        ),
        (
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
        ),
    ),
    np.array(
        [
            -0.00178001105222577714,
            -0.0008164344596567469,
            0.007880878010261995,
            -0.1447110071732629,
            0.5823571654525552,
            -0.45808210592918697,
            0.015151515151515152,
        ]
    ),
    np.array(
        [
            _product(
                (0, -1.0530884977290216),
                (-1.3299890189751412, 1),
                (0.7139816917074209, -1.4364028541716351, 1),
            ),
            _product((0, 0, 0.1017), (1.2949852507374631, -2.1966568338249754, 1)),
            _product((0, 0, 2.490627285651252793), (1.57803468208092486, -2.38535645472061657, 1)),
            _product(
                (0, 0, -16.54810288924490272), (-1.21712927295533244, 1), (-0.61620406037800089, 1)
            ),
            _product(
                (0, 0, 47.37952196281928122), (-1.203071208372362603, 1), (-0.658047292653547382, 1)
            ),
            _product((0, 0, -34.87065786149660974), (-1.2, 1), (-0.666666666666666667, 1)),
            _product((0, 0, 2.5), (-1, 1), (-0.6, 1)),
        ]
    ),
)
"""Tsitouras, Comput. Math. Appl. 62 (2011) 770-775, the optimised 5(4) pair and its interpolant."""

TSIT5_METHOD = ExplicitPair(
    MethodInfo(
        name="native:tsit5",
        order=5,
        dense_order=4,
        adaptive=True,
        implicit=False,
        any_device=True,
        advice="not stiff; ensembles, where every trajectory keeps its own step",
        source="Tsitouras (2011)",
        evaluations=6,
    ),
    TSIT5,
)
