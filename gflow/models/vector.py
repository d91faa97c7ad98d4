"""Vector DEQ: z = sigma(W z + U x + b) in R^m, output C z + c in R^o."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.equilibrium.adjoint import Backward
from gflow.equilibrium.iteration import METHODS as SOLVERS
from gflow.equilibrium.iteration import TOLERANCE, solve_fixed_point
from gflow.equilibrium.linear import METHODS as ADJOINTS
from gflow.errors import ProblemError
from gflow.losses import Bend
from gflow.models.activations import Activation, parse_activation
from gflow.models.base import Equilibrium, Model
from gflow.models.vector_adjoint import Differentiation
from gflow.models.vector_branch import branch_sign, is_near
from gflow.models.vector_layout import Blocks, Layout
from gflow.models.vector_start import start_projection, start_weights
from gflow.models.vector_state import (
    NUMBERS,
    Factors,
    FixedPointMap,
    VectorEquilibrium,
    Workspace,
    lost_rows,
)
from gflow.models.vector_theory import CONSERVED, margin
from gflow.models.vector_track import system, track

MAX_ITERATIONS = 1000
"""For the few hard samples; the others are done after about ten."""
WARM_ITERATIONS = 50
"""From a warm start what takes longer is a branch that has ended, in the main."""
WAYPOINTS = 8
"""Steps from W = 0 to W in which a start that is not reached at once is followed."""
REMEMBERED = 16
"""Lost equilibria that can still be explained."""


class VectorDEQ(Model):
    """A DEQ with a vector equilibrium per sample and an affine read-out.

    Parameters
    ----------
    dim : int
        Length d of the inputs.
    width : int
        Length m of the equilibrium.
    outputs : int
        Length o of the output, which has shape (o,) even where o = 1.
    activation : str or Activation
        A name of :mod:`gflow.models.activations`; ``identity`` gives the matrix linear DEQ, solved
        in closed form.
    train : sequence of str
        The trained blocks, of W, U, b, C and c; theta is their concatenation in that order, each
        row by row.
    fixed : mapping of str to array, optional
        Values of others. Unless given, b and c are 0 and C, if o = m, is the identity.
    solver : str
        A method of :mod:`gflow.equilibrium.iteration`.
    adjoint : str
        A method of :mod:`gflow.equilibrium.linear`.
    tolerance : float, optional
        Of the fixed points and of iterative adjoints: what the dtype allows unless given.

    Raises
    ------
    ProblemError
        If a size is not a positive integer, a name unknown, or a block has no value.

    Notes
    -----
    An equilibrium is valid if it was reached at every sample and lies on the branch that begins at
    W = 0: where :meth:`singular_distance` does not certify that there is no other, det(I - J) must
    be positive at every sample, since no continuous trajectory of theta can change its sign without
    passing a point where the gradient is singular.
    """

    name = "vector"
    diagnostics = (
        "singular_distance",
        "conditioning",
        "equilibrium_residual",
        "adjoint_residual",
    )

    def __init__(
        self,
        dim: int,
        width: int,
        outputs: int = 1,
        activation: str | Activation = "tanh",
        train: Sequence[str] = ("W", "U", "b", "C", "c"),
        fixed: Mapping[str, Any] | None = None,
        solver: str = "auto",
        adjoint: str = "auto",
        tolerance: float | None = None,
    ) -> None:
        self.dim, self.width = _size(dim, "dim"), _size(width, "width")
        self.output_shape = (_size(outputs, "outputs"),)
        self.activation = parse_activation(activation)
        self.layout = Layout(self.dim, self.width, *self.output_shape, train, fixed or {})
        self.solver, self.adjoint = _named(solver, "solver", SOLVERS), adjoint
        self.tolerance = tolerance
        self.smooth = not self.activation.kinks
        self.sample_width = 4 * self.width + self.output_shape[0]
        self._differentiation = Differentiation(
            self.layout, self.activation, _named(adjoint, "adjoint", ADJOINTS), tolerance
        )
        self._lost: list[tuple[Tensor, str]] = []

    def __repr__(self) -> str:
        own = f"dim={self.dim}, width={self.width}, outputs={self.output_shape[0]}"
        return f'VectorDEQ({own}, activation="{self.activation.name}", train={self.layout.train})'

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """``W[0,0]``, ``W[0,1]``, ..., of the trained blocks."""
        return self.layout.names

    @property
    def family(self) -> object:
        """Models written alike with the same fixed blocks."""
        values = tuple((name, value.tobytes()) for name, value in self.layout.fixed.items())
        return repr(self), values, self.solver, self.adjoint, self.tolerance

    def initial(
        self, seed: int, scheme: str = "spectral", radius: float = 0.5, scale: float = 1.0
    ) -> np.ndarray[Any, Any]:
        """A random theta (P,): W by a scheme of :mod:`gflow.models.vector_start`, biases 0.

        Parameters
        ----------
        seed : int
        scheme : str
            ``spectral``, ``norm`` or ``monotone``.
        radius : float
            The spectral radius or norm of W; for ``monotone`` a bound of the largest eigenvalue of
            (W + W^T) / 2.
        scale : float
            U and C are Gaussian with standard deviation scale / sqrt(fan-in).
        """
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ProblemError(f"seed is {seed!r}; it must be an integer of at least 0.")
        generator = np.random.default_rng(seed)
        drawn = {
            "W": start_weights(generator, self.width, scheme, radius),
            "U": start_projection(generator, (self.width, self.dim), scale),
            "b": np.zeros(self.width),
            "C": start_projection(generator, (self.output_shape[0], self.width), scale),
            "c": np.zeros(self.output_shape),
        }
        return np.concatenate([drawn[name].ravel() for name in self.layout.train])

    def equilibrium(
        self, theta: Tensor, x: Tensor, warm: Tensor | Equilibrium | None = None
    ) -> VectorEquilibrium:
        """Solve every sample from `warm`, equilibria z (..., n, m), or from 0."""
        finite = torch.isfinite(theta).all(-1)
        blocks = self.layout.split(torch.where(finite[..., None], theta, 0.0))
        drive = blocks.drive(x)
        drive = drive.expand(*theta.shape[:-1], *drive.shape[-2:])
        if self.activation.name == "identity":
            factors = Factors.of(system(blocks.W, torch.ones_like(drive[..., :1, :])))
            z = factors.solve(drive, False)
            reached = torch.isfinite(z).all(-1)
            return self._judged(theta, blocks, drive, z, reached & finite[..., None], factors)
        if not bool(finite.any()):
            z = torch.zeros_like(drive)
            return self._judged(theta, blocks, drive, z, torch.zeros_like(z[..., 0]).bool())
        z, reached = self._iterate(blocks.W, drive, warm, self.solver)
        solved = self._judged(theta, blocks, drive, z, reached & finite[..., None])
        if warm is not None or self.solver != "auto" or bool((solved.valid | ~finite).all()):
            return solved
        # The branch that begins at W = 0 is met on the way to W; damped iterations leave the rest.
        again, found = torch.zeros_like(drive), reached
        for part in torch.linspace(1 / WAYPOINTS, 1, WAYPOINTS).tolist():
            again, found = self._iterate(part * blocks.W, drive, again, "auto")
        lost = ~solved.valid[..., None]
        z, reached = torch.where(lost[..., None], again, z), torch.where(lost, found, reached)
        solved = self._judged(theta, blocks, drive, z, reached & finite[..., None])
        if bool((solved.valid | ~finite).all()):
            return solved
        again, _ = self._iterate(blocks.W, drive, None, "damped")
        again, found = self._iterate(blocks.W, drive, again, "newton")
        lost = ~solved.valid[..., None]
        z, reached = torch.where(lost[..., None], again, z), torch.where(lost, found, reached)
        return self._judged(theta, blocks, drive, z, reached & finite[..., None])

    def _judged(
        self,
        theta: Tensor,
        blocks: Blocks,
        drive: Tensor,
        z: Tensor,
        reached: Tensor,
        factors: Factors | None = None,
    ) -> VectorEquilibrium:
        """What is known at z, and whether it is valid; factors are the identity's."""
        space = Workspace(factors)
        s = z @ blocks.W.mT + drive
        value, slope = self.activation.jet(s, 1)
        slope = slope[..., :1, :] if factors else slope
        gap, found = (value - z).abs().amax(-1), reached.all(-1)
        solved = VectorEquilibrium(theta, blocks.read(z), z, slope, found, blocks, s, gap, space)
        sign = branch_sign(solved, self.activation, self._differentiation)
        valid = found & (sign > 0)
        if bool(valid.all()):
            return solved
        self._lost = [*self._lost, *lost_rows(solved, reached, sign)][-REMEMBERED:]
        solved.output.masked_fill_(~valid[..., None, None], torch.nan)
        return replace(solved, valid=valid)

    def _iterate(
        self, weights: Tensor, drive: Tensor, warm: Tensor | Equilibrium | None, method: str
    ) -> tuple[Tensor, Tensor]:
        """Equilibria (..., n, m), and whether each was reached."""
        if isinstance(warm, Equilibrium):
            warm = warm.preactivation
        start = torch.zeros_like(drive) if warm is None else warm.expand_as(drive)
        if warm is not None:
            start = torch.where(torch.isfinite(start).all(-1, keepdim=True), start, 0.0)
        tolerance = self._floor(weights)
        if warm is not None and method == "auto":
            start, near = track(weights, drive, self.activation, start, tolerance)
            if near:
                return start, torch.ones_like(start[..., 0], dtype=torch.bool)
        stacked = weights if weights.ndim == 2 else weights.reshape(-1, self.width, self.width)
        function = FixedPointMap(stacked, drive, self.activation)
        found = solve_fixed_point(
            function,
            start.reshape(-1, self.width),
            method=method,
            tolerance=tolerance,
            max_iterations=MAX_ITERATIONS if warm is None else WARM_ITERATIONS,
            jacobian=function.jacobian,
        )
        return found.point.reshape(drive.shape), found.converged.reshape(drive.shape[:-1])

    def _floor(self, weights: Tensor) -> float:
        """The tolerance: no less than what rounding W z leaves."""
        if self.tolerance is not None:
            return self.tolerance
        rounding = 16 * torch.finfo(weights.dtype).eps * self.activation.steepest
        return max(TOLERANCE[weights.dtype], rounding * float(weights.abs().sum(-1).amax()))

    def followed(self, theta: Tensor) -> Tensor:
        """Where uniqueness is not certified."""
        if self.activation.name == "identity":
            return super().followed(theta)
        return self.singular_distance(theta) <= 0

    def continued(self, solved: Equilibrium, warm: Tensor | Equilibrium) -> Tensor | None:
        """Whether what the warm start misses explains its distance, where that is needed.

        See :func:`gflow.models.vector_branch.is_near`.
        """
        followed = self.followed(solved.theta)
        if not bool(followed.any()):
            return None
        found = _vector(solved)
        start = warm.preactivation if isinstance(warm, Equilibrium) else warm
        near = is_near(
            found.blocks.W, found.activated, found.slope, found.z, start, self.activation
        )
        return near.all(-1) | ~followed

    def residual(self, equilibrium: Equilibrium, x: Tensor) -> Tensor:
        """max_i |z_i - sigma(W z_i + U x_i + b)|, the largest entry."""
        return _vector(equilibrium).gap.amax(-1)

    def conditioning(self, equilibrium: Equilibrium) -> Tensor:
        """Smallest singular value of I - J over the samples, NaN where it is not valid."""
        smallest = self.sample_conditioning(equilibrium).amin(-1)
        return torch.where(equilibrium.valid, smallest, torch.nan)

    def sample_conditioning(self, equilibrium: Equilibrium) -> Tensor:
        """That of each sample, (..., n)."""
        solved = _vector(equilibrium)
        weights, slope = solved.blocks.W, solved.slope
        count = slope[..., :1, :].numel() * self.width
        smallest = [
            torch.linalg.svdvals(torch.nan_to_num(system(weights, part)))[..., -1]
            for part in torch.split(slope, max(1, NUMBERS // count), -2)
        ]
        return torch.cat(smallest, -1)

    def adjoint_residual(self, equilibrium: Equilibrium) -> Tensor:
        """Largest relative residual (...) of the adjoint solved there; NaN if none was."""
        residual = _vector(equilibrium).workspace.adjoint_residual
        nothing = torch.full_like(equilibrium.theta[..., 0], torch.nan)
        return nothing if residual is None else residual

    def pullback(
        self, equilibrium: Equilibrium, x: Tensor, cotangent: Tensor, backward: Backward
    ) -> Tensor:
        """See :mod:`gflow.models.vector_adjoint`."""
        return self._differentiation.gradient(_vector(equilibrium), x, cotangent, backward)

    def pullback_jacobian(
        self, equilibrium: Equilibrium, x: Tensor, first: Tensor, second: Bend, backward: Backward
    ) -> Tensor:
        """The derivative of the same, column by column."""
        return self._differentiation.matrix(_vector(equilibrium), x, first, second, backward)

    def pullback_jvp(
        self,
        equilibrium: Equilibrium,
        x: Tensor,
        first: Tensor,
        second: Bend,
        backward: Backward,
        vector: Tensor,
    ) -> Tensor:
        """Its product with a vector, by two more linear solves."""
        return self._differentiation.tangent(
            _vector(equilibrium), x, first, second, backward, vector
        )

    def branch(self, theta: Tensor) -> Tensor:
        """The sign of det(I - W) for the identity; else 0, for only one branch is valid."""
        if self.activation.name != "identity":
            return torch.zeros_like(theta[..., 0])
        weights = self.layout.split(theta).W
        sign: Tensor = torch.linalg.slogdet(torch.eye(self.width).to(theta) - weights)[0]
        return sign.expand(theta.shape[:-1])

    def singular_distance(self, theta: Tensor) -> Tensor:
        """The margin of :mod:`gflow.models.vector_theory`: unique and regular if positive."""
        return margin(self.layout.split(theta).W, self.activation).expand(theta.shape[:-1])

    def invariants(self, theta: Tensor) -> dict[str, Tensor]:
        """Q and K of :mod:`gflow.models.vector_theory`, each (..., m^2), where they are constant.

        Only for the identity and with W trained: Q if U is trained and b is trained or 0, K if C
        is trained.
        """
        if self.activation.name != "identity" or "W" not in self.layout.train:
            return {}
        trained, fixed = self.layout.train, self.layout.fixed
        free = "U" in trained and ("b" in trained or not fixed["b"].any())
        names = [name for name, held in (("Q", free), ("K", "C" in trained)) if held]
        return {name: CONSERVED[name](self.layout.split(theta)).flatten(-2) for name in names}

    def explain_loss_of_equilibrium(self, theta: Tensor) -> str:
        """Name the worst sample, as it was found when theta was last tried."""
        if not bool(torch.isfinite(theta).all()):
            return "theta is not finite"
        for known, sentence in reversed(self._lost):
            if torch.equal(known, theta):
                return sentence
        return (
            f"the certificate of uniqueness has margin {float(self.singular_distance(theta)):.3g}, "
            "and at some sample no equilibrium was reached on the branch that begins at W = 0"
        )


def _vector(equilibrium: Equilibrium) -> VectorEquilibrium:
    assert isinstance(equilibrium, VectorEquilibrium)
    return equilibrium


def _size(value: int, name: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ProblemError(f"{name} is {value!r}; it must be a positive integer.")
    return int(value)


def _named(value: str, name: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ProblemError(f'{name} is "{value}"; it must be one of {", ".join(known)}.')
    return value
