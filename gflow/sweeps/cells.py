"""One cell of a part as groups of one form, whether it ran alone or in an ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from gflow.schema import FINAL, attributes
from gflow.status import Status
from gflow.sweeps.plan import Plan, grid_of
from gflow.sweeps.work import Done

Groups = dict[str, xr.Dataset]

_KEPT = ("problem", "flow", "flow_steps", "descent", "comparison", "reference")
"""Groups of a run that a sweep has too."""

_ENDING = ("loss", "gradient_norm", "sharpness")
"""Variables of /flow whose value where it ended is kept."""

_TOLD = ("model", "loss", "backward", "samples", "data_source")
"""What an ensemble's /problem has as variables, and a lone run's as attributes."""


class Form(NamedTuple):
    """What the cells of a sweep have in common.

    Attributes
    ----------
    by_save : bool
        Whether the saves of the flows differ, and time is no dimension but a variable.
    one_step_size : bool
        Whether step_sizes is an axis of single numbers, and so no dimension within a cell.
    """

    by_save: bool
    one_step_size: bool

    @classmethod
    def of(cls, plan: Plan) -> Form:
        """That of a plan."""
        axes = [axis for axis in plan.axes if axis.key == "descent.step_sizes"]
        return cls(plan.by_save, any(axis.single for axis in axes))


def cells_of(done: Done, plan: Plan, wanted: Mapping[str, int]) -> Iterator[tuple[str, Groups]]:
    """The groups of some cells of a part, with their keys.

    Parameters
    ----------
    done : Done
    plan : Plan
    wanted : mapping
        Key to the number of the cell, or of one of several that have it.
    """
    form = Form.of(plan)
    nodes = done.tree.children
    groups = {name: nodes[name].to_dataset(inherit=False) for name in _KEPT if name in nodes}
    for row, key in enumerate(done.keys):
        if key in wanted:
            own = _member(groups, row) if _is_ensemble(groups) else groups
            yield key, _formed(own, plan, wanted[key], form)


def cell_status(groups: Groups) -> tuple[Status, str]:
    """How a cell ended, and the sentence on it.

    That of its flow if it failed; else of its descents if all failed or one was cut short; else
    that of its flow, or of its first descent that ended well.
    """
    flow, descents = _verdicts(groups, "flow"), _verdicts(groups, "descent")
    cut = [one for one in descents if one[0] in (Status.INTERRUPTED, Status.WALL_LIMIT)]
    well = [one for one in descents if one[0].ok]
    bad_flow = [one for one in flow if not one[0].ok]
    return (bad_flow or cut or (descents if not well else []) or flow or well)[0]


def _verdicts(groups: Groups, name: str) -> list[tuple[Status, str]]:
    if name not in groups:
        return []
    told = [groups[name][key].values.ravel() for key in ("status", "status_message")]
    return [(Status(str(status)), str(text)) for status, text in zip(*told, strict=True)]


def _is_ensemble(groups: Groups) -> bool:
    return "flow" in groups and "trajectory" in groups["flow"].dims


def _member(groups: Groups, row: int) -> Groups:
    """One trajectory of an ensemble, as a lone run has it."""
    count = groups["flow"].sizes["trajectory"]
    own = {
        name: data.isel(trajectory=row, drop=True) if "trajectory" in data.dims else data
        for name, data in groups.items()
    }
    steps, problem = own["flow_steps"], own["problem"]
    taken = int((steps["accepted"].values >= 0).sum())
    told = {name: problem[name].item() for name in _TOLD if name in problem}
    return own | {
        "flow": own["flow"].assign(wall_seconds=own["flow"]["wall_seconds"] / count),
        "flow_steps": steps.isel(step=slice(taken)),
        "problem": problem.drop_vars(list(told)).assign_attrs(told),
    }


def _formed(groups: Groups, plan: Plan, cell: int, form: Form) -> Groups:
    """The groups on the grid of the saves, with what the sweep has as its own axes left out."""
    found = dict(groups)
    if "flow" in found:
        found["flow"] = _with_end(found["flow"])
        grid = grid_of(plan.config(cell))
        for name in ("flow", "reference"):
            if name in found and "time" in found[name].dims:
                placed = _on_grid(found[name], grid)
                found[name] = _by_save(placed) if form.by_save else placed
    found = _without_failed(found)
    if form.one_step_size:
        found = {
            name: data.isel(step_size=0, drop=True) if "step_size" in data.dims else data
            for name, data in found.items()
        }
    return found


def _without_failed(groups: Groups) -> Groups:
    """The groups without the numbers of what failed at its start; statuses and sentences stay."""
    failed = {name: _failed(groups[name]) for name in ("flow", "descent") if name in groups}
    flow = failed.get("flow", xr.DataArray(False))
    descent = failed.get("descent", flow)
    where = {
        "flow": flow,
        "flow_steps": flow,
        "descent": descent,
        "comparison": flow | descent,
        "reference": flow if "flow" in failed else descent.all(),
    }
    return {
        name: _emptied(data, where[name]) if name in where and where[name].any() else data
        for name, data in groups.items()
    }


def _failed(data: xr.Dataset) -> xr.DataArray:
    """Whether a flow, or each descent, ended badly where it began."""
    if "t_final" in data:
        stayed = data["t_final"] == 0
    else:
        moved = (data["update"] > 0).any("record")
        stayed = ~moved | ~np.isfinite(data["loss"].isel(record=0, drop=True))
    return stayed & ~data["status"].isin([str(status) for status in Status if status.ok])


def _emptied(data: xr.Dataset, failed: xr.DataArray) -> xr.Dataset:
    """NaN, and -1 for counts, where it failed."""

    def emptied(values: xr.DataArray) -> xr.DataArray:
        if values.dtype.kind not in "fi":
            return values
        where = failed if set(failed.dims) <= set(values.dims) else failed.all()
        return values.where(~where, np.nan if values.dtype.kind == "f" else -1)

    return data.map(emptied, keep_attrs=True)


def _on_grid(data: xr.Dataset, grid: np.ndarray | None) -> xr.Dataset:
    """The same at the saves of the grid, NaN where it has none."""
    if grid is None or np.array_equal(data["time"].values, grid):
        return data
    return data.reindex(time=grid)


def _with_end(flow: xr.Dataset) -> xr.Dataset:
    """A lone flow with where it ended, as an ensemble's has it."""
    if FINAL[0] in flow:
        return flow
    end = flow.isel(time=-1, drop=True)
    final: dict[str, Any] = {"t_final": ((), float(flow["time"][-1]))}
    final["theta_final"] = (("parameter",), end["theta"].values)
    final |= {f"{name}_final": ((), end[name].item()) for name in _ENDING if name in end}
    found = flow.assign(final)
    for name in final:
        found[name].attrs = attributes("flow", name)
    return found


def _by_save(data: xr.Dataset) -> xr.Dataset:
    """The same with the number of a save as dimension, and the times as a variable."""
    times = data["time"].values
    bare = data.drop_vars("time").rename_dims(time="save")
    bare["time"] = xr.DataArray(times, dims="save", attrs=data["time"].attrs)
    bare["time"].attrs.setdefault("formula", "t = eta k")
    return bare.assign_coords(save=np.arange(len(times)))
