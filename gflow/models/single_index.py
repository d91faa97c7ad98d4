"""Single-index DEQ: y = sigma(theta1 . x + theta2 y), [DR] section 4.

With s = theta1 . x + theta2 y, J = theta2 sigma'(s), r = 1 / (1 - J) and W = (x, y):

* implicit gradient (exact): dy/dtheta = sigma' r W;
* ds/dtheta = r W, the derivative of the preactivation;
* with another backward B(J), the pullback is sum_i c_i sigma'_i B(J_i) W_i; its Jacobian is
  derived in :meth:`SingleIndexDEQ._curvature`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gflow.compiled.inputs import Inputs
from gflow.equilibrium.adjoint import Backward
from gflow.equilibrium.solvers import Jet, Root, safeguarded_newton, tracking_newton
from gflow.errors import ProblemError
from gflow.losses import Bend
from gflow.models.activations import Activation, parse_activation
from gflow.models.base import Equilibrium, Model
from gflow.models.single_index_compiled import bent_in_c, guess, pulled_in_c, tracked_in_c

Array = NDArray[np.floating]


class SingleIndexDEQ(Model):
    """A DEQ with a scalar equilibrium per sample.

    Parameters
    ----------
    dim : int
        Length d of the inputs; theta has P = d + 1 entries, theta1 and then theta2.
    activation : str or Activation
        A name of :mod:`gflow.models.activations`.

    Raises
    ------
    ProblemError
        If `dim` is not a positive integer or the activation is unknown.

    Notes
    -----
    The fixed point is unique while 1 - theta2 sigma' keeps one sign on the whole real line: while
    theta2 sup sigma' < 1 and theta2 inf sigma' < 1 (and, on a second branch that only activations
    with inf sigma' > 0 have, while both exceed 1). Elsewhere `Equilibrium.valid` is False, even
    where the samples at hand would still have one root each: a branch is never chosen silently.
    """

    name = "single_index"

    def __init__(self, dim: int, activation: str | Activation = "tanh") -> None:
        if isinstance(dim, bool) or not hasattr(dim, "__index__") or dim < 1:
            raise ProblemError(
                f"dim is {dim!r}; it must be a positive integer, the input's length."
            )
        self.dim = int(dim)
        self.activation = parse_activation(activation)
        self.conserves_sphere = self.activation.name == "identity"
        self.smooth = not self.activation.kinks

    def __repr__(self) -> str:
        return f'{type(self).__name__}(dim={self.dim}, activation="{self.activation.name}")'

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """``theta1[0]`` to ``theta1[d-1]`` and ``theta2``."""
        return (*(f"theta1[{i}]" for i in range(self.dim)), "theta2")

    @property
    def family(self) -> object:
        """Models whose activations are alike but for a parameter."""
        return type(self), self.dim, self.activation.family

    def stack(self, models: Sequence[Model], like: Tensor) -> Model:
        """The model with the activations of all, one a row."""
        activations = [m.activation for m in models if isinstance(m, SingleIndexDEQ)]
        return self._with(self.activation.stack(activations, like))

    def select(self, rows: Tensor) -> Model:
        """The model of some rows (K,)."""
        return self._with(self.activation.select(rows))

    def _with(self, activation: Activation) -> Model:
        if activation is self.activation:
            return self
        other = copy.copy(self)
        other.activation = activation
        return other

    def _edges(self, theta2: Tensor) -> tuple[Tensor | float, Tensor]:
        """1 - theta2 sigma' at the ends of the range of sigma', for theta2 (..., 1)."""
        first, last = self.activation.slope_min, self.activation.slope_max
        return 1.0 if first == 0 else 1.0 - theta2 * first, 1.0 - theta2 * last

    def _side(self, theta2: float) -> float:
        """The sign of 1 - theta2 sigma' where it is one, else 0, without tensors."""
        first = 1.0 - theta2 * self.activation.slope_min
        last = 1.0 - theta2 * float(self.activation.slope_max)
        return math.copysign(1.0, last) if first * last > 0 else 0.0

    @np.errstate(all="ignore")
    def _sides(self, theta: Tensor) -> Array:
        """The same at rows theta (..., P), by numpy: its small operations cost a third."""
        theta2, highest = theta.detach().numpy()[..., -1:], self.activation.slope_max
        steepest = highest.numpy() if isinstance(highest, Tensor) else highest
        first, last = 1.0 - theta2 * self.activation.slope_min, 1.0 - theta2 * steepest
        return np.where(first * last > 0, np.sign(last), last.dtype.type(0.0))[..., 0]

    def _slope_bounds(self, theta2: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of 1 - theta2 sigma' over the real line, for theta2 (..., 1)."""
        first, last = self._edges(theta2)
        first = torch.as_tensor(first).to(last)
        return torch.minimum(first, last), torch.maximum(first, last)

    def admissible(self, theta: Tensor) -> Tensor:
        """Whether theta (..., P) is finite and its equilibrium unique, shape (...)."""
        if theta.ndim == 1:
            unique = self._side(float(theta[-1])) != 0
            return torch.tensor(unique and math.isfinite(float(theta.sum())), device=theta.device)
        if theta.device.type == "cpu":
            with np.errstate(all="ignore"):
                finite = np.isfinite(theta.detach().numpy().sum(-1))
            return torch.from_numpy(np.asarray((self._sides(theta) != 0) & finite))
        return (self.branch(theta) != 0) & torch.isfinite(theta.sum(-1))

    def equilibrium(
        self, theta: Tensor, x: Tensor, warm: Tensor | Equilibrium | None = None
    ) -> Equilibrium:
        """Solve F(s) = s - theta1.x - theta2 sigma(s) = 0 by Newton in s, safeguarded if need."""
        compiled = tracked_in_c(self.activation, theta, x, warm)
        if compiled is not None:
            return compiled[0]
        valid = self.admissible(theta)
        everywhere = bool(valid.all())
        safe = theta if everywhere else torch.where(valid[..., None], theta, 0.0)
        theta2, (warm, known) = safe[..., -1:], guess(warm)
        linear = project(safe[..., :-1], x)
        root = self._track(linear, theta2, linear if warm is None else warm, known)
        if root is None:
            start = linear if warm is None else torch.where(torch.isfinite(warm), warm, linear)
            root, reached = self._search(linear, theta2, start)
            valid = valid if reached is None else valid & reached
            everywhere = everywhere and reached is None
        output, slope = root.jet
        if not everywhere:
            output = torch.where(valid[..., None], output, torch.nan)
        return Equilibrium(theta, output, root.point, slope, valid)

    def _track(
        self, linear: Tensor, theta2: Tensor, start: Tensor, known: Jet | None
    ) -> Root | None:
        """The root near a start whose jet may be known, None if that is not near enough."""
        activation, one = self.activation, linear.new_ones(())
        if math.isinf(activation.curvature_max):
            return None
        bend, tolerance = self._bounds(theta2)

        def newton_step(s: Tensor, jet: Jet) -> Tensor:
            value, slope = jet
            gap = torch.addcmul(s - linear, theta2, value, value=-1)
            return gap.div_(torch.addcmul(one, theta2, slope, value=-1))

        return tracking_newton(
            lambda s: activation.jet(s, 1), newton_step, start, bend, tolerance, known
        )

    def _bounds(self, theta2: Tensor) -> tuple[float, float]:
        """Half of the largest second derivative of F, and the residual that counts as zero."""
        activation, largest = self.activation, float(theta2.abs().amax())
        rounding = 8.0 * torch.finfo(theta2.dtype).eps
        steepest = 1 + largest * activation.steepest
        return 0.5 * largest * activation.curvature_max, rounding / steepest

    def fit(
        self, theta: Tensor, x: Inputs, y: Tensor, warm: Tensor | Equilibrium | None = None
    ) -> tuple[Equilibrium, Tensor] | None:
        """By C, for rows of many samples."""
        return tracked_in_c(self.activation, theta, x, warm, y)

    def fit_jacobian(self, solved: Equilibrium, x: Inputs, y: Tensor) -> Tensor | None:
        """By C too."""
        return bent_in_c(self.activation, solved, x, (y,))

    def _search(self, linear: Tensor, theta2: Tensor, start: Tensor) -> tuple[Root, Tensor | None]:
        """The root from anywhere, and which rows reached it (None: all did)."""
        rounding = 8.0 * torch.finfo(linear.dtype).eps
        scale = rounding * (1.0 + linear.abs())

        def residual(s: Tensor) -> tuple[Tensor, Tensor, Jet]:
            value, slope = self.activation.jet(s, 1)
            return s - linear - theta2 * value, 1.0 - theta2 * slope, (value, slope)

        bounds = self._slope_bounds(theta2)
        at_zero = linear + theta2 * self.activation(linear.new_zeros(()))
        bracket = at_zero / bounds[0], at_zero / bounds[1]
        root = safeguarded_newton(
            residual, start, bracket, *bounds, lambda s: scale + rounding * s.abs()
        )
        if root.converged:
            return root, None
        gap, allowed = residual(root.point)[0].abs(), 1e4 * (scale + rounding * root.point.abs())
        return root, (gap <= allowed).all(-1)

    def residual(self, equilibrium: Equilibrium, x: Tensor) -> Tensor:
        """max_i |y_i - sigma(theta1 . x_i + theta2 y_i)|."""
        theta, output = equilibrium.theta, equilibrium.output
        s = project(theta[..., :-1], x) + theta[..., -1:] * output
        return (output - self.activation(s)).abs().amax(-1)

    def conditioning(self, equilibrium: Equilibrium) -> Tensor:
        """min_i |1 - theta2 sigma'(s_i)|, NaN where the equilibrium is not valid."""
        smallest = self.sample_conditioning(equilibrium).amin(-1)
        return torch.where(equilibrium.valid, smallest, torch.nan)

    def sample_conditioning(self, equilibrium: Equilibrium) -> Tensor:
        """|1 - theta2 sigma'(s_i)|, (..., n)."""
        return (1.0 - equilibrium.theta[..., -1:] * equilibrium.slope).abs()

    def pullback(
        self, equilibrium: Equilibrium, x: Tensor, cotangent: Tensor, backward: Backward
    ) -> Tensor:
        """Sum_i c_i sigma'_i B(J_i) (x_i, y_i)."""
        found = pulled_in_c(self.activation, equilibrium, x, cotangent) if backward.exact else None
        if found is not None:
            return found
        jacobian = equilibrium.theta[..., -1:] * equilibrium.slope
        return _weighted(
            cotangent * equilibrium.slope * backward.factor(jacobian), equilibrium.output, x
        )

    def pullback_jacobian(
        self, equilibrium: Equilibrium, x: Tensor, first: Tensor, second: Bend, backward: Backward
    ) -> Tensor:
        """Sum_i alpha W W^T + beta W e_P^T + gamma e_P W^T, shape (..., P, P)."""
        diagonal = second(torch.ones_like(first))
        output, d = equilibrium.output, self.dim
        loss = first, diagonal
        found = bent_in_c(self.activation, equilibrium, x, loss) if backward.exact else None
        if found is not None:
            return found
        alpha, beta, gamma = self._curvature(equilibrium, first, diagonal, backward)
        bent = alpha * output
        matrix = output.new_empty(*output.shape[:-1], d + 1, d + 1)
        matrix[..., :d, :d] = (x * alpha[..., None]).mT @ x
        column = _weighted(bent + beta, output, x)
        matrix[..., :, d] = column
        row = column if gamma is beta else _weighted(bent + gamma, output, x)
        matrix[..., d, :d] = row[..., :d]
        matrix[..., d, d] += torch.linalg.vecdot(gamma, output)
        return matrix

    def pullback_jvp(
        self,
        equilibrium: Equilibrium,
        x: Tensor,
        first: Tensor,
        second: Bend,
        backward: Backward,
        vector: Tensor,
    ) -> Tensor:
        """The same applied to a vector: two passes over the data, no P x P matrix."""
        diagonal = second(torch.ones_like(first))
        alpha, beta, gamma = self._curvature(equilibrium, first, diagonal, backward)
        output = equilibrium.output
        along = project(vector[..., :-1], x) + vector[..., -1:] * output
        product = _weighted(alpha * along + beta * vector[..., -1:], output, x)
        product[..., -1] += (gamma * along).sum(-1)
        return product

    def _curvature(
        self, equilibrium: Equilibrium, first: Tensor, second: Tensor, backward: Backward
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Per-sample weights of W W^T, W e_P^T and e_P W^T in the pullback's Jacobian.

        With w = sigma' B(J), differentiate c w W: dc = c2 sigma' r W, dW = e_P sigma' r W,
        dw = (sigma'' r B + sigma' B' theta2 sigma'' r) W + sigma'^2 B' e_P.
        """
        theta2, slope = equilibrium.theta[..., -1:], equilibrium.slope
        curvature = self.activation.jet(equilibrium.preactivation, 2)[2]
        jacobian = theta2 * slope
        inverse = 1.0 / (1.0 - jacobian)
        if backward.exact:  # B = r and B' = r^2
            pulled = slope * inverse
            beta = first * pulled * pulled
            return second * pulled * pulled + first * curvature * inverse**3, beta, beta
        factor, derivative = backward.factor(jacobian), backward.derivative(jacobian)
        bend = curvature * inverse * (factor + jacobian * derivative)
        alpha = second * slope * inverse * slope * factor + first * bend
        beta = first * slope * slope * derivative
        gamma = first * slope * factor * slope * inverse
        return alpha, beta, gamma

    def branch(self, theta: Tensor) -> Tensor:
        """The sign of 1 - theta2 sigma' where it is one, 0 elsewhere."""
        if theta.ndim == 1:
            return theta.new_tensor(self._side(float(theta[-1])))
        if theta.device.type == "cpu":
            return torch.from_numpy(self._sides(theta))
        first, last = self._edges(theta[..., -1:])
        return torch.where(first * last > 0, torch.sign(last), 0.0)[..., 0]

    def sphere_radius(self, theta: Tensor) -> Tensor:
        """R = sqrt(|theta1|^2 + (1 - theta2)^2); conserved for the identity only ([DR] Thm 3.1)."""
        offset = theta.clone()
        offset[..., -1] -= 1.0
        radius: Tensor = torch.linalg.vector_norm(offset, dim=-1)
        return radius

    def singular_distance(self, theta: Tensor) -> Tensor:
        """Distance in theta2 to the edge of the region where the fixed point is unique."""
        theta2, activation = theta[..., -1:], self.activation
        distance = (theta2 - 1.0 / activation.slope_max).abs()
        if activation.slope_min != 0:
            distance = torch.minimum(distance, (theta2 - 1.0 / activation.slope_min).abs())
        return distance[..., 0]

    def explain_loss_of_equilibrium(self, theta: Tensor) -> str:
        """Name the bound that theta2 violates."""
        if not bool(torch.isfinite(theta).all()):
            return "theta is not finite"
        theta2, name = float(theta[..., -1]), self.activation.name
        if not bool(self.admissible(theta)):
            low, high = (float(bound) for bound in self._slope_bounds(theta[..., -1:]))
            return (
                f"at theta2 = {theta2:.6g} the slope 1 - theta2 sigma' of the fixed-point equation "
                f"runs from {low:.3g} to {high:.3g}, so the {name} DEQ has no unique fixed point"
            )
        return f"Newton's iteration did not reach the fixed point at theta2 = {theta2:.6g}"


def _weighted(weights: Tensor, output: Tensor, x: Tensor) -> Tensor:
    """Sum_i weights_i (x_i, y_i), shape (..., P)."""
    inner = weights @ x if x.ndim == 2 else (weights[..., None, :] @ x)[..., 0, :]
    return torch.cat([inner, torch.linalg.vecdot(weights, output)[..., None]], dim=-1)


def project(vector: Tensor, x: Tensor) -> Tensor:
    """vector . x_i for all inputs, shape (..., n)."""
    return vector @ x.T if x.ndim == 2 else (vector[..., None, :] @ x.mT)[..., 0, :]
