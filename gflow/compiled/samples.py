"""Roots and sums over the samples of ensembles of single-index DEQs, in C."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gflow.compiled.compiler import CannotCompileError, library, source_of, switched_off
from gflow.compiled.threads import divided

FEWEST = 2**14
"""Numbers from which passes over memory take most of the time."""
BLOCK = 4096
"""Samples of a row that go to one thread."""
SHARE = 128
"""Blocks, some milliseconds, that are worth a thread."""


class _Job(ctypes.Structure):
    """As ``samples.c`` has it."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "block", "inputs", "rows_of_x")),
        *((name, ctypes.c_double) for name in ("bend", "tolerance")),
        *((name, ctypes.c_void_p) for name in ("x", "theta", "upright", "steep", "start")),
        *((name, ctypes.c_void_p) for name in ("known_value", "known_slope", "output")),
        *((name, ctypes.c_void_p) for name in ("first", "second", "point", "value", "slope")),
        *((name, ctypes.c_void_p) for name in ("sums", "lost")),
    )


@lru_cache(maxsize=1)
def _library(near: float) -> ctypes.CDLL | None:
    try:
        made = library(source_of(("lanes.h", "samples.c"), {"NEAR": near}, {}))
    except CannotCompileError:
        return None
    for function in (made.track, made.pull, made.bend):
        function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        function.restype = None
    return made


def in_c(
    theta: Tensor,
    x: Tensor,
    sigma: tuple[float, float | Tensor] | None,
    near: float,
    *others: Tensor,
) -> Samples | None:
    """What C does for rows theta (B, d + 1) with inputs (n, d) or (B, n, d); None if it does not.

    Parameters
    ----------
    theta, x : Tensor
    sigma : pair, optional
        a and e, a number or (B, 1), where the activation is a s + e tanh(s).
    near : float
        The longest last step of Newton's iteration.
    others : Tensor
        What else it is to be asked with: like theta, all must be plain numbers on the host.
    """
    if sigma is None or theta.ndim != 2 or x.ndim not in (2, 3) or switched_off():
        return None
    numbers, d = len(theta) * x.shape[-2], x.shape[-1]
    fits = 0 < d == theta.shape[-1] - 1 and (x.ndim == 2 or len(x) == len(theta))
    laid = x.mT.is_contiguous() or (x.ndim == 2 and x.numel() <= numbers)
    if numbers < FEWEST or not (fits and laid and all(map(_is_plain, (theta, x, *others)))):
        return None
    functions = _library(near)
    return None if functions is None else Samples(functions, theta, x, sigma)


def _is_plain(tensor: Tensor) -> bool:
    """Whether it holds doubles on the host, of which no derivative is wanted."""
    plain = tensor.dtype == torch.float64 and tensor.device.type == "cpu"
    return plain and not tensor.requires_grad


@dataclass(frozen=True)
class Samples:
    """Samples of single-index DEQs with sigma(s) = a s + e tanh(s), one theta a row.

    With J = theta2 sigma', r = 1 / (1 - J), p = sigma' r and W = (x, y).
    """

    functions: ctypes.CDLL
    theta: Tensor
    x: Tensor
    sigma: tuple[float, float | Tensor]

    def track(
        self,
        start: Tensor | None,
        known: tuple[Tensor, Tensor] | None,
        bend: float,
        tolerance: float,
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Roots s (B, n) of s - theta1 . x - theta2 sigma(s) near a start, sigma and sigma' there.

        As :func:`gflow.equilibrium.solvers.tracking_newton`, each few samples by themselves; None
        if one was not reached. A start of None is theta1 . x; `known` has sigma and sigma' there.
        """
        shape = len(self.theta), self.x.shape[-2]
        names = ("point", "value", "slope")
        held = {name: torch.empty(shape, dtype=self.theta.dtype) for name in names}
        if start is not None:
            held["start"] = start.expand(shape).contiguous()
        if known is not None:
            held["known_value"], held["known_slope"] = (k.expand(shape).contiguous() for k in known)
        lost = np.zeros(self._parts, dtype=bool)
        self._call("track", held, bend=bend, tolerance=tolerance, lost=lost.ctypes.data)
        return None if lost.any() else (held["point"], held["value"], held["slope"])

    def pull(self, output: Tensor, first: Tensor, slope: Tensor) -> Tensor:
        """sum_i c_i p_i W_i (B, d + 1), the exact gradient for c = `first`, the loss's slope."""
        return self._sums("pull", (), output=output, first=first, known_slope=slope)

    def bend(
        self, point: Tensor, output: Tensor, first: Tensor, second: Tensor, slope: Tensor
    ) -> Tensor:
        """Its Jacobian (B, d + 1, d + 1): sum_i alpha W W^T + beta (W e_P^T + e_P W^T).

        alpha = c2 p^2 + c sigma'' r^3 and beta = c p^2, see :mod:`gflow.models.single_index`.
        """
        given = {"first": first, "second": second, "known_slope": slope}
        size = self.x.shape[-1] + 1
        return self._sums("bend", (size,), start=point, output=output, **given)

    @property
    def _parts(self) -> int:
        """Blocks of all rows."""
        return len(self.theta) * -(-self.x.shape[-2] // BLOCK)

    def _sums(self, name: str, columns: tuple[int, ...], **given: Tensor) -> Tensor:
        """What a function sums over the blocks of each row."""
        shape = len(self.theta), self.x.shape[-2]
        held = {key: tensor.expand(shape).contiguous() for key, tensor in given.items()}
        size = (self._parts, self.x.shape[-1] + 1, *columns)
        held["sums"] = torch.empty(size, dtype=self.theta.dtype)
        self._call(name, held)
        return held["sums"].view(len(self.theta), -1, *size[1:]).sum(1)

    def _call(self, name: str, held: dict[str, Tensor], **numbers: float) -> None:
        (n, d), own = self.x.shape[-2:], len(self.x) if self.x.ndim == 3 else 1
        each = self.theta[:, 0]
        held |= {
            "x": self.x.mT.contiguous(),
            "theta": self.theta.contiguous(),
            "upright": torch.full_like(each, self.sigma[0]),
            "steep": torch.as_tensor(self.sigma[1], dtype=each.dtype).reshape(-1).expand_as(each),
        }
        held["steep"] = held["steep"].contiguous()
        pointers = {key: tensor.data_ptr() for key, tensor in held.items()}
        job = _Job(n, BLOCK, d, own, **pointers, **numbers)
        divided(getattr(self.functions, name), job, held, self._parts, SHARE)
