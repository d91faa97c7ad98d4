"""KL divergence to a target on the simplex, in exponential and in mixture coordinates.

Outcomes 0..m of probabilities p: theta_i = log(p_i / p_0) and eta_i = p_i, for i = 1..m. The
Fisher matrix is G = diag(eta) - eta eta^T in theta, and G^-1 in eta.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy.optimize import brentq
from scipy.special import softmax
from torch import Tensor

import gflow
from gflow.assemble import descent_group
from gflow.descent import Descent
from gflow.diagnostics.series import Measures
from gflow.recording import make_recording
from gflow.status import Status

SAMPLES = 100
"""Outcomes drawn at each noisy update."""
UPDATES = 1200
UNIFORM = np.full(10, 0.1)
FRACTIONS = (0.25, 0.35, 0.5, 0.75, 0.9, 1.05, 1.2)
"""Step sizes over the largest stable one."""
SHORTER = (0.05, 0.1, 0.15, 0.2)
"""More of them for natural descent, which takes fewer updates but may leave the simplex."""
NATURAL_STEPS = (0.05, 0.2, 0.6)
"""Of noisy natural gradient descent; the other methods get as much stationary KL from theirs."""


def distribution(name: str, outcomes: int) -> np.ndarray:
    """The distribution p* to find."""
    place = np.arange(outcomes)
    weights = {
        "near_uniform": 1.0 + 0.1 * (-1.0) ** place,
        "skewed": 1.0 / (1 + place),
        "near_boundary": 1e-3 ** (place / (outcomes - 1)),
    }[name]
    return weights / weights.sum()


def far_start(outcomes: int) -> np.ndarray:
    """Where single runs start: the most probable outcomes are those that p* makes rare."""
    return np.arange(1, outcomes + 1) / (outcomes * (outcomes + 1) / 2)


def flow(divergence: str, outcomes: int, goal: str, coordinates: str) -> dict[str, Any]:
    """One flow, until the KL divergence has fallen by a factor e^38."""
    wanted = distribution(goal, outcomes)
    rate = 2 * curvatures(wanted, coordinates).min()
    return {
        "problem": objective(wanted, divergence, coordinates),
        "theta0": coordinates_of(far_start(outcomes), coordinates),
        "t_end": 38 / rate,
        "observables": {"p": probabilities(coordinates)},
    }


def starts(divergence: str, coordinates: str) -> dict[str, Any]:
    """Flows of three outcomes from a ring of starts near the simplex's boundary."""
    wanted, angles = distribution("skewed", 3), 2 * np.pi * (np.arange(12) + 0.5) / 12
    ring = [0.01 + 0.97 * _on_boundary(angle) for angle in angles]
    return {
        "problem": objective(wanted, divergence, coordinates),
        "theta0": np.array([coordinates_of(p, coordinates) for p in ring]),
        "t_end": 20 / curvatures(wanted, coordinates).min(),
        "times": np.append(0, np.geomspace(1e-3, 20, 160)) / curvatures(wanted, coordinates).min(),
        "observables": {"p": probabilities(coordinates)},
    }


def affine(c: float, coordinates: str) -> dict[str, Any]:
    """A flow in coordinates A theta or A^-T eta with A^T A = c G(p*)."""
    wanted = distribution("skewed", 10)
    mixing = np.sqrt(c) * np.linalg.cholesky(fisher(wanted)).T
    if "theta" not in coordinates:
        mixing = np.linalg.inv(mixing).T
    rate = {"theta": 2 / c, "eta": 2 * c}.get(coordinates, 2.0)
    return {
        "problem": objective(wanted, "forward", coordinates, mixing),
        "theta0": mixing @ coordinates_of(far_start(10), coordinates),
        "t_end": 50 / rate,
        "observables": {"p": probabilities(coordinates, mixing)},
    }


def descent(divergence: str, goal: str, coordinates: str) -> dict[str, Any]:
    """Descent of ten outcomes from the uniform one, at the best step for p* and at fractions."""
    wanted = distribution(goal, 10)
    values = curvatures(wanted, coordinates)
    condition = values.max() / values.min()
    shorter = SHORTER if coordinates.startswith("natural_") else ()
    fractions = sorted({*shorter, *FRACTIONS, condition / (condition + 1)})
    return {
        "problem": objective(wanted, divergence, coordinates),
        "theta0": coordinates_of(UNIFORM, coordinates),
        "step_sizes": [fraction * 2 / values.max() for fraction in fractions],
        "t_end": (30 + 6 * condition) * 2 / (values.max() + values.min()),
        "records": 400,
        "spacing": "log",
        "observables": {"p": probabilities(coordinates)},
    }


def stability(goal: str, coordinates: str) -> dict[str, Any]:
    """A hundred updates from beside p*, KL 1e-10 in the direction of the largest curvature."""
    wanted = distribution(goal, 10)
    values, vectors = np.linalg.eigh(fisher(wanted))
    place = -1 if "theta" in coordinates else 0
    curvature = values[place] if "theta" in coordinates else 1 / values[place]
    longest = 2 / curvatures(wanted, coordinates).max()
    return {
        "problem": objective(wanted, "forward", coordinates),
        "theta0": coordinates_of(wanted, coordinates)
        + np.sqrt(2e-10 / curvature) * vectors[:, place],
        "step_sizes": [0.95 * longest, 1.05 * longest],
        "t_end": 105 * longest,
    }


def noisy(coordinates: str, seed: int) -> xr.DataTree:
    """Descent with p* replaced by frequencies of 100 samples, new ones at each update."""
    wanted, began = distribution("skewed", 10), time.perf_counter()
    problem = objective(wanted, "forward", coordinates)
    start = problem.theta(coordinates_of(UNIFORM, coordinates))
    etas = np.array([step_of(wanted, coordinates, step) for step in NATURAL_STEPS])
    made = _noisy_descents(wanted, coordinates, start.numpy(), etas, seed)
    points = torch.tensor(made)
    descents = Descent(
        etas,
        np.tile(np.arange(made.shape[1]), (len(etas), 1)),
        points,
        points.new_full(points.shape[:2], torch.nan),
        [Status.T_END if np.isfinite(each[-1]).all() else Status.NONFINITE for each in made],
        [""] * len(etas),
        time.perf_counter() - began,
    )
    switches = {"gradient_norm": False, "sharpness": False}
    recording = make_recording("descend", problem, start, {"diagnostics": switches})
    measures = Measures(problem, None, recording.switches, jumps=True)
    groups = {"descent": descent_group(problem, descents, recording.switches, measures, {})}
    tree = recording.tree([problem], groups)
    tree.attrs["samples"] = SAMPLES
    return tree


def objective(
    wanted: np.ndarray, divergence: str, coordinates: str, mixing: np.ndarray | None = None
) -> gflow.Objective:
    """D(p*||p), forward, or D(p||p*), reverse, in coordinates z or in A z; with the Fisher metric.

    Both are sums of terms that are small where p is near p*, so that rounding is small there too:
    with u = log(p / p*), sum p* (e^u - 1 - u) and sum p* (u e^u - e^u + 1).
    """
    log_p, goal = _log_probabilities(coordinates, mixing), torch.from_numpy(wanted)

    def kl(z: Tensor) -> Tensor:
        u = log_p(z) - goal.log()
        if divergence == "forward":
            return (goal * (torch.expm1(u) - u)).sum()
        return (goal * (u * u.exp() - torch.expm1(u))).sum()

    def metric(z: Tensor) -> Tensor:
        slopes = torch.func.jacrev(log_p)(z)
        return slopes.T @ (log_p(z).exp()[:, None] * slopes)

    word = coordinates.removeprefix("natural_")
    point = coordinates_of(wanted, coordinates)
    return gflow.Objective(
        kl,
        [f"{word}{place}" for place in range(1, len(wanted))],
        metric=metric if coordinates.startswith("natural_") else None,
        theta_target=point if mixing is None else mixing @ point,
    )


def probabilities(coordinates: str, mixing: np.ndarray | None = None) -> Callable[[Tensor], Tensor]:
    """All m + 1 of them, as a function of the coordinates."""
    log_p = _log_probabilities(coordinates, mixing)
    return lambda z: log_p(z).exp()


def coordinates_of(p: np.ndarray, coordinates: str) -> np.ndarray:
    """Theta or eta of a distribution."""
    return np.log(p[1:] / p[0]) if "theta" in coordinates else p[1:]


def fisher(p: np.ndarray) -> np.ndarray:
    """G in theta: the covariance of the indicators of outcomes 1..m."""
    return np.diag(p[1:]) - np.outer(p[1:], p[1:])


def curvatures(p: np.ndarray, coordinates: str) -> np.ndarray:
    """Eigenvalues at p* of what decides descent: the Hessian, of natural descent the identity."""
    values = np.linalg.eigvalsh(fisher(p))
    return {"theta": values, "eta": 1 / values}.get(coordinates, np.ones_like(values))


def step_of(p: np.ndarray, coordinates: str, natural: float) -> float:
    """The step at which a method is left with as much KL as natural descent at its step.

    Linear theory: with eigenvalues l and step h it is sum h l / (2 - h l) / (2 samples).
    """
    values = curvatures(p, coordinates)

    def excess(h: float) -> float:
        return float((h * values / (2 - h * values)).sum()) - len(values) * natural / (2 - natural)

    return float(brentq(excess, 0, 2 / values.max() * (1 - 1e-9)))


def _noisy_descents(
    wanted: np.ndarray, coordinates: str, start: np.ndarray, etas: np.ndarray, seed: int
) -> np.ndarray:
    """Points (S, updates + 1, m); NaN from where a probability is no longer positive."""
    rng = np.random.default_rng(seed)
    points = np.full((len(etas), UPDATES + 1, len(start)), np.nan)
    points[:, 0] = start
    for k in range(UPDATES):
        frequencies = rng.multinomial(SAMPLES, wanted) / SAMPLES
        p = _all_probabilities(points[:, k], coordinates)
        points[:, k + 1] = points[:, k] - etas[:, None] * _slope(p, frequencies, coordinates)
    return points


def _all_probabilities(points: np.ndarray, coordinates: str) -> np.ndarray:
    """Probabilities (S, m + 1) at points (S, m)."""
    if coordinates == "theta":
        return softmax(np.insert(points, 0, 0.0, axis=1), axis=1)
    p = np.insert(points, 0, 1 - points.sum(1), axis=1)
    return np.where((p > 0).all(1, keepdims=True), p, np.nan)


def _slope(p: np.ndarray, frequencies: np.ndarray, coordinates: str) -> np.ndarray:
    """Of sum f log(f / p): in theta p - f, in eta G^-1 (p - f), natural in eta p - f."""
    if coordinates != "eta":
        return (p - frequencies)[:, 1:]
    ratio = frequencies / p
    return ratio[:, :1] - ratio[:, 1:]


def _log_probabilities(
    coordinates: str, mixing: np.ndarray | None = None
) -> Callable[[Tensor], Tensor]:
    back = None if mixing is None else torch.from_numpy(np.linalg.inv(mixing))

    def log_p(z: Tensor) -> Tensor:
        own = z if back is None else back @ z
        if "theta" in coordinates:
            return torch.log_softmax(torch.cat([own.new_zeros(1), own]), 0)
        return torch.log(torch.cat([1 - own.sum()[None], own]))

    return log_p


def _on_boundary(angle: float) -> np.ndarray:
    """Where the ray from the centre of the triangle meets its boundary."""
    ray = np.cos(angle - 2 * np.pi * np.arange(3) / 3)
    return 1 / 3 - ray / (3 * ray.min())
