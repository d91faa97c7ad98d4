"""An implicit layer for any torch module: its output is the fixed point of a map."""

from __future__ import annotations

import math
from contextvars import ContextVar, Token
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gflow.equilibrium.adjoint import Backward, parse_backward
from gflow.equilibrium.implicit import EXACT, FixedMap, Map, attach, jacobian
from gflow.equilibrium.iteration import ANDERSON_FROM, FixedPoint, solve_fixed_point
from gflow.equilibrium.iteration import METHODS as SOLVERS
from gflow.equilibrium.linear import METHODS as ADJOINTS
from gflow.equilibrium.linear import LinearSolution
from gflow.errors import EquilibriumError, ProblemError
from gflow.wording import did_you_mean

WARM_ITERATIONS = 64
"""What takes Newton longer from a warm start is a branch that has ended, in the main."""
NAMED = 4
"""Samples that a sentence names."""


@dataclass
class Solve:
    """How a layer's last call went, sample by sample.

    Attributes
    ----------
    residual : Tensor, shape (n,)
        max |f(z) - z| / (1 + max |z|).
    converged : Tensor of bool, shape (n,)
    iterations : Tensor of int, shape (n,)
    adjoint_residual : Tensor or None, shape (n,)
        Relative residual of the last linear solve of a backward pass.
    adjoint_failed : bool
        Whether one of them did not converge.
    """

    residual: Tensor
    converged: Tensor
    iterations: Tensor
    adjoint_residual: Tensor | None = None
    adjoint_failed: bool = False


@dataclass
class Pass:
    """What governs the layers of one forward pass of a model, and what they tell; a context.

    Attributes
    ----------
    backward : Backward
        Of all layers; asked for when a gradient is taken.
    starts : Tensor or None, shape (n, M)
        First guesses of the fixed points of all calls, side by side; 0 unless given.
    points : list of Tensor, shape (n, m)
        The fixed points, call by call.
    solves : list of (DEQLayer, Solve)
    """

    backward: Backward = EXACT
    starts: Tensor | None = None
    points: list[Tensor] = field(default_factory=list)
    solves: list[tuple[DEQLayer, Solve]] = field(default_factory=list)
    _token: Token[Pass | None] | None = field(default=None, repr=False)

    def __enter__(self) -> Pass:
        self._token = _CURRENT.set(self)
        return self

    def __exit__(self, *raised: object) -> None:
        assert self._token is not None
        _CURRENT.reset(self._token)

    def start(self, zero: Tensor) -> Tensor:
        """The first guess (n, m) of the next call, `zero` where there is none."""
        known = sum(point.shape[1] for point in self.points)
        if self.starts is None or len(self.starts) != len(zero):
            return zero
        guess = self.starts[:, known : known + zero.shape[1]]
        if guess.shape != zero.shape:
            return zero
        return torch.where(torch.isfinite(guess).all(-1, keepdim=True), guess, zero)


_CURRENT: ContextVar[Pass | None] = ContextVar("gflow_pass", default=None)


class DEQLayer(nn.Module):
    """The fixed point z = f(z, x) as a layer, differentiable as often as f is.

    Each sample has a fixed point of its own, found from z = 0 whatever the others need. Gradients
    with respect to x and the parameters of f, on which alone f may depend, follow from the implicit
    function theorem (see :mod:`gflow.equilibrium.implicit`); no iteration is stored.

    Parameters
    ----------
    f : torch.nn.Module
        Maps z (n, *width) and x (n, ...) to z's shape, sample by sample.
    width : int or tuple of int, optional
        Shape of one sample's z; that of x unless given.
    solver : str
        See :mod:`gflow.equilibrium.iteration`.
    adjoint : str
        How the linear systems of a backward pass are solved: see
        :func:`gflow.equilibrium.linear.solve_linear`.
    backward : str, optional
        See :mod:`gflow.equilibrium.adjoint`; ``exact`` unless given. In a
        :class:`gflow.ModuleModel` the problem's backward governs, and another one is refused.
    tolerance : float, optional
        Residual of fixed points and of linear systems: 1e-13 in float64 and 1e-6 in float32 unless
        given.
    max_iterations : int
        Evaluations of f per sample, and products of a linear solve.

    Attributes
    ----------
    last : Solve or None
        How the last call went.

    Raises
    ------
    ProblemError
        If an argument is wrong, or f returns another shape than z's.
    EquilibriumError
        When called or differentiated, if a sample does not converge. (Within a gflow problem that
        ends the run, with its status.)

    Examples
    --------
    >>> import torch, gflow
    >>> class Cell(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.inner, self.outer = torch.nn.Linear(8, 8), torch.nn.Linear(2, 8, bias=False)
    ...     def forward(self, z, x):
    ...         return torch.tanh(0.5 * self.inner(z) + self.outer(x))
    >>> model = torch.nn.Sequential(gflow.DEQLayer(Cell(), width=8), torch.nn.Linear(8, 1)).double()
    >>> model(torch.zeros(3, 2).double()).shape
    torch.Size([3, 1])
    """

    last: Solve | None

    def __init__(
        self,
        f: nn.Module,
        *,
        width: int | tuple[int, ...] | None = None,
        solver: str = "auto",
        adjoint: str = "auto",
        backward: str | Backward | None = None,
        tolerance: float | None = None,
        max_iterations: int = 200,
    ) -> None:
        super().__init__()
        _check(f, solver, adjoint, tolerance, max_iterations)
        _check_width(width)
        self.f, self.solver, self.adjoint = f, solver, adjoint
        self.width = (width,) if isinstance(width, int) else width
        self.backward = None if backward is None else parse_backward(backward)
        self.tolerance, self.max_iterations = tolerance, max_iterations
        self.last = None

    def extra_repr(self) -> str:
        """The options, for torch's repr."""
        named = "" if self.backward is None else f", backward={self.backward.name}"
        return f"solver={self.solver}, adjoint={self.adjoint}{named}"

    def forward(self, x: Tensor) -> Tensor:
        """Fixed points (n, *width) of inputs x (n, ...)."""
        shape = tuple(x.shape[1:]) if self.width is None else self.width
        inputs = dict(self.f.named_parameters())
        function = Map(self.f, tuple(inputs), shape)
        constants = [one.detach() for one in (x, *inputs.values())]
        current = _CURRENT.get()
        zero = constants[0].new_zeros(len(x), math.prod(shape))
        start = zero if current is None else current.start(zero)
        try:
            found = self._solve(function, start, constants[0], start is not zero)
        except RuntimeError as error:
            told = str(error).splitlines()[0].rstrip(".")
            raise ProblemError(
                f"f failed for z of shape {(len(x), *shape)} and x of shape {tuple(x.shape)}: "
                f"{told}. Give DEQLayer the shape of one sample's z as width."
            ) from error
        self.last = report = Solve(found.residual, found.converged, found.iterations)
        self._tell(current, found)
        fixed = FixedMap(
            function,
            found.point,
            constants[0],
            constants[1:],
            {
                "method": self.adjoint,
                "tolerance": self.tolerance,
                "max_iterations": self.max_iterations,
            },
            lambda solution: _judge(solution, report, current),
        )
        own = EXACT if self.backward is None else self.backward
        point = attach(
            fixed, lambda: own if current is None else current.backward, [x, *inputs.values()]
        )
        return point.reshape(len(x), *shape)

    def _solve(self, function: Map, start: Tensor, x: Tensor, warm: bool) -> FixedPoint:
        newton = warm and self.solver == "auto" and start.shape[1] < ANDERSON_FROM
        limit = min(self.max_iterations, WARM_ITERATIONS) if newton else self.max_iterations

        def value(z: Tensor, rows: Tensor) -> Tensor:
            return function.now(z, x[rows])

        def slope(z: Tensor, rows: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = z.detach().requires_grad_()
                return jacobian(leaf, value(leaf, rows) + 0.0 * leaf)

        return solve_fixed_point(
            value,
            start,
            method=self.solver,
            tolerance=self.tolerance,
            max_iterations=limit,
            jacobian=slope,
        )

    def _tell(self, current: Pass | None, found: FixedPoint) -> None:
        """Report to the pass; outside of one, refuse what has not converged."""
        assert self.last is not None
        if current is not None:
            current.points.append(found.point)
            current.solves.append((self, self.last))
        elif not bool(found.converged.all()):
            raise EquilibriumError(
                f"A DEQLayer did not reach its fixed point: {tell_failures(self.last)}, by "
                f"{found.method}. Raise max_iterations or the tolerance, take another solver, or "
                "make f contracting."
            )


def _judge(found: LinearSolution, report: Solve, current: Pass | None) -> Tensor:
    """The solution; one that did not converge is NaN within a pass, refused otherwise."""
    report.adjoint_residual, bad = found.residual, ~found.converged
    report.adjoint_failed |= bool(bad.any())
    if current is None and bool(bad.any()):
        raise EquilibriumError(
            f"The backward pass of a DEQLayer did not solve its linear system for "
            f"{int(bad.sum())} of {len(bad)} samples, with relative residuals up to "
            f"{float(found.residual.max()):.3g}: I - J is close to singular there. Try "
            'adjoint="direct", or make f contracting.'
        )
    return torch.where(bad[:, None], torch.nan, found.solution)


def tell_failures(solve: Solve, first: int = 0) -> str:
    """Which samples did not converge, `first` being the index of the first one of the solve."""
    bad = torch.nonzero(~solve.converged)[:, 0].tolist()
    named = ", ".join(str(first + index) for index in bad[:NAMED])
    more = ", ..." if len(bad) > NAMED else ""
    residuals = ", ".join(f"{float(solve.residual[index]):.2g}" for index in bad[:NAMED])
    return (
        f"{len(bad)} of {len(solve.converged)} samples (index {named}{more}) have residuals "
        f"{residuals}{more} after up to {int(solve.iterations.max())} evaluations"
    )


def _check_width(width: object) -> None:
    sizes = width if isinstance(width, tuple) else (width,)
    numbers = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if width is not None and not (sizes and numbers and min(sizes) > 0):
        raise ProblemError(
            f"width is {width!r}; it must be a positive integer, or a tuple of them: the shape of "
            "one sample's z."
        )


def _check(
    f: nn.Module, solver: str, adjoint: str, tolerance: float | None, max_iterations: int
) -> None:
    if not isinstance(f, nn.Module):
        raise ProblemError(f"f is {f!r}; a DEQLayer needs a torch.nn.Module with forward(z, x).")
    for name, given, known in (("solver", solver, SOLVERS), ("adjoint", adjoint, ADJOINTS)):
        if given not in known:
            raise ProblemError(f'{name} is "{given}"{did_you_mean(str(given), known)}')
    if tolerance is not None and not 0 < tolerance < 1:
        raise ProblemError(f"tolerance is {tolerance}; it must lie between 0 and 1.")
    if max_iterations < 1:
        raise ProblemError(f"max_iterations is {max_iterations}; it must be at least 1.")
