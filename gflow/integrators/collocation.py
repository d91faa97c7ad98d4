"""Exponential collocation: Rosenbrock-type exponential methods of high order by sweeps.

With the Jacobian J at the step's start, F = J theta + g and D(U) = g(U) - g(theta), the variation
of constants (Hochbruck & Ostermann, Acta Numerica 19 (2010) 209-286, section 2.4) gives

    theta(x h) = theta + x h phi_1(x h J) F + integral_0^x e^((x - s) h J) h D(theta(s h)) ds.

D begins with s^2. Replaced by the polynomial sum_k w_k s^(k-1) / (k-1)!, k = 3..K, through its
values at nodes c_1..c_(K-2), the integral is sum_k x^k phi_k(x h J) w_k. As D' = O(h), a sweep that
evaluates D at the nodes of the last polynomial's solution makes that solution two orders better:
from the exponential Rosenbrock-Euler step, of order 2, sweeps of 2, 4 and 6 nodes lead to order 8.
The idea of sweeps is that of spectral deferred correction (Dutt, Greengard & Rokhlin, BIT 40 (2000)
241-266; exponential: Buvoli, SIAM J. Sci. Comput. 42 (2020) A1-A27); polynomial, nodes and error
estimates are derived here.

The nodes are those of the quadrature for the weight s^2 with one node at the end, by which the
order of non-stiff components is higher still. The error estimate is the largest of the term of the
highest order, of what the sweeps may have left, both O(h^8), and of what D(theta1), with which the
next step begins, would change as the last node's value. Where the fast eigenvectors turn along the
way, as in a valley that bends, the last is what there is to see: on
:func:`gflow.integrators.testbed.valley`, with rates from 1e3 to 1e6 and h from 0.006 to 0.1, the
error of a step was 6 to 7 times it. It counts 7 + N times, N from
:mod:`gflow.integrators.accumulation`: errors were then at most 3.7 tolerances from rtol 1e-2 to
1e-9 and rates from 10 to 1e6 (up to 710 without). A field with a time derivative v
adds h^2 x^2 phi_2(x h J) v, and leaves x h v out of D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import roots_jacobi
from torch import Tensor

from gflow.integrators.accumulation import times_repeated
from gflow.integrators.base import MethodInfo
from gflow.integrators.control import Controller
from gflow.integrators.native import (
    BatchStep,
    Cache,
    NativeMethod,
    State,
    Trial,
    accepted_points,
    merge,
)
from gflow.integrators.propagators import Nodes, Term, dense_propagator, linearised
from gflow.integrators.system import System, column

HIGHEST = 8


@dataclass(frozen=True)
class Sweep:
    """Evaluations at some of the nodes, by index, and the polynomial through them."""

    places: list[int]
    nodes: NDArray[np.float64]

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Maps values at the places to w_3, w_4, ...: s^2 times Lagrange's polynomials."""
        at = self.nodes[self.places]
        columns = []
        for place, node in enumerate(at):
            others = np.delete(at, place)
            columns.append(np.poly(others)[::-1] / (node**2 * np.prod(node - others)))
        factorials = [math.factorial(power) for power in range(2, 2 + len(at))]
        return np.asarray(np.array(factorials)[:, None] * np.stack(columns, axis=1))


def _nodes(count: int) -> NDArray[np.float64]:
    inner, _ = roots_jacobi(count - 1, 1, 2)
    return np.append((inner + 1) / 2, 1.0)


NODES = Nodes(tuple(_nodes(HIGHEST - 2).tolist()), HIGHEST)
END = HIGHEST - 3
SWEEPS = tuple(
    Sweep(places, np.array(NODES.at)) for places in ([2, 5], [0, 2, 4, 5], [0, 1, 2, 3, 4, 5])
)
AT_END: list[float] = SWEEPS[-1].weights[:, -1].tolist()


class ExponentialCollocation(NativeMethod):
    """The method of order 8; the Jacobian by eigenvectors or by exponentials."""

    info = MethodInfo(
        name="native:expcol8",
        order=8,
        dense_order=8,
        adaptive=True,
        implicit=True,
        any_device=True,
        advice="stiff flows, and any to tight tolerances, of up to some hundred parameters",
        source="own, after Hochbruck & Ostermann (2010) and Buvoli (2020)",
        evaluations=13,
    )
    controller = Controller(error_order=8, grow_most=10.0, far=0.05)

    def prepare(self, system: System, t: np.ndarray, theta: Tensor) -> Cache:
        """The field, its time derivative and its Jacobian."""
        return linearised(system, t, theta)

    def renew(self, system: System, step: BatchStep, trial: Trial, state: State) -> Cache:
        """The same with the field at the step's end, which is known."""
        value = merge(step, trial.stages, state.cache["value"])
        return linearised(system, *accepted_points(step), value=value)

    @np.errstate(over="ignore", invalid="ignore")  # what is not finite is told by the driver
    def attempt(
        self, system: System, t: np.ndarray, dt: np.ndarray, theta: Tensor, state: State
    ) -> Trial:
        """Sweeps, the solution and its error, in the propagator's coordinates."""
        value, width = state.cache["value"], column(dt, theta)
        by = dense_propagator(state.cache, width, NODES)
        start: list[Term] = [(1, 1.0, by.into(width * value))]
        change = None
        if "change" in state.cache:
            change = width * state.cache["change"]
            start.append((2, 1.0, by.into(width * change)))
        stages = _Stages(system, t, dt)
        terms, ends = start, []
        for sweep in SWEEPS:
            increments = by.advance(terms, sweep.places)
            ends.append(increments[-1])
            values = stages.values(sweep.places, theta + by.out(increments))
            differences = values - value
            if change is not None:
                x = theta.new_tensor(sweep.nodes[sweep.places])
                differences = differences - x[:, None, None] * change
            remainders = by.remainder(differences, increments)
            sources = _combined(sweep.weights, remainders)
            terms = start + [(k, 1.0, source) for k, source in enumerate(sources, start=3)]
        ends.append(by.advance(terms, END))
        theta1 = theta + by.out(ends[-1])
        after = system.value(t + dt, theta1)
        gap = after - values[-1]
        late = by.remainder(gap, ends[-1] - ends[-2])
        turned: list[Term] = [(k, weight, late) for k, weight in enumerate(AT_END, start=3)]
        count = times_repeated(7.0, 1.0, t + dt, theta, width, state.cache, gap)
        errors = [
            by.out(by.advance(terms[-1:], END)).abs(),
            _left_by_sweeps(by.out(ends[-2] - ends[-3]), by.out(ends[-1] - ends[-2])),
            count * by.out(by.advance(turned, END)).abs(),
        ]
        error = torch.stack(errors).amax(0)

        def dense(rows: Tensor, x: Tensor) -> Tensor:
            return theta[rows] + by.dense(terms, rows, x)

        return Trial(theta1, error, dense, after)


def _left_by_sweeps(before: Tensor, last: Tensor) -> Tensor:
    """What the sweeps left of the error (B, P), from what the last two changed at the step's end.

    Where all is smooth it goes as h^8, as the other estimate; where the eigenvectors turn, sweeps
    converge slowly, and it is this that is seen. The next change would be smaller by their ratio;
    twice its root is taken to be on the safe side.
    """
    sizes = [torch.linalg.vector_norm(each, dim=-1, keepdim=True) for each in (before, last)]
    ratio = (sizes[1] / sizes[0].clamp(min=1e-300)).clamp(max=1.0)
    remainder: Tensor = 2.0 * last.abs() * ratio.sqrt()
    return remainder


class _Stages:
    """The field at the nodes; where a sweep comes to a node again it begins from the warm start."""

    def __init__(self, system: System, t: np.ndarray, dt: np.ndarray) -> None:
        self._system, self._t, self._dt = system, t, dt
        memory = system.field.memory
        self._start = None if memory is None else memory.value
        self._warm: dict[int, Tensor | None] = {}

    def values(self, places: list[int], points: Tensor) -> Tensor:
        """The field (m, B, P) at the nodes' points (m, B, P)."""
        many = self._system.field.many
        if many is None or self._system.field.batched:
            return torch.stack([self._value(*each) for each in zip(places, points, strict=True)])
        times = self._t + np.array(NODES.at)[places] * self._dt
        values = self._all(places, lambda: many(times, points[:, 0]))
        if not math.isfinite(float(values.sum())):  # a lone field says why
            for place, point in zip(places, points, strict=True):
                self._value(place, point)
        return values[:, None]

    def _all(self, places: list[int], evaluate: Callable[[], Tensor]) -> Tensor:
        """Evaluate with a warm start for each node, that of the step where there is no other."""
        memory = self._system.field.memory
        if memory is None or self._start is None:
            return evaluate()
        starts = [self._warm.get(place) for place in places]
        memory.restore(torch.stack([self._start if s is None else s for s in starts]))
        values, found = evaluate(), memory.value
        assert found is not None
        self._warm |= dict(zip(places, found, strict=True))
        memory.restore(found[-1])
        return values

    def _value(self, place: int, point: Tensor) -> Tensor:
        memory = self._system.field.memory
        if memory is not None and place in self._warm:
            memory.restore(self._warm[place])
        value = self._system.value(self._t + NODES.at[place] * self._dt, point)
        if memory is not None:
            self._warm[place] = memory.value
        return value


def _combined(weights: NDArray[np.float64], vectors: Any) -> Any:
    """Combinations of vectors (m, ...) with weights (s, m)."""
    flat = vectors.reshape(len(vectors), -1)
    if isinstance(flat, Tensor):
        flat_weights = torch.as_tensor(weights, dtype=flat.dtype, device=flat.device)
        return (flat_weights @ flat).reshape(-1, *vectors.shape[1:])
    return (weights.astype(flat.dtype) @ flat).reshape(-1, *vectors.shape[1:])


EXPCOL8 = ExponentialCollocation()
