"""diffrax with jit and vmap in float64, compiled before the clock starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

Array = np.ndarray
Solve = Callable[[float], tuple[Array, Mapping[str, float]]]

NEWTON = 3
"""Corrections of the weak problem's fixed point: from s = theta1 . x / (1 - theta2) they leave an
error below 1e-15 for |theta2| < 0.15, which the flows keep; a test for convergence costs more."""


def _compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], float]:
    """The function of `arguments` and a tolerance compiled, and the seconds that took."""
    began = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments, 1e-6).compile()
    return compiled, round(time.perf_counter() - began, 2)


def _weak(theta: Any, flow: Any) -> tuple[Any, ...]:
    """Residual weights and what the Hessian needs at the fixed points of one flow."""
    x, y, epsilon = flow
    theta2, linear = theta[-1], x @ theta[:-1]
    s = linear / (1 - theta2)
    for _ in range(NEWTON):
        tanh = jnp.tanh(s)
        slope = 1 + epsilon * (1 - tanh * tanh)
        s += (linear + theta2 * (s + epsilon * tanh) - s) / (1 - theta2 * slope)
    tanh = jnp.tanh(s)
    rest = 1 - tanh * tanh
    slope, output = 1 + epsilon * rest, s + epsilon * tanh
    error, inverse = (output - y) * (2 / len(y)), 1 / (1 - theta2 * slope)
    return output, error, slope * inverse, -2 * epsilon * tanh * rest * inverse**3


@jax.custom_jvp
def _weak_field(theta: Any, flow: Any) -> Any:
    output, error, weight, _ = _weak(theta, flow)
    scaled = error * weight
    return -jnp.append(scaled @ flow[0], scaled @ output)


@_weak_field.defjvp
def _weak_field_jvp(primals: Any, tangents: Any) -> Any:
    """The exact Hessian, so that the Jacobian is formed from it and not by differentiating."""
    (theta, flow), vector = primals, tangents[0]
    x = flow[0]
    output, error, weight, bend = _weak(theta, flow)
    scaled, beta = error * weight, error * weight * weight
    along = x @ vector[:-1] + output * vector[-1]
    forward = (weight * weight * (2 / len(output)) + error * bend) * along + beta * vector[-1]
    product = jnp.append(forward @ x, forward @ output + beta @ along)
    return -jnp.append(scaled @ x, scaled @ output), -product


def stiff(flows: list[Any]) -> dict[str, Solve]:
    """Kvaerno5, all flows in one batch, and one flow after the other within one program."""
    data = tuple(
        jnp.stack([jnp.asarray(getattr(flow, part)) for flow in flows])
        for part in ("x", "y", "epsilon")
    )
    starts, t_end = jnp.stack([jnp.asarray(flow.start) for flow in flows]), flows[0].t_end
    term = diffrax.ODETerm(lambda t, theta, flow: _weak_field(theta, flow))

    def end(start: Any, flow: Any, rtol: Any) -> tuple[Any, Any]:
        controller = diffrax.PIDController(rtol, 1e-3 * rtol, pcoeff=0.3, icoeff=0.4)
        found = diffrax.diffeqsolve(
            term,
            diffrax.Kvaerno5(),
            0.0,
            t_end,
            None,
            start,
            flow,
            stepsize_controller=controller,
            max_steps=100_000,
            throw=False,
        )
        return found.ys[0], found.stats["num_steps"]

    def solver(every: Callable[..., Any]) -> Solve:
        compiled, seconds = _compiled(every, starts, data)

        def solve(rtol: float) -> tuple[Array, Mapping[str, float]]:
            theta, steps = jax.block_until_ready(compiled(starts, data, rtol))
            return np.asarray(theta), {"steps": float(steps.sum()), "compiling": seconds}

        return solve

    def in_turn(starts: Any, data: Any, rtol: Any) -> Any:
        return jax.lax.map(lambda each: end(*each, rtol), (starts, data))

    return {
        "diffrax Kvaerno5 (vmap)": solver(jax.vmap(end, in_axes=(0, 0, None))),
        "diffrax Kvaerno5 (map)": solver(in_turn),
    }


def ensemble(flows: Any) -> dict[str, Solve]:
    """Explicit methods on the linear ensemble, every step shared in time, not in size."""
    sigma, times = jnp.asarray(flows.sigma), jnp.asarray(flows.times)
    targets, starts = jnp.asarray(flows.xi), jnp.asarray(flows.start)

    def field(t: Any, theta: Any, xi: Any) -> Any:
        inverse = 1 / (1 - theta[-1])
        phi = theta[:-1] * inverse
        slope = -2 * sigma * (phi - xi) * inverse
        return jnp.append(slope, slope @ phi)

    def solver(method: Any, controller: Callable[..., Any]) -> Solve:
        def saves(start: Any, xi: Any, rtol: Any) -> tuple[Any, Any]:
            found = diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                method,
                0.0,
                times[-1],
                None,
                start,
                xi,
                saveat=diffrax.SaveAt(ts=times),
                stepsize_controller=controller(rtol, 1e-3 * rtol),
                max_steps=1_000_000,
                throw=False,
            )
            return found.ys, found.stats["num_steps"]

        compiled, seconds = _compiled(jax.vmap(saves, in_axes=(0, 0, None)), starts, targets)

        def solve(rtol: float) -> tuple[Array, Mapping[str, float]]:
            theta, steps = jax.block_until_ready(compiled(starts, targets, rtol))
            work = {"steps": steps.sum(), "longest": steps.max(), "compiling": seconds}
            return np.asarray(theta), {kind: float(amount) for kind, amount in work.items()}

        return solve

    return {
        "diffrax Tsit5": solver(diffrax.Tsit5(), diffrax.PIDController),
        "diffrax Tsit5 PI": solver(
            diffrax.Tsit5(), partial(diffrax.PIDController, pcoeff=0.3, icoeff=0.4)
        ),
    }
