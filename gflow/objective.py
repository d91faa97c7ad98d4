"""Losses that are any function of theta, with the ordinary gradient or a natural one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import NoReturn

import torch
from torch import Tensor

from gflow.errors import ProblemError
from gflow.losses import OneOutput
from gflow.models.base import Equilibrium
from gflow.models.point import NATURAL, PointModel
from gflow.problem import EXACT, ArrayLike, Problem, read_device, read_dtype

WIDTH = 256
"""Numbers that a function is taken to form of one theta, at least: 8,192 rows are a batch."""


class Objective(Problem):
    """A twice differentiable function of theta as the loss, for flows beyond DEQs.

    It goes wherever a :class:`gflow.Problem` goes, but has no data: no prediction, no evaluation
    set and none of the diagnostics of fixed points. Where loss or gradient are not finite, a flow
    or a descent ends with the status ``nonfinite``.

    Parameters
    ----------
    function : callable
        theta (P,), a tensor, to the loss, a tensor of shape (). Evaluated at rows by
        :func:`torch.func.vmap`, or one by one if that cannot be done with it.
    names : int or sequence of str
        The P parameters' names, or P alone: ``theta[0]``, ``theta[1]``, ...
    metric : callable, optional
        theta (P,) to G (P, P), symmetric and positive definite, differentiable. Flow and gradient
        descent then follow the natural gradient G^-1 grad L (Amari 1998, Natural gradient works
        efficiently in learning, eq. 2.3), which is what :meth:`gradient` and :meth:`jacobian` give;
        the loss, :meth:`hessian` and the sharpness stay those of L.
    smooth : bool
        False where kinks in the gradient would spoil methods of high order.
    dtype : torch.dtype or str
        ``float64`` (default) or ``float32``.
    device : str or torch.device
        Of theta; what the function holds must be there too.
    theta_target : array, shape (P,), optional
        A point to measure distances to; kept in the dataset.

    Raises
    ------
    ProblemError
        At construction if an argument is wrong. When it is first evaluated, if the function or
        the metric raises, returns another shape or fewer digits than theta has, or cannot be
        differentiated.

    Notes
    -----
    Two things are not refused, since they cannot be seen cheaply. Where the function is random
    (dropout, batches), or computes in fewer digits than `rtol` asks for, no step is small enough:
    they shrink until a limit of `stop` ends the flow. At a kink they shrink until it is crossed,
    those of high order most, which ``smooth=False`` keeps ``auto`` from; a kink on which the flow
    would come to rest, as that of abs(w) at 0, is like the former.

    Examples
    --------
    The scalar network of Kreisler et al. 2023 (Gradient descent monotonically decreases the
    sharpness of gradient flow solutions), at whose minima the sharpness is sum_i 1/w_i^2:

    >>> import gflow
    >>> network = gflow.Objective(lambda w: (w.prod() - 1) ** 2 / 2, names=["w1", "w2"])
    >>> tree = gflow.integrate(network, [2.0, 0.1], t_end=20, rtol=1e-8)
    >>> w = tree["flow"].theta[-1]
    >>> bool(abs(tree["flow"].sharpness[-1] - (1 / w**2).sum()) < 1e-6)
    True
    """

    model: PointModel

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        names: int | Sequence[str],
        *,
        metric: Callable[[Tensor], Tensor] | None = None,
        smooth: bool = True,
        dtype: torch.dtype | str = torch.float64,
        device: str | torch.device = "cpu",
        theta_target: ArrayLike | None = None,
    ) -> None:
        for what, given in (("function", function), ("metric", metric)):
            if not callable(given) and (what, given) != ("metric", None):
                raise ProblemError(f"{what} is {given!r}; it must be a function of theta (P,).")
        self.model = PointModel(function, _names(names), metric, smooth)
        self.loss_function = OneOutput(())
        self.backward = EXACT if metric is None else NATURAL
        self.dtype, self.device = read_dtype(dtype), read_device(device)
        self.inputs = torch.empty(0, 0, dtype=self.dtype, device=self.device)
        self.y = self.x.new_empty(0)
        self.theta_target = None if theta_target is None else self.theta(theta_target)

    @property
    def width(self) -> int:
        """Numbers that an evaluation at one theta is taken to form."""
        return max(WIDTH, self.n_parameters)

    def on(self, x: ArrayLike, y: ArrayLike) -> NoReturn:
        """Refuse: there are no data to exchange.

        Raises
        ------
        ProblemError
            Always.
        """
        raise ProblemError(
            f"{self.model!r} has no data and so no evaluation set; record another function of "
            "theta as one of the observables."
        )

    def predict(self, theta: ArrayLike, x: ArrayLike | None = None) -> NoReturn:
        """Refuse: a function of theta predicts nothing.

        Raises
        ------
        ProblemError
            Always.
        """
        raise ProblemError(f"{self.model!r} predicts nothing; its value is .loss(theta).")

    def loss(self, theta: ArrayLike) -> Tensor:
        """The function, shape () or (B,), whether finite or not."""
        return self._each(theta, self.model.value)

    def _checked(self, theta: Tensor, x: Tensor) -> Equilibrium:
        return self.model.equilibrium(theta, x)


def _names(names: int | Sequence[str]) -> list[str]:
    found: list[str] = []
    if isinstance(names, Integral):
        found = [f"theta[{index}]" for index in range(int(names))]
    elif isinstance(names, Iterable) and not isinstance(names, str):
        found = list(names)
    if not found or not all(isinstance(one, str) and one for one in found):
        raise ProblemError(
            f"names is {names!r}; it must be the list of the parameters' names, or their number."
        )
    if len(set(found)) < len(found):
        raise ProblemError(f"names is {found}; each must occur once.")
    return found
