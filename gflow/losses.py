"""Losses: functions of the model's outputs at all samples and of the targets.

Outputs have shape (..., n) where the model's output is a scalar, and (..., n, o) where it is a
vector; leading dimensions are rows of a batch of thetas. A new loss is one class and one line of
:data:`LOSSES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gflow.errors import ProblemError
from gflow.wording import did_you_mean

Bend = Callable[[Tensor], Tensor]
"""A direction of the outputs to that of the slope: linear and self-adjoint."""
LossFunction = Callable[[Tensor, Tensor], Tensor]


class Loss(ABC):
    """A loss of outputs (..., n, *shape).

    Parameters
    ----------
    shape : tuple of int
        Of one sample's output: () or (o,).
    """

    name: str
    classifies = False
    """Whether targets are classes, so that outputs have an accuracy."""
    quadratic = False
    """Whether it is the mean squared error, of which closed forms are known."""
    stackable = True
    """Whether rows of outputs may have targets of their own."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    @property
    def samples(self) -> int:
        """The dimension of the samples, counted from the end."""
        return -1 - len(self.shape)

    @abstractmethod
    def value(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss (...)."""

    @abstractmethod
    def slope(self, output: Tensor, target: Tensor) -> Tensor:
        """Its derivative in the outputs, of their shape."""

    @abstractmethod
    def curvature(self, output: Tensor, target: Tensor) -> Bend:
        """Its second derivative there, as a linear map of directions of the outputs."""

    def accuracy(self, output: Tensor, target: Tensor) -> Tensor:
        """Share (...) of the samples whose class is the most probable one."""
        raise NotImplementedError

    def read_targets(self, target: Tensor, samples: int) -> Tensor:
        """Targets as the loss wants them; a vector is read as (n, 1) where outputs are (n, 1).

        Raises
        ------
        ProblemError
            If they do not fit.
        """
        if self.shape == (1,) and target.ndim == 1:
            target = target[:, None]
        if target.shape != (samples, *self.shape):
            wanted = ", ".join(map(str, (samples, *self.shape)))
            kind = "a vector with one target per row" if not self.shape else f"of shape ({wanted})"
            raise ProblemError(
                f"y has shape {tuple(target.shape)} but x has {samples} rows; y must be {kind}."
            )
        return target


class MeanSquaredError(Loss):
    """(1/n) sum_i |yhat_i - y_i|^2, the square summed over the outputs, without 1/2."""

    name = "mse"
    quadratic = True

    def value(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss (...)."""
        square = (output - target) ** 2
        return (square.sum(-1) if self.shape else square).mean(-1)

    def slope(self, output: Tensor, target: Tensor) -> Tensor:
        """2 (yhat - y) / n."""
        return (output - target).mul_(2.0 / output.shape[self.samples])

    def curvature(self, output: Tensor, target: Tensor) -> Bend:
        """2 / n."""
        weight = 2.0 / output.shape[self.samples]
        return lambda direction: weight * direction


class CrossEntropy(Loss):
    """Mean of -log softmax(yhat_i) at the class y_i, an integer from 0 to o - 1."""

    name = "cross_entropy"
    classifies = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        if not shape or shape[0] < 2:
            raise ProblemError(
                "cross_entropy needs an output for each of at least 2 classes; with one output "
                "for two classes take the loss logistic."
            )

    def value(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss (...)."""
        chosen = self._places(output, target)
        logs = torch.log_softmax(output, -1)
        return -logs.gather(-1, chosen)[..., 0].mean(-1)

    def slope(self, output: Tensor, target: Tensor) -> Tensor:
        """(softmax(yhat) - e_y) / n."""
        slope = torch.softmax(output, -1)
        hit = torch.full_like(slope[..., :1], -1.0)
        return slope.scatter_add(-1, self._places(output, target), hit) / output.shape[-2]

    def curvature(self, output: Tensor, target: Tensor) -> Bend:
        """(diag(p) - p p^T) / n with p = softmax(yhat)."""
        p = torch.softmax(output, -1)

        def bend(direction: Tensor) -> Tensor:
            weighted = p * direction
            return (weighted - p * weighted.sum(-1, keepdim=True)) / output.shape[-2]

        return bend

    def accuracy(self, output: Tensor, target: Tensor) -> Tensor:
        """Share (...) of the samples whose class has the largest output."""
        return (output.argmax(-1) == target).to(output.dtype).mean(-1)

    def read_targets(self, target: Tensor, samples: int) -> Tensor:
        """Classes (n,) as integers."""
        return _classes(target, samples, self.shape[0])

    def _places(self, output: Tensor, target: Tensor) -> Tensor:
        return target.expand(output.shape[:-1])[..., None]


class Logistic(Loss):
    """Mean of log(1 + exp(-+yhat_i)), the minus for class 1, the plus for class 0."""

    name = "logistic"
    classifies = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        if shape not in ((), (1,)):
            raise ProblemError(
                f"logistic needs one output, not {shape[0]}; with an output for each class take "
                "the loss cross_entropy."
            )

    def value(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss (...)."""
        logs = torch.logaddexp((1.0 - 2.0 * target) * output, output.new_zeros(()))
        return (logs[..., 0] if self.shape else logs).mean(-1)

    def slope(self, output: Tensor, target: Tensor) -> Tensor:
        """(sigmoid(yhat) - y) / n."""
        return (torch.sigmoid(output) - target) / output.shape[self.samples]

    def curvature(self, output: Tensor, target: Tensor) -> Bend:
        """p (1 - p) / n with p = sigmoid(yhat)."""
        weight = torch.sigmoid(output) * torch.sigmoid(-output) / output.shape[self.samples]
        return lambda direction: weight * direction

    def accuracy(self, output: Tensor, target: Tensor) -> Tensor:
        """Share (...) of the samples on the right side of 0."""
        right = ((output > 0) == (target > 0.5)).to(output.dtype)
        return (right[..., 0] if self.shape else right).mean(-1)

    def read_targets(self, target: Tensor, samples: int) -> Tensor:
        """Classes 0 and 1 as numbers, (n, 1) where outputs are."""
        classes = _classes(target, samples, 2)
        dtype = target.dtype if target.is_floating_point() else torch.float64
        return classes.to(dtype)[:, None] if self.shape else classes.to(dtype)


class GivenLoss(Loss):
    """A user's twice differentiable function of outputs (n, *shape) and targets, by autograd.

    Parameters
    ----------
    function : callable
        Outputs and targets, as given, to a tensor of shape ().
    shape : tuple of int
    """

    stackable = False

    def __init__(self, function: LossFunction, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.name = str(getattr(function, "__name__", type(function).__name__))
        self._function = function

    def value(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss (...)."""
        lead = output.shape[: output.ndim + self.samples]
        rows = output.reshape(-1, *output.shape[len(lead) :])
        found = [self._checked(self._called(row, target), row) for row in rows]
        return torch.stack(found).reshape(lead)

    def slope(self, output: Tensor, target: Tensor) -> Tensor:
        """Its derivative in the outputs."""
        return self._graph(output, target)[1].detach()

    def curvature(self, output: Tensor, target: Tensor) -> Bend:
        """Its second derivative, by differentiating the slope once more."""
        leaf, slope = self._graph(output, target)

        def bend(direction: Tensor) -> Tensor:
            if not slope.requires_grad:
                return torch.zeros_like(direction)
            found = torch.autograd.grad(
                slope, leaf, direction, retain_graph=True, materialize_grads=True
            )
            return found[0]

        return bend

    def read_targets(self, target: Tensor, samples: int) -> Tensor:
        """Anything with one row a sample."""
        if target.ndim < 1 or len(target) != samples:
            raise ProblemError(
                f"y has shape {tuple(target.shape)} but x has {samples} rows; y must have one row "
                "for each."
            )
        return target

    def _graph(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        leaf = output.detach().requires_grad_()
        with torch.enable_grad():
            value = self.value(leaf, target)
            if not value.requires_grad:
                raise ProblemError(
                    f"the loss {self.name} does not depend on the outputs by differentiable torch "
                    "operations; write it with them, without detach, item or numpy."
                )
            (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
        return leaf, slope

    def _called(self, output: Tensor, target: Tensor) -> Any:
        try:
            return self._function(output, target)
        except Exception as error:
            raise ProblemError(
                f"the loss {self.name} failed for outputs of shape {tuple(output.shape)} and y of "
                f"shape {tuple(target.shape)}: {type(error).__name__}: {error}."
            ) from error

    def _checked(self, value: Any, output: Tensor) -> Tensor:
        if not isinstance(value, Tensor) or value.shape != () or value.is_complex():
            is_tensor = isinstance(value, Tensor)
            got = f"shape {tuple(value.shape)}" if is_tensor else f"a {type(value).__name__}"
            raise ProblemError(
                f"the loss {self.name} returned {got} for outputs of shape {tuple(output.shape)}; "
                "it must return a real tensor of shape (), the mean over the samples."
            )
        return value


class OneOutput(Loss):
    """The model's one output itself, which is a loss already."""

    name = "output"

    def value(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss (...)."""
        return output[..., 0]

    def slope(self, output: Tensor, target: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(output)

    def curvature(self, output: Tensor, target: Tensor) -> Bend:
        """None."""
        return torch.zeros_like


LOSSES: dict[str, type[Loss]] = {
    "mse": MeanSquaredError,
    "cross_entropy": CrossEntropy,
    "logistic": Logistic,
}


def parse_loss(loss: str | Loss | LossFunction, shape: tuple[int, ...]) -> Loss:
    """The loss of that name, or of a callable, for outputs of a shape.

    Raises
    ------
    ProblemError
        If it is neither, or does not go with the shape.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss](shape)
    if not isinstance(loss, str) and callable(loss):
        return GivenLoss(loss, shape)
    if isinstance(loss, str):
        raise ProblemError(f'loss "{loss}" is unknown{did_you_mean(loss, LOSSES)}')
    raise ProblemError(f"loss is {loss!r}; it must be a name or a function of outputs and targets.")


def _classes(target: Tensor, samples: int, count: int) -> Tensor:
    flat = target[:, 0] if target.ndim == 2 and target.shape[1] == 1 else target
    if flat.shape != (samples,):
        raise ProblemError(
            f"y has shape {tuple(target.shape)} but x has {samples} rows; y must be a vector with "
            "one class per row."
        )
    classes = flat.round().to(torch.int64)
    wrong = (classes != flat) | (classes < 0) | (classes >= count)
    if bool(wrong.any()):
        first = int(torch.nonzero(wrong)[0])
        raise ProblemError(
            f"y[{first}] is {float(flat[first]):g}; classes are the integers from 0 to {count - 1}."
        )
    return classes
