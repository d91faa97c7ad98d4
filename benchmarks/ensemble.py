"""A thousand linear DEQs of one shape, each with its own target and start, to t = 10.

d = 10, inputs with (1/n) X^T X = Sigma = diag(logspace(-1, 1)), target standard normal, theta2(0)
uniform in (-1/2, 1/2), theta1(0) standard normal / sqrt(d), mean squared error, 101 saves. The
sharpness at the limits runs from 24 to 9,100, so that explicit methods in lockstep take 30,000
steps. In the mild ensemble the targets are divided by sqrt(d): sharpness 7 to 190. An error is the
largest over flows and saves of the RMS over parameters of error / (1e-11 + 1e-8 |theta|), against a
reference that two methods agree on.

Tables: everybody at rtol 1e-8, atol 1e-11; and, for the mild ensemble, everybody at the loosest
tolerance (half-decades, atol = 1e-3 rtol) whose error is within the target. The references, some
megabytes, take a minute to make. Usage::

    OMP_NUM_THREADS=1 python benchmarks/ensemble.py [--only NAME,..] [--repeats N] [--quick]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from harness import Options, Run, options, race, report
from ours import batched
from peers import scipy_numpy

import gflow

Array = np.ndarray
Solve = Callable[[float], tuple[Array, Mapping[str, float]]]
"""``solve(rtol) -> (theta (B, T, P) at the saves, work)``."""

RTOL = 1e-8
TARGET = 10.0
"""The contract that gflow's own methods keep, R3: an error of ten tolerances."""

TOLERANCES = tuple(10.0 ** (-k / 2) for k in range(12, 24))


@dataclass(frozen=True)
class Ensemble:
    """Sigma's diagonal (d,), targets xi (B, d), starts (B, d + 1) and save times (T,)."""

    sigma: Array
    xi: Array
    start: Array
    times: Array

    @property
    def x(self) -> Array:
        """Inputs (d, d) with (1/d) X^T X = Sigma."""
        return np.diag(np.sqrt(len(self.sigma) * self.sigma))


def ensemble(size: int, scale: float, d: int = 10) -> Ensemble:
    """The ensemble of `size` flows, the targets multiplied by `scale`."""
    rng = np.random.default_rng(0)
    xi = scale * rng.normal(size=(size, d))
    theta1 = rng.normal(size=(size, d)) / np.sqrt(d)
    theta2 = rng.uniform(-0.5, 0.5, size=(size, 1))
    start, times = np.hstack([theta1, theta2]), np.linspace(0.0, 10.0, 101)
    return Ensemble(np.logspace(-1, 1, d), xi, start, times)


def ratios(theta: Array, truth: Array) -> Array:
    """The error in units of rtol 1e-8, atol 1e-11, (B, T)."""
    scaled = (theta - truth) / (1e-3 * RTOL + RTOL * np.abs(truth))
    return np.nan_to_num(np.sqrt((scaled**2).mean(-1)), nan=math.inf)


def judged(solve: Solve, truth: Array) -> Run:
    """A solver as the harness runs it; the error is computed outside the clock."""

    def run(tolerance: float) -> tuple[Callable[[], float], Mapping[str, float]]:
        theta, work = solve(tolerance)
        return lambda: float(ratios(theta, truth).max()), work

    return run


def gflow_contenders(flows: Ensemble) -> dict[str, Solve]:
    """gflow's methods, on flows whose problems are made beforehand."""
    model = gflow.LinearDEQ(len(flows.sigma))
    problems = [gflow.Problem(model, flows.x, flows.x @ xi) for xi in flows.xi]
    starts, times = torch.from_numpy(flows.start), torch.from_numpy(flows.times)

    def solver(method: str) -> Solve:
        def solve(rtol: float) -> tuple[Array, Mapping[str, float]]:
            theta, work = batched(method, problems, starts, times, rtol)
            return theta.numpy(), work

        return solve

    return {f"gflow {method}": solver(method) for method in ("tsit5", "expcol8", "auto")}


def peers(flows: Ensemble, asked: Options) -> Iterator[tuple[str, Solve]]:
    """The other libraries' solvers."""
    yield from scipy_numpy.ensemble(flows).items()
    for module in ("diffrax_peer", "torchode_peer", "torchdiffeq_peer"):
        if peer := asked.peer(module):
            yield from peer.ensemble(flows).items()


def reference(flows: Ensemble, path: Path) -> tuple[Array, float]:
    """Theta (B, T, P) by LSODA, and how far DOP853's is; kept in a file, made if absent."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.stack(scipy_numpy.ensemble_references(flows)))
    truth, other = np.load(path)
    return truth, float(ratios(other, truth).max())


def compete(name: str, flows: Ensemble, asked: Options, at_equal_error: bool) -> None:
    """Race and report at the same rtol, then at the same error if wanted."""
    truth, gap = reference(flows, asked.output / f"{name}_reference_{len(flows.xi)}.npy")
    solves = {**gflow_contenders(flows), **dict(peers(flows, asked))}
    contenders = asked.chosen({each: judged(solve, truth) for each, solve in solves.items()})
    title = f"{name}: {len(flows.xi)} linear DEQs, {len(flows.times)} saves"
    found = race(contenders, (RTOL,), math.inf, asked.repeats)
    extra = {"reference_gap": gap}
    report(f"{name}_rtol", f"{title}, rtol 1e-8", found, asked.omissions, extra, asked.output)
    if at_equal_error:
        found = race(contenders, TOLERANCES, TARGET, asked.repeats)
        title, extra = f"{title}, error <= {TARGET:g} tolerances", {**extra, "target": TARGET}
        report(f"{name}_error", title, found, asked.omissions, extra, asked.output)


def main() -> None:
    """Both ensembles."""
    asked = options(__doc__.splitlines()[0])
    size, suffix = (50, "-quick") if asked.quick else (1000, "")
    compete(f"ensemble-mild{suffix}", ensemble(size, 10**-0.5), asked, at_equal_error=True)
    compete(f"ensemble{suffix}", ensemble(size, 1.0), asked, at_equal_error=asked.quick)


if __name__ == "__main__":
    main()
