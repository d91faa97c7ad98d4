"""What a model owes to the rest of gflow.

Contract
--------
1. A model holds no parameters: it is a pure function of a flat ``theta`` with any leading batch
   shape ``(..., P)`` and of inputs ``x (n, d)``.
2. ``equilibrium`` never raises for a value of theta: rows without a unique, finite equilibrium are
   marked in ``Equilibrium.valid`` and hold NaN.
3. ``pullback`` is linear in the cotangent dL/dy; the loss belongs to the problem, which gives its
   slope ``first`` at the outputs and its second derivative ``second`` there as a linear map.
4. ``pullback_jacobian`` and ``pullback_jvp`` differentiate exactly what ``pullback`` returns, for
   every backward: the field's true Jacobian, a Hessian only for ``exact``.
5. Inputs may have a batch shape too, (..., n, d), one data set for each theta.
6. Outputs are scalars, ``Equilibrium.output (..., n)``, or vectors, ``(..., n, o)``: as
   ``output_shape`` says, () or (o,); cotangents have the same shape.
7. ``branch`` labels solution branches: a continuous trajectory can never change it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gflow.compiled.inputs import Inputs
from gflow.compiled.kernel import Kernel
from gflow.equilibrium.adjoint import Backward
from gflow.errors import ProblemError
from gflow.losses import Bend
from gflow.status import Status

Moments = tuple[Tensor, Tensor]
"""Second moments of the inputs, and of inputs and targets, in a form that the model chooses."""


@dataclass(frozen=True)
class Equilibrium:
    """The solved fixed point at theta (..., P) for all n inputs.

    Attributes
    ----------
    theta : Tensor, shape (..., P)
    output : Tensor, shape (..., n) or (..., n, o)
        The prediction y.
    preactivation : Tensor, shape (..., *)
        The warm start of the next solve; for a single-index DEQ s with y = sigma(s), (..., n).
    slope : Tensor, broadcastable to the preactivation
        sigma'(s).
    valid : Tensor of bool, shape (...)
        Whether the equilibrium exists, is unique and was reached.
    """

    theta: Tensor
    output: Tensor
    preactivation: Tensor
    slope: Tensor
    valid: Tensor


class Model(ABC):
    """A DEQ: parameters and an input define an output by a fixed-point equation."""

    name: str
    dim: int
    output_shape: tuple[int, ...] = ()
    """Of one sample's output: () for a number, (o,) for a vector."""
    sample_width = 1
    """Numbers that an evaluation at one theta forms of each sample; bounds how many go together."""
    conserves_sphere = False
    """Whether every flow keeps `sphere_radius` constant, as the linear DEQ's do."""
    one_by_one = False
    """Whether rows, and products with vectors, are evaluated one after another."""
    smooth = True
    """Whether gradients are smooth in theta, so that methods of high order pay."""
    diagnostics: tuple[str, ...] = (
        "sphere_radius",
        "singular_distance",
        "conditioning",
        "equilibrium_residual",
    )
    """Which of those that only the model can give it does give; the others are not stored."""
    compressible = False
    """Whether :meth:`moments` are all that the mean squared error's gradient needs of the data."""
    lost = Status.EQUILIBRIUM_LOST
    """What it means for a run that a theta is not valid."""

    def followed(self, theta: Tensor) -> Tensor:
        """Mask (B,) of the rows that may have several equilibria: which one, the path decides.

        Along a run they are solved one after another, each from the one before.
        """
        return torch.zeros(theta.shape[:-1], dtype=torch.bool, device=theta.device)

    def continued(self, solved: Equilibrium, warm: Tensor | Equilibrium) -> Tensor | None:
        """Mask (...) of the rows that are on the branch of their warm start.

        None, as by default, if that cannot be otherwise.
        """
        return None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample's input."""
        return (self.dim,)

    def read_inputs(self, x: Tensor) -> Tensor:
        """Inputs (n, *input_shape), laid out as the model likes them.

        Raises
        ------
        ProblemError
            If they have another shape.
        """
        inputs = x[:, None] if x.ndim == 1 and self.dim == 1 else x
        if inputs.ndim != 2 or inputs.shape[1] != self.dim or inputs.shape[0] < 1:
            raise ProblemError(
                f"x has shape {tuple(inputs.shape)}; {self!r} needs (n, d) with n >= 1 "
                f"and d = {self.dim}."
            )
        return inputs.mT.contiguous().mT  # products along the samples are faster, one row a feature

    def check_backward(self, backward: Backward) -> None:  # noqa: B027, nothing is refused here
        """Refuse a backward that the model does not have.

        Raises
        ------
        ProblemError
            With the reason; by default every backward is known.
        """

    @property
    @abstractmethod
    def parameter_names(self) -> tuple[str, ...]:
        """Labels of the flat theta, length P."""

    @property
    def n_parameters(self) -> int:
        """P, the length of theta."""
        return len(self.parameter_names)

    @property
    def family(self) -> object:
        """Models of equal family can be stacked; by default those written alike."""
        return repr(self)

    def stack(self, models: Sequence[Model], like: Tensor) -> Model:
        """One model whose row i is models[i], all of this one's family; tensors like `like`."""
        return self

    def select(self, rows: Tensor) -> Model:
        """The model of some rows (K,) of a batch."""
        return self

    @abstractmethod
    def equilibrium(
        self, theta: Tensor, x: Tensor, warm: Tensor | Equilibrium | None = None
    ) -> Equilibrium:
        """Solve the fixed point.

        `warm` is a first guess of the preactivation (..., n), or the equilibrium that it is from.
        """

    def fit(
        self, theta: Tensor, x: Inputs, y: Tensor, warm: Tensor | Equilibrium | None = None
    ) -> tuple[Equilibrium, Tensor] | None:
        """The equilibrium at rows and the exact gradient (B, P) of the mean squared error there.

        None, as by default, where one pass over the data for both is not better than two.
        """
        return None

    def fit_jacobian(self, solved: Equilibrium, x: Inputs, y: Tensor) -> Tensor | None:
        """The Jacobian (B, P, P) of that gradient, or None, as by default."""
        return None

    def moments(self, x: Tensor, y: Tensor) -> Moments:
        """What the exact gradient of the mean squared error needs to know of the data."""
        raise NotImplementedError

    def gradient_from_moments(self, theta: Tensor, moments: Moments) -> Tensor:
        """The gradient (B, P) at rows; not finite where there is no equilibrium."""
        raise NotImplementedError

    def kernel(self, moments: Moments, weight_decay: float) -> Kernel | None:
        """Minus that gradient and weight_decay theta, as C; None if there is no such form."""
        return None

    def residual(self, equilibrium: Equilibrium, x: Tensor) -> Tensor:
        """Largest residual of the original equation over the inputs, shape (...)."""
        raise NotImplementedError

    def adjoint_residual(self, equilibrium: Equilibrium) -> Tensor:
        """Largest relative residual (...) of the adjoint equation that was solved there last."""
        raise NotImplementedError

    def conditioning(self, equilibrium: Equilibrium) -> Tensor:
        """Smallest |1 - J| over the inputs, shape (...); 0 where the gradient is singular."""
        raise NotImplementedError

    def sample_conditioning(self, equilibrium: Equilibrium) -> Tensor | None:
        """The same of each input, (..., n), or (..., 1) if one for all; None where unknown."""
        return None

    @abstractmethod
    def pullback(
        self, equilibrium: Equilibrium, x: Tensor, cotangent: Tensor, backward: Backward
    ) -> Tensor:
        """Sum over inputs of cotangent * dy/dtheta, shape (..., P)."""

    @abstractmethod
    def pullback_jacobian(
        self, equilibrium: Equilibrium, x: Tensor, first: Tensor, second: Bend, backward: Backward
    ) -> Tensor:
        """Jacobian (..., P, P) of the pullback with first = dL/dy and second = d2L/dy2.

        A model of scalar outputs may take the loss as separable: second(1) is its diagonal.
        """

    @abstractmethod
    def pullback_jvp(
        self,
        equilibrium: Equilibrium,
        x: Tensor,
        first: Tensor,
        second: Bend,
        backward: Backward,
        vector: Tensor,
    ) -> Tensor:
        """The product of that Jacobian with a vector (..., P), without forming it."""

    @abstractmethod
    def branch(self, theta: Tensor) -> Tensor:
        """Integer label (...) of the solution branch."""

    def invariants(self, theta: Tensor) -> dict[str, Tensor]:
        """What the exact gradient flow conserves, by name, each of shape (..., k); none here."""
        return {}

    def sphere_radius(self, theta: Tensor) -> Tensor:
        """Distance (...) to the centre of the model's conserved sphere, or what stands for it."""
        raise NotImplementedError

    def singular_distance(self, theta: Tensor) -> Tensor:
        """Distance (...) to the nearest theta at which the equilibrium may be lost."""
        raise NotImplementedError

    def explain_loss_of_adjoint(self, equilibrium: Equilibrium) -> str:
        """Why the gradient at one theta (P,) has no value though the equilibrium has; or empty."""
        return ""

    @abstractmethod
    def explain_loss_of_equilibrium(self, theta: Tensor) -> str:
        """One sentence on why one theta (P,) has no valid equilibrium."""
