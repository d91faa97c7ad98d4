"""The contract between gflow and an integration method.

For authors of a method
-----------------------
1. A method is an immutable object; everything that changes lives in the state that ``init`` makes
   and ``step`` returns. A wrapped back-end may keep a live solver object as its state.
2. ``step`` returns one accepted step and the log of every attempt that led to it. It never passes
   ``settings.t_end``.
3. A method knows only a :class:`Field`. Capabilities it may use if they are not None: ``jacobian``,
   ``jvp``, ``time_derivative``; ``symmetric`` says that the Jacobian is, ``batched`` that rows
   (B, P) are taken, ``autonomous`` that time plays no part.
4. The error of a step is judged by the RMS norm of error / (atol + rtol |theta|); a stricter norm
   is allowed. ``rtol`` and ``atol`` arrive already tightened by ``MethodInfo.tightening``.
5. ``Step.interpolate`` is dense output: it stays valid after later steps.
6. A method never judges the run. What it cannot do it raises as :class:`Breakdown`; the driver
   retries from the last accepted point with a smaller step, and gives the verdict.
7. Exceptions raised by the field pass through a method unharmed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gflow.compiled.kernel import Kernel
from gflow.status import Status


class Breakdown(Exception):
    """The field or the method has no value here; a smaller step may avoid it."""

    def __init__(self, status: Status, reason: str, retry: bool = True) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry = retry


class Halt(Exception):
    """A budget is used up: the run ends here, whatever the method is doing."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.sentence)
        self.status = status


@dataclass
class Memory:
    """What a field remembers from its last evaluation, to begin the next: a warm start.

    A native method keeps the value in its state and puts it back before each step.

    Attributes
    ----------
    value : Tensor or None
        The warm start.
    last : Any
        What the field keeps of its last point, to be used only where the same point comes again or
        the warm start is still from there.
    """

    value: Tensor | None = None
    last: Any = None

    def restore(self, value: Tensor | None) -> None:
        """Go back to a warm start; the last point is forgotten unless that is from there."""
        if value is not self.value:
            self.value, self.last = value, None


@dataclass(frozen=True)
class Field:
    """A vector field dtheta/dt = f(t, theta) and what else it offers.

    Attributes
    ----------
    function : callable
        ``(t, theta (P,)) -> (P,)``; raises :class:`Breakdown` where it has no value.
    jacobian : callable, optional
        ``(t, theta) -> (P, P)`` with entries df_i/dtheta_j.
    jvp : callable, optional
        ``(t, theta, vector) -> (P,)``, the Jacobian times a vector.
    time_derivative : callable, optional
        ``(t, theta) -> (P,)``, df/dt at fixed theta; None for an autonomous field.
    symmetric : bool
        Whether the Jacobian is symmetric.
    branch : callable, optional
        ``theta (..., P) -> (...)``; a label that no continuous trajectory can change.
    autonomous : bool
        Whether the field does not depend on t; False if that is not known.
    smooth : bool
        Whether it has many derivatives; False where kinks would spoil methods of high order.
    batched : bool
        Whether everything above also takes an array of times (B,) and rows (B, P), and gives NaN
        in the rows without a value instead of raising.
    memory : Memory or None
        The field's warm start, shared by all its callables; rows first for a batch.
    select : callable, optional
        ``rows (K,) -> Field`` of these rows of a batch whose rows have data of their own.
    many : callable, optional
        ``(t (m,), theta (m, P)) -> (m, P)``: the field at several points near one trajectory, NaN
        where it has no value; the memory then holds a row for each, before and after.
    kernel : callable, optional
        ``() -> Kernel or None``: the same field of a batch as C, if it has a form for that.
    """

    function: Callable[[Any, Tensor], Tensor]
    jacobian: Callable[[Any, Tensor], Tensor] | None = None
    jvp: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    time_derivative: Callable[[Any, Tensor], Tensor] | None = None
    symmetric: bool = False
    branch: Callable[[Tensor], Any] | None = None
    autonomous: bool = False
    smooth: bool = True
    batched: bool = False
    memory: Memory | None = None
    select: Callable[[Tensor], Field] | None = None
    many: Callable[[Any, Tensor], Tensor] | None = None
    kernel: Callable[[], Kernel | None] | None = None

    def __call__(self, t: float, theta: Tensor) -> Tensor:
        """The field's value (P,)."""
        return self.function(t, theta)

    @cached_property
    def lone(self) -> Field:
        """The field as one of a single trajectory, which says why it has no value."""
        return replace(self, batched=False)


@dataclass(frozen=True)
class Settings:
    """What a method is asked to do.

    Attributes
    ----------
    t_end : float
        Never to be passed; may be infinite.
    rtol, atol : float
        Tolerances of the RMS norm, already tightened.
    step_size : float or None
        Step of a fixed-step method.
    first_step : float or None
        First trial step of an adaptive method; None lets the method choose.
    landings : tuple of float
        Increasing times that a method with poor dense output must step onto.
    """

    t_end: float
    rtol: float = 1e-6
    atol: float = 1e-9
    step_size: float | None = None
    first_step: float | None = None
    landings: tuple[float, ...] = ()

    def tightened(self, factor: float, dtype: torch.dtype = torch.float64) -> Settings:
        """The same with both tolerances multiplied by a method's factor.

        Values in units of the smallest atol, 5e-116 in float64 and 6e-15 in float32, have squares.
        """
        smallest = torch.finfo(dtype).tiny ** 0.375
        atol = max(self.atol * factor, smallest)
        return replace(self, rtol=self.rtol * factor, atol=atol)


@dataclass(frozen=True)
class Attempt:
    """One trial step: the error ratio is NaN where the method does not tell it."""

    t: float
    dt: float
    error_ratio: float
    accepted: bool


@dataclass(frozen=True)
class Step:
    """One accepted step from (t0, theta0) to (t1, theta1) with dense output between."""

    t0: float
    t1: float
    theta0: Tensor
    theta1: Tensor
    interpolate: Callable[[Tensor], Tensor]
    attempts: tuple[Attempt, ...]
    linear_solves: int = 0


@dataclass(frozen=True)
class MethodInfo:
    """What a user needs to know to choose a method.

    Attributes
    ----------
    name : str
        ``"backend:method"``.
    order : int or None
        Order of convergence; None if it varies.
    dense_order : int or None
        Order of the dense output.
    adaptive : bool
        Whether the step follows the tolerance.
    implicit : bool
        Whether stiff problems are no obstacle.
    any_device : bool
        Whether tensors stay on their device.
    tightening : float
        Factor on the user's rtol and atol, from :mod:`gflow.integrators.measured`.
    lands : bool
        Whether the driver makes the method step onto the saves.
    evaluations : float
        Typical field evaluations of a step.
    advice : str
        When to use it.
    source : str
        Literature reference.
    """

    name: str
    order: int | None
    dense_order: int | None
    adaptive: bool
    implicit: bool
    any_device: bool
    advice: str
    source: str
    evaluations: float
    tightening: float = 1.0
    lands: bool = False


class Method(ABC):
    """An integration method; see the module's contract."""

    info: MethodInfo

    @abstractmethod
    def init(self, field: Field, t: float, theta: Tensor, settings: Settings) -> Any:
        """The state at (t, theta); may evaluate the field."""

    @abstractmethod
    def step(self, field: Field, state: Any) -> tuple[Any, Step]:
        """The next state and the accepted step that led to it."""

    def label(self, state: Any) -> str:
        """What to call the method that has come to this state."""
        return self.info.name


def uniform_grid(step_size: float, length: float) -> tuple[float, float]:
    """The step of a uniform grid over an interval and the number of steps, which may be infinite.

    The step asked for if it divides the interval, else the next smaller one that does: a last
    short step would spoil the coefficients of the Adams methods.
    """
    if math.isinf(length / step_size):
        return step_size, math.inf
    count = round(length / step_size)
    if count >= 1 and abs(count * step_size - length) <= 1e-9 * step_size:
        return step_size, count
    return length / math.ceil(length / step_size), math.ceil(length / step_size)


def hermite(
    t0: float, t1: float, theta0: Tensor, theta1: Tensor, f0: Tensor, f1: Tensor
) -> Callable[[Tensor], Tensor]:
    """Cubic Hermite interpolant of a step from its ends and the field there."""

    def interpolate(times: Tensor) -> Tensor:
        x = ((times - t0) / (t1 - t0)).to(theta0.dtype)[:, None]
        dt, change = t1 - t0, theta1 - theta0
        bend = (1 - x) * (dt * f0 - change) + x * (change - dt * f1)
        return theta0 + x * change + x * (1 - x) * bend

    return interpolate
