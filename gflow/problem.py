"""A problem: model + data + loss over a flat theta."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.compiled.inputs import Inputs, OwnInputs
from gflow.equilibrium.adjoint import Backward, parse_backward
from gflow.errors import EquilibriumError, ProblemError
from gflow.losses import Bend, Loss, LossFunction, parse_loss
from gflow.models.base import Equilibrium, Model, Moments
from gflow.status import Status

ArrayLike = Any
"""Whatever :func:`numpy.asarray` reads, or a torch tensor."""

CHUNK = 2**21
"""Elements (batch x samples) evaluated at once; bounds the memory of a batched call."""

EXACT = parse_backward("exact")


@dataclass(frozen=True)
class Evaluation:
    """The gradient at theta (..., P) and what it took.

    Attributes
    ----------
    gradient : Tensor, shape (..., P)
        What the chosen backward gives; the gradient of the loss only for ``exact``.
    equilibrium : Equilibrium
        Carries the warm start of the next evaluation.
    """

    gradient: Tensor
    equilibrium: Equilibrium


class Problem:
    """A loss of a model on data; by default the mean squared error (1/n) sum_i |y(x_i) - y_i|^2.

    Every method takes one theta (P,) or a batch (B, P). Where the equilibrium does not exist or is
    not unique, one theta raises :class:`gflow.errors.EquilibriumError` and a batch holds NaN.

    Parameters
    ----------
    model : Model
        E.g. ``LinearDEQ(dim=1)``.
    x : array, shape (n, d)
        Inputs; a vector is read as (n, 1). A module takes any shape (n, ...).
    y : array, shape (n,) or (n, o)
        Targets: numbers, or classes where the loss classifies.
    loss : str or callable
        ``mse`` (no 1/2), ``cross_entropy`` or ``logistic``, see :mod:`gflow.losses`; or a twice
        differentiable function of the outputs, (n,) or (n, o), and y that returns their mean loss.
    backward : str
        How the implicit gradient is formed, see :mod:`gflow.equilibrium.adjoint`.
    dtype : torch.dtype or str
        ``float64`` (default) or ``float32``.
    device : str or torch.device
        E.g. ``"cpu"``, ``"cuda"``.
    theta_target : array, shape (P,), optional
        The parameters that generated the data, if known; kept in the dataset.

    Raises
    ------
    ProblemError
        If shapes do not fit, a value is not finite, or the device or dtype cannot be had.
    """

    def __init__(
        self,
        model: Model,
        x: ArrayLike,
        y: ArrayLike,
        *,
        loss: str | Loss | LossFunction = "mse",
        backward: str | Backward = "exact",
        dtype: torch.dtype | str = torch.float64,
        device: str | torch.device = "cpu",
        theta_target: ArrayLike | None = None,
    ) -> None:
        self.model = model
        self.backward = parse_backward(backward)
        model.check_backward(self.backward)
        self.dtype = read_dtype(dtype)
        self.device = read_device(device)
        self.inputs: Inputs = self._inputs(x)  # only then a module tells its outputs
        self.loss_function = parse_loss(loss, model.output_shape)
        self.y = self._targets(y)
        self.theta_target = None if theta_target is None else self.theta(theta_target)

    @property
    def x(self) -> Tensor:
        """Inputs (n, ...), or (B, n, ...) where each row of a batch has its own."""
        return self.inputs.together if isinstance(self.inputs, OwnInputs) else self.inputs

    @property
    def n_parameters(self) -> int:
        """P, the length of theta."""
        return self.model.n_parameters

    @property
    def n_samples(self) -> int:
        """n, the number of samples."""
        return int(self.inputs.shape[-1 - len(self.model.input_shape)])

    @property
    def own_inputs(self) -> bool:
        """Whether each row of a batch has inputs of its own, as in a stack of problems."""
        return self.inputs.ndim > 1 + len(self.model.input_shape)

    @property
    def width(self) -> int:
        """Numbers that an evaluation at one theta forms; bounds how many go together."""
        return max(self.n_samples * self.model.sample_width, self.n_parameters)

    def select(self, rows: Tensor) -> Problem:
        """The problem of some rows of a batch: itself, unless it is a stack of problems."""
        return self

    def on(self, x: ArrayLike, y: ArrayLike) -> Problem:
        """The same problem on other data, e.g. an evaluation set."""
        return Problem(
            self.model,
            x,
            y,
            loss=self.loss_function,
            backward=self.backward,
            dtype=self.dtype,
            device=self.device,
        )

    def theta(self, value: ArrayLike) -> Tensor:
        """Read parameters (P,) or (B, P) onto the problem's device.

        Raises
        ------
        ProblemError
            If the last dimension is not P or there are more than two.
        """
        tensor = _tensor(value, "theta", self.dtype, self.device)
        if tensor.ndim == 2 and not len(tensor):
            raise ProblemError("theta has no rows; an ensemble needs at least one.")
        if tensor.ndim not in (1, 2) or tensor.shape[-1] != self.n_parameters:
            raise ProblemError(
                f"theta has shape {tuple(tensor.shape)}; {self.model!r} needs (P,) or (B, P) with "
                f"P = {self.n_parameters}: {', '.join(_abbreviate(self.model.parameter_names))}."
            )
        return tensor

    def predict(self, theta: ArrayLike, x: ArrayLike | None = None) -> Tensor:
        """The output at the problem's inputs or at others: (n,) or (n, o), or rows of it."""
        inputs = self.x if x is None else self._inputs(x)
        return self._each(theta, lambda t: self._checked(t, inputs).output)

    def loss(self, theta: ArrayLike) -> Tensor:
        """The loss, shape () or (B,)."""
        return self._each(theta, lambda t: self.loss_at(self._checked(t, self.x)))

    def gradient(self, theta: ArrayLike, backward: str | Backward | None = None) -> Tensor:
        """The gradient that `backward` (default: the problem's) gives, shape (P,) or (B, P)."""
        chosen = self.backward if backward is None else parse_backward(backward)
        return self._each(theta, lambda t: self.gradient_at(self._checked(t, self.x), chosen))

    def loss_and_gradient(self, theta: ArrayLike) -> tuple[Tensor, Tensor]:
        """Both for one equilibrium solve."""
        tensor = self.theta(theta)
        pairs = []
        for chunk in self._chunks(tensor):
            equilibrium = self._checked(chunk, self.x)
            pairs.append((self.loss_at(equilibrium), self.gradient_at(equilibrium)))
        losses, gradients = zip(*pairs, strict=True)
        return _join(list(losses)), _join(list(gradients))

    def hessian(self, theta: ArrayLike) -> Tensor:
        """Exact Hessian of the loss, shape (P, P) or (B, P, P), whatever the backward."""
        return self.jacobian(theta, EXACT)

    def hvp(self, theta: ArrayLike, vector: ArrayLike) -> Tensor:
        """Hessian-vector product without the Hessian, shape of `vector`."""
        return self.jvp(theta, vector, EXACT)

    def jacobian(self, theta: ArrayLike, backward: str | Backward | None = None) -> Tensor:
        """Jacobian of :meth:`gradient`; symmetric only for the exact backward."""
        chosen = self.backward if backward is None else parse_backward(backward)
        return self._each(
            theta,
            lambda t: self.jacobian_at(self._checked(t, self.x), chosen),
            cost=self.n_parameters,
        )

    def jvp(
        self, theta: ArrayLike, vector: ArrayLike, backward: str | Backward | None = None
    ) -> Tensor:
        """Product of :meth:`jacobian` with a vector of theta's shape, without forming it."""
        chosen = self.backward if backward is None else parse_backward(backward)
        tensor, along = self.theta(theta), self.theta(vector)
        if along.shape != tensor.shape:
            raise ProblemError(
                f"vector has shape {tuple(along.shape)} but theta {tuple(tensor.shape)}."
            )
        chunks = zip(self._chunks(tensor), self._chunks(along), strict=True)
        return _join([self.jvp_at(self._checked(t, self.x), v, chosen) for t, v in chunks])

    def evaluate(self, theta: Tensor, warm: Tensor | None = None) -> Evaluation:
        """The gradient from a warm start; never raises for a value of theta.

        Parameters
        ----------
        theta : Tensor, shape (P,) or (B, P)
            On the problem's device, in its dtype.
        warm : Tensor, shape (n,) or (B, n), optional
            ``equilibrium.preactivation`` of a nearby theta.
        """
        equilibrium = self.model.equilibrium(theta, self.x, warm)
        return Evaluation(self.gradient_at(equilibrium), equilibrium)

    def loss_at(self, equilibrium: Equilibrium) -> Tensor:
        """The loss (...) at solved equilibria."""
        return self.loss_function.value(equilibrium.output, self.y)

    def gradient_at(self, equilibrium: Equilibrium, backward: Backward | None = None) -> Tensor:
        """The gradient (..., P) that `backward` (default: the problem's) gives there."""
        slope = self._slope(equilibrium)
        return self.model.pullback(equilibrium, self.x, slope, backward or self.backward)

    def jacobian_at(self, equilibrium: Equilibrium, backward: Backward | None = None) -> Tensor:
        """The Jacobian (..., P, P) of that gradient."""
        chosen = backward or self.backward
        if self._of_squares(chosen):
            found = self.model.fit_jacobian(equilibrium, self.inputs, self.y)
            if found is not None:
                return found
        slope, bend = self._slope(equilibrium), self._bend(equilibrium)
        return self.model.pullback_jacobian(equilibrium, self.x, slope, bend, chosen)

    def jvp_at(
        self, equilibrium: Equilibrium, vector: Tensor, backward: Backward | None = None
    ) -> Tensor:
        """The product (..., P) of that Jacobian with a vector."""
        slope, bend = self._slope(equilibrium), self._bend(equilibrium)
        return self.model.pullback_jvp(
            equilibrium, self.x, slope, bend, backward or self.backward, vector
        )

    def accuracy_at(self, equilibrium: Equilibrium) -> Tensor:
        """Share (...) of the samples that are classified rightly, where the loss classifies."""
        return self.loss_function.accuracy(equilibrium.output, self.y)

    def fit(
        self, theta: Tensor, warm: Tensor | Equilibrium | None = None
    ) -> tuple[Equilibrium, Tensor] | None:
        """Equilibrium and gradient at rows, where the model has both in one pass over the data."""
        known = self._of_squares(self.backward)
        return self.model.fit(theta, self.inputs, self.y, warm) if known else None

    def moments(self) -> Moments | None:
        """What the exact gradient needs to know of the data, where that is less than all of it."""
        known = self._of_squares(self.backward) and self.model.compressible
        return self.model.moments(self.x, self.y) if known else None

    def _of_squares(self, backward: Backward) -> bool:
        """Whether that backward gives the exact gradient of the mean squared error."""
        return backward.exact and self.loss_function.quadratic

    def _slope(self, equilibrium: Equilibrium) -> Tensor:
        """The loss's derivative in the outputs."""
        return self.loss_function.slope(equilibrium.output, self.y)

    def _bend(self, equilibrium: Equilibrium) -> Bend:
        """Its second derivative."""
        return self.loss_function.curvature(equilibrium.output, self.y)

    def _checked(self, theta: Tensor, x: Tensor) -> Equilibrium:
        equilibrium = self.model.equilibrium(theta, x)
        if theta.ndim == 1 and not bool(equilibrium.valid):
            reason = self.model.explain_loss_of_equilibrium(theta)
            if self.model.lost is Status.NONFINITE:
                raise EquilibriumError(f"No finite value: {reason}. Choose another theta.")
            raise EquilibriumError(
                f"No equilibrium: {reason}. Choose a theta inside the region where it is unique."
            )
        return equilibrium

    def _each(
        self, theta: ArrayLike, function: Callable[[Tensor], Tensor], cost: int = 1
    ) -> Tensor:
        return _join([function(chunk) for chunk in self._chunks(self.theta(theta), cost)])

    def _chunks(self, theta: Tensor, cost: int = 1) -> Iterator[Tensor]:
        if theta.ndim == 1:
            return iter((theta,))
        return iter(torch.split(theta, max(1, CHUNK // (self.width * cost))))

    def _inputs(self, x: ArrayLike) -> Tensor:
        return self.model.read_inputs(_finite(_tensor(x, "x", self.dtype, self.device), "x"))

    def _targets(self, y: ArrayLike) -> Tensor:
        if self.loss_function.classifies and _holds_words(y):
            raise ProblemError(
                "y holds classes that are no numbers; number them from 0 on, such as by "
                "numpy.unique(y, return_inverse=True)[1]."
            )
        targets = _finite(_tensor(y, "y", self.dtype, self.device), "y")
        return self.loss_function.read_targets(targets, len(self.x))


def _holds_words(y: ArrayLike) -> bool:
    try:
        return not isinstance(y, Tensor) and np.asarray(y).dtype.kind in "SU"
    except ValueError:  # ragged, which is told with the rest
        return False


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _abbreviate(names: tuple[str, ...]) -> tuple[str, ...]:
    return names if len(names) <= 4 else (names[0], "...", *names[-2:])


def read_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """The dtype of that name, a :class:`ProblemError` if it is neither float64 nor float32."""
    known = {"float64": torch.float64, "float32": torch.float32}
    found = known.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in known.values():
        raise ProblemError(f"dtype is {dtype}; it must be float64 or float32.")
    return found


def read_device(device: str | torch.device) -> torch.device:
    """The device of that name, a :class:`ProblemError` if it cannot be had."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ProblemError(
            f'device "{device}" cannot be used: {reason.rstrip(".")}. Try "cpu".'
        ) from None
    return found


def _tensor(value: ArrayLike, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    tensor = value.detach().clone() if isinstance(value, Tensor) else _from_array(value, name)
    if tensor.is_complex():
        raise ProblemError(f"{name} is complex; gflow integrates real parameters.")
    return tensor.to(dtype=dtype, device=device)


def _from_array(value: ArrayLike, name: str) -> Tensor:
    if np.ma.is_masked(value):
        raise ProblemError(f"{name} has masked values; remove or fill them.")
    try:
        array = np.asarray(value)
        if array.dtype.kind in "mM":
            raise ProblemError(f"{name} holds dates or durations; give numbers.")
        kind = np.complex128 if np.iscomplexobj(array) else np.float64
        return torch.from_numpy(np.array(array, dtype=kind))
    except (TypeError, ValueError) as error:
        raise ProblemError(f"{name} cannot be read as an array of numbers: {error}.") from None


def _finite(tensor: Tensor, name: str) -> Tensor:
    bad = ~torch.isfinite(tensor)
    if bool(bad.any()):
        place = tuple(int(i) for i in torch.nonzero(bad)[0])
        raise ProblemError(
            f"{name} has {int(bad.sum())} values that are not finite, the first at {place}; "
            "remove or fill them."
        )
    return tensor
