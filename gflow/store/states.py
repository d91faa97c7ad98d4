"""The parameters of a dataset as a torch module's state dict."""

from __future__ import annotations

import re

import numpy as np
import torch
import xarray as xr

from gflow.errors import StoreError

LABEL = re.compile(r"(.*)\[(\d+(?:,\d+)*)\]")
"""A parameter's name and the index of one of its numbers."""


def state_dict(
    tree: xr.DataTree,
    time: float | None = None,
    *,
    step_size: float | None = None,
    trajectory: int | None = None,
) -> dict[str, torch.Tensor]:
    """The parameters at a stored time, by name, from theta and its labels alone.

    ``module.load_state_dict(..., strict=False)`` takes them; ``strict=False`` since what is frozen,
    buffers among it, is not part of theta.

    Parameters
    ----------
    tree : xarray.DataTree
        A run, e.g. from :func:`gflow.open`.
    time : float, optional
        On the clock t = eta k; the last one stored unless given. It must be one at which theta is
        stored: nothing is interpolated.
    step_size : float, optional
        Of a descent, whose iterate is then taken, rather than the flow's state.
    trajectory : int, optional
        Of an ensemble.

    Returns
    -------
    dict of str to Tensor
        In the run's dtype.

    Raises
    ------
    StoreError
        If there is no such state; the sentence says which are near.

    Examples
    --------
    >>> import gflow
    >>> problem = gflow.Problem(gflow.LinearDEQ(dim=2), x=[[1.0, 0.0], [0.0, 1.0]], y=[1.0, 2.0])
    >>> tree = gflow.integrate(problem, [0.1, 0.2, 0.0], t_end=1.0, times=[0.5])
    >>> {name: tuple(value.shape) for name, value in gflow.state_dict(tree, 0.5).items()}
    {'theta1': (2,), 'theta2': ()}
    """
    states = _states(tree, step_size, trajectory)
    times = np.asarray(states["time"].values, dtype=np.float64)
    stored = np.flatnonzero(~np.isnan(states.values).any(-1))
    if not len(stored):
        raise StoreError("theta is stored at no time of this run.")
    place = stored[-1] if time is None else _place(times, stored, time)
    dtype = torch.float32 if tree.attrs.get("dtype") == "float32" else torch.float64
    values = torch.tensor(states.values[place], dtype=dtype)
    return _shaped([str(label) for label in states["parameter"].values], values)


def _states(tree: xr.DataTree, step_size: float | None, trajectory: int | None) -> xr.DataArray:
    """Theta (T, P) of one trajectory or descent."""
    if "sweep" in tree.children:
        raise StoreError(
            "this is a sweep, of many runs; theta of a cell is in "
            'tree["flow"].theta.sel({"data.seed": 0, ...}).'
        )
    group = "flow" if step_size is None else "descent"
    if group not in tree.children:
        other = "give a step_size" if group == "flow" else "leave step_size out"
        raise StoreError(f"this run has no /{group}; {other}.")
    node = tree[group].to_dataset()
    theta = node["theta"].assign_coords(time=node["time"])
    if step_size is not None:
        known = node["step_size"].values
        match = np.flatnonzero(np.isclose(known, step_size, rtol=1e-9, atol=0.0))
        if not len(match):
            raise StoreError(f"step_size is {step_size:g}; there are {known.tolist()}.")
        return theta.isel(step_size=int(match[0]))
    count = node.sizes.get("trajectory")
    if count is None:
        return theta
    if trajectory is None or not 0 <= trajectory < count:
        raise StoreError(
            f"trajectory is {trajectory}; this ensemble has the trajectories 0 to {count - 1}."
        )
    return theta.isel(trajectory=trajectory)


def _place(times: np.ndarray, stored: np.ndarray, time: float) -> int:
    """Index of the stored time that is `time`."""
    known = times[stored]
    nearest = int(np.argmin(np.abs(known - time)))
    if np.isclose(known[nearest], time, rtol=1e-9, atol=0.0):
        return int(stored[nearest])
    near = np.unique(known[max(0, nearest - 1) : nearest + 2])
    listed = ", ".join(repr(float(one)) for one in near)
    raise StoreError(
        f"theta is not stored at t = {time:g}; near it, it is at {listed}. Take one of these, or "
        f"run again with {time:g} among the times."
    )


def _shaped(labels: list[str], values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Numbers with labels such as ``weight[1,2]`` as arrays; the last label tells the shape."""
    places: dict[str, tuple[int, int, str]] = {}
    for index, label in enumerate(labels):
        match = LABEL.fullmatch(label)
        name, last = (match[1], match[2]) if match else (label, "")
        first = places[name][0] if name in places else index
        places[name] = first, index + 1, last
    found = {}
    for name, (start, end, last) in places.items():
        shape = [int(one) + 1 for one in last.split(",")] if last else []
        found[name] = values[start:end].reshape(shape).clone()
    return found
