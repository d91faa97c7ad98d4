"""How far each adaptive method is from the tolerance it is given, as measured.

Written by ``python benchmarks/tolerance.py --write``, which says how: the largest RMS over
parameters of error / (atol + rtol |theta|) over the problems of :mod:`gflow.integrators.testbed`,
at rtol 1e-3, 1e-6 and (methods of order 4 and more, or of varying order) 1e-9, atol = 1e-3 rtol,
after :attr:`gflow.integrators.base.MethodInfo.tightening`.

Notes
-----
On "decay" the explicit methods ride their stability limit, where the error between steps is
erratic. At four tolerances a decade (``--fine``) the largest ratio is 150 for DOP853, and at most
12 for every other method.
"""

from __future__ import annotations

MEASURED: dict[str, tuple[float, float]] = {
    "scipy:RK23": (0.332, 1.18),
    "scipy:RK45": (1.34, 5.48),
    "scipy:DOP853": (0.0279, 7.15),
    "scipy:Radau": (0.97, 4.21),
    "scipy:BDF": (2.17, 5.38),
    "scipy:LSODA": (1.01, 3.92),
    "torchdiffeq:dopri8": (0.0668, 0.598),
    "torchdiffeq:dopri5": (1.9, 5.23),
    "torchdiffeq:bosh3": (0.73, 1.51),
    "torchdiffeq:fehlberg2": (1.77, 6.05),
    "torchdiffeq:adaptive_heun": (0.897, 5.75),
}
"""For each method the ratio at the end of the interval, and the largest at 100 times within it."""
