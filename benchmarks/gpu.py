"""One large flow, and ensembles, on a CUDA device; needs torch, numpy and gflow's integrators only.

A single-index DEQ (tanh) with n = 10^6 samples of d = 1,000 inputs: the time of a field evaluation,
and the memory bandwidth that it achieves, against that of a copy on the same device in the same
run. What must move is x, twice: once for the equilibria, once for the sum over samples (the same
for a Jacobian-vector product at a point already solved). Then a short flow, and the ensembles of
ensemble.py with 1,000 and 10,000 linear DEQs, without their reference.

Usage: python benchmarks/gpu.py [--device cpu --scale 0.01]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gflow.flows import gradient_flow
from gflow.integrators.base import Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.ensemble import Plan, integrate_ensemble
from gflow.integrators.explicit import TSIT5_METHOD
from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.problem import Problem
from gflow.stacking import ProblemStack

REPEATS = 10
Row = dict[str, Any]
Value = TypeVar("Value")


def clocked(run: Callable[[], Value], device: torch.device) -> tuple[Value, float]:
    """A call's value and its wall time, the device's work included."""
    _wait(device)
    began = time.perf_counter()
    value = run()
    _wait(device)
    return value, time.perf_counter() - began


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Median wall time of a call, after one that does not count."""
    run()
    return statistics.median(clocked(run, device)[1] for _ in range(REPEATS))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device, size: int = 2**30) -> float:
    """Bytes read and written a second by a copy of `size` bytes."""
    source = torch.ones(size // 8, dtype=torch.float64, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device)


def large_problem(n: int, d: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """Inputs N(0, 1/d) and the targets of a tanh teacher with noise 0.1, made on the device."""
    noise = torch.Generator(device).manual_seed(0)
    like = {"dtype": dtype, "device": device, "generator": noise}
    x = torch.randn(n, d, **like).mul_(1 / math.sqrt(d))
    model = SingleIndexDEQ(d, "tanh")
    teacher = torch.randn(d + 1, **like)
    teacher[-1] = 0.2
    y = model.equilibrium(teacher, x).output + 0.1 * torch.randn(n, **like)
    return Problem(model, x, y, dtype=dtype, device=device)


@torch.no_grad()
def large(n: int, d: int, dtype: torch.dtype, device: torch.device, peak: float) -> list[Row]:
    """Field, the same as a batch of one, Jacobian-vector product, and a short flow."""
    problem = large_problem(n, d, dtype, device)
    field = gradient_flow(problem)
    theta = torch.linspace(-1, 1, d + 1, dtype=dtype, device=device)
    theta[-1] = -0.2
    vector = torch.ones_like(theta)
    assert field.jvp is not None
    runs: dict[str, Callable[[], Any]] = {
        "field": lambda: field(0.0, theta.clone()),
        "field, batch of one": lambda: field(np.zeros(1), theta[None].clone()),
        "jvp": lambda: field.jvp(0.0, theta, vector),
    }
    rows = []
    for name, run in runs.items():
        field.memory.restore(None)
        taken = seconds(run, device)
        rate = 2 * n * d * theta.element_size() / taken
        rows.append(
            {
                "part": f"{name}, n = {n:,}, d = {d:,}, {str(dtype)[6:]}",
                "seconds": taken,
                "bytes_per_second": rate,
                "of_copy": rate / peak,
            }
        )
    return [*rows, flow(problem, theta, rows[0]["seconds"], device)]


def flow(problem: Problem, theta: Tensor, evaluation: float, device: torch.device) -> Row:
    """A flow to t = 5 at rtol 1e-4, against its evaluations alone."""
    times = torch.linspace(0, 5, 11, dtype=torch.float64)
    settings = Settings(5.0, 1e-4, 1e-7)
    field = gradient_flow(problem)
    run, taken = clocked(
        lambda: integrate_field(field, theta, TSIT5_METHOD, settings, times), device
    )
    return {
        "part": f"flow to t = 5, {run.nfe} evaluations, {run.status.value}",
        "seconds": taken,
        "of_evaluations": taken / (run.nfe * evaluation),
    }


def ensemble(size: int, device: torch.device, d: int = 10) -> Row:
    """The flows of ensemble.py, `size` of them, by Tsit5 at rtol 1e-8."""
    rng = np.random.default_rng(0)
    xi = rng.normal(size=(size, d))
    theta1 = rng.normal(size=(size, d)) / np.sqrt(d)
    theta2 = rng.uniform(-0.5, 0.5, size=(size, 1))
    x = np.diag(np.sqrt(d * np.logspace(-1, 1, d)))
    model = LinearDEQ(d)
    members = [Problem(model, x, y, device=device) for y in xi @ x.T]
    problem = ProblemStack(members)
    start = problem.theta(np.hstack([theta1, theta2]))
    times = torch.linspace(0, 10, 101, dtype=torch.float64)
    settings = Settings(10.0, 1e-8, 1e-11)
    plan = Plan(TSIT5_METHOD, settings, lambda index: gradient_flow(members[index]))

    def run() -> list[Any]:
        return integrate_ensemble(gradient_flow(problem), start, times, plan)

    run()
    found, taken = clocked(run, device)
    reached = sum(each.status.ok for each in found)
    steps = statistics.mean(each.accepted for each in found)
    part = f"ensemble of {size:,}, {reached:,} reached t = 10, {steps:.0f} steps each"
    return {"part": part, "seconds": taken}


def show(rows: list[Row]) -> None:
    """Print the table."""
    print(f"{'part':72}{'seconds':>10}{'GB/s':>8}{'of copy':>9}{'of evaluations':>16}")
    for row in rows:
        rate = f"{row['bytes_per_second'] / 1e9:.0f}" if "bytes_per_second" in row else ""
        share = f"{row['of_copy']:.2f}" if "of_copy" in row else ""
        over = f"{row['of_evaluations']:.3f}" if "of_evaluations" in row else ""
        print(f"{row['part']:72}{row['seconds']:10.4g}{rate:>8}{share:>9}{over:>16}")


def name(device: torch.device) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def fits(size: int, device: torch.device) -> bool:
    """Whether x and the copy that a problem makes of it fit."""
    return device.type == "cpu" or 2.5 * size < torch.cuda.mem_get_info(device)[0]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on n and on the ensembles")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("Left out: there is no CUDA device.")
        return
    n, d = int(1e6 * given.scale), 1000
    peak = copy_bandwidth(device, int(2**30 * max(given.scale, 0.25)))
    rows: list[Row] = [{"part": "copy", "seconds": math.nan, "bytes_per_second": peak}]
    omissions = []
    for dtype in (torch.float64, torch.float32):
        if fits(n * d * dtype.itemsize, device):
            rows += large(n, d, dtype, device, peak)
        else:
            omissions.append(f"{dtype}: x does not fit.")
    rows += [ensemble(int(size * given.scale), device) for size in (1_000, 10_000)]
    print(f"{name(device)}, torch {torch.__version__}")
    show(rows)
    given.output.mkdir(parents=True, exist_ok=True)
    record = {
        "device": name(device),
        "torch": torch.__version__,
        "scale": given.scale,
        "rows": rows,
        "omissions": omissions,
    }
    (given.output / f"gpu-{device.type}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
