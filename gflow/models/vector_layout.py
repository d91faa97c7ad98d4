"""How the blocks of a vector DEQ lie in a flat theta, and what those that are not in it are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.errors import ProblemError
from gflow.wording import did_you_mean

BLOCKS = ("W", "U", "b", "C", "c")


@dataclass(frozen=True)
class Blocks:
    """z = sigma(W z + U x + b), output C z + c; leading dimensions are rows of thetas.

    Attributes
    ----------
    W : Tensor, shape (..., m, m)
    U : Tensor, shape (..., m, d)
    b : Tensor, shape (..., m)
    C : Tensor, shape (..., o, m)
    c : Tensor, shape (..., o)
    """

    W: Tensor
    U: Tensor
    b: Tensor
    C: Tensor
    c: Tensor

    def drive(self, x: Tensor) -> Tensor:
        """U x + b, shape (..., n, m)."""
        return x @ self.U.mT + self.b[..., None, :]

    def read(self, z: Tensor) -> Tensor:
        """C z + c, shape (..., n, o)."""
        return z @ self.C.mT + self.c[..., None, :]


class Layout:
    """The trained blocks, one after the other, each row by row, in the order W, U, b, C, c.

    Parameters
    ----------
    dim, width, outputs : int
        d, m and o.
    train : sequence of str
        Names of the trained blocks.
    fixed : mapping of str to array
        Values of others. Unless given, b and c are 0 and C, if o = m, is the identity.

    Raises
    ------
    ProblemError
        If a name is unknown, a block is both or neither, or a value does not fit.
    """

    def __init__(
        self, dim: int, width: int, outputs: int, train: Sequence[str], fixed: Mapping[str, Any]
    ) -> None:
        sizes = ((width, width), (width, dim), (width,), (outputs, width), (outputs,))
        self.shapes = dict(zip(BLOCKS, sizes, strict=True))
        self.train = self._trained(train)
        self.fixed = {name: self._value(name, fixed) for name in BLOCKS if name not in self.train}
        for name in fixed:
            _known(name)
            if name in self.train:
                raise ProblemError(
                    f"block {name} is both trained and fixed; leave it out of one of the two."
                )
        self.names = tuple(
            f"{name}[{','.join(map(str, place))}]"
            for name in self.train
            for place in product(*map(range, self.shapes[name]))
        )

    def split(self, theta: Tensor) -> Blocks:
        """The blocks at theta (..., P); fixed ones have no leading dimensions."""
        return Blocks(**self._parts(theta), **self._constants(theta, 1.0))

    def direction(self, vector: Tensor) -> Blocks:
        """The blocks of a direction (..., P) of theta: fixed ones are 0."""
        return Blocks(**self._parts(vector), **self._constants(vector, 0.0))

    def join(self, blocks: Mapping[str, Tensor]) -> Tensor:
        """The trained ones of some blocks, side by side, (..., P)."""
        parts = [blocks[name].flatten(-len(self.shapes[name])) for name in self.train]
        return torch.cat(parts, -1)

    def _parts(self, theta: Tensor) -> dict[str, Tensor]:
        counts = [prod(self.shapes[name]) for name in self.train]
        parts = zip(self.train, torch.split(theta, counts, -1), strict=True)
        return {name: part.reshape(*theta.shape[:-1], *self.shapes[name]) for name, part in parts}

    def _constants(self, like: Tensor, factor: float) -> dict[str, Tensor]:
        return {name: factor * torch.from_numpy(v).to(like) for name, v in self.fixed.items()}

    def _trained(self, train: Sequence[str]) -> tuple[str, ...]:
        names = [train] if isinstance(train, str) else list(train)
        for name in names:
            _known(name)
        if not names:
            raise ProblemError("train is empty; name at least one of the blocks W, U, b, C, c.")
        return tuple(name for name in BLOCKS if name in names)

    def _value(self, name: str, fixed: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        shape = self.shapes[name]
        if name in fixed:
            value = _array(name, fixed[name])
            if value.shape != shape or not np.isfinite(value).all():
                raise ProblemError(
                    f"fixed block {name} has shape {value.shape}; it must be {shape}, with finite "
                    "values."
                )
            return value
        if name in ("b", "c"):
            return np.zeros(shape)
        if name == "C" and shape[0] == shape[1]:
            return np.eye(shape[0])
        raise ProblemError(
            f"block {name} is neither trained nor fixed; add it to train, or give its values "
            f"{shape} in fixed."
        )


def _array(name: str, given: Any) -> np.ndarray[Any, Any]:
    try:
        return np.array(given.tolist() if isinstance(given, Tensor) else given, dtype=float)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"fixed block {name} is no array of numbers: {error}.") from None


def _known(name: str) -> None:
    if name not in BLOCKS:
        raise ProblemError(f'block "{name}" is unknown{did_you_mean(name, BLOCKS)}')
