"""Claims and figure: the catapult of gradient descent in a two-layer linear network.

With n the width, eta a step size: x = eta lambda and y = eta f / sqrt(n) obey, exactly,
y' = (1 - x + y^2) y and 4 - x' = (4 - x) (1 + y^2), without n; and 2 |y| <= x always. So for x < 4
both stay bounded, x falls until y can settle, which needs x <= 2; for x > 4 both grow for ever.

For x0 < 4 the loss rises at the first update exactly where x0 > 2 + y0^2. If it does not, and
|y0| <= 1 as in this study, it never does: x1 = x0 - y0^2 (4 - x0) <= 2 - y0^2 + y0^4 <= 2, and x
only falls from there. For larger y0 it may: x0 = 3.42714, y0 = 1.45233 rises at the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

from gflow.study import Claim, Results, at_most, close, equal

from .drawing import figure as figure
from .measures import CATAPULT, descents, exact_flow, invariant, sharpness_of, small_step

PAPER = "Lewkowycz et al. 2020"
ROUNDING = 1e-14
SETTLED = 1e-20
"""Loss below which rounding decides whether it rises."""


def check(results: Results, reference: dict[str, Any]) -> Iterator[Claim]:
    """Exact maps, regimes, curvature, and the flow as the limit of small steps."""
    steps, flow = descents(results), results["flow"].gather(lambda tree: tree["flow"].to_dataset())
    yield from _maps(steps, reference["maps"])
    yield from _regimes(steps, reference["boundaries"])
    yield from _peaks(steps, reference["exponent"])
    yield from _curvature(steps, flow)
    yield from _flow(flow)
    yield from _limit(results["small"].gather(small_step))


def _maps(steps: xr.Dataset, known: dict[str, Any]) -> Iterator[Claim]:
    x, y = steps.x, steps.y
    scale = x * (1 + x + y**2)
    kept = x**2 - 4 * y**2
    for text, values, following, size, source in (
        ("Each update takes f to (1 - ηλ + η²f²/n) f", y, (1 - x + y**2) * y, scale, PAPER),
        ("and λ to λ + (ηf²/n)(ηλ - 4)", x, x + y**2 * (x - 4), scale, PAPER),
        ("so λ² - 4f²/n to (1 - η²f²/n)² of it", kept, kept * (1 - y**2) ** 2, scale**2, ""),
    ):
        off = _residual(values, following, size)
        yield at_most(f"{text}, residual over the terms' size", off, ROUNDING, source=source)
    # 300 updates may carry rounding on: the maps are expanding while the loss rises.
    yield close(
        "So descent at ηλ0 = 3 ends at the λ of the maps alone, in 60 digits",
        steps.kernel.sel(start=CATAPULT).isel(record=-1),
        [known[str(width)] for width in steps.width.values],
        rtol=1e-10,
    )


def _regimes(steps: xr.Dataset, boundaries: list[float]) -> Iterator[Claim]:
    lazy_end, end = boundaries
    start = steps.start
    stays = steps.where(start < end, drop=True)
    rising = (steps.loss.shift(record=-1) > steps.loss) & (steps.loss > SETTLED)
    rises, threshold = rising.any("record"), lazy_end + steps.y.isel(record=0) ** 2
    yield equal(
        f"The loss rises where ηλ0 > 2 + η²f0²/n and, as ηf0/√n <= 1, nowhere else: exceptions of "
        f"{rises.size} runs",
        int((rises != (start > threshold)).sum()),
        0,
    )
    yield at_most("and ηf0/√n is at most 1, largest", abs(steps.y.isel(record=0)), 1.0)
    diverged = steps.status == "diverged"
    yield equal(
        "It diverges where ηλ0 > 4, at every width and from 4.001 on: exceptions",
        int((diverged != (start > end)).sum()),
        0,
        source=PAPER,
    )
    # The flattest minima, of ηλ = 0.003, are approached by that part an update.
    yield at_most(
        "Below 4 it reaches a minimum, loss at the end over the first; 1e-3 where ηλ is below 0.05",
        (stays.loss / stays.loss.isel(record=0)).isel(record=-1),
        np.where(stays.x.isel(record=-1) < 0.05, 1e-3, 1e-10),
        source=PAPER,
    )
    yield at_most(
        "where the sharpness, and so λ, is below 2/η, largest product with η",
        sharpness_of(stays).isel(record=-1) * stays.eta,
        lazy_end,
        source=PAPER,
    )


def _peaks(steps: xr.Dataset, exponent: float) -> Iterator[Claim]:
    one, widths = steps.sel(start=CATAPULT), steps.width
    peak, lazy = one.loss.max("record"), steps.sel(start=1.0).kernel
    # It is (0.1846 + O(1/n)) n: 0.02 n above at n = 16.
    yield close(
        "In a catapult the largest loss is proportional to n, slope at ηλ0 = 3",
        _slope(peak, widths),
        exponent,
        atol=0.06,
        source=PAPER,
    )
    yield equal(
        "and comes one update later at fourfold width, as log n",
        np.diff(one.loss.argmax("record")),
        np.ones(len(widths) - 1, int),
        source=PAPER,
    )
    below = steps.where(steps.start < 4, drop=True)
    ceiling = (steps.kernel.isel(record=0) ** 2 / 8) * widths
    yield at_most(
        "It never exceeds nλ0²/8, largest part of that", below.loss.max("record") / ceiling, 1.0
    )
    yield close(
        "Below the catapult the fall of λ vanishes as 1/n, slope at ηλ0 = 1",
        _slope(lazy[..., 0] - lazy[..., -1], widths),
        -1.0,
        atol=0.06,
        source=PAPER,
    )


def _curvature(steps: xr.Dataset, flow: xr.Dataset) -> Iterator[Claim]:
    found = [sharpness_of(one) / one.sharpness - 1 for one in (steps, flow)]
    worst = [float(abs(each).max()) for each in found]
    # Beyond 150 parameters the sharpness is iterated, to a residual of 1e-5: its square in λ.
    yield at_most("The sharpness is (λ + √(λ² + 12 f²/n)) / 2 on every path, relative", worst, 1e-9)
    last = steps.isel(record=-1).stack(run=("width", "start"))
    minimum = last.isel(run=(last.loss < SETTLED) & last.sharpness.notnull())
    yield at_most(
        "so it is λ at a minimum, relative", abs(minimum.sharpness / minimum.kernel - 1), 1e-9
    )


def _flow(flow: xr.Dataset) -> Iterator[Claim]:
    first = flow.isel(time=0)
    output, kernel = exact_flow(flow.time, first.output, first.kernel, flow.width)
    limit = np.sqrt(invariant(first))
    yield at_most(
        "The flow's λ is λ∞ (λ0 + λ∞ tanh λ∞t) / (λ∞ + λ0 tanh λ∞t) at all times, residual over λ0",
        abs(flow.kernel - kernel) / first.kernel,
        1e-8,
    )
    yield at_most(
        "and its f is f0 λ∞ / (λ∞ cosh λ∞t + λ0 sinh λ∞t), residual over f0",
        abs((flow.output - output) / first.output),
        1e-8,
    )
    yield at_most(
        "It conserves λ² - 4f²/n, relative to λ0²",
        abs(invariant(flow) - invariant(first)) / first.kernel**2,
        1e-8,
    )
    yield close(
        "and so ends at λ∞ = √(λ0² - 4f0²/n), ratio",
        flow.kernel.isel(time=-1) / limit,
        1.0,
        rtol=1e-8,
    )
    yield at_most(
        "It never catapults, whatever λ0: largest rise of its loss, over the first",
        flow.loss.diff("time") / first.loss,
        ROUNDING,
    )


def _limit(small: xr.Dataset) -> Iterator[Claim]:
    coarser, finest = small.isel(refined=-2), small.isel(refined=-1)
    for text, name in (
        ("With smaller steps descent's last λ approaches the flow's, slope", "fall"),
        ("and so does its path, largest distance at equal times, slope", "distance"),
    ):
        yield close(text, np.log2(coarser[name] / finest[name]), 1.0, atol=0.02)
    # The next order is at most ηλ0/2 of it, 0.6 % at the smallest step.
    yield close(
        "It ends below by η λ∞ (λ0 - λ∞) / 4, ratio",
        finest.fall / finest.predicted,
        1.0,
        rtol=0.01,
    )


def _residual(values: xr.DataArray, predicted: xr.DataArray, scale: xr.DataArray) -> np.ndarray:
    """What each next value is off its prediction, over a scale; where there is a next one."""
    after = values.shift(record=-1)
    return (abs(after - predicted) / scale).values[after.notnull().values]


def _slope(values: xr.DataArray, widths: xr.DataArray) -> np.ndarray:
    """Slopes in log-log between neighbouring widths."""
    return np.diff(np.log(values)) / np.diff(np.log(widths))
