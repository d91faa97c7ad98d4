"""The energy audit: L(0) - L(t) equals the integral of -grad L . dtheta/dt along any flow."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.polynomial.legendre import Legendre, leggauss, legvander
from torch import Tensor

from gflow.diagnostics.rows import row_dissipation
from gflow.flows import Flow, parse_flow
from gflow.integrators.base import Step
from gflow.integrators.batch import by_owner
from gflow.integrators.native import BatchStep
from gflow.integrators.trajectory import evaluate_steps
from gflow.problem import CHUNK, Problem

NODES = 7
"""Lobatto points of a panel, whose ends are where giant steps hide what decays fast."""
SHARE = 1.0
"""Most evaluations of the audit per field evaluation of the flow."""
BATCH = 64
"""Panels evaluated together; fewer where a batch is no cheaper than its panels."""
HELD = 2**20
"""Numbers of steps' thetas that wait at most."""
GOAL = 1e-7
"""Part of the dissipation so far that a panel may leave unresolved."""
SPLIT, HALVINGS = 16, 30
"""Panels halved at once, and times in a row, at most."""
Panel = tuple[list[Step], float, float]
"""Steps, and the interval within them."""
BATCH_NODES = 4
"""Gauss points of each step of a batch; 7 were seen to change no residual by 5 %."""
BATCH_ROWS = 4096
"""Points of a batch's steps evaluated together."""


@dataclass(frozen=True)
class _Rule:
    """A quadrature rule on (0, 1): points and weights (K,), and two maps of the values there.

    `monomials` (K, K) gives the coefficients of the polynomial through the values, `last` (K, 2)
    its last two Legendre coefficients over 2k + 1 each, by discrete orthogonality.
    """

    points: np.ndarray
    weights: np.ndarray
    monomials: np.ndarray
    last: np.ndarray


@functools.cache
def _rule(nodes: int) -> _Rule:
    """Lobatto's for panels, Gauss's for the steps of a batch."""
    if nodes == NODES:
        slope = Legendre.basis(nodes - 1).deriv()
        x = np.concatenate([[-1.0], np.sort(slope.roots().real), [1.0]])
        weights = 2 / (nodes * (nodes - 1) * Legendre.basis(nodes - 1)(x) ** 2)
    else:
        x, weights = leggauss(nodes)
    points, last = (x + 1) / 2, legvander(x, nodes - 1)[:, -2:] * weights[:, None] / 2
    monomials = np.linalg.inv(np.vander(points, increasing=True))
    return _Rule(points, weights / 2, monomials, last)


class EnergyAudit:
    """Observer of a flow that integrates the loss's dissipation on the dense output.

    A panel holds as many consecutive steps as keep the audit's evaluations below the flow's own;
    each has 7 Lobatto points (exact to degree 11 over the panel, eighth-order accurate within it),
    evaluated in batches, which makes them several times cheaper than the flow's. Where the
    dissipation is no polynomial of that degree, as in the giant steps of exponential methods on
    nearly linear flows, panels are halved until it is one.

    Parameters
    ----------
    problem : Problem
    flow : Flow or str
        By default the gradient flow.
    """

    def __init__(self, problem: Problem, flow: Flow | str = "gradient") -> None:
        self._problem, self._flow = problem, parse_flow(flow).on(problem)
        self._batch = min(BATCH, max(1, CHUNK // (NODES * problem.width * problem.n_parameters)))
        self._panel: list[Step] = []
        self._pending: list[Panel] = []
        self._edges: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._total = 0.0
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
        edges, values = np.concatenate(self._edges), np.concatenate(self._values)
        with np.errstate(all="ignore"):  # what overflowed is not finite, and says so
            return torch.from_numpy(_integrals(at, edges, values))

    def _close(self) -> None:
        if not self._panel:
            return
        self._pending.append((self._panel, self._panel[0].t0, self._panel[-1].t1))
        held = sum(len(steps) for steps, _, _ in self._pending) * self._panel[0].theta0.numel()
        self._panel = []
        if len(self._pending) >= self._batch or held >= HELD:
            self._flush()

    def clean(self) -> bool:
        """Whether no step waits to be evaluated."""
        return not self._panel and not self._pending

    def state(self) -> dict[str, Any]:
        """What has been evaluated, and what decides the panels to come."""
        return {
            "edges": list(self._edges),
            "values": list(self._values),
            "total": self._total,
            "seen": self._seen,
            "size": self._size,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self._edges, self._values = list(state["edges"]), list(state["values"])
        self._total, self._seen, self._size = state["total"], state["seen"], state["size"]

    def _flush(self) -> None:
        """Evaluate the pending panels, and the halves of those that are not resolved."""
        panels, edges, values = self._pending, [], []
        for left in reversed(range(HALVINGS + 1)):
            if not panels:
                break
            bounds = np.array([(start, end) for _, start, end in panels])
            rates = self._rates(panels)
            with np.errstate(all="ignore"):
                split = _unresolved(bounds, rates, self._total) if left else np.array([], dtype=int)
            keep = np.setdiff1d(np.arange(len(panels)), split)
            edges.append(bounds[keep])
            values.append(rates[keep])
            panels = [half for index in split for half in _halves(panels[index])]
        self._pending = []
        if edges:
            order = np.argsort(np.concatenate(edges)[:, 0])
            self._edges.append(np.concatenate(edges)[order])
            self._values.append(np.concatenate(values)[order])
            with np.errstate(all="ignore"):
                self._total += _whole(self._edges[-1], self._values[-1]).sum()

    def _rates(self, panels: list[Panel]) -> np.ndarray:
        """Dissipation (K, NODES) at the points of panels."""
        points = _rule(NODES).points
        theta = [
            evaluate_steps(steps, torch.from_numpy(start + (end - start) * points))
            for steps, start, end in panels
        ]
        states = torch.cat(theta)
        owner = torch.zeros(len(states), dtype=torch.int64, device=states.device)
        rate = row_dissipation(self._flow, self._problem, states, owner)
        return rate.double().cpu().numpy().reshape(-1, NODES)


class BatchAudit:
    """The same for a batch of trajectories: 4 Gauss points in each accepted step.

    Parameters
    ----------
    problem : Problem
        Row i is trajectory i's.
    lone : callable
        The problem of one trajectory by its index.
    flow : Flow or str
        By default the gradient flow.
    """

    def __init__(
        self, problem: Problem, lone: Callable[[int], Problem], flow: Flow | str = "gradient"
    ) -> None:
        self._problem, self._lone, self._flow = problem, lone, parse_flow(flow)
        self._alone: dict[int, EnergyAudit] = {}
        self._owners: list[np.ndarray] = []
        self._edges: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._pending: list[Tensor] = []
        self._waiting = 0

    def observe_batch(self, ids: np.ndarray, rows: np.ndarray, step: BatchStep, nfe: int) -> None:
        """Evaluate dense output at the points of the accepted rows' steps."""
        x = torch.as_tensor(np.tile(_rule(BATCH_NODES).points, len(rows)))
        index = torch.as_tensor(rows.repeat(BATCH_NODES), device=step.theta0.device)
        self._pending.append(step.dense(index, x.to(step.theta0)))
        self._owners.append(ids[rows])
        self._edges.append(np.stack([step.t0[rows], step.t1[rows]], axis=-1))
        self._waiting += len(rows) * BATCH_NODES
        if self._waiting >= BATCH_ROWS:
            self._flush()

    def alone(self, index: int) -> EnergyAudit:
        """The audit of a trajectory that goes on alone."""
        return self._alone.setdefault(index, EnergyAudit(self._lone(index), self._flow))

    def integrals(self, times: Tensor, ends: np.ndarray) -> Tensor:
        """Dissipation integrated to each of the times (T,) up to the ends (B,), NaN beyond."""
        self._flush()
        panels = self._by_trajectory()
        at = times.cpu().double().numpy()
        found = np.full((len(ends), len(at)), np.nan)
        with np.errstate(all="ignore"):  # what overflowed is not finite, and says so
            for index, (row, end) in enumerate(zip(found, ends, strict=True)):
                count = np.searchsorted(at, end, side="right")
                row[:count] = self._integral(index, at[:count], panels.get(index))
        return torch.from_numpy(found)

    def _integral(
        self, index: int, at: np.ndarray, panels: tuple[np.ndarray, ...] | None
    ) -> np.ndarray:
        total, left = np.zeros(len(at)), 0.0
        if panels is not None:
            left = float(panels[0][-1, 1])
            total += _integrals(np.minimum(at, left), *panels)
        if index in self._alone:
            later = self._alone[index].integral(torch.from_numpy(at[at > left]))
            total[at > left] += later.numpy()
        return total

    def _flush(self) -> None:
        if self._pending:
            owners = np.concatenate(self._owners[-len(self._pending) :]).repeat(BATCH_NODES)
            theta = torch.cat(self._pending)
            rows = torch.as_tensor(owners, device=theta.device)
            rate = row_dissipation(self._flow, self._problem, theta, rows)
            self._values.append(rate.double().cpu().numpy().reshape(-1, BATCH_NODES))
            self._pending, self._waiting = [], 0

    def _by_trajectory(self) -> dict[int, tuple[np.ndarray, ...]]:
        """Edges (K, 2) and values (K, 4) of each trajectory's steps."""
        if not self._owners:
            return {}
        edges, values = np.concatenate(self._edges), np.concatenate(self._values)
        return by_owner(np.concatenate(self._owners), edges, values)


def _halves(panel: Panel) -> list[Panel]:
    steps, start, end = panel
    middle = (start + end) / 2
    if not start < middle < end:
        return [panel]
    return [(steps, start, middle), (steps, middle, end)]


def _unresolved(edges: np.ndarray, values: np.ndarray, before: float) -> np.ndarray:
    """Which panels have more than GOAL of the dissipation so far in their last Legendre terms.

    Integrated within the panel, the term of degree k is at most its coefficient over 2k + 1.
    """
    terms = np.abs(values @ _rule(NODES).last).sum(-1) * (edges[:, 1] - edges[:, 0])
    scale = before + np.abs(_whole(edges, values)).sum()
    worst = np.argsort(-np.where(np.isfinite(terms), terms, 0.0))[:SPLIT]
    return np.asarray(worst[terms[worst] > GOAL * scale])


def _whole(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Integral (K,) over each panel."""
    return np.asarray((edges[:, 1] - edges[:, 0]) * (values @ _rule(values.shape[1]).weights))


def _integrals(at: np.ndarray, edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Integral from the first edge to each time, of the polynomials through the panels' values."""
    width = edges[:, 1] - edges[:, 0]
    nodes = values.shape[1]
    coefficients = values @ _rule(nodes).monomials.T
    powers = np.arange(1, nodes + 1)
    before = np.concatenate([[0.0], np.cumsum(_whole(edges, values))])
    panel = np.clip(np.searchsorted(edges[:, 1], at), 0, len(edges) - 1)
    x = ((at - edges[panel, 0]) / width[panel])[:, None]
    part = width[panel] * (coefficients[panel] / powers * x**powers).sum(-1)
    return np.asarray(before[panel] + part)
