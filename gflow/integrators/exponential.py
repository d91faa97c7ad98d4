"""Exponential Rosenbrock method of order 4 with an embedded method of order 3.

Hochbruck, Ostermann & Schweitzer, SIAM J. Numer. Anal. 47 (2009) 786-803: ``exprb43``. With the
Jacobian J at the step's start, F = J theta + g, and D(U) = g(U) - g(theta), a step of size h is

    U2 = theta + (h/2) phi_1(hJ/2) F
    U3 = theta + h phi_1(hJ) (F + D(U2))
    theta1 = theta + h [phi_1 F + phi_3 (16 D2 - 2 D3) + phi_4 (-48 D2 + 12 D3)]

and the embedded solution leaves phi_4 out. A field with a time derivative v adds c^2 h^2
phi_2(c h J) v to each (Hochbruck & Ostermann, Acta Numerica 19 (2010), section 2.4). The last line
is the solution of the linear equation whose source is the cubic a x^2 + b x^3 through D2 at x = 1/2
and D3 at x = 1; at x in between it is dense output.

Where the fast eigenvectors turn along the way, as in a narrow valley that bends, the embedded
estimate misses most of the error. The field at the step's end, which the next step begins with,
shows it: with D1 = g(theta1) - g(theta) in place of D3, theta1 would move by

    h (-2 phi_3 + 12 phi_4) (D1 - D3),

O(h^5) where all is smooth. It counts 1 + N / 2 times, N from :mod:`gflow.integrators.accumulation`:
on :func:`gflow.integrators.testbed.valley` with rates from 10 to 1e5 errors were then 2 to 9
tolerances from rtol 1e-2 to 1e-9 (up to 4,000 without), and steps on smooth problems as without.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from gflow.integrators.base import MethodInfo
from gflow.integrators.control import Controller
from gflow.integrators.exponential_compiled import in_c
from gflow.integrators.exponential_sums import NODES, PropagatedSums, Sums
from gflow.integrators.krylov import KrylovPropagator
from gflow.integrators.native import (
    BatchStep,
    Cache,
    NativeMethod,
    State,
    Trial,
    accepted_points,
    merge,
)
from gflow.integrators.propagators import Propagator, dense_propagator, linearised
from gflow.integrators.stiffness import DENSE_LIMIT
from gflow.integrators.system import System, column


class Exprb43(NativeMethod):
    """The method; the Jacobian by eigenvectors, by exponentials or by Krylov spaces."""

    info = MethodInfo(
        name="native:exprb43",
        order=4,
        dense_order=4,
        adaptive=True,
        implicit=True,
        any_device=True,
        advice="stiff, loose tolerances, kinks or single precision; Krylov spaces where P is large",
        source="Hochbruck, Ostermann & Schweitzer (2009)",
        evaluations=3,
    )
    controller = Controller(error_order=4, grow_most=10.0, far=0.05)

    def prepare(self, system: System, t: np.ndarray, theta: Tensor) -> Cache:
        """The field, its time derivative and, up to DENSE_LIMIT parameters, its Jacobian."""
        return linearised(system, t, theta, _is_dense(system, theta))

    def renew(self, system: System, step: BatchStep, trial: Trial, state: State) -> Cache:
        """The same with the field at the step's end, which is known."""
        t, theta = accepted_points(step)
        value = merge(step, trial.stages, state.cache["value"])
        return linearised(system, t, theta, _is_dense(system, theta), value)

    @np.errstate(over="ignore", invalid="ignore")  # what is not finite is told by the driver
    def attempt(
        self, system: System, t: np.ndarray, dt: np.ndarray, theta: Tensor, state: State
    ) -> Trial:
        """Two stages, the solution and its errors, in the propagator's coordinates."""
        sums = _sums(system, t, dt, theta, state)
        if sums.short:
            return _refused(theta, state)
        near = system.value(t + 0.5 * dt, sums.middle())
        far = system.value(t + dt, sums.whole(near))
        theta1 = sums.end(far)
        if sums.short:
            return _refused(theta, state)
        after = system.value(t + dt, theta1)
        return Trial(theta1, sums.error(after), sums.dense, after, linear_solves=sums.solves)


def _is_dense(system: System, theta: Tensor) -> bool:
    return theta.shape[-1] <= DENSE_LIMIT or system.field.jvp is None


def _refused(theta: Tensor, state: State) -> Trial:
    """A trial that did not come to its end, rejected as one of a hundred times the tolerance."""
    scale = state.settings.atol + state.settings.rtol * theta.abs()
    return Trial(theta, 100 * scale, lambda rows, x: theta[rows], state.cache["value"])


def _sums(system: System, t: np.ndarray, dt: np.ndarray, theta: Tensor, state: State) -> Sums:
    compiled = in_c(state.cache, t, dt, theta)
    if compiled is not None:
        return compiled
    by = _propagator(system, t, theta, column(dt, theta), state)
    return PropagatedSums(by, state.cache, t, dt, theta)


def _propagator(
    system: System, t: np.ndarray, theta: Tensor, width: Tensor, state: State
) -> Propagator:
    if "eigenvalues" in state.cache or "jacobian" in state.cache:
        return dense_propagator(state.cache, width, NODES)
    settings = state.settings
    scale = settings.atol + settings.rtol * theta.abs()
    return KrylovPropagator(
        lambda vector: system.jvp(t, theta, vector), system.field.symmetric, width, scale, NODES
    )


EXPRB43 = Exprb43()
