"""How far each adaptive method is from the tolerance it is given.

Every method of the registry integrates the named problems of :mod:`gflow.integrators.testbed`. Its
ratio is the RMS over parameters of error / (atol + rtol |theta|), with atol = 1e-3 rtol and the
exact solution's theta; it is taken at the end of the interval and at 100 equally spaced times up to
it, which are what the run saves. Usage::

    python benchmarks/tolerance.py             print the table (about two minutes)
    python benchmarks/tolerance.py --write     four tolerances a decade instead of three in all, and
                                               rewrite gflow/integrators/measured.py
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
from gflow.integrators.registry import METHODS
from gflow.integrators.testbed import CASES, Case

RTOLS = (1e-3, 1e-6, 1e-9)
FINE = tuple(np.geomspace(1e-3, 1e-9, 25).tolist())
LOOSE_ONLY = 1e-6
"""Methods of order 3 and less stop at this tolerance."""

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
FOOTER = '''}
"""For each method the ratio at the end of the interval, and the largest at 100 times within it."""
'''


def ratios(method: Method, case: Case, rtol: float) -> tuple[float, float, int]:
    """Ratio at the end, largest ratio at all saves, and field evaluations."""
    settings = Settings(case.t_end, rtol, 1e-3 * rtol)
    times = torch.linspace(0, case.t_end, 101, dtype=torch.float64)
    trajectory = integrate_field(case.field, case.theta0, method, settings, times)
    if not trajectory.status.ok:
        return math.inf, math.inf, trajectory.nfe
    ratio = case.ratio(trajectory.t, trajectory.theta, settings.rtol, settings.atol)
    return float(ratio[-1]), float(ratio.max()), trajectory.nfe


def tolerances(method: Method, rtols: Sequence[float]) -> list[float]:
    """Those of `rtols` that are asked of a method."""
    low = method.info.order is not None and method.info.order <= 3
    return [rtol for rtol in rtols if not low or rtol > 0.99 * LOOSE_ONLY]


def measure(method: Method, rtols: Sequence[float]) -> tuple[float, float]:
    """Print a method's rows; return its largest ratios."""
    at_end = between = 0.0
    for make in CASES:
        cells = []
        for rtol in tolerances(method, rtols):
            end, largest, nfe = ratios(method, make(), rtol)
            at_end, between = max(at_end, end), max(between, largest)
            cells.append(f"{rtol:7.1e}: {end:8.2g} {largest:8.2g} {nfe:6d}")
        print(f"{method.info.name:26}{make().name:10}" + "   ".join(cells), flush=True)
    print(f"{method.info.name:26}{'largest':10}{at_end:17.3g} {between:8.3g}")
    return at_end, between


def main() -> None:
    """Measure, and write if asked to."""
    parser = argparse.ArgumentParser(description="Measure how honest the methods' tolerances are.")
    parser.add_argument("--write", action="store_true", help="rewrite integrators/measured.py")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("rtol: ratio at the end, largest ratio, field evaluations")
    adaptive = [method for method in METHODS.values() if method.info.adaptive]
    measured = {m.info.name: measure(m, FINE if given.write else RTOLS) for m in adaptive}
    if given.write:
        rows = [
            f'    "{name}": ({end:.3g}, {all_:.3g}),\n' for name, (end, all_) in measured.items()
        ]
        path = Path(gflow.integrators.__file__).with_name("measured.py")
        path.write_text("".join([HEADER, *rows, FOOTER]))
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
