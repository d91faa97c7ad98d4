"""A torch module as a pure function of a flat theta and inputs, and its derivatives."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gflow.equilibrium.layer import DEQLayer
from gflow.errors import GflowError, ProblemError


class ModuleFunction:
    """Theta (R, P) and inputs (n, ...) to outputs (R, n, o), with a copy of the module.

    Rows go together by :func:`torch.func.vmap`, or one by one where that cannot be done with it.

    Parameters
    ----------
    module : torch.nn.Module
        Its parameters that require gradients make up theta; what else it holds is frozen.

    Attributes
    ----------
    title : str
        The module's class.
    size : int
        P.
    initial : Tensor, shape (P,)
        The module's own parameters, float64 on the host.
    by_rows : bool
        Whether rows go one by one.
    """

    def __init__(self, module: nn.Module) -> None:
        self.title = type(module).__name__
        self._module = _copied(module)
        trained = [(n, p.detach()) for n, p in module.named_parameters() if p.requires_grad]
        self._shapes = {name: tuple(value.shape) for name, value in trained}
        self._sizes = [value.numel() for _, value in trained]
        self.size = sum(self._sizes)
        self.initial = torch.cat([value.reshape(-1).cpu().double() for _, value in trained])
        self.by_rows = any(isinstance(part, DEQLayer) for part in module.modules())
        self._casts: dict[tuple[torch.dtype, torch.device], nn.Module] = {}

    def labels(self) -> tuple[str, ...]:
        """One for each number of theta."""
        found: list[str] = []
        for name, shape in self._shapes.items():
            places = itertools.product(*(map(str, range(length)) for length in shape))
            found += [f"{name}[{','.join(place)}]" for place in places] if shape else [name]
        return tuple(found)

    def at(self, like: Tensor) -> nn.Module:
        """The module with what it holds in a tensor's dtype and on its device."""
        key = like.dtype, like.device
        if key not in self._casts:
            self._casts[key] = copy.deepcopy(self._module).to(like.device, like.dtype)
        return self._casts[key]

    def __call__(self, theta: Tensor, x: Tensor, own_inputs: bool = False) -> Tensor:
        """Outputs (R, n, o); with inputs (R, n, ...) if rows have their own.

        Raises
        ------
        ProblemError
            If the module fails, or returns something else than outputs (n, o) or (n,).
        """
        module = self.at(theta)
        if len(theta) > 1 and not self.by_rows:
            try:
                together = torch.func.vmap(
                    lambda row, inputs: self._one(module, row, inputs),
                    in_dims=(0, 0 if own_inputs else None),
                )
                found: Tensor = together(theta, x)
                return found
            except Exception:  # told below, unless it is vmap that cannot
                pass
        inputs = x if own_inputs else [x] * len(theta)
        rows = [self._one(module, row, one) for row, one in zip(theta, inputs, strict=True)]
        self.by_rows = self.by_rows or len(rows) > 1
        return torch.stack(rows)

    def _one(self, module: nn.Module, theta: Tensor, x: Tensor) -> Tensor:
        parts = zip(self._shapes.items(), torch.split(theta, self._sizes), strict=True)
        given = {name: part.view(shape) for (name, shape), part in parts}
        try:
            found: Any = torch.func.functional_call(module, given, (x,))
        except GflowError:
            raise
        except Exception as error:
            kind = str(x.dtype).removeprefix("torch.")
            raise ProblemError(
                f"the module {self.title} failed on inputs of shape {tuple(x.shape)} in {kind}: "
                f"{type(error).__name__}: {error}. It is called with x (n, ...) in the problem's "
                f'dtype; make tensors in it with dtype=x.dtype, or give Problem dtype="float32".'
            ) from error
        return self._checked(found, x)

    def _checked(self, found: Any, x: Tensor) -> Tensor:
        if not isinstance(found, Tensor) or found.ndim not in (1, 2) or len(found) != len(x):
            got = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ProblemError(
                f"the module {self.title} returned {got} for inputs of shape {tuple(x.shape)}; it "
                "must return a tensor (n, o), or (n,), with a row for each sample."
            )
        if found.dtype != x.dtype:
            ours, theirs = (str(one.dtype).removeprefix("torch.") for one in (x, found))
            raise ProblemError(
                f"the module {self.title} returned {theirs} for inputs of {ours}; make the tensors "
                f"in it with dtype=x.dtype."
            )
        return found[:, None] if found.ndim == 1 else found


def derivatives(
    outputs: Tensor,
    inputs: Sequence[Tensor],
    along: Tensor,
    *,
    create_graph: bool = False,
    together: bool = False,
) -> list[Tensor]:
    """Vector-Jacobian products with each input, along a batch (K, ...) if `together`.

    Raises
    ------
    ProblemError
        If torch cannot differentiate.
    """
    try:
        found = torch.autograd.grad(
            outputs,
            inputs,
            along,
            retain_graph=True,
            create_graph=create_graph,
            is_grads_batched=together,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ProblemError(
            f"the module could not be differentiated: {reason}. What it computes must be twice "
            "differentiable by torch.autograd."
        ) from error
    return list(found)


def derivatives_along(
    outputs: Tensor, inputs: Sequence[Tensor], along: Tensor, at_once: int
) -> list[Tensor]:
    """The same for each of many cotangents (K, ...): several `at_once` where vmap can do that."""
    if at_once > 1 and len(along) > 1:
        try:
            parts = [
                derivatives(outputs, inputs, some, together=True)
                for some in torch.split(along, at_once)
            ]
            return [torch.cat(found) for found in zip(*parts, strict=True)]
        except ProblemError:  # told below, unless it is vmap that cannot
            pass
    each = [derivatives(outputs, inputs, one) for one in along]
    return [torch.stack(found) for found in zip(*each, strict=True)]


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise ProblemError(
            f"the module {type(module).__name__} cannot be copied: {error}. Make it anew, and use "
            "it in nothing else before."
        ) from error
