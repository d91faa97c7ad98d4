"""Where an integration can go on: a snapshot between two accepted steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from gflow.integrators.base import Settings
from gflow.integrators.native import State
from gflow.integrators.stiffness import SwitchingState

if TYPE_CHECKING:
    import numpy as np

    from gflow.integrators.trajectory import Trajectory


@dataclass(frozen=True)
class Snapshot:
    """A run between two accepted steps, the next of which its end would not cut short.

    Attributes
    ----------
    t : float
    theta : Tensor, shape (P,)
    state : State, SwitchingState or None
        A native method's; None for a wrapped back-end, which begins anew.
    dt : float
        The last step, with which a wrapped back-end begins anew.
    log : array, shape (K, 8)
        All attempts so far, as :class:`gflow.integrators.trajectory.StepLog` keeps them.
    linear_solves, retries : int
    counts : tuple of int
        Field evaluations, Jacobians and products so far.
    saved_t, saved_theta : Tensor, shapes (S,) and (S, P)
        The saves so far.
    warm : Tensor or None
        The field's warm start.
    branch : int or None
        Label of the branch of solutions.
    size : float
        Largest |theta| where the run began.
    rest : mapping or None
        What an endless run knows of being at rest.
    observers : sequence of mapping
        The states of the observers that have one.
    seconds : float
        Wall-clock time that it took to come here.
    """

    t: float
    theta: Tensor
    state: Any
    dt: float
    log: np.ndarray
    linear_solves: int
    retries: int
    counts: tuple[int, int, int]
    saved_t: Tensor
    saved_theta: Tensor
    warm: Tensor | None
    branch: int | None
    size: float
    rest: Mapping[str, Any] | None
    observers: Sequence[Mapping[str, Any]]
    seconds: float

    @property
    def exact(self) -> bool:
        """Whether the run goes on from it bit for bit."""
        return self.state is not None


@runtime_checkable
class Continuing(Protocol):
    """An observer whose memory is part of a snapshot."""

    def clean(self) -> bool:
        """Whether nothing waits that its state does not hold."""

    def state(self) -> dict[str, Any]:
        """Plain data, see :mod:`gflow.store.codec`."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""


class Keeper(Protocol):
    """Keeps a run on disk as it goes."""

    def due(self) -> bool:
        """Whether it is time."""

    def keep(self, trajectory: Trajectory) -> None:
        """Keep what there is so far; its snapshot is where the run can go on."""


def kept_state(state: Any) -> Any:
    """The state of a native method; None for a live solver, which cannot be kept."""
    return state if isinstance(state, State | SwitchingState) else None


def with_settings(state: Any, settings: Settings) -> Any:
    """A native method's state under other settings, whose end may be later."""
    if isinstance(state, SwitchingState):
        return replace(state, inner=with_settings(state.inner, settings))
    first = state.settings.first_step
    return replace(state, settings=replace(settings, first_step=first))
