"""What a run came to, as titled tables of text; read from its dataset alone, without torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gflow import show_sweep
from gflow.show_events import event_rows
from gflow.stability import stable_sharpness
from gflow.status import Status

if TYPE_CHECKING:
    import xarray as xr

Rows = list[tuple[str, ...]]
"""Rows of two cells are a name and a value; of wider rows the first one is the header."""

NOT_KNOWN = "-"

SHOWN = 20
"""Trajectories of an ensemble up to which each has its row."""


def summary(tree: xr.DataTree, every: bool = False) -> list[tuple[str, Rows]]:
    """Summarise a run.

    Parameters
    ----------
    tree : xarray.DataTree
        From :func:`gflow.open` or a run.
    every : bool
        Whether each trajectory of an ensemble has its row, be they more than :data:`SHOWN`.

    Returns
    -------
    list of (title, rows)
        Rows of two cells are a name and a value; of wider rows the first one is the header.
    """
    groups = {name: node.to_dataset(inherit=False) for name, node in tree.children.items()}
    if "sweep" in groups:
        return [("Run", _run(tree.attrs)), *show_sweep.sections(groups)]
    sections = [("Run", _run(tree.attrs)), ("Problem", _problem(tree, groups))]
    if "flow" in groups and "trajectory" in groups["flow"].dims:
        sections += _ensemble(groups, every)
    elif "flow" in groups:
        running = groups["flow"].status.item() == Status.RUNNING
        where = "Where the flow has come to" if running else "Where the flow ended"
        sections += [("Flow", _flow(groups)), (where, _flow_end(groups))]
    if "flow" in groups and (events := event_rows(groups["flow"])):
        sections.append(("Events", events))
    if "descent" in groups:
        sections.append((_descents_title(groups["descent"]), _descents(groups)))
        for title, rows in _not_at_their_end(groups["descent"]).items():
            sections += [(title, rows)] if rows else []
    return sections


def _run(attrs: Mapping[Any, Any]) -> Rows:
    revision = attrs["git_revision"]
    version = f"gflow {attrs['gflow_version']}" + (
        f" ({revision[:12]}{revision[40:]})" if revision else ""
    )
    threads = f"{attrs['threads']} thread{'s' if attrs['threads'] != 1 else ''}"
    return [
        ("created", f"{attrs['created_at']} by {version}"),
        *((name, attrs[name]) for name in ("kind", "seeds") if attrs.get(name)),
        ("command", attrs["command"]),
        ("computed on", f"{attrs['device']}, {attrs['dtype']}, {threads}"),
        ("wall time", f"{attrs['wall_seconds']:.3g} s"),
        *_period(attrs),
        *((name, attrs[name]) for name in ("resumed",) if attrs.get(name)),
    ]


def _period(attrs: Mapping[Any, Any]) -> Rows:
    """When it began and ended, which older files do not tell."""
    if not {"started_at", "finished_at"} <= set(attrs):
        return []
    return [("ran", f"from {attrs['started_at']} to {attrs['finished_at']}")]


def _problem(tree: xr.DataTree, groups: Mapping[str, xr.Dataset]) -> Rows:
    attrs = groups["problem"].attrs if "problem" in groups else {}
    told = ("model", "loss", "backward", "samples")
    rows = [(key, str(attrs[key])) for key in told if key in attrs]
    source = attrs.get("data_source", NOT_KNOWN)
    digest = tree.attrs["data_sha256"]
    return [*rows, ("data", f"{source}; SHA-256 {digest[:12]}" if digest else source)]


def _flow(groups: Mapping[str, xr.Dataset]) -> Rows:
    flow, steps = groups["flow"], groups["flow_steps"]
    accepted = int((steps.accepted == 1).sum())
    hessians = steps.hessians.values[-1:] if "hessians" in steps else ()
    return [
        *_law(flow),
        ("method", str(flow.method_reason.item())),
        ("tolerances", _tolerances(flow)),
        ("status", str(flow.status_message.item())),
        ("t reached", _number(flow.time.values[-1])),
        ("steps", f"{accepted} accepted, {steps.sizes['step'] - accepted} rejected"),
        ("field evaluations", str(flow.nfe.item())),
        ("Hessians", str(max(hessians, default=0))),
    ]


def _law(group: xr.Dataset) -> Rows:
    """Which flow it was, if not the gradient flow."""
    kind, decay = group.attrs.get("kind", "gradient"), group.attrs.get("weight_decay", 0.0)
    told = f"{kind}, weight decay {decay:g}" if decay else kind
    return [("flow", told)] if told != "gradient" else []


def _descents_title(descent: xr.Dataset) -> str:
    law, schedule = _law(descent), descent.attrs.get("schedule", "constant")
    title = f"Updates of the flow {law[0][1]}" if law else "Gradient descent"
    return title if schedule == "constant" else f"{title}, step sizes {schedule}"


def _tolerances(flow: xr.Dataset) -> str:
    return f"rtol {flow.attrs['rtol']:g}, atol {flow.attrs['atol']:g}"


def _flow_end(groups: Mapping[str, xr.Dataset]) -> Rows:
    """Quantities at the end, or the largest over the saves; what is known of them beside."""
    flow, known = groups["flow"], groups.get("reference")
    end = flow.isel(time=-1)
    rows = [
        ("loss", _value(end, "loss"), _closed(known, "loss_bound", "at most {}")),
        ("evaluation loss", _value(end, "evaluation_loss"), ""),
        ("accuracy", _value(end, "accuracy"), ""),
        ("evaluation accuracy", _value(end, "evaluation_accuracy"), ""),
        ("gradient norm", _value(end, "gradient_norm"), ""),
        ("sharpness", _value(end, "sharpness"), _closed(known, "sharpness_limit", "{} at t = inf")),
        ("eigenvalues", _values(end, "eigenvalues"), ""),
        ("conditioning", _value(end, "conditioning"), ""),
        ("singular distance", _value(end, "singular_distance"), ""),
        ("radius", _value(end, "sphere_radius"), _closed(known, "sphere_radius", "{}")),
        ("largest change of the radius", _radius_change(flow), "0" if known is not None else ""),
        ("largest drift of the invariants", _largest(flow, "invariant_drift"), "0"),
        ("largest energy residual", _largest(flow, "energy_residual"), "0"),
        ("largest equilibrium residual", _largest(flow, "equilibrium_residual"), "0"),
        ("distance to theta_target", _gap(end, groups.get("problem"), "theta_target"), ""),
        ("distance to the limit", _gap(end, known, "theta_limit"), "0 at t = inf"),
        ("largest error of theta", _gap(flow, known, "theta_exact"), "0"),
        ("estimated error of theta", _value(end, "error_estimate"), ""),
    ]
    return [("quantity", "value", "expected"), *(row for row in rows if row[1])]


def _ensemble(groups: Mapping[str, xr.Dataset], every: bool) -> list[tuple[str, Rows]]:
    """What the trajectories have in common, how they spread, and a row of each."""
    flow = groups["flow"]
    early = np.array([not Status(str(status)).ok for status in flow.status.values])
    title, shown = "Flows", np.arange(len(early))
    if len(shown) > SHOWN and not every:
        order = ", those that ended early first" if early.any() else ""
        title = f"Flows: {SHOWN} of {len(early)}{order}; --all lists every one"
        shown = np.argsort(~early, kind="stable")[:SHOWN]
    columns = _ends(flow)
    told = _early_flows(flow, np.flatnonzero(early))
    return [
        ("Ensemble", _common(flow)),
        ("Over the trajectories", _spread({**columns, **_counts(groups["flow_steps"])})),
        *([("Flows that ended early", told)] if told else []),
        (title, _each(flow, columns, shown)),
    ]


def _common(flow: xr.Dataset) -> Rows:
    (reason, count), total = _counted(flow.method_reason)[0], flow.sizes["trajectory"]
    others = f" ({count} of {total}; the others in flow.method_reason)" if count < total else ""
    return [
        ("trajectories", str(total)),
        *_law(flow),
        ("method", _tally(flow.method)),
        ("reason", reason + others),
        ("tolerances", _tolerances(flow)),
        ("status", _tally(flow.status)),
    ]


def _counted(names: xr.DataArray) -> list[tuple[str, int]]:
    return Counter(str(name) for name in names.values).most_common()


def _tally(names: xr.DataArray) -> str:
    found = _counted(names)
    return found[0][0] if len(found) == 1 else ", ".join(f"{name} ({n})" for name, n in found)


def _ends(flow: xr.Dataset) -> dict[str, Any]:
    """Quantities of each trajectory at its end, those that are known there of any."""
    last = np.isfinite(flow.theta.values).all(-1).sum(axis=1).clip(min=1) - 1
    rows = np.arange(len(last))
    # Between saves only what is stored as final is known of the end.
    at_end = flow.time.values[last] >= flow.t_final.values
    found = {"t reached": flow.t_final.values, "loss": flow.loss_final.values}
    if "gradient_norm_final" in flow:
        found["gradient norm"] = flow.gradient_norm_final.values
    elif "gradient_norm" in flow and at_end.any():
        found["gradient norm"] = np.where(at_end, flow.gradient_norm.values[rows, last], np.nan)
    if "accuracy" in flow:
        found["accuracy (last save)"] = flow.accuracy.values[rows, last]
    if "sharpness" in flow:
        found["sharpness (last save)"] = flow.sharpness.values[rows, last]
    if "error_estimate" in flow:
        found["error estimate (last save)"] = flow.error_estimate.values[rows, last]
    return found | {"evaluations": flow.nfe.values}


def _counts(steps: xr.Dataset) -> dict[str, Any]:
    """Steps of each trajectory, and its Hessians where any has some."""
    flags = steps.accepted.values
    found = {f"{name} steps": (flags == k).sum(1) for name, k in (("accepted", 1), ("rejected", 0))}
    if "hessians" in steps:
        hessians = steps.hessians.values.max(axis=1, initial=0)
        found |= {"Hessians": hessians} if hessians.any() else {}
    return found


def _spread(columns: Mapping[str, Any]) -> Rows:
    """Least, median and largest of what is known."""
    rows: Rows = [("quantity", "least", "median", "largest")]
    for name, values in columns.items():
        known = values[~np.isnan(values)]
        label = name if known.size == len(values) else f"{name} ({known.size} of {len(values)})"
        found = (known.min(), np.median(known), known.max()) if known.size else (math.nan,) * 3
        rows.append((label, *(_number(float(value)) for value in found)))
    return rows


def _each(flow: xr.Dataset, columns: Mapping[str, Any], shown: Any) -> Rows:
    """One row per trajectory: where it ended, and what is known of its end."""
    told = {"trajectory": flow.trajectory.values, "status": flow.status.values, **columns}
    cells = [[_cell(value, 6) for value in values[shown]] for values in told.values()]
    return [tuple(told), *zip(*cells, strict=True)]


def _early_flows(flow: xr.Dataset, early: Any) -> Rows:
    """How many ended early with each status, and what the first of them says."""
    ended = flow.isel(trajectory=early)
    rows: Rows = []
    for status, count in _counted(ended.status):
        first = ended.isel(trajectory=list(map(str, ended.status.values)).index(status))
        which = f"{count}, the first of them trajectory {first.trajectory.item()}"
        rows.append((status, f"{which}: {first.status_message.item()}"))
    return rows


def _descents(groups: Mapping[str, xr.Dataset]) -> Rows:
    """One row per step size, at its last record; columns that were not stored are left out."""
    descent, comparison = groups["descent"], groups.get("comparison")
    updates = descent["update"].values
    last = (updates >= 0).sum(axis=1) - 1

    def at_end(data: xr.Dataset | None, name: str) -> Sequence[float] | None:
        if data is None or name not in data:
            return None
        return [float(row[k]) for row, k in zip(data[name].values, last, strict=True)]

    drift = descent.get("drift_identity_residual")
    columns: dict[str, Iterable[Any] | None] = {
        "step size": descent.step_size.values,
        "updates": updates.max(axis=1),
        "status": descent.status.values,
        "loss": at_end(descent, "loss"),
        "sharpness": at_end(descent, "sharpness"),
        "2/(step size)": _limits(descent),
        "distance to flow": at_end(comparison, "distance"),
        "drift residual": None if drift is None else [_absmax(row) for row in drift.values],
    }
    kept = {name: values for name, values in columns.items() if values is not None}
    cells = [[_cell(value) for value in values] for values in kept.values()]
    return [tuple(kept), *zip(*cells, strict=True)]


def _limits(descent: xr.Dataset) -> list[float] | None:
    """The sharpness up to which each step size is stable, where that is known."""
    found = [stable_sharpness(descent.attrs, eta) for eta in descent.step_size.values.tolist()]
    known = [limit for limit in found if limit is not None]
    return known if len(known) == len(found) else None


def _not_at_their_end(descent: xr.Dataset) -> dict[str, Rows]:
    """What there is to say of the step sizes that ended early, and of those that go on."""
    early: Rows = []
    open_: Rows = []
    for eta, name, message in zip(
        descent.step_size.values, descent.status.values, descent.status_message.values, strict=True
    ):
        status = Status(str(name))
        if not status.ok:
            (open_ if status is Status.RUNNING else early).append((f"{eta:g}", str(message)))
    return {"Step sizes that ended early": early, "Step sizes that go on, or were killed": open_}


def _value(end: xr.Dataset, name: str) -> str:
    return _number(end[name].item()) if name in end else ""


def _values(end: xr.Dataset, name: str) -> str:
    return ", ".join(map(_number, end[name].values.ravel().tolist())) if name in end else ""


def _largest(flow: xr.Dataset, name: str) -> str:
    return _number(_absmax(flow[name].values)) if name in flow else ""


def _radius_change(flow: xr.Dataset) -> str:
    if "sphere_radius" not in flow:
        return ""
    radius = flow.sphere_radius.values
    return _number(_absmax(radius - radius[0]))


def _gap(flow: xr.Dataset, known: xr.Dataset | None, name: str) -> str:
    """Largest distance of theta to a known one."""
    if known is None or name not in known:
        return ""
    distance = np.linalg.norm(flow.theta.values - known[name].values, axis=-1)
    return _number(_absmax(distance))


def _closed(known: xr.Dataset | None, name: str, words: str) -> str:
    if known is None or name not in known:
        return ""
    return words.format(_number(known[name].values.ravel()[-1]))


def _absmax(values: Any) -> float:
    finite = np.abs(values)[~np.isnan(values)]
    return float(finite.max()) if finite.size else math.nan


def _cell(value: Any, digits: int = 4) -> str:
    return str(value) if isinstance(value, str | int | np.integer) else _number(value, digits)


def _number(value: float, digits: int = 6) -> str:
    return NOT_KNOWN if math.isnan(value) else f"{value:.{digits}g}"
