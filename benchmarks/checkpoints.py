"""What it costs to keep a run on disk as it goes.

Integrates the same flow, of about a minute, with and without checkpoints in turn, and prints the
ratio of the times, that of the processor times, which other work on the machine disturbs less, and
the share that the checkpoints themselves took.
Usage: python benchmarks/checkpoints.py [SECONDS [REPEATS]]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import gflow
from gflow.store.output import Output

CASES = {"n = 1,000, d = 10": (1000, 10), "n = 20,000, d = 50": (20_000, 50)}
SAVES = 200


def flow(
    problem: gflow.Problem, start: np.ndarray, t_end: float, output: Output | None
) -> np.ndarray:
    """Wall time and processor time of one flow."""
    began = _clocks()
    gflow.integrate(
        problem, start, t_end, method="tsit5", rtol=1e-9, atol=1e-12, times=SAVES, output=output
    )
    return _clocks() - began


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def make(n: int, d: int) -> tuple[gflow.Problem, np.ndarray]:
    """A tanh DEQ whose targets no parameters reach, so that steps stay at the stability limit."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)) / np.sqrt(d)
    problem = gflow.Problem(gflow.SingleIndexDEQ(d, "tanh"), x, np.sin(3 * x[:, 0]))
    return problem, np.append(rng.normal(size=d) * 0.5, -0.2)


def main(seconds: float = 60.0, repeats: int = 3) -> None:
    """One line a case."""
    torch.set_num_threads(1)
    for name, size in CASES.items():
        problem, start = make(*size)
        t_end = 20.0
        while (took := float(flow(problem, start, t_end, None)[0])) < seconds / 4:
            t_end *= min(4.0, 1.5 * seconds / (4 * took))
        t_end *= seconds / took
        ratios, shares, written = [], [], 0
        for _ in range(repeats):
            with (
                tempfile.TemporaryDirectory() as folder,
                Output(Path(folder) / "run.nc") as output,
            ):
                kept = flow(problem, start, t_end, output)
            alone = flow(problem, start, t_end, None)
            ratios.append(kept / alone)
            shares.append(output.spent / kept[0])
            written = output.written
        wall, processor = np.array(ratios).T
        print(
            f"{name}: {alone[0]:.0f} s, {written} checkpoints; with over without "
            f"{np.median(wall):.3f} (from {wall.min():.3f} to {wall.max():.3f}), "
            f"by processor time {np.median(processor):.3f}, "
            f"spent on checkpoints {statistics.median(shares):.2%}",
            flush=True,
        )


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((float, int), sys.argv[1:], strict=False)))
