"""How far each adaptive method is from the tolerance it is given.

Every method of the registry integrates the named problems of :mod:`gflow.integrators.testbed`. Its
ratio is the RMS over parameters of error / (atol + rtol |theta|), with atol = 1e-3 rtol and the
exact solution's theta; it is taken at the end of the interval and at 100 equally spaced times up to
it, which are what the run saves. Usage::

    python benchmarks/tolerance.py             print the table (about two minutes)
    python benchmarks/tolerance.py --write     four tolerances a decade instead of three in all, and
                                               rewrite gflow/integrators/measured.py
    python benchmarks/tolerance.py --write --only native:rkc2
                                               the same, keeping the figures of the other methods
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import gflow.integrators
from gflow.integrators.base import Method, Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.measured import COSTS, MEASURED
from gflow.integrators.registry import METHODS
from gflow.integrators.testbed import CASES, Case

RTOLS = (1e-3, 1e-6, 1e-9)
FINE = tuple(np.geomspace(1e-3, 1e-9, 25).tolist())
LOOSE_ONLY = 1e-6
"""Methods of order 3 and less stop at this tolerance."""
COST_RTOL = 1e-6
"""Where the evaluations are counted."""

HEADER = '''"""How far each adaptive method is from the tolerance it is given, as measured.

Written by ``python benchmarks/tolerance.py --write``, which says how: the largest RMS over
parameters of error / (atol + rtol |theta|) over the problems of :mod:`gflow.integrators.testbed`,
at four tolerances a decade from 1e-3 to 1e-9 (1e-6 for methods of order 3 and less), atol = 1e-3
rtol, after :attr:`gflow.integrators.base.MethodInfo.tightening`.

Notes
-----
On "decay" the explicit methods ride their stability limit, where the error between steps is
erratic: that is where DOP853 has its figure, which a tighter tolerance does not mend. ``auto`` does
not choose an explicit method for such a problem.
"""

from __future__ import annotations

MEASURED: dict[str, tuple[float, float]] = {
'''
BETWEEN = '''}
"""For each method the ratio at the end of the interval, and the largest at 100 times within it."""

COSTS: dict[str, tuple[int, int, int, int]] = {
'''
FOOTER = '''}
"""Field evaluations and Jacobians at rtol 1e-6 on "tracking", which is mild, and on "decay"."""
'''

Figures = tuple[float, float, int, int, int, int]


def ratios(method: Method, case: Case, rtol: float) -> tuple[float, float, int, int]:
    """Ratio at the end, largest ratio at all saves, field evaluations and Jacobians."""
    settings = Settings(case.t_end, rtol, 1e-3 * rtol)
    times = torch.linspace(0, case.t_end, 101, dtype=torch.float64)
    trajectory = integrate_field(case.field, case.theta0, method, settings, times)
    if not trajectory.status.ok:
        return math.inf, math.inf, trajectory.nfe, trajectory.hessians
    ratio = case.ratio(trajectory.t, trajectory.theta, settings.rtol, settings.atol)
    return float(ratio[-1]), float(ratio.max()), trajectory.nfe, trajectory.hessians


def tolerances(method: Method, rtols: Sequence[float]) -> list[float]:
    """Those of `rtols` that are asked of a method."""
    low = method.info.order is not None and method.info.order <= 3
    return [rtol for rtol in rtols if not low or rtol > 0.99 * LOOSE_ONLY]


def measure(method: Method, rtols: Sequence[float]) -> Figures:
    """Print a method's rows; return its largest ratios and its costs."""
    at_end = between = 0.0
    costs: dict[str, tuple[int, int]] = {}
    for make in CASES:
        cells = []
        for rtol in tolerances(method, rtols):
            end, largest, nfe, jacobians = ratios(method, make(), rtol)
            at_end, between = max(at_end, end), max(between, largest)
            cells.append(f"{rtol:7.1e}: {end:8.2g} {largest:8.2g} {nfe:6d}")
            if abs(rtol / COST_RTOL - 1) < 1e-6:
                costs[make.__name__] = nfe, jacobians
        print(f"{method.info.name:26}{make().name:10}" + "   ".join(cells), flush=True)
    print(f"{method.info.name:26}{'largest':10}{at_end:17.3g} {between:8.3g}")
    return at_end, between, *costs["tracking"], *costs["decay"]


def write(found: dict[str, Figures]) -> Path:
    """Rewrite the table, keeping the figures of methods that were not measured now."""
    names = [name for name, method in METHODS.items() if method.info.adaptive]
    known = {n: (*MEASURED[n], *COSTS[n]) for n in names if n in MEASURED and n in COSTS}
    known |= found
    errors = [f'    "{n}": ({known[n][0]:.3g}, {known[n][1]:.3g}),\n' for n in names]
    costs = [f'    "{n}": ({", ".join(str(c) for c in known[n][2:])}),\n' for n in names]
    path = Path(gflow.integrators.__file__).with_name("measured.py")
    path.write_text("".join([HEADER, *errors, BETWEEN, *costs, FOOTER]))
    return path


def main() -> None:
    """Measure, and write if asked to."""
    parser = argparse.ArgumentParser(description="Measure how honest the methods' tolerances are.")
    parser.add_argument("--write", action="store_true", help="rewrite integrators/measured.py")
    parser.add_argument("--only", nargs="+", default=list(METHODS), help="names of methods")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("rtol: ratio at the end, largest ratio, field evaluations")
    chosen = [m for m in METHODS.values() if m.info.adaptive and m.info.name in given.only]
    measured = {m.info.name: measure(m, FINE if given.write else RTOLS) for m in chosen}
    if given.write:
        print(f"wrote {write(measured)}")


if __name__ == "__main__":
    main()
