"""The largest eigenvalues of the loss's Hessian along runs, with and without the Hessian."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gflow.diagnostics.rows import row_equilibria
from gflow.eigen import Eigenpairs, grown, top_eigenpairs
from gflow.equilibrium.adjoint import Backward
from gflow.models.base import Equilibrium
from gflow.problem import CHUNK, EXACT, Problem

SHARPNESS_LIMIT = 150
"""Parameters up to which the Hessian is formed; beyond, a few of its products cost less."""
SHARPNESS_WORK = 200 * 32**2
"""Saves x P^2 up to which that is done at every save; beyond, at fewer."""
SHARPNESS_PRODUCTS = 400
"""Products that all saves together are expected to take, about the price of a stiff flow."""
SHARPNESS_LEAST = 5
"""Saves that are looked at at least, the first and the last among them."""

Found = tuple[Tensor, Tensor, Tensor, Tensor]
"""Sharpness (N,), eigenvalues and residuals (N, K), NaN padded, and products (N,)."""


def product_at(
    problem: Problem, theta: Tensor, backward: Backward = EXACT
) -> Callable[[Tensor], Tensor]:
    """The product of the gradient's Jacobian at theta (P,) with vectors; one equilibrium for all.

    NaN where there is no equilibrium. By default the Hessian's.
    """
    return _product(problem, problem.model.equilibrium(theta[None], problem.x), backward)


def _product(
    problem: Problem, equilibrium: Equilibrium, backward: Backward
) -> Callable[[Tensor], Tensor]:
    return lambda vector: problem.jvp_at(equilibrium, vector[None], backward)[0]


def forms_hessians(problem: Problem) -> bool:
    """Whether the Hessian is formed for its eigenvalues."""
    return problem.n_parameters <= SHARPNESS_LIMIT and not problem.model.one_by_one


def sharpness_at(
    problem: Problem, equilibrium: Equilibrium, vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """The Hessian's largest eigenvalue at solved equilibria; NaN where it was not found.

    Parameters
    ----------
    problem : Problem
    equilibrium : Equilibrium
        Of thetas (K, P); of a single one where the Hessian is not formed.
    vectors : Tensor, shape (K, P)
        Eigenvectors of a theta nearby, from which a search by products begins; NaN if there are
        none.

    Returns
    -------
    values : Tensor, shape (K,)
    vectors : Tensor, shape (K, P)
        The eigenvectors, NaN where the Hessian was formed.
    """
    if forms_hessians(problem):
        hessian = problem.jacobian_at(equilibrium, EXACT)
        return _decomposed(hessian, checked=False)[0][:, 0], vectors
    known = vectors[torch.isfinite(vectors).all(-1)]
    pairs = top_eigenpairs(_product(problem, equilibrium, EXACT), known, 1)
    found = torch.isfinite(pairs.values).all()
    value = torch.where(pairs.converged, pairs.values, torch.nan)
    return value, torch.where(found, pairs.vectors, vectors)


def spectra_at_saves(
    problem: Problem,
    runs: Tensor,
    k: int = 0,
    every: bool = False,
    step_sizes: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """The Hessian's largest eigenvalues at the saves, NaN at those that are left out.

    With the Hessian up to :data:`SHARPNESS_LIMIT` parameters. Beyond, by its products: along each
    run, every save begins with the eigenvectors of the one before, see :mod:`gflow.eigen`. That
    takes about 8 products for the sharpness, 25 for 5 eigenvalues. Each run has its share of saves,
    evenly spread, that :data:`SHARPNESS_WORK` or :data:`SHARPNESS_PRODUCTS` allow.

    Parameters
    ----------
    problem : Problem
        One of all runs, or a stack whose row i belongs to ``runs[i]``.
    runs : Tensor, shape (R, T, P)
        NaN pads.
    k : int
        Eigenvalues wanted; 0 for the sharpness alone.
    every : bool
        At every save, whatever it costs.
    step_sizes : sequence of float, length R, optional
        Of descents: k grows while more eigenvalues exceed 2 / eta, see :func:`gflow.eigen.grown`.

    Returns
    -------
    dict
        ``sharpness`` (R, T), NaN also where it was not found to the accuracy asked for; if k > 0
        ``eigenvalues`` and ``eigenvalue_residual`` (R, T, K), NaN beyond those of each save, and
        ``eigenvalue_products`` (R, T), 0 where the Hessian was formed.
    """
    size = runs.shape[-1]
    dense = forms_hessians(problem)
    affordable = SHARPNESS_WORK // size**2 if dense else SHARPNESS_PRODUCTS // _expected(k)
    share = max(SHARPNESS_LEAST, affordable // len(runs))
    saved = ~torch.isnan(runs).any(-1)
    chosen = saved if every else torch.stack([_spread(run, share) for run in saved])
    owners, places = torch.nonzero(chosen, as_tuple=True)
    edges = [math.inf] * len(runs) if step_sizes is None else [2.0 / eta for eta in step_sizes]
    solve = _by_hessians if dense else _by_products
    found = solve(problem, runs[owners, places], owners, k, edges, step_sizes is not None)
    names = ("sharpness", "eigenvalues", "eigenvalue_residual", "eigenvalue_products")
    tables = {}
    for name, values in zip(names if k else names[:1], found, strict=False):
        table = runs.new_full((*runs.shape[:-1], *values.shape[1:]), torch.nan)
        table[owners, places] = values
        tables[name] = table
    return tables


def _expected(k: int) -> int:
    """Products of a save, measured along descents of an MLP."""
    return 10 if k <= 1 else 15 + 2 * k


def _by_hessians(
    problem: Problem,
    points: Tensor,
    owners: Tensor,
    k: int,
    edges: Sequence[float],
    jumps: bool,
) -> Found:
    size = points.shape[-1]
    parts = [
        _decomposed(part.jacobian_at(equilibrium, EXACT), k > 0)
        for part, equilibrium in row_equilibria(problem, points, owners, size, jumps)
    ]
    values, residuals = (torch.cat(tables) for tables in zip(*parts, strict=True))
    counts = [size] * len(values)
    if k:
        rows = zip(values, owners.tolist(), strict=True)
        counts = [min(grown(row, k, edges[owner]), size) for row, owner in rows]
    none = torch.zeros_like(values[:, 0])
    return values[:, 0], _padded(values, counts, k), _padded(residuals, counts, k), none


def _decomposed(hessian: Tensor, checked: bool) -> tuple[Tensor, Tensor]:
    """Eigenvalues (N, P), descending, and their residuals, 0 unless checked; NaN of what is NaN."""
    finite = torch.isfinite(hessian).all(-1).all(-1)[:, None]
    hessian = torch.where(finite[..., None], hessian, 0.0)
    if checked:
        values, vectors = torch.linalg.eigh(hessian)
        faults = hessian @ vectors - vectors * values[:, None]
        residuals = torch.linalg.vector_norm(faults, dim=-2)
    else:
        values = torch.linalg.eigvalsh(hessian)
        residuals = torch.zeros_like(values)
    values, residuals = (torch.where(finite, one, torch.nan) for one in (values, residuals))
    return values.flip(-1), residuals.flip(-1)


def _by_products(
    problem: Problem,
    points: Tensor,
    owners: Tensor,
    k: int,
    edges: Sequence[float],
    jumps: bool,
) -> Found:
    found: list[Eigenpairs] = []
    guess, last = points[:0], -1
    solved = row_equilibria(problem, points, owners, CHUNK, jumps)
    for owner, (part, equilibrium) in zip(owners.tolist(), solved, strict=True):
        guess = guess if owner == last else points[:0]
        product = _product(part, equilibrium, EXACT)
        pairs = top_eigenpairs(product, guess, max(k, 1), above=edges[owner] if k else math.inf)
        found.append(pairs)
        last, known = owner, bool(torch.isfinite(pairs.values).all())
        guess = pairs.vectors if known else guess
    first = [torch.where(one.converged[0], one.values[0], torch.nan) for one in found]
    counts = [len(one.values) for one in found]
    values = pad_sequence([one.values for one in found], batch_first=True)
    residuals = pad_sequence([one.residuals for one in found], batch_first=True)
    products = points.new_tensor([one.products for one in found])
    return torch.stack(first), _padded(values, counts, k), _padded(residuals, counts, k), products


def _padded(table: Tensor, counts: Sequence[int], k: int) -> Tensor:
    """The first so many of each row (N, m), in at least k columns, NaN beyond them."""
    width = max(k, *counts)
    table = torch.nn.functional.pad(table, (0, max(0, width - table.shape[-1])))[:, :width]
    known = torch.arange(width) < torch.tensor(counts)[:, None]
    return torch.where(known.to(table.device), table, torch.nan)


def _spread(saved: Tensor, share: int) -> Tensor:
    """Mask (T,) of at most `share` of the saves, evenly spread, the first and last among them."""
    places = torch.nonzero(saved)[:, 0]
    spread = torch.linspace(0, len(places) - 1, min(len(places), share), dtype=torch.float64)
    chosen = torch.zeros_like(saved)
    chosen[places[spread.round().long().to(places.device)]] = True
    return chosen
