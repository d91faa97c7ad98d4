"""A vector DEQ that reads the 8x8 digits, and a linear one beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import gflow
from gflow.data import read_table, shipped
from gflow.equilibrium.adjoint import parse_backward

SEED, RADIUS, READ_OUT = 0, 0.1, 3.0
"""Of the hold-out and the start; W's spectral radius there, and the factor on C."""
CLOCKS = [3.0, 6.0, 9.0, 12.0]
"""Times at which all parameters are kept."""


def flow(backward: str, width: int, images: int) -> dict[str, Any]:
    """The DEQ with tanh, and what its flow is asked at each save."""
    one = descent(backward, width, images)
    problem, start = one["problem"], one["theta0"]
    watched = {"jfb": compared(problem), "balance": balance(problem, start)}
    return one | {"observables": watched}


def descent(backward: str, width: int, images: int) -> dict[str, Any]:
    """The same without further questions."""
    return _digits("tanh", backward, width, images)


def linear(backward: str, width: int, images: int) -> dict[str, Any]:
    """The same with the identity: a linear classifier, written as a DEQ."""
    one = _digits("identity", backward, width, images)
    problem, start = one["problem"], one["theta0"]
    watched = {"balance": balance(problem, start), "determinants": determinants(problem)}
    return one | {"observables": watched}


def checked(method: str, width: int, images: int) -> dict[str, Any]:
    """A small one for two methods, the second far more exact."""
    rtol = 1e-4 if method == "tsit5" else 1e-7
    one = _digits("tanh", "exact", width, images)
    return one | {"method": method, "rtol": rtol, "atol": 1e-2 * rtol}


def _digits(activation: str, backward: str, width: int, images: int) -> dict[str, Any]:
    """Problem, start and held-out images."""
    x, y, aside = _images(images)
    model = gflow.VectorDEQ(x.shape[1], width, 10, activation)
    problem = gflow.Problem(model, x, y, loss="cross_entropy", backward=backward)
    start = model.initial(SEED, radius=RADIUS)
    start[[name.startswith("C") for name in model.parameter_names]] *= READ_OUT
    return {"problem": problem, "theta0": start, "evaluation": aside, "store_theta": CLOCKS}


def _images(count: int) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Pixels from 0 to 1 and digits: three quarters to train on, a quarter set aside."""
    table = read_table(shipped("digits.csv"), ["p*"], "digit")
    order = np.random.default_rng(SEED).permutation(len(table.y))[:count]
    first = round(count / 4)
    x, y = table.x / 16.0, table.y
    return x[order[first:]], y[order[first:]], (x[order[:first]], y[order[:first]])


def compared(problem: gflow.Problem) -> Any:
    """The JFB gradient beside the exact one: cosine of their angle, ratio of their norms."""
    exact, jfb = parse_backward("exact"), parse_backward("jfb")

    def found(theta: Tensor) -> Tensor:
        equilibrium = problem.model.equilibrium(theta, problem.x)
        a, b = problem.gradient_at(equilibrium, exact), problem.gradient_at(equilibrium, jfb)
        return torch.stack([a @ b / (a.norm() * b.norm()), b.norm() / a.norm()])

    return found


def balance(problem: gflow.Problem, start: np.ndarray) -> Any:
    """How far M M^T + V V^T has moved, and how far M M^T and V V^T have, in Frobenius norms."""

    def parts(theta: Tensor) -> Tensor:
        gap, drive = _sides(problem, theta)
        squares = [gap @ gap.mT, drive @ drive.mT]
        return torch.stack([squares[0] + squares[1], *squares])

    first = parts(problem.theta(start))
    return lambda theta: torch.linalg.matrix_norm(parts(theta) - first)


def determinants(problem: gflow.Problem) -> Any:
    """log |det M| and log det(1 + F F^T) / 2, for the gain F = M^-1 V from the inputs to z."""

    def found(theta: Tensor) -> Tensor:
        gap, drive = _sides(problem, theta)
        gain = torch.linalg.solve(gap, drive)
        square = torch.eye(len(gap)).to(gap) + gain @ gain.mT
        return torch.stack([torch.logdet(gap), torch.logdet(square) / 2])

    return found


def _sides(problem: gflow.Problem, theta: Tensor) -> tuple[Tensor, Tensor]:
    """M = 1 - W (m, m) and V = (U, b) (m, d + 1)."""
    blocks = problem.model.layout.split(theta)
    gap = torch.eye(len(blocks.W)).to(blocks.W) - blocks.W
    return gap, torch.cat([blocks.U, blocks.b[:, None]], dim=1)
