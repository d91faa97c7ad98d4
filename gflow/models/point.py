"""A function of theta as a model: its one output is the function's value, its state theta itself.

Derivatives are those of reverse mode, twice: of a loss by several times the fastest of what
torch.func offers on functions of few parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from gflow.equilibrium.adjoint import Backward
from gflow.errors import ProblemError
from gflow.losses import Bend
from gflow.models.base import Equilibrium, Model
from gflow.status import Status

NATURAL = Backward("natural", terms=1)
"""The gradient times the metric's inverse: not exact, and no series in a Jacobian either."""


@dataclass(frozen=True)
class Point(Equilibrium):
    """What is known at theta (..., P); ``output`` (..., 1) is the loss.

    Attributes
    ----------
    gradient : Tensor, shape (..., P)
        Of the loss.
    direction : Tensor, shape (..., P)
        The natural gradient; without a metric the gradient.
    factor : Tensor or None, shape (..., P, P)
        Cholesky factor of the metric.
    """

    gradient: Tensor
    direction: Tensor
    factor: Tensor | None


class PointModel(Model):
    """The model behind :class:`gflow.Objective`, which documents the parameters."""

    name = "objective"
    dim = 0
    diagnostics = ()
    lost = Status.NONFINITE

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        names: Sequence[str],
        metric: Callable[[Tensor], Tensor] | None,
        smooth: bool,
    ) -> None:
        self._names, self.smooth = tuple(names), smooth
        size = len(self._names)
        metric_word = "" if metric is None else f", metric={_called(metric)}"
        self._written = f"Objective({_called(function)}{metric_word}, P={size})"
        self._function = _Rowwise("function", function, ())
        self._metric = None if metric is None else _Rowwise("metric", metric, (size, size))
        self._unchecked = True

    def __repr__(self) -> str:
        return self._written

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """As given."""
        return self._names

    @property
    def family(self) -> object:
        """Functions cannot be compared: no two of them are stacked."""
        return self

    def value(self, theta: Tensor) -> Tensor:
        """The function (...) alone, whether finite or not."""
        with torch.no_grad():
            return self._function(theta)

    def equilibrium(
        self, theta: Tensor, x: Tensor, warm: Tensor | Equilibrium | None = None
    ) -> Point:
        """Loss and gradients; a row is valid where theta and all of them are finite."""
        leaf = theta.detach().requires_grad_()
        gradient, value = self._gradient(leaf)
        value, valid = value.detach(), torch.isfinite(value)
        factor, direction = None, gradient
        if self._metric is not None:
            factor, info = torch.linalg.cholesky_ex(self._symmetric(self._metric(theta).detach()))
            direction = _solve(factor, gradient[..., None])[..., 0]
            valid = valid & (info == 0)
        valid = valid & torch.isfinite(direction + theta).all(-1)
        output = torch.where(valid, value, torch.nan)[..., None]
        direction = torch.where(valid[..., None], direction, torch.nan)
        return Point(
            theta, output, theta, torch.ones_like(output), valid, gradient, direction, factor
        )

    def pullback(
        self, equilibrium: Equilibrium, x: Tensor, cotangent: Tensor, backward: Backward
    ) -> Tensor:
        """The gradient, or the natural one."""
        point = _point(equilibrium, backward)
        return cotangent * (point.gradient if backward.exact else point.direction)

    def pullback_jacobian(
        self, equilibrium: Equilibrium, x: Tensor, first: Tensor, second: Bend, backward: Backward
    ) -> Tensor:
        """The Hessian H, or G^-1 (H - d(G g)/dtheta at fixed g), the natural gradient g's Jacobian.

        `second` is that of a loss linear in the output, zero.
        """
        leaf, residual, factor = self._residual(equilibrium, backward)
        size = leaf.shape[-1]
        basis = torch.eye(size, dtype=leaf.dtype, device=leaf.device)
        if leaf.ndim == 2:
            basis = basis[:, None].expand(-1, *leaf.shape)
        rows = _derivative(residual, leaf, basis, is_grads_batched=True).movedim(0, -2)
        found = rows if factor is None else _solve(factor, rows)
        return first[..., None] * torch.where(equilibrium.valid[..., None, None], found, torch.nan)

    def pullback_jvp(
        self,
        equilibrium: Equilibrium,
        x: Tensor,
        first: Tensor,
        second: Bend,
        backward: Backward,
        vector: Tensor,
    ) -> Tensor:
        """The product of that with a vector."""
        leaf, residual, factor = self._residual(equilibrium, backward)
        if factor is None:
            product = _derivative(residual, leaf, vector)
        else:
            # The transposed product is linear in its vector, and its derivative the product.
            dual = torch.zeros_like(leaf, requires_grad=True)
            with torch.enable_grad():
                pulled = _derivative(residual, leaf, dual, create_graph=True) + 0.0 * dual
            product = _solve(factor, _derivative(pulled, dual, vector)[..., None])[..., 0]
        return first * torch.where(equilibrium.valid[..., None], product, torch.nan)

    def branch(self, theta: Tensor) -> Tensor:
        """One for all."""
        return torch.zeros(theta.shape[:-1], dtype=torch.int64, device=theta.device)

    def explain_loss_of_equilibrium(self, theta: Tensor) -> str:
        """Which of loss, gradient and metric has no value at one theta (P,)."""
        point, value = self.equilibrium(theta, theta), float(self.value(theta))
        bad = torch.nonzero(~torch.isfinite(point.gradient)).flatten().tolist()
        if not torch.isfinite(torch.tensor(value)):
            return f"the loss is {value}"
        if bad:
            name, slope = self._names[bad[0]], float(point.gradient[bad[0]])
            return f"the loss is {value:.6g} but its derivative in {name} is {slope}"
        return "the metric is not positive definite"

    def _gradient(self, leaf: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """The gradient (..., P) and the loss (...), rows together: none depends on another."""
        with torch.enable_grad():
            value = self._function(leaf)
            if not value.requires_grad:
                raise ProblemError(
                    f"{self!r}: the function's value does not depend on theta by differentiable "
                    "torch operations; write it with them, without detach, item or numpy."
                )
            return _derivative(value.sum(), leaf, create_graph=create_graph), value

    def _symmetric(self, metric: Tensor) -> Tensor:
        """The metric (..., P, P), found symmetric when it is first evaluated."""
        if self._unchecked:
            apart = (metric - metric.mT).abs().amax()
            if bool(apart > 1e-5 * metric.abs().amax()):
                raise ProblemError(
                    f"{self!r}: the metric is not symmetric; entries that should be equal are "
                    f"{float(apart):.3g} apart."
                )
            self._unchecked = False
        return metric

    def _residual(
        self, equilibrium: Equilibrium, backward: Backward
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Theta, grad L, less G g with g fixed for the natural gradient g, and G's factor."""
        point = _point(equilibrium, backward)
        leaf = point.theta.detach().requires_grad_()
        with torch.enable_grad():
            # Zero times theta: a constant has a derivative too.
            residual = self._gradient(leaf, create_graph=True)[0] + 0.0 * leaf
            if backward.exact or self._metric is None:
                return leaf, residual, None
            pushed = self._metric(leaf) @ point.direction[..., None]
            return leaf, residual - pushed[..., 0], point.factor


class _Rowwise:
    """A user's function of theta (P,) at one point or at rows.

    By vmap; where that fails, from then on one by one. A ``LinAlgError`` is no value: NaN.
    """

    def __init__(self, what: str, function: Callable[[Tensor], Tensor], shape: tuple[int, ...]):
        self._what, self._function, self._shape = what, function, shape
        self._together = True

    def __call__(self, theta: Tensor) -> Tensor:
        if theta.ndim == 1:
            return self._one(theta)
        if self._together:
            try:
                found: Tensor = torch.func.vmap(self._function)(theta)
                if found.shape == (len(theta), *self._shape) and not _is_coarser(found, theta):
                    return found.to(theta.dtype)
            except LinAlgError:  # of which row is only told one by one
                return self._each(theta)
            except Exception:  # told below, unless it is vmap that cannot
                pass
        found = self._each(theta)
        self._together = False
        return found

    def _each(self, theta: Tensor) -> Tensor:
        return torch.stack([self._one(row) for row in theta])

    def _one(self, theta: Tensor) -> Tensor:
        try:
            found: Any = self._function(theta)
        except LinAlgError:
            return theta.sum() * theta.new_full(self._shape, torch.nan)
        except Exception as error:
            raise ProblemError(
                f"the {self._what} {_called(self._function)} failed at theta = "
                f"{_told(theta)}: {type(error).__name__}: {error}. It is called with theta (P,), "
                "a tensor; where it has no value it must return NaN or infinity."
            ) from error
        if not isinstance(found, Tensor) or found.shape != self._shape or found.is_complex():
            got = (
                f"a {found.dtype} of shape {tuple(found.shape)}"
                if isinstance(found, Tensor)
                else f"a {type(found).__name__}"
            )
            raise ProblemError(
                f"the {self._what} {_called(self._function)} returned {got}; it must return a real "
                f"tensor of shape {self._shape} for a theta of shape {tuple(theta.shape)}."
            )
        if _is_coarser(found, theta):
            ours, theirs = (str(one.dtype).removeprefix("torch.") for one in (theta, found))
            raise ProblemError(
                f"the {self._what} {_called(self._function)} returned {theirs} for a theta of "
                f"{ours}; its rounding is coarser than a flow's tolerances. Make the tensors in it "
                f"with dtype=theta.dtype, or give Objective dtype={theirs!r}."
            )
        return found.to(theta.dtype)


def _is_coarser(found: Tensor, theta: Tensor) -> bool:
    """Whether a real floating-point tensor has fewer digits than theta."""
    return found.is_floating_point() and bool(
        torch.finfo(found.dtype).eps > torch.finfo(theta.dtype).eps
    )


def _derivative(outputs: Tensor, leaf: Tensor, along: Tensor | None = None, **how: bool) -> Tensor:
    """Vector-Jacobian product; zero where the outputs do not depend on the leaf."""
    try:
        found = torch.autograd.grad(outputs, leaf, along, materialize_grads=True, **how)[0]
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ProblemError(
            f"the objective could not be differentiated: {reason}. Its function must be twice "
            "differentiable by torch.autograd, its metric once."
        ) from error
    return found


def _solve(factor: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right, factor)


def _point(equilibrium: Equilibrium, backward: Backward) -> Point:
    if not backward.exact and backward != NATURAL:
        raise ProblemError(
            f'an objective has no backward "{backward.name}"; its gradient is exact, or natural '
            "where it has a metric."
        )
    assert isinstance(equilibrium, Point)
    return equilibrium


def _called(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _told(theta: Tensor) -> str:
    values = [f"{value:.6g}" for value in theta.detach()[:4].tolist()]
    return f"[{', '.join(values)}{', ...' if len(theta) > 4 else ''}]"
