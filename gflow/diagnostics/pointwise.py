"""Diagnostics that are functions of theta alone, evaluated for all saves of a run at once.

A new one is one function and one line of :data:`POINTWISE`, beside its line in
:mod:`gflow.schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from gflow.diagnostics.rows import Before, row_equilibria
from gflow.diagnostics.spectrum import spectra_at_saves
from gflow.models.base import Equilibrium
from gflow.problem import EXACT, Problem


def loss(problem: Problem, equilibrium: Equilibrium) -> Tensor:
    """The loss (B,)."""
    return problem.loss_at(equilibrium)


def gradient_norm(problem: Problem, equilibrium: Equilibrium) -> Tensor:
    """Norm (B,) of the gradient that the problem's backward gives."""
    norm: Tensor = torch.linalg.vector_norm(problem.gradient_at(equilibrium), dim=-1)
    return norm


def accuracy(problem: Problem, equilibrium: Equilibrium) -> Tensor:
    """Share (B,) of the samples that are classified rightly."""
    return problem.accuracy_at(equilibrium)


def sphere_radius(problem: Problem, equilibrium: Equilibrium) -> Tensor:
    """Distance (B,) to (0, 1)."""
    return problem.model.sphere_radius(equilibrium.theta)


def singular_distance(problem: Problem, equilibrium: Equilibrium) -> Tensor:
    """Distance (B,) to the nearest theta at which the equilibrium may be lost."""
    return problem.model.singular_distance(equilibrium.theta)


def conditioning(problem: Problem, equilibrium: Equilibrium) -> Tensor:
    """Smallest |1 - theta2 sigma'| (B,) over the samples."""
    return problem.model.conditioning(equilibrium)


def equilibrium_residual(problem: Problem, equilibrium: Equilibrium) -> Tensor:
    """Largest residual (B,) of the original fixed-point equation over the samples."""
    return problem.model.residual(equilibrium, problem.x)


def adjoint_residual(problem: Problem, equilibrium: Equilibrium) -> Tensor:
    """Largest relative residual (B,) of the adjoint equation over the samples."""
    problem.gradient_at(equilibrium, EXACT)
    return problem.model.adjoint_residual(equilibrium)


ALWAYS = ("loss", "gradient_norm")
"""What every problem has; the rest is for its model to give."""

POINTWISE: dict[str, Callable[[Problem, Equilibrium], Tensor]] = {
    "loss": loss,
    "gradient_norm": gradient_norm,
    "accuracy": accuracy,
    "sphere_radius": sphere_radius,
    "singular_distance": singular_distance,
    "conditioning": conditioning,
    "equilibrium_residual": equilibrium_residual,
    "adjoint_residual": adjoint_residual,
}


def evaluate_pointwise(
    problem: Problem,
    theta: Tensor,
    names: Collection[str],
    every_sharpness: bool = False,
    eigenvalues: int = 0,
    step_sizes: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """Diagnostics at thetas (..., P), each of shape (...); equilibria are solved once for all.

    Those of the spectrum have a dimension more, and are solved for apart, see
    :func:`gflow.diagnostics.spectrum.spectra_at_saves`.

    Parameters
    ----------
    problem : Problem
        One of all rows, or a stack whose row i belongs to ``theta[i]``.
    theta : Tensor, shape (..., P)
        Rows that are NaN give NaN.
    names : collection of str
        Keys of :data:`POINTWISE`, and ``sharpness``; what the model does not give is left out.
    every_sharpness : bool
        Compute sharpness and eigenvalues at every save, whatever it costs.
    eigenvalues : int
        How many of the Hessian's largest eigenvalues to give, 0 for none.
    step_sizes : sequence of float, optional
        Of the descents that theta (S, R, P) are the records of; without them theta is a flow's.
    """
    runs = theta if theta.ndim > 2 else theta.reshape(1, -1, theta.shape[-1])
    owners = torch.arange(len(runs), device=theta.device)
    flat = theta.reshape(-1, theta.shape[-1])
    rows = owners.repeat_interleave(len(flat) // len(runs))
    shape, before = theta.shape[:-1], Before(jumps=step_sizes is not None)
    flat_values = evaluate_rows(problem, flat, rows, names, before)
    found = {name: values.reshape(shape) for name, values in flat_values.items()}
    if "sharpness" in names or eigenvalues:
        saves = runs.flatten(1, -2)
        spectra = spectra_at_saves(problem, saves, eigenvalues, every_sharpness, step_sizes)
        if "sharpness" not in names:
            del spectra["sharpness"]
        found |= {name: v.reshape(shape + v.shape[2:]) for name, v in spectra.items()}
    return found


def evaluate_rows(
    problem: Problem, theta: Tensor, rows: Tensor, names: Collection[str], before: Before
) -> dict[str, Tensor]:
    """The diagnostics of :data:`POINTWISE` at thetas (K, P) of the problem's rows (K,)."""
    given = {*ALWAYS, *problem.model.diagnostics}.intersection(names)
    if problem.loss_function.classifies and "accuracy" in names:
        given.add("accuracy")
    chosen = {name: function for name, function in POINTWISE.items() if name in given}
    parts: dict[str, list[Tensor]] = {name: [theta.new_empty(0)] for name in chosen}
    for part, equilibrium in row_equilibria(problem, theta, rows, before=before):
        for name, function in chosen.items():
            value = function(part, equilibrium)
            parts[name].append(torch.where(equilibrium.valid, value, torch.nan))
    return {name: torch.cat(values) for name, values in parts.items()}
