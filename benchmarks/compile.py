"""Whether torch.compile pays for a step of an ensemble, its compile time included.

All that a step of tsit5 does to 1,000 and to 50 linear DEQs between two looks at the host (six
evaluations of the field, the stages' sums, the error ratios) as one function, as it is and compiled
for any number of rows. gflow compiles nothing by itself: this is the measurement that says why.

Usage: python benchmarks/compile.py [--repeats 200]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from harness import clocked
from torch import Tensor

from gflow.integrators.explicit import TSIT5

STAGES = [[float(a) for a in row] for row in TSIT5.a]
WEIGHTS = [float(e) for e in TSIT5.error]
D = 10


def field(theta: Tensor, square: Tensor, mixed: Tensor) -> Tensor:
    """The gradient flow of linear DEQs, from the moments of their data."""
    gap = 1.0 - theta[:, -1:]
    phi = theta[:, :-1] / gap
    pulled = (mixed - phi @ square) / gap
    return torch.cat([pulled, (phi * pulled).sum(-1, keepdim=True)], dim=-1)


def attempt(
    theta: Tensor, value: Tensor, width: Tensor, square: Tensor, mixed: Tensor
) -> tuple[Tensor, Tensor]:
    """The end of a step and its error ratio at rtol 1e-8."""
    stages, end = [value], theta
    for row in STAGES[1:]:
        end = theta + width * sum(a * k for a, k in zip(row, stages, strict=True))
        stages.append(field(end, square, mixed))
    error = width * sum(w * k for w, k in zip(WEIGHTS, stages, strict=True))
    scaled = error / (1e-11 + 1e-8 * torch.maximum(theta.abs(), end.abs()))
    return end, (scaled * scaled).mean(-1).sqrt()


def median(run: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call in microseconds."""
    return 1e6 * statistics.median(clocked(run)[1] for _ in range(repeats))


def main() -> None:
    """Measure, and say after how many steps compiling has paid for itself."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    compiled = torch.compile(attempt, dynamic=True)
    torch.manual_seed(0)
    spent = 0.0
    for rows in (1000, 50):
        theta = 0.3 * torch.randn(rows, D + 1, dtype=torch.float64)
        square = torch.eye(D, dtype=torch.float64)
        mixed = torch.randn(rows, D, dtype=torch.float64)
        width = torch.full((rows, 1), 1e-3, dtype=torch.float64)
        given = (theta, field(theta, square, mixed), width, square, mixed)
        _, first = clocked(lambda g=given: compiled(*g))
        spent += first
        plain = median(lambda g=given: attempt(*g), repeats)
        fast = median(lambda g=given: compiled(*g), repeats)
        gain = plain - fast
        steps = f"pays after {1e6 * spent / gain:,.0f} steps" if gain > 0 else "never pays"
        print(
            f"{rows} rows: {plain:.0f} us a step, compiled {fast:.0f} us ({plain / fast:.2f} times "
            f"faster); compiling took {spent:.2g} s and {steps}"
        )


if __name__ == "__main__":
    main()
