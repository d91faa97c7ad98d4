"""The energy audit: L(0) - L(t) equals the integral of grad L . g along any flow dtheta/dt = -g."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import Step
from gflow.integrators.trajectory import evaluate_steps
from gflow.problem import Problem

NODES = 7
"""Gauss points of a panel; between them the integrand is the polynomial through them."""
SHARE = 1.0
"""Most evaluations of the audit per field evaluation of the flow."""
BATCH = 64
"""Panels evaluated together."""

_POINTS = (np.polynomial.legendre.leggauss(NODES)[0] + 1) / 2
_TO_COEFFICIENTS = np.linalg.inv(np.vander(_POINTS, increasing=True))


class EnergyAudit:
    """Observer of a flow that integrates the loss's dissipation on the dense output.

    A panel holds as many consecutive steps as keep the audit's evaluations below the flow's own;
    each has 7 Gauss points (exact to degree 13 over the panel, eighth-order accurate within it),
    evaluated in batches, which makes them several times cheaper than the flow's.

    Parameters
    ----------
    problem : Problem
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._panel: list[Step] = []
        self._edges: list[tuple[float, float]] = []
        self._pending: list[Tensor] = []
        self._values: list[np.ndarray] = []
        self._seen = 0
        self._size = 1

    def observe(self, step: Step, nfe: int) -> None:
        """Add a step to the open panel, and close it when it is full."""
        self._panel.append(step)
        self._seen += 1
        if len(self._panel) >= self._size:
            self._size = max(1, math.ceil(NODES / SHARE * self._seen / nfe))
            self._close()

    def integral(self, times: Tensor) -> Tensor:
        """Dissipation integrated from 0 to each of the times (T,), within the trajectory."""
        self._close()
        self._flush()
        at = times.cpu().numpy()
        if not self._edges:
            return torch.zeros(len(at), dtype=torch.float64)
        edges, values = np.array(self._edges), np.concatenate(self._values)
        with np.errstate(all="ignore"):  # what overflowed is not finite, and says so
            return torch.from_numpy(_integrals(at, edges, values))

    def _close(self) -> None:
        if not self._panel:
            return
        start, end = self._panel[0].t0, self._panel[-1].t1
        times = torch.from_numpy(start + (end - start) * _POINTS)
        self._pending.append(evaluate_steps(self._panel, times))
        self._edges.append((start, end))
        self._panel = []
        if len(self._pending) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            rate = self._problem.dissipation(torch.cat(self._pending))
            self._values.append(rate.double().cpu().numpy().reshape(-1, NODES))
            self._pending = []


def _integrals(at: np.ndarray, edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Integral from the first edge to each time, of the polynomials through the panels' values."""
    width = edges[:, 1] - edges[:, 0]
    coefficients = values @ _TO_COEFFICIENTS.T
    powers = np.arange(1, NODES + 1)
    whole = width * (coefficients / powers).sum(-1)
    before = np.concatenate([[0.0], np.cumsum(whole)])
    panel = np.clip(np.searchsorted(edges[:, 1], at), 0, len(edges) - 1)
    x = ((at - edges[panel, 0]) / width[panel])[:, None]
    part = width[panel] * (coefficients[panel] / powers * x**powers).sum(-1)
    return np.asarray(before[panel] + part)
