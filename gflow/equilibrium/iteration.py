"""Fixed points z = f(z) of many samples at once, each with its own convergence.

Samples that are finished leave the batch, so that none drives the others. SciPy's root finders
take one sample at a time; torchdeq's Anderson and Broyden evaluate the whole batch until its worst
sample is done, and leave it to the caller to see which samples are not: neither is used here.

Methods
-------
``damped``         z <- z + t (f(z) - z), t from 1 halved whenever the gap does not fall
``anderson``       Anderson (1965), with the last five differences
``broyden``        Broyden's good update (1965), limited memory
``newton``         Newton with backtracking, (I - J) by batched LU
``newton-krylov``  the same with GMRES, J by differences or the matrix that is given
``auto``           Newton at small sizes; else Anderson, and Newton where that is slow; where Newton
                   is trapped, Broyden from the start again, and Newton from where that leads
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gflow.equilibrium.accelerators import Anderson, Broyden, Damped, Impatient, Scheme
from gflow.equilibrium.newton import Map, Matrix, Newton
from gflow.errors import ProblemError

METHODS = ("damped", "anderson", "broyden", "newton", "newton-krylov", "auto")
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6}

ANDERSON_FROM = 24
"""From this m on, `auto` begins with Anderson: 1,797 samples of a tanh map whose weights have
spectral radius 0.5 take 41 ms by Anderson and 11 ms by Newton at m = 8, 73 and 145 ms at m = 24,
119 and 636 ms at m = 64, on one core."""
PATIENCE = 1.5
"""Newton takes over where Anderson would need more than this times m further evaluations."""
NEAR = 1e-7
"""Where Broyden has come as near as this, Newton ends it."""
KRYLOV_FROM = 256
"""From this m on, `auto` solves Newton's systems by GMRES. At radius 0.9, 300 samples take 0.5 s
instead of 1.1 s by LU at m = 128 already, but 5.8 s instead of 1.2 s at radius 1.5; at m = 256, 5.9
and 5.0 s; at m = 512 and radius 0.9, 100 samples take 0.7 and 3.8 s."""


@dataclass(frozen=True)
class FixedPoint:
    """Where N searches for a fixed point ended.

    Attributes
    ----------
    point : Tensor, shape (N, m)
        The point of smallest residual that each sample saw.
    residual : Tensor, shape (N,)
        max |f(z) - z| / (1 + max |z|) there; infinite where f is not finite at the start.
    converged : Tensor of bool, shape (N,)
    iterations : Tensor of int64, shape (N,)
        Points at which f was evaluated, without those that approximate its derivative.
    method : str
        What was used, e.g. ``"anderson then newton"``.
    """

    point: Tensor
    residual: Tensor
    converged: Tensor
    iterations: Tensor
    method: str


class _Search:
    """The best points so far, and one scheme after the other on the samples not yet there."""

    def __init__(self, function: Map, start: Tensor, tolerance: float) -> None:
        self._function, self.tolerance = function, tolerance
        self.point = start.detach().clone()
        self.residual = start.new_full(start.shape[:1], torch.inf)
        self.iterations = torch.zeros(len(start), dtype=torch.int64, device=start.device)

    @property
    def remaining(self) -> Tensor:
        """Indices of the samples that have not converged."""
        return torch.nonzero(self.residual > self.tolerance)[:, 0]

    def run(
        self, scheme: Scheme, limit: int, start: Tensor | None = None, until: float = 0.0
    ) -> None:
        """Iterate the remaining samples, from their best points or from `start`.

        Each goes on until it is done, or has a residual of `until`, or is stuck, or f was evaluated
        `limit` times in all.
        """
        until = max(until, self.tolerance)
        rows = self.remaining
        rows = rows[self.iterations[rows] < limit]
        z = (self.point if start is None else start)[rows]
        for count in range(1, limit + 1):
            if not len(rows):
                return
            gap = self._function(z, rows) - z
            residual = self._record(z, gap, rows)
            going = (residual > until) & ~scheme.stuck(residual, count)
            going &= self.iterations[rows] < limit
            if not bool(going.all()):
                z, gap, rows = z[going], gap[going], rows[going]
                scheme.keep(going)
            if len(rows):
                z = scheme.advance(z, gap, rows)

    def _record(self, z: Tensor, gap: Tensor, rows: Tensor) -> Tensor:
        residual = gap.abs().amax(-1) / (1.0 + z.abs().amax(-1))
        residual = torch.where(torch.isfinite(residual), residual, torch.inf)
        best = self.residual[rows]
        better = residual < best
        if bool(better.all()):
            self.residual[rows], self.point[rows] = residual, z
        else:
            self.residual[rows] = torch.minimum(residual, best)
            self.point[rows] = torch.where(better[:, None], z, self.point[rows])
        self.iterations[rows] += 1
        return residual


@torch.no_grad()
def solve_fixed_point(
    function: Map,
    start: Tensor,
    *,
    method: str = "auto",
    tolerance: float | None = None,
    max_iterations: int = 200,
    jacobian: Matrix | None = None,
) -> FixedPoint:
    """Solve z = f(z) for every row of `start`.

    Parameters
    ----------
    function : callable
        Maps points z (K, m) and the indices of their samples (K,) to f(z) (K, m). Samples may
        appear more than once and in any order; each row depends on its own sample alone.
    start : Tensor, shape (N, m)
    method : str
        See the table of this module.
    tolerance : float, optional
        Residual at which a sample is done: 1e-13 in float64 and 1e-6 in float32 unless given.
    max_iterations : int
        Largest number of points at which f is evaluated, per sample.
    jacobian : callable, optional
        Maps the same arguments to df/dz (K, m, m); else Newton's methods take differences of f,
        whose error of about 1e-8 does not slow them down visibly.

    Returns
    -------
    FixedPoint
        Failures are marked, never raised.

    Raises
    ------
    ProblemError
        If the method is unknown, or `start` is no floating-point matrix.
    """
    _check(start, method, max_iterations)
    tolerance = TOLERANCE[start.dtype] if tolerance is None else tolerance
    search = _Search(function, start, tolerance)

    makers: Mapping[str, Callable[[], Scheme]] = {
        "damped": Damped,
        "anderson": Anderson,
        "broyden": Broyden,
        "newton": lambda: Newton(function, jacobian, krylov=False),
        "newton-krylov": lambda: Newton(function, None, krylov=True),
    }
    if method == "auto":
        used = _auto(search, makers, start, max_iterations)
    else:
        search.run(makers[method](), max_iterations)
        used = method
    return FixedPoint(
        search.point, search.residual, search.residual <= tolerance, search.iterations, used
    )


def _auto(
    search: _Search, makers: Mapping[str, Callable[[], Scheme]], start: Tensor, limit: int
) -> str:
    size, used = start.shape[1], []
    if size >= ANDERSON_FROM:
        used.append("anderson")
        search.run(Impatient(search.tolerance, PATIENCE * size), limit)
    newton = "newton" if size < KRYLOV_FROM else "newton-krylov"
    stages = ((newton, 0.25, None, 0.0), ("broyden", 0.75, start, NEAR), (newton, 1.0, None, 0.0))
    for name, share, begin, until in stages:
        if len(search.remaining):
            used.append(name)
            search.run(makers[name](), math.ceil(share * limit), begin, until)
    return " then ".join(used)


def _check(start: Tensor, method: str, max_iterations: int) -> None:
    if method not in METHODS:
        raise ProblemError(f'solver is "{method}"; it must be one of {", ".join(METHODS)}.')
    if start.ndim != 2 or start.dtype not in TOLERANCE:
        raise ProblemError(
            f"start has shape {tuple(start.shape)} and dtype {start.dtype}; a fixed point is "
            "sought from a (samples, size) matrix of float64 or float32."
        )
    if max_iterations < 1:
        raise ProblemError(f"max_iterations is {max_iterations}; it must be at least 1.")
