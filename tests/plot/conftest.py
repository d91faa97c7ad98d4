"""The datasets that figures are drawn of."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from drawn import ETAS, X3, Y3, line_problem, tanh_problem

import gflow


@pytest.fixture(scope="session")
def linear() -> xr.DataTree:
    return gflow.compare(line_problem(), [0.02, 0.07], ETAS, 2.0, records=30, times=21)


@pytest.fixture(scope="session")
def tanh() -> xr.DataTree:
    return gflow.compare(
        tanh_problem(),
        [0.1, 0.2, 0.0, 0.1],
        [0.1, 0.4],
        50.0,
        records=20,
        times=21,
        spacing="log",
        evaluation=(X3[:5], Y3[:5]),
    )


@pytest.fixture(scope="session")
def ensemble() -> xr.DataTree:
    return gflow.integrate(line_problem(), [[0.02, 0.07], [1.0, 0.5], [0.3, 1.4]], 2.0, times=11)


@pytest.fixture(scope="session")
def many() -> xr.DataTree:
    """Flows that end at different times, between saves, and four that fail at once."""
    starts = np.column_stack([np.linspace(-0.5, 0.5, 40), np.linspace(-1, 0.5, 40)])
    starts[::10, 1] = 1.0
    stop, evaluation = {"gradient_norm": 0.01}, (X3[:5, :1], Y3[:5])
    return gflow.integrate(
        line_problem(), starts, 9.0, times=19, stop=stop, evaluation=evaluation, rtol=1e-5
    )


@pytest.fixture(scope="session")
def diverging() -> xr.DataTree:
    problem = line_problem("neumann:4")
    return gflow.compare(problem, [0.02, 0.07], [0.02, 8.0], 40.0, records=20, times=21)


@pytest.fixture(scope="session")
def lost() -> xr.DataTree:
    """A flow that runs into theta2 = 1, beyond which tanh has several equilibria."""
    return gflow.integrate(tanh_problem(dim=1), [0.5, 0.9], 100.0, times=20)
