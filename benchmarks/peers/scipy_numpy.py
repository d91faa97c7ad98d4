"""SciPy's solvers on hand-written numpy fields with exact Jacobians, one flow after the other.

LSODA is called through :func:`scipy.integrate.odeint`, whose loop over the steps is compiled; Radau
and BDF exist in :func:`scipy.integrate.solve_ivp` alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from scipy.integrate import ODEintWarning, odeint, solve_ivp

Array = np.ndarray
Solve = Callable[[float], tuple[Array, Mapping[str, float]]]


class WeakField:
    """The gradient flow of y = sigma(theta1 . x + theta2 y), sigma(u) = u + epsilon tanh(u).

    Newton's iteration starts at the last fixed point and ends when the next correction would be
    below 1e-14: as |sigma''| <= 0.77 epsilon, a correction c leaves at most k c^2 of error. The
    tanh at the corrected point follows from its Taylor series, without another evaluation. The
    Hessian at the theta last evaluated needs no solve.
    """

    def __init__(self, x: Array, y: Array, epsilon: float) -> None:
        self.x, self.y, self.epsilon = np.ascontiguousarray(x.T), y, epsilon
        self.features = np.vstack([self.x, np.empty_like(y)])
        self.theta: Array | None = None
        self.s: Array | None = None
        self.gradients = self.hessians = 0

    def _solve(self, theta: Array) -> None:
        """The fixed points, and what the gradient and the Hessian need there."""
        if self.theta is not None and np.array_equal(theta, self.theta):
            return
        epsilon, theta2, linear = self.epsilon, theta[-1], theta[:-1] @ self.x
        s = linear / (1 - theta2) if self.s is None else self.s
        own, mixed = 1 - theta2, theta2 * epsilon
        bend = 0.385 * abs(mixed) / max(own - max(mixed, 0.0), 1e-3)
        for _ in range(50):
            tanh = np.tanh(s)
            rest = 1 - tanh * tanh
            step = (linear + mixed * tanh - own * s) / (own - mixed * rest)
            s = s + step
            if bend * np.abs(step).max() ** 2 < 1e-14:
                break
        tanh = tanh + step * rest * (1 - step * tanh)
        rest = 1 - tanh * tanh
        slope = 1 + epsilon * rest
        self.theta, self.s, self.output = theta.copy(), s, s + epsilon * tanh
        self.inverse = 1 / (1 - theta2 * slope)
        self.error = (self.output - self.y) * (2 / len(self.y))
        self.weight, self.curve = slope * self.inverse, -2 * epsilon * (tanh * rest)
        self.features[-1] = self.output

    def __call__(self, t: float, theta: Array) -> Array:
        """Minus the gradient, (P,)."""
        self.gradients += 1
        self._solve(theta)
        return -(self.features @ (self.error * self.weight))

    def jacobian(self, t: float, theta: Array) -> Array:
        """Minus the Hessian, (P, P)."""
        self.hessians += 1
        self._solve(theta)
        features, weight = self.features, self.weight
        alpha = weight * weight * (2 / len(self.y)) + self.error * self.curve * self.inverse**3
        matrix = (features * alpha) @ features.T
        edge = features @ (self.error * weight * weight)
        matrix[-1] += edge
        matrix[:, -1] += edge
        return -matrix


def _odeint(field: Any, start: Array, times: Array, rtol: float, exact: bool) -> Array:
    """Theta at the times by LSODA; infinite where it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ODEintWarning)
        try:
            jacobian = field.jacobian if exact else None
            choices = {"rtol": rtol, "atol": 1e-3 * rtol, "mxstep": 1_000_000, "tfirst": True}
            return odeint(field, start, times, Dfun=jacobian, **choices)
        except ODEintWarning:
            return np.full((len(times), len(start)), np.inf)


def _ivp(method: str, field: Any, start: Array, times: Array, rtol: float) -> Array:
    """Theta at the last time by one of solve_ivp's methods."""
    choices = {"rtol": max(rtol, 3e-14), "atol": 1e-3 * rtol, "jac": field.jacobian}
    found = solve_ivp(field, (0.0, times[-1]), start, method, t_eval=times, **choices)
    return found.y.T if found.success else np.full((len(times), len(start)), np.inf)


def stiff(flows: list[Any]) -> dict[str, Solve]:
    """Solvers of the stiff flows, ``solve(rtol) -> (theta (B, P), work)``."""

    def solver(integrate: Callable[..., Array]) -> Solve:
        def solve(rtol: float) -> tuple[Array, Mapping[str, float]]:
            fields = [WeakField(flow.x, flow.y, flow.epsilon) for flow in flows]
            ends = [
                integrate(field, flow.start, np.array([0.0, flow.t_end]), rtol)[-1]
                for field, flow in zip(fields, flows, strict=True)
            ]
            return np.array(ends), _work(fields)

        return solve

    return {
        "SciPy LSODA": solver(partial(_odeint, exact=True)),
        "SciPy LSODA, no Jacobian": solver(partial(_odeint, exact=False)),
        "SciPy Radau": solver(partial(_ivp, "Radau")),
        "SciPy BDF": solver(partial(_ivp, "BDF")),
    }


class LinearField:
    """The gradient flow of (phi - xi) . Sigma (phi - xi), phi = theta1 / (1 - theta2)."""

    def __init__(self, sigma: Array, xi: Array) -> None:
        self.twice, self.xi = 2 * sigma, xi
        self.gradients = self.hessians = 0

    def __call__(self, t: float, theta: Array) -> Array:
        """Minus the gradient, (P,)."""
        self.gradients += 1
        inverse = 1 / (1 - theta[-1])
        phi = theta[:-1] * inverse
        slope = self.twice * (phi - self.xi)
        out = np.empty_like(theta)
        np.multiply(slope, -inverse, out=out[:-1])
        out[-1] = out[:-1] @ phi
        return out

    def jacobian(self, t: float, theta: Array) -> Array:
        """Minus the Hessian, (P, P)."""
        self.hessians += 1
        inverse = 1 / (1 - theta[-1])
        phi, square = theta[:-1] * inverse, inverse * inverse
        slope, curve = self.twice * (phi - self.xi), self.twice * phi
        matrix = np.diag(np.append(self.twice, 2 * (slope + curve) @ phi) * -square)
        matrix[:-1, -1] = matrix[-1, :-1] = (slope + curve) * -square
        return matrix


def ensemble(flows: Any) -> dict[str, Solve]:
    """LSODA on the linear ensemble, ``solve(rtol) -> (theta (B, T, P), work)``."""

    def solve(rtol: float) -> tuple[Array, Mapping[str, float]]:
        fields = [LinearField(flows.sigma, xi) for xi in flows.xi]
        theta = [
            _odeint(field, start, flows.times, rtol, exact=True)
            for field, start in zip(fields, flows.start, strict=True)
        ]
        return np.array(theta), _work(fields)

    return {"SciPy LSODA": solve}


def ensemble_references(flows: Any) -> tuple[Array, Array]:
    """Theta (B, T, P) by LSODA at rtol 1e-12, and by DOP853 from save to save, all at once."""
    first, _ = ensemble(flows)["SciPy LSODA"](1e-12)

    def every(t: float, flat: Array) -> Array:
        theta = flat.reshape(flows.start.shape)
        inverse = 1 / (1 - theta[:, -1:])
        phi = theta[:, :-1] * inverse
        slope = -2 * flows.sigma * (phi - flows.xi) * inverse
        return np.hstack([slope, (slope * phi).sum(1, keepdims=True)]).ravel()

    theta, second = flows.start, [flows.start]
    for span in zip(flows.times[:-1], flows.times[1:], strict=True):
        found = solve_ivp(every, span, theta.ravel(), "DOP853", rtol=1e-12, atol=1e-15)
        theta = found.y[:, -1].reshape(theta.shape)
        second.append(theta)
    return first, np.stack(second, axis=1)


def _work(fields: list[Any]) -> dict[str, float]:
    return {
        "gradients": sum(field.gradients for field in fields),
        "hessians": sum(field.hessians for field in fields),
    }
