"""The circle arc on which a one-dimensional linear DEQ's gradient flow runs, to rounding error.

Of use through :func:`gflow.theory.time_of` and :func:`gflow.theory.exact_trajectory`, which check
their arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# dtau/dp below is analytic within pi/2 of the real axis, so that 20 Gauss nodes on a panel of
# length 2 leave an error below the rounding.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_PANEL = 2.0
_NEWTON_LIMIT = 100


@dataclass(frozen=True, eq=False)
class Arc:
    """From phi0 != xi to xi, on the clock tau = (2m / R^2) t; build it by :meth:`between`.

    Mirrored so that phi0 > xi, with phi = tan(alpha) and xi = tan(beta), the position on the arc is
    p = -log(tan((alpha - beta)/2) / a), a = tan((pi/2 - beta)/2) = exp(-asinh(xi)): 0 at the
    singular point, infinite at the limit. The flow is dtau/dp = cos(beta) cos(alpha)^3.
    """

    mirror: float  # sign of phi0 - xi
    xi: float  # mirrored
    edges: Array  # of panels in p, from the start to where dtau/dp has become constant
    elapsed: Array  # tau at the edges

    @classmethod
    def between(cls, phi0: float, xi: float) -> Arc:
        """The arc that starts at phi0 and ends at xi."""
        mirror = float(np.sign(phi0 - xi))
        target = mirror * xi
        start = float(_position(np.asarray(mirror * phi0), target))
        constant = np.log(6.0 * (1.0 + np.exp(-2.0 * np.arcsinh(target))) / np.finfo(float).eps)
        panels = max(1, int(np.ceil((constant - start) / _PANEL)))
        edges = np.asarray(start + _PANEL * np.arange(panels + 1), np.float64)
        durations = _duration(edges[:-1], edges[1:], target)
        return cls(mirror, target, edges, np.append(0.0, np.cumsum(durations)))

    def clock_at(self, phi: Array) -> Array:
        """Tau at which the flow passes phi, strictly between xi and phi0."""
        position = _position(self.mirror * phi, self.xi)
        inside = np.clip(position, self.edges[0], self.edges[-1])
        panel = np.searchsorted(self.edges, inside, side="right") - 1
        clock: Array = self.elapsed[panel] + _duration(self.edges[panel], inside, self.xi)
        return clock + np.maximum(position - inside, 0.0) / (1.0 + self.xi**2) ** 2

    def direction_at(self, clock: Array) -> tuple[Array, Array]:
        """Sine and cosine of alpha at tau = clock, not mirrored."""
        inside = np.minimum(clock, self.elapsed[-1])
        panel = np.searchsorted(self.elapsed[:-1], inside, side="right") - 1
        position = _invert_duration(self.edges[panel], inside - self.elapsed[panel], self.xi)
        sine, cosine = _direction(position + (clock - inside) * (1.0 + self.xi**2) ** 2, self.xi)
        return self.mirror * sine, cosine


def _position(phi: Array, xi: float) -> Array:
    """P for phi > xi, by whichever of 1 - exp(-p) and exp(-p) does not cancel."""
    cosine = 1.0 + xi * phi
    total = np.hypot(1.0, phi) * np.hypot(1.0, xi) + np.abs(cosine)
    log_half_tangent = np.copysign(1.0, cosine) * (np.log(phi - xi) - np.log(total))
    a, g = np.exp(-np.arcsinh(xi)), np.exp(-np.arcsinh(phi))
    from_singular = g * (a + 1.0 / a) / (1.0 + a * g)
    near = -np.log1p(-np.minimum(from_singular, 0.5))
    far = -np.arcsinh(xi) - log_half_tangent
    return np.asarray(np.where(from_singular < 0.5, near, far))


def _direction(position: Array, xi: float) -> tuple[Array, Array]:
    """Sine and cosine of alpha; both are rational in exp(-p)."""
    a = np.exp(-np.arcsinh(xi))
    half_tangent = a * np.exp(-position)
    scale = np.hypot(1.0, xi) * (1.0 + half_tangent**2)
    sine = (xi * (1.0 - half_tangent**2) + 2.0 * half_tangent) / scale
    cosine = -np.expm1(-position) * (1.0 + a * half_tangent) / scale
    return np.asarray(sine), np.asarray(cosine)


def _pace(position: Array, xi: float) -> Array:
    """dtau/dp."""
    return np.asarray(_direction(position, xi)[1] ** 3 / np.hypot(1.0, xi))


def _duration(start: Array, stop: Array, xi: float) -> Array:
    """Tau between two positions at most a panel apart, elementwise."""
    half = (stop - start)[..., None] / 2.0
    pace = _pace(start[..., None] + half * (1.0 + _NODES), xi)
    return np.asarray((half * pace) @ _WEIGHTS)


def _invert_duration(start: Array, duration: Array, xi: float) -> Array:
    """Position reached after a duration of at most a panel, by bracketed Newton.

    Next to the singular point the duration grows like p^4: Newton's step is taken in p^4.
    """
    low, high, position = start, start + _PANEL, start + _PANEL / 2.0
    for _ in range(_NEWTON_LIMIT):
        missing = duration - _duration(start, position, xi)
        low, high = np.where(missing >= 0, position, low), np.where(missing <= 0, position, high)
        ratio = 1.0 + 4.0 * missing / (position * _pace(position, xi))
        step = position * np.maximum(ratio, 0.0) ** 0.25
        step = np.where((low <= step) & (step <= high), step, (low + high) / 2.0)
        change, position = np.abs(step - position), step
        if np.all(change <= 2.0 * np.finfo(float).eps * position):
            break
    return position
