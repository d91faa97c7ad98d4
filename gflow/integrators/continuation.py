"""Snapshots and methods as plain data, which files hold, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from gflow.errors import StoreError
from gflow.integrators.base import Method, Settings
from gflow.integrators.native import NativeMethod, State
from gflow.integrators.registry import METHODS
from gflow.integrators.snapshot import Snapshot
from gflow.integrators.stiffness import StiffnessWatch, Switching, SwitchingState


def plain_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot for :func:`gflow.store.codec.pack`."""
    told = {field.name: getattr(snapshot, field.name) for field in fields(snapshot)}
    return told | {"state": _plain_state(snapshot.state)}


def snapshot_of(told: Mapping[str, Any]) -> Snapshot:
    """The snapshot that :func:`plain_snapshot` described.

    Raises
    ------
    StoreError
        If it is something else.
    """
    try:
        state, counts = _state_of(told["state"]), tuple(told["counts"])
        return Snapshot(**{**told, "state": state, "counts": counts})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"The checkpoint's state cannot be used: {error}.") from None


def plain_method(method: Method) -> dict[str, Any]:
    """A method by name, so that :func:`method_of` finds it again."""
    if isinstance(method, Switching):
        names = [method.first.info.name, method.other.info.name]
        return {"names": names, "patience": float(method.watch.patience)}
    return {"names": [method.info.name]}


def method_of(told: Mapping[str, Any]) -> Method:
    """The method that :func:`plain_method` described.

    Raises
    ------
    StoreError
        If there is none.
    """
    try:
        first, *others = (METHODS[name] for name in told["names"])
        if not others:
            return first
        (other,) = others
        if isinstance(first, NativeMethod) and isinstance(other, NativeMethod):
            return Switching(first, other, StiffnessWatch(float(told["patience"])))
    except (KeyError, TypeError, ValueError):
        pass
    raise StoreError(f"The checkpoint's method {told!r} is unknown to this gflow.")


def _plain_state(state: Any) -> dict[str, Any] | None:
    if isinstance(state, SwitchingState):
        told = {"name": state.method.info.name, "inner": _plain_state(state.inner)}
        return told | {"attempts": state.attempts, "switched": state.switched}
    if isinstance(state, State):
        told = {field.name: getattr(state, field.name) for field in fields(state)}
        return told | {"settings": asdict(state.settings)}
    return None


def _state_of(told: Mapping[str, Any] | None) -> Any:
    if told is None:
        return None
    if "inner" in told:
        method = METHODS[told["name"]]
        if not isinstance(method, NativeMethod):
            raise ValueError(f"{told['name']} has no state")
        inner, switched = _state_of(told["inner"]), bool(told["switched"])
        return SwitchingState(method, inner, int(told["attempts"]), switched)
    settings = dict(told["settings"])
    settings["landings"] = tuple(settings["landings"])
    return State(**{**told, "settings": Settings(**settings)})
