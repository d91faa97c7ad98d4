"""Roots and sums over the samples of ensembles of single-index DEQs, in C."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from gflow.compiled.compiler import CannotCompileError, library, source_of, switched_off
from gflow.compiled.inputs import Inputs, OwnInputs, is_plain
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
        *((name, ctypes.c_int64) for name in ("samples", "block", "inputs")),
        *((name, ctypes.c_int64) for name in ("rows_of_steep", "rows_of_target")),
        *((name, ctypes.c_double) for name in ("upright", "weight")),
        *((name, ctypes.c_void_p) for name in ("x", "theta", "steep", "start", "known")),
        *((name, ctypes.c_void_p) for name in ("target", "output", "derivative", "first")),
        *((name, ctypes.c_void_p) for name in ("second", "point", "value", "slope", "sums")),
        *((name, ctypes.c_void_p) for name in ("lost", "valid")),
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
    x: Inputs,
    sigma: tuple[float, Tensor] | None,
    near: float,
    *others: Tensor,
) -> Samples | None:
    """What C does for rows theta (B, d + 1) with inputs (n, d) or (B, n, d); None if it does not.

    Parameters
    ----------
    theta : Tensor
    x : Tensor or OwnInputs
    sigma : pair, optional
        a, which is 0 or 1, and e (1,) or (B,), where the activation is a s + e tanh(s).
    near : float
        The longest last step of the iteration.
    others : Tensor
        What else it is to be asked with: like theta, all must be plain numbers on the host.
    """
    if sigma is None or theta.ndim != 2 or x.ndim not in (2, 3) or switched_off():
        return None
    (rows, size), (n, d) = theta.shape, x.shape[-2:]
    numbers, fits = rows * n, 0 < d == size - 1 and (x.ndim == 2 or x.shape[0] == rows)
    fits = fits and len(sigma[1]) in (1, rows)
    if numbers < FEWEST or not (fits and all(map(is_plain, (theta, *others)))):
        return None
    places = x.places if isinstance(x, OwnInputs) else _places(x, rows)
    functions = _library(near)
    if places is None or functions is None:
        return None
    return Samples(functions, theta, x, places, sigma)


def _places(x: Tensor, rows: int) -> Tensor | None:
    """Where the inputs of each row begin, if they lie one component after the other."""
    if not (is_plain(x) and x.mT.is_contiguous()):
        return None
    step = 0 if x.ndim == 2 else 8 * x[0].numel()
    return x.data_ptr() + step * torch.arange(rows)


@dataclass(frozen=True)
class Samples:
    """Samples of single-index DEQs with sigma(s) = a s + e tanh(s), one theta a row.

    With J = theta2 sigma', r = 1 / (1 - J), p = sigma' r and W = (x, y).
    """

    functions: ctypes.CDLL
    theta: Tensor
    x: Inputs
    places: Tensor
    sigma: tuple[float, Tensor]

    def track(
        self,
        start: Tensor | None,
        known: Tensor | None,
        target: Tensor | None = None,
    ) -> tuple[Tensor, ...] | None:
        """Roots of s - theta1 . x - theta2 sigma(s) near a start, and the gradient there.

        As :func:`gflow.equilibrium.solvers.tracking_newton`, each few samples by themselves.

        Parameters
        ----------
        start : Tensor, shape (B, n), optional
            By default theta1 . x.
        known : Tensor, shape (B, n), optional
            sigma at the start.
        target : Tensor, shape (n,) or (B, n), optional

        Returns
        -------
        point, value, slope : Tensor, shape (B, n)
            s, sigma(s) and sigma'(s); 0, NaN and the steepest slope in rows without a unique root.
        valid : Tensor of bool, shape (B,)
            Which rows have one.
        gradient : Tensor, shape (B, d + 1)
            Of the mean squared error to the targets; arbitrary if there are none.

        None if a root was not reached.
        """
        # Each by itself: the point alone is kept as the next warm start.
        point, value, slope = (torch.empty(self._shape, dtype=torch.float64) for _ in range(3))
        held = {"point": point, "value": value, "slope": slope}
        if start is not None:
            held["start"] = self._each(start)
        if known is not None:
            held["known"] = self._each(known)
        if target is not None:
            held["target"] = self._targets(target)
        lost = held["lost"] = torch.empty(self._parts, dtype=torch.bool)
        valid = held["valid"] = torch.empty(self._shape[0], dtype=torch.bool)
        gradient = self._sums("track", held, ())
        return None if lost.any() else (point, value, slope, valid, gradient)

    def pull(self, output: Tensor, first: Tensor, slope: Tensor) -> Tensor:
        """sum_i c_i p_i W_i (B, d + 1), the exact gradient for c = `first`, the loss's slope."""
        given = {"output": output, "first": first, "derivative": slope}
        return self._sums("pull", {key: self._each(each) for key, each in given.items()}, ())

    def bend(
        self,
        point: Tensor,
        output: Tensor,
        slope: Tensor,
        first: Tensor,
        second: Tensor | None = None,
    ) -> Tensor:
        """Its Jacobian (B, d + 1, d + 1): sum_i alpha W W^T + beta (W e_P^T + e_P W^T).

        alpha = c2 p^2 + c sigma'' r^3 and beta = c p^2, see :mod:`gflow.models.single_index`,
        with c and c2 as given; without c2, `first` are the mean squared error's targets.
        """
        held = {"start": self._each(point), "output": self._each(output)}
        held["derivative"] = self._each(slope)
        if second is None:
            held["target"] = self._targets(first)
        else:
            held["first"], held["second"] = self._each(first), self._each(second)
        return self._sums("bend", held, (self.x.shape[-1] + 1,))

    @property
    def _shape(self) -> tuple[int, int]:
        return self.theta.shape[0], self.x.shape[-2]

    @property
    def _parts(self) -> int:
        """Blocks of all rows."""
        rows, n = self._shape
        return rows * -(-n // BLOCK)

    def _targets(self, target: Tensor) -> Tensor:
        """Those that all rows share as they are."""
        shared = target.shape == self._shape[1:]
        return target.contiguous() if shared else self._each(target)

    def _each(self, numbers: Tensor) -> Tensor:
        """Numbers of each sample, one after the other."""
        shape = self._shape
        return (numbers if numbers.shape == shape else numbers.expand(shape)).contiguous()

    def _sums(self, name: str, held: dict[str, Tensor], columns: tuple[int, ...]) -> Tensor:
        """What a function sums over the blocks of each row."""
        (rows, n), d, parts = self._shape, self.x.shape[-1], self._parts
        upright, steep = self.sigma
        sums = torch.empty((parts, d + 1, *columns), dtype=torch.float64)
        held |= {"x": self.places, "theta": self.theta.contiguous(), "sums": sums}
        held["steep"] = steep.contiguous()
        numbers = {
            "rows_of_steep": steep.shape[0],
            "rows_of_target": 1 if "target" not in held or held["target"].ndim == 1 else rows,
            "upright": upright,
            "weight": 2.0 / n,
        }
        pointers = {key: tensor.data_ptr() for key, tensor in held.items()}
        job = _Job(n, BLOCK, d, **pointers, **numbers)
        divided(getattr(self.functions, name), job, (held, self.x), parts, SHARE)
        return sums if parts == rows else sums.view(rows, -1, *sums.shape[1:]).sum(1)
