"""Starts of a vector DEQ whose equilibrium is guaranteed, or nearly so."""

from __future__ import annotations

from typing import Any

import numpy as np

from gflow.errors import ProblemError

Array = np.ndarray[Any, np.dtype[np.float64]]

SCHEMES = ("spectral", "norm", "monotone")


def start_weights(generator: np.random.Generator, size: int, scheme: str, radius: float) -> Array:
    """W (m, m) with a guarantee.

    ============ ==================================================================================
    ``spectral`` Gaussian, rescaled to the spectral radius `radius`
    ``norm``     Gaussian, rescaled to the spectral norm `radius`: with slopes up to 1 the map
                 contracts if that is below 1
    ``monotone`` W = (1 - r) I - A^T A + B - B^T with r = 1 - `radius`, so that I - W >= r I
                 (Winston and Kolter 2020, monotone operator equilibrium networks, proposition 1)
    ============ ==================================================================================

    Raises
    ------
    ProblemError
        If the scheme is unknown, or the radius negative or, for ``monotone``, not below 1.
    """
    if scheme not in SCHEMES:
        raise ProblemError(f'scheme is "{scheme}"; it must be one of {", ".join(SCHEMES)}.')
    if not 0 <= radius < (1 if scheme == "monotone" else np.inf):
        limit = "from 0 to below 1" if scheme == "monotone" else "0 or a positive number"
        raise ProblemError(f"radius is {radius}; for the scheme {scheme} it must be {limit}.")
    weights = start_projection(generator, (size, size), 1.0)
    if scheme == "spectral":
        weights *= radius / np.abs(np.linalg.eigvals(weights)).max()
        return weights
    if scheme == "norm":
        weights *= radius / np.linalg.norm(weights, 2)
        return weights
    skew = start_projection(generator, (size, size), 1.0)
    monotone: Array = radius * np.eye(size) - weights.T @ weights + skew - skew.T
    return monotone


def start_projection(generator: np.random.Generator, shape: tuple[int, int], scale: float) -> Array:
    """U or C: Gaussian with variance scale^2 / fan-in."""
    drawn: Array = generator.standard_normal(shape) * (scale / np.sqrt(shape[1]))
    return drawn
