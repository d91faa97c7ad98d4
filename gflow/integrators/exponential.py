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
estimate misses most of the error: 145 tolerances at 1e-3 and 1,900 at 1e-9 on
:func:`gflow.integrators.testbed.valley`. ``auto`` takes ``expcol8``, whose estimate sees it, unless
the field has kinks or single precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from gflow.integrators.base import MethodInfo
from gflow.integrators.control import Controller
from gflow.integrators.krylov import KrylovPropagator
from gflow.integrators.native import Cache, NativeMethod, State, Trial
from gflow.integrators.propagators import (
    Nodes,
    Propagator,
    Term,
    dense_propagator,
    linearised,
)
from gflow.integrators.stiffness import DENSE_LIMIT
from gflow.integrators.system import System, column

SHARE = 0.25
"""Part of the embedded estimate, which is of order 3, that is held to the tolerance.

With all of it held, trajectories' errors from rtol 1e-3 to 1e-10 were at most 0.013 of the
tolerance on the reliability contract's problems, and 0.002 to 1 of it on flows of DEQs.
"""


NODES = Nodes((0.5, 1.0), highest=4)
HALF, FULL = 0, 1


class Exprb43(NativeMethod):
    """The method; the Jacobian by eigenvectors, by exponentials or by Krylov spaces."""

    info = MethodInfo(
        name="native:exprb43",
        order=4,
        dense_order=4,
        adaptive=True,
        implicit=True,
        any_device=True,
        advice="stiff, loose tolerances; its error estimate misses valleys that bend",
        source="Hochbruck, Ostermann & Schweitzer (2009)",
        evaluations=3,
    )
    controller = Controller(error_order=4, grow_most=10.0, far=0.05)

    def prepare(self, system: System, t: np.ndarray, theta: Tensor) -> Cache:
        """The field, its time derivative and, up to DENSE_LIMIT parameters, its Jacobian."""
        dense = theta.shape[-1] <= DENSE_LIMIT or system.field.jvp is None
        return linearised(system, t, theta, dense)

    @np.errstate(over="ignore", invalid="ignore")  # what is not finite is told by the driver
    def attempt(
        self, system: System, t: np.ndarray, dt: np.ndarray, theta: Tensor, state: State
    ) -> Trial:
        """Two stages, the solution and its error, in the propagator's coordinates."""
        value, width = state.cache["value"], column(dt, theta)
        by = _propagator(system, t, theta, width, state)
        start: list[Term] = [(1, 1.0, by.into(width * value))]
        change = None
        if "change" in state.cache:
            change = width * state.cache["change"]
            start.append((2, 1.0, by.into(width * change)))

        def remainder(terms: list[Term], place: int) -> Any:
            increment, x = by.advance(terms, place), NODES.at[place]
            difference = system.value(t + x * dt, theta + by.out(increment)) - value
            if change is not None:
                difference = difference - x * change
            return by.remainder(difference, increment)

        if by.short:
            return _refused(theta, state)
        near = remainder(start, HALF)
        far = remainder([*start, (1, 1.0, near)], FULL)
        if by.short:
            return _refused(theta, state)
        cubic: list[Term] = [(4, -48.0, near), (4, 12.0, far)]
        terms = [*start, (3, 16.0, near), (3, -2.0, far), *cubic]
        theta1 = theta + by.out(by.advance(terms, FULL))
        error = SHARE * by.out(by.advance(cubic, FULL))

        def dense(rows: Tensor, x: Tensor) -> Tensor:
            return theta[rows] + by.dense(terms, rows, x)

        return Trial(theta1, error, dense, linear_solves=by.solves)


def _refused(theta: Tensor, state: State) -> Trial:
    """A trial that did not come to its end, rejected as one of a hundred times the tolerance."""
    scale = state.settings.atol + state.settings.rtol * theta.abs()
    return Trial(theta, 100 * scale, lambda rows, x: theta[rows])


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
