"""The sums of :mod:`gflow.integrators.exponential` in C, for batches of few parameters."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gflow.compiled.compiler import CannotCompileError, library, source_of, switched_off
from gflow.compiled.inputs import is_plain
from gflow.compiled.threads import divided
from gflow.integrators import accumulation, phi
from gflow.integrators.exponential_sums import NODES, REPEATED, SHARE, quartic
from gflow.integrators.propagators import EigenPropagator

FEWEST = 2
"""Rows from which this pays: a lone flow does not wait for a compiler."""
LARGEST = 64
"""Parameters up to which the overheads of small operations outweigh the operations."""
THREAD = 2**20
"""Rows times P^2, some milliseconds, that are worth a thread."""
KEPT = 7
"""Numbers of each component that C keeps between calls; the first are those of dense output."""


class _Job(ctypes.Structure):
    """As ``exponential.c`` has it."""

    _fields_ = (
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("values", "vectors", "theta", "field")),
        *((name, ctypes.c_void_p) for name in ("width", "end", "middle_field", "whole_field")),
        *((name, ctypes.c_void_p) for name in ("after", "work", "moved", "error")),
    )


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    highest = NODES.highest
    last = highest + phi.TERMS[highest] - 1
    numbers = {
        "SHARE": SHARE,
        "REPEATED": REPEATED,
        "NOISE": accumulation.NOISE * float(np.finfo(np.float64).eps),
        "SERIES_UP_TO": phi.NEAR[highest],
        "LAST_TERM": last,
        "KEPT": KEPT,
    }
    tables = {"INVERSE_FACTORIALS": np.array([1 / math.factorial(j) for j in range(last + 1)])}
    try:
        made = library(source_of(("lanes.h", "exponential.c"), numbers, tables))
    except CannotCompileError:
        return None
    for function in (made.middle, made.whole, made.end, made.estimate):
        function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        function.restype = None
    return made


def in_c(
    cache: Mapping[str, Tensor], t: np.ndarray, dt: np.ndarray, theta: Tensor
) -> CompiledSums | None:
    """The sums of a step by C, None where it does not serve.

    Parameters
    ----------
    cache : mapping
        From :func:`gflow.integrators.propagators.linearised`; C has no term for a time derivative.
    t, dt : array, shape (B,)
    theta : Tensor, shape (B, P)
    """
    rows, size = theta.shape
    suited = rows >= FEWEST and 0 < size <= LARGEST and "eigenvalues" in cache
    suited = suited and "change" not in cache and all(map(is_plain, (theta, *cache.values())))
    functions = _library() if suited and not switched_off() else None
    return None if functions is None else CompiledSums(functions, cache, t, dt, theta)


class CompiledSums:
    """As :class:`gflow.integrators.exponential_sums.PropagatedSums`."""

    solves, short = 0, False

    def __init__(
        self,
        functions: ctypes.CDLL,
        cache: Mapping[str, Tensor],
        t: np.ndarray,
        dt: np.ndarray,
        theta: Tensor,
    ) -> None:
        rows, size = theta.shape
        self._functions, self._theta, self._pairs = functions, theta, cache
        self._held = {
            "values": cache["eigenvalues"].contiguous(),
            "vectors": cache["eigenvectors"].contiguous(),
            "theta": theta.contiguous(),
            "field": cache["value"].contiguous(),
            "width": torch.from_numpy(dt),
            "end": torch.from_numpy(t + dt),
            "work": torch.empty((rows, KEPT, size), dtype=torch.float64),
        }
        self._job = _Job(size, **{name: each.data_ptr() for name, each in self._held.items()})
        self._share = max(1, THREAD // size**2)

    def middle(self) -> Tensor:
        """Where the field is wanted (B, P) at half the step."""
        return self._called("middle", "moved")

    def whole(self, found: Tensor) -> Tensor:
        """Where it is wanted at its end."""
        return self._called("whole", "moved", "middle_field", found)

    def end(self, found: Tensor) -> Tensor:
        """Where the step leads."""
        return self._called("end", "moved", "whole_field", found)

    def error(self, found: Tensor) -> Tensor:
        """Estimate (B, P) of the error there."""
        return self._called("estimate", "error", "after", found)

    def dense(self, rows: Tensor, x: Tensor) -> Tensor:
        """Dense output of rows (M,) at fractions of their steps (M,), shape (M, P)."""
        pairs, width = self._pairs, self._held["width"][:, None]
        by = EigenPropagator(pairs["eigenvalues"], pairs["eigenvectors"], width, NODES)
        flow, near, far = self._held["work"].numpy().swapaxes(0, 1)[:3]
        return self._theta[rows] + by.dense([(1, 1.0, flow), *quartic(near, far)], rows, x)

    def _called(
        self, function: str, result: str, given: str = "", found: Tensor | None = None
    ) -> Tensor:
        """What a function makes of the field that it is given."""
        made = self._held[result] = torch.empty_like(self._held["theta"])
        setattr(self._job, result, made.data_ptr())
        if found is not None:
            numbers = self._held[given] = found.contiguous()
            setattr(self._job, given, numbers.data_ptr())
        divided(getattr(self._functions, function), self._job, self._held, len(made), self._share)
        return made
