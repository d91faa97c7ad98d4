"""Many attempts of every row of a batch at once, by an explicit pair in compiled C.

A burst makes what :meth:`gflow.integrators.native.NativeMethod.advance` makes attempt by attempt,
and leaves the same behind: the state, the saves, the log and, for observers, every accepted step.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gflow.compiled.compiler import CannotCompileError, library, source_of
from gflow.compiled.kernel import Kernel
from gflow.compiled.threads import divided
from gflow.integrators import control, native, run, trajectory, trouble
from gflow.integrators.base import Field
from gflow.integrators.explicit import ExplicitPair
from gflow.integrators.meter import Meter
from gflow.integrators.native import BatchStep, State
from gflow.integrators.saves import Saves
from gflow.integrators.trajectory import LOG_COLUMNS

FEWEST = 64
"""Rows from which compiling, some tenths of a second, is soon made good."""
LARGEST = 64
"""Parameters up to which PyTorch's overheads outweigh its faster products of matrices."""
LONGEST = 2**27
"""Attempts times P (P + 10) of all rows in a burst: a tenth of a second, deaf to interrupts."""
TRACED = 2**22
"""Numbers that the steps kept for observers may fill."""
SHARE = 2**23
"""Attempts times P (P + 10), some milliseconds, that are worth a thread."""


@dataclass(frozen=True)
class Offer:
    """A batch's field in compiled C, or None, and what there is to say of it."""

    kernel: Kernel | None
    note: str


def offer(pair: ExplicitPair, field: Field, theta0: Tensor, t_end: float) -> Offer:
    """The field of rows (B, P) for bursts of a pair up to a finite t_end, compiled here if need be.

    Parameters
    ----------
    pair : ExplicitPair
    field : Field
    theta0 : Tensor, shape (B, P)
    t_end : float
    """
    rows, size = theta0.shape
    on_host = theta0.device.type == "cpu" and theta0.dtype == torch.float64
    suited = on_host and rows >= FEWEST and size <= LARGEST and math.isfinite(t_end)
    kernel = field.kernel() if suited and field.kernel is not None else None
    if kernel is None:
        return Offer(None, "")
    try:
        _compiled(pair, kernel)
    except CannotCompileError as error:
        return Offer(None, f"; its steps are PyTorch's, since {error}")
    own = np.ascontiguousarray(np.broadcast_to(kernel.own, (rows, kernel.own.shape[-1])))
    return Offer(replace(kernel, own=own), "; its steps are compiled C")


class _Job(ctypes.Structure):
    """As ``explicit.c`` has it."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "size", "own", "saves", "attempts", "count")),
        *((name, ctypes.c_double) for name in ("t_end", "rtol", "atol", "nfe", "hessians")),
        *((name, ctypes.c_void_p) for name in ("shared", "own_numbers", "grid", "beginning")),
        *((name, ctypes.c_void_p) for name in ("ids", "theta", "value", "t", "dt", "ratio")),
        *((name, ctypes.c_void_p) for name in ("saved", "log", "trace")),
        *((name, ctypes.c_void_p) for name in ("failures", "all_failures", "made")),
        *((name, ctypes.c_void_p) for name in ("retrying", "troubled")),
    )


@dataclass(frozen=True)
class Books:
    """What a batch keeps of its rows beside their state.

    Attributes
    ----------
    ids : array of int, shape (B,)
        Their places in the saves.
    size : array, shape (B,)
        The largest |theta| where each row's way began.
    failures, all_failures : array of int, shape (B,)
        Trials without a value, in a row and in all.
    """

    ids: np.ndarray
    size: np.ndarray
    failures: np.ndarray
    all_failures: np.ndarray


@dataclass(frozen=True)
class Burst:
    """What a burst leaves behind.

    Attributes
    ----------
    state : State
    failures, all_failures : array of int, shape (B,)
        Trials without a value, in a row and in all.
    troubled : array of bool, shape (B,)
        Which rows are in trouble, see :mod:`gflow.integrators.trouble`.
    made : array of int, shape (B,)
        Attempts of each row.
    log : array, shape (B, count, 9)
        The step log's columns and the time at the end, of each attempt that was made.
    trace : array, shape (B, count, S + 2, P), or None
        theta0, theta1 and the stages of each accepted step, if they were to be kept.
    """

    state: State
    failures: np.ndarray
    all_failures: np.ndarray
    troubled: np.ndarray
    made: np.ndarray
    log: np.ndarray
    trace: np.ndarray | None

    @property
    def most(self) -> int:
        """Attempts of the row that made the most."""
        return int(self.made.max())

    @property
    def tables(self) -> list[np.ndarray]:
        """The rows' entries in the step log."""
        return [each[:made, :-1] for each, made in zip(self.log, self.made, strict=True)]

    def steps(self, pair: ExplicitPair) -> Iterator[tuple[np.ndarray, BatchStep]]:
        """The accepted rows of each attempt, and the attempt, in their order."""
        assert self.trace is not None
        for number in range(self.most):
            t0, _, ratio, accepted, *_, t1 = self.log[:, number].T
            kept = (number < self.made) & (accepted == 1)
            theta0, theta1, *stages = torch.from_numpy(self.trace[:, number]).unbind(1)
            width = torch.from_numpy(t1 - t0)[:, None]
            dense = pair.dense(theta0, width, torch.stack(stages))
            yield np.flatnonzero(kept), BatchStep(t0, t1, ratio, kept, theta0, theta1, dense, 0)


class Bursts:
    """An explicit pair on a batch in compiled C.

    Parameters
    ----------
    pair : ExplicitPair
    kernel : Kernel
        From :func:`offer`.
    """

    def __init__(self, pair: ExplicitPair, kernel: Kernel) -> None:
        self.pair, self.kernel = pair, kernel
        self._advance = _compiled(pair, kernel).advance

    def select(self, rows: np.ndarray) -> None:
        """Go on with some rows alone."""
        self.kernel = self.kernel.select(rows)

    def length(self, state: State, attempts: int, traced: bool) -> int:
        """Attempts of the next burst: at most to the next power of two, where there is a look."""
        rows, size = state.theta.shape
        most = LONGEST // (rows * size * (size + 10))
        if traced:
            most = min(most, TRACED // (rows * size * (len(self.pair.tableau.c) + 2)))
        return max(1, min((1 << attempts.bit_length()) - attempts, most))

    def run(
        self,
        state: State,
        books: Books,
        saves: Saves,
        attempts: int,
        meter: Meter,
        count: int,
        traced: bool,
    ) -> Burst:
        """Attempts of every row that has not ended, saved where the grid falls into them.

        Parameters
        ----------
        state : State
        books : Books
        saves : Saves
        attempts : int
            So far.
        meter : Meter
            Of what was evaluated so far.
        count : int
            Of attempts of each.
        traced : bool
            Whether to keep the steps.
        """
        held = self._held(state, books, saves, count, traced)
        assert all(array.flags.c_contiguous for array in held.values())
        rows, size = held["theta"].shape
        job = _Job(
            rows=rows,
            size=size,
            own=self.kernel.own.shape[-1],
            saves=len(saves.grid),
            attempts=attempts,
            count=count,
            t_end=state.settings.t_end,
            rtol=state.settings.rtol,
            atol=state.settings.atol,
            nfe=meter.nfe,
            hessians=meter.hessians,
            **{name: array.ctypes.data for name, array in held.items()},
        )
        share = max(1, SHARE // (count * size * (size + 10)))
        divided(self._advance, job, held, rows, share)
        moved = replace(
            state,
            t=held["t"],
            dt=held["dt"],
            theta=torch.from_numpy(held["theta"]),
            ratio=held["ratio"],
            retrying=held["retrying"],
            cache={"value": torch.from_numpy(held["value"])},
        )
        names = ("failures", "all_failures", "troubled", "made", "log")
        return Burst(moved, **{name: held[name] for name in names}, trace=held.get("trace"))

    def _held(
        self, state: State, books: Books, saves: Saves, count: int, traced: bool
    ) -> dict[str, np.ndarray]:
        """The arrays that C reads and writes: copies, so that an interrupt leaves the state."""
        rows, size = state.theta.shape
        held = {
            "shared": self.kernel.shared,
            "own_numbers": self.kernel.own,
            "grid": saves.grid,
            "beginning": books.size,
            "ids": books.ids.astype(np.int64),
            "theta": state.theta.contiguous().numpy().copy(),
            "value": state.cache["value"].contiguous().numpy().copy(),
            "t": state.t.copy(),
            "dt": state.dt.copy(),
            "ratio": state.ratio.copy(),
            "saved": saves.theta.numpy(),
            "log": np.empty((rows, count, len(LOG_COLUMNS) + 1)),
            "failures": books.failures.astype(np.int64),
            "all_failures": books.all_failures.astype(np.int64),
            "made": np.zeros(rows, dtype=np.int64),
            "retrying": state.retrying.copy(),
            "troubled": np.zeros(rows, dtype=bool),
        }
        if traced:
            held["trace"] = np.empty((rows, count, len(self.pair.tableau.c) + 2, size))
        return held


def _compiled(pair: ExplicitPair, kernel: Kernel) -> ctypes.CDLL:
    made = library(_source(pair, kernel.source, tuple(sorted(kernel.options.items()))))
    made.advance.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    made.advance.restype = None
    return made


@lru_cache(maxsize=32)
def _source(pair: ExplicitPair, field: str, options: tuple[tuple[str, int], ...]) -> str:
    """The pair's loop with its coefficients, and the constants of what it does in PyTorch."""
    tableau, controller = pair.tableau, pair.controller
    nodes = np.zeros((len(tableau.c), len(tableau.c)))
    for row, coefficients in zip(nodes, tableau.a, strict=True):
        row[: len(coefficients)] = coefficients
    modules = {
        control: ("SAFETY", "SHRINK_MOST", "BROKEN"),
        native: ("STRETCH",),
        trajectory: ("SNAP",),
        run: ("BLOW_UP", "FOREVER"),
        trouble: ("PATIENCE", "MAX_FAILURES", "SIZE_CHECK"),
    }
    numbers = {name: getattr(room, name) for room, names in modules.items() for name in names}
    numbers |= {"GROW_MOST": controller.grow_most, "ERROR_ORDER": float(controller.error_order)}
    numbers |= {"STAGES": len(tableau.c), **dict(options)}
    tables = {"NODES": nodes, "ERROR": tableau.error, "DENSE": tableau.dense}
    return source_of(("lanes.h", field, "explicit.c"), numbers, tables)
