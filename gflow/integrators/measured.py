"""How far each adaptive method is from the tolerance it is given, as measured.

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
    "native:exprb43": (0.0515, 0.074),
    "native:expcol8": (0.00181, 0.00189),
    "native:tsit5": (0.293, 2.28),
    "native:rkc2": (0.915, 2.3),
    "native:rkc4": (0.265, 1.66),
    "scipy:RK23": (0.332, 7.24),
    "scipy:RK45": (1.39, 5.48),
    "scipy:DOP853": (0.0651, 146),
    "scipy:Radau": (0.97, 10.9),
    "scipy:BDF": (2.17, 5.38),
    "scipy:LSODA": (1.01, 3.99),
    "torchdiffeq:dopri8": (0.17, 1.5),
    "torchdiffeq:dopri5": (2.03, 6.44),
    "torchdiffeq:bosh3": (0.702, 5.36),
    "torchdiffeq:fehlberg2": (1.02, 4.63),
    "torchdiffeq:adaptive_heun": (0.99, 5.75),
}
"""For each method the ratio at the end of the interval, and the largest at 100 times within it."""

COSTS: dict[str, tuple[int, int, int, int]] = {
    "native:exprb43": (929, 306, 34, 7),
    "native:expcol8": (353, 27, 79, 6),
    "native:tsit5": (1718, 0, 17390, 0),
    "native:rkc2": (16733, 0, 23006, 0),
    "native:rkc4": (3241, 0, 3301, 0),
    "scipy:RK23": (6374, 0, 9779, 0),
    "scipy:RK45": (1652, 0, 21284, 0),
    "scipy:DOP853": (2672, 0, 23846, 0),
    "scipy:Radau": (776, 2, 1981, 2),
    "scipy:BDF": (498, 6, 931, 1),
    "scipy:LSODA": (826, 0, 896, 18),
    "torchdiffeq:dopri8": (3486, 0, 35115, 0),
    "torchdiffeq:dopri5": (1502, 0, 22772, 0),
    "torchdiffeq:bosh3": (5129, 0, 6929, 0),
    "torchdiffeq:fehlberg2": (14640, 0, 24694, 0),
    "torchdiffeq:adaptive_heun": (8285, 0, 13910, 0),
}
"""Field evaluations and Jacobians at rtol 1e-6 on "tracking", which is mild, and on "decay"."""
