"""Runge-Kutta-Chebyshev."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gflow.integrators.base import Field, MethodInfo
from gflow.integrators.control import Controller
from gflow.integrators.native import (
    BatchStep,
    Cache,
    NativeMethod,
    State,
    System,
    Trial,
    column,
    merge,
)
from gflow.integrators.spectral_radius import estimate, first_direction
import os
VAR = os.environ.get("VAR", "A")
C = float(os.environ.get("C", "1"))
MARGIN = float(os.environ.get("MARGIN", "1.1"))
EVERY = float(os.environ.get("EVERY", "25"))
EXP = float(os.environ.get("EXP", "0.5"))

DAMPING = 2 / 13
FEWEST, MOST = 2, 500


@lru_cache(maxsize=None)
def _chebyshev(s):
    w0 = 1 + DAMPING / s**2
    T = np.zeros((3, s + 1))
    T[0, 0] = 1
    T[0, 1], T[1, 1] = w0, 1
    for j in range(2, s + 1):
        T[0, j] = 2 * w0 * T[0, j - 1] - T[0, j - 2]
        T[1, j] = 2 * T[0, j - 1] + 2 * w0 * T[1, j - 1] - T[1, j - 2]
        T[2, j] = 4 * T[1, j - 1] + 2 * w0 * T[2, j - 1] - T[2, j - 2]
    return w0, T


@lru_cache(maxsize=None)
def _coefficients(s):
    w0, T = _chebyshev(s)
    w1 = T[1, s] / T[2, s]
    b = np.empty(s + 1)
    b[2:] = T[2, 2:] / T[1, 2:] ** 2
    b[:2] = b[2]
    a = 1 - b * T[0]
    c = np.zeros(s + 1)
    c[2:] = w1 * T[2, 2:] / T[1, 2:]
    c[1] = c[2] / T[1, 2]
    rows = [(0.0, 0.0, b[1] * w1, 0.0, c[1])]
    for j in range(2, s + 1):
        mt = 2 * b[j] * w1 / b[j - 1]
        rows.append((2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], mt, -a[j - 1] * mt, c[j]))
    return tuple(tuple(map(float, r)) for r in rows)


def _reach(s):
    w0, T = _chebyshev(s)
    return (w0 + 1) * T[2, s] / T[1, s]


REACHES = np.array([_reach(s) for s in range(FEWEST, MOST + 1)])


class RKC(NativeMethod):
    def __init__(self, info):
        self.info = info
        self.controller = Controller(2 if VAR == "B" else 3)

    def prepare(self, system, t, theta):
        value = system.value(t, theta)
        radius, direction = estimate(system, t, theta, value, first_direction(value), np.zeros(len(t)))
        return {"value": value, "radius": radius, "direction": direction, "age": np.zeros(len(t))}

    def advance(self, field, state):
        state = self.fresh(field, state)
        eps = torch.finfo(state.theta.dtype).eps
        most = REACHES[-1]
        rho = np.maximum(MARGIN * state.cache["radius"], 1e-300)
        return super().advance(field, replace(state, dt=np.minimum(state.dt, most / rho)))

    def fresh(self, field, state):
        c = state.cache
        due = state.retrying | (c["age"] >= EVERY)
        if not due.any():
            return state
        if field.memory is not None:
            field.memory.restore(state.memory)
        radius, direction = estimate(System(field), state.t, state.theta, c["value"], c["direction"], c["radius"])
        if os.environ.get("TALK"): print("est", state.t, c["radius"], radius)
        return replace(state, cache={**c, "radius": radius, "direction": direction, "age": np.zeros(len(state.t))})

    def attempt(self, system, t, dt, theta, state):
        cache = state.cache
        need = float((MARGIN * dt * cache["radius"]).max())
        s = FEWEST + int(np.searchsorted(REACHES, min(need, REACHES[-1])))
        width = column(dt, theta)
        f0 = cache["value"]
        start = width * f0
        rows = _coefficients(s)
        before, now = torch.zeros_like(theta), rows[0][2] * start
        point = theta + now
        for (mu, nu, mt, gt, _), last in zip(rows[1:], rows[:-1]):
            f = system.value(t + last[4] * dt, point)
            new = (mu * now).add_(before, alpha=nu).addcmul_(width, f, value=mt).add_(start, alpha=gt)
            before, now = now, new
            prev, point = point, theta + now
        f1 = system.value(t + dt, point)
        error = (-0.8 * now).addcmul_(width, f0 + f1, value=0.4)
        norm = lambda v: torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        set_ = state.settings
        if os.environ.get("TALK"):
            print("t", t, "dt", dt, "s", s, "rho", cache["radius"], "quot", (norm(f1-f)/norm(point-prev)).flatten().numpy(), "F/dF", (norm(f0)/norm(f1-f0)).flatten().numpy())
        if VAR == "A":
            scale = set_.atol + set_.rtol * theta.abs()
            tau = norm(scale) / norm(theta)
            factor = C * tau.clamp(max=1.0) ** -EXP
        elif VAR == "B":
            factor = C * (norm(f0) / norm(f1 - f0)).clamp(min=1.0)
        elif VAR == "D":
            scale = set_.atol + set_.rtol * theta.abs()
            factor = C * (norm(f0/scale) / norm((f1 - f0)/scale)).clamp(min=1.0)
        else:
            factor = C
        error = error * factor
        change = now

        def dense(rows, x):
            x = x[:, None]
            th, ch, w = theta[rows], change[rows], width[rows]
            bend = (1 - x) * (w * f0[rows] - ch) + x * (ch - w * f1[rows])
            return th + x * ch + x * (1 - x) * bend

        return Trial(point, error, dense, f1)

    def renew(self, system, step, trial, state):
        c = state.cache
        return {**c, "value": merge(step, trial.stages, c["value"]), "age": c["age"] + step.accepted}


RKC2_METHOD = RKC(
    MethodInfo(
        name="native:rkc2", order=2, dense_order=2, adaptive=True, implicit=False, any_device=True,
        advice="stiff flows of many parameters", source="Sommeijer, Shampine & Verwer (1998)", evaluations=15,
    )
)
