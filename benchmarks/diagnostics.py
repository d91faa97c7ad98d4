"""What the diagnostics cost beside the flow they describe.

Runs the same flow with and without each diagnostic, in one process, and prints the median of
several ratios. Usage: python benchmarks/diagnostics.py
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

import gflow
from gflow.recording import DIAGNOSTICS

CASES = [(1000, 10, 200), (4096, 10, 200), (1000, 100, 200), (2000, 400, 200)]
REPEATS = 5


def seconds(problem: gflow.Problem, start: np.ndarray, saves: int, on: tuple[str, ...]) -> float:
    """Wall time of one flow with the given diagnostics."""
    switches = {name: name in on for name in DIAGNOSTICS}
    began = time.perf_counter()
    gflow.integrate(problem, start, 10.0, method="dopri5", times=saves, diagnostics=switches)
    return time.perf_counter() - began


def main() -> None:
    """Print one table per case."""
    torch.set_num_threads(1)
    for n, d, saves in CASES:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(n, d)) / np.sqrt(d)
        model = gflow.SingleIndexDEQ(d, "tanh")
        theta = np.append(rng.normal(size=d), 0.2)
        y = gflow.Problem(model, x, np.zeros(n)).predict(theta)
        problem = gflow.Problem(model, x, y)
        start = np.append(rng.normal(size=d) * 0.5, -0.2)
        tree = gflow.integrate(problem, start, 10.0, method="dopri5", times=saves)
        print(f"n = {n}, d = {d}: {int(tree['flow'].nfe)} gradients, {saves} saves")
        choices = {"none": (), **{name: (name,) for name in DIAGNOSTICS}, "all": DIAGNOSTICS}
        ratios: dict[str, list[float]] = {name: [] for name in choices}
        for _ in range(REPEATS):
            base = seconds(problem, start, saves, ())
            for name, on in choices.items():
                ratios[name].append(seconds(problem, start, saves, on) / base)
        for name, values in ratios.items():
            print(f"  {name:22} {statistics.median(values):6.2f}")


if __name__ == "__main__":
    main()
