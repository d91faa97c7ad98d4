"""What the claims and the figure measure in the datasets."""

from __future__ import annotations

import numpy as np
import xarray as xr

from gflow.study import Results

COMPONENTS = {
    "jfb": ("cosine", "ratio"),
    "balance": ("Q", "M", "V"),
    "determinants": ("gap", "gain"),
}
"""Observables of problems.py and what their components are."""


def flows(results: Results, run: str) -> xr.Dataset:
    """Both flows over backward and time, the observables taken apart."""
    found = results[run].gather(lambda tree: _apart(tree["flow"].to_dataset()))
    return found.isel(width=0, images=0, drop=True)


def _apart(flow: xr.Dataset) -> xr.Dataset:
    for name, parts in COMPONENTS.items():
        if name in flow:
            columns = flow[name].transpose(f"{name}_component", ...)
            flow = flow.drop_vars(name).assign(dict(zip(parts, columns, strict=True)))
    return flow


def descents(results: Results, run: str) -> xr.Dataset:
    """Descents over step size and record."""
    found = results[run].gather(lambda tree: tree["descent"].to_dataset())
    return found.isel(backward=0, width=0, images=0, drop=True)


def distances(results: Results) -> xr.Dataset:
    """Of small-step descent to its flow, by step size and time; extrapolated to 0 as well."""
    flow, descent = (
        flows(results, "flow").sel(backward="exact"),
        descents(results, "small"),
    )
    times, found = [3.0, 6.0], []
    for time in times:
        here = flow.theta.sel(time=time, drop=True)
        gap = descent.theta.where(abs(descent.time - time) < 1e-9).max("record") - here
        straight = 2 * gap.isel(step_size=0, drop=True) - gap.isel(step_size=1, drop=True)
        found.append(xr.Dataset({"distance": _norm(gap), "extrapolated": _norm(straight)}))
    return xr.concat(found, xr.DataArray(times, dims="time", name="time"))


def _norm(values: xr.DataArray) -> xr.DataArray:
    return np.sqrt((values**2).sum("parameter", skipna=False))


def at_loss(flow: xr.Dataset, name: str, loss: xr.DataArray) -> np.ndarray:
    """A variable of one flow when its loss has that value, interpolated in log L."""
    order = np.argsort(flow.loss.values)
    levels = np.log(flow.loss.values[order])
    return np.interp(np.log(loss), levels, flow[name].values[order])


def edge(descent: xr.Dataset, since: float) -> xr.DataArray:
    """Sharpness over 2 / eta by step size, the median since some time."""
    ratio = descent.sharpness * descent.step_size / 2
    found: xr.DataArray = ratio.where(descent.time >= since).median("record")
    return found


def vanishing(flow: xr.Dataset, since: float) -> float:
    """When a line through the late conditioning of a flow reaches zero."""
    late = flow.conditioning.sel(time=slice(since, None)).dropna("time")
    slope, offset = np.polyfit(late.time, late, 1)
    return float(-offset / slope)
