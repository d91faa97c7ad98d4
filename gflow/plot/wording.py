"""The words above a figure: what ran and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gflow.plot.runs import Run, descents, flows
from gflow.plot.sweep import DRAWN

if TYPE_CHECKING:
    import xarray as xr

LISTED = 6
"""Step sizes of one verdict that are named one by one."""

VARIES = "varies"
"""Text of an attribute that differs from cell to cell of a sweep."""


def description(tree: xr.DataTree) -> str:
    """Model, backward and method in a line."""
    problem = tree["problem"].attrs if "problem" in tree.children else {}
    model, backward = problem.get("model", "unknown model"), problem.get("backward")
    parts = ["several models" if _differs(model) else str(model)]
    if backward is not None:
        parts.append("several backwards" if _differs(backward) else f"backward {backward}")
    kinds = {str(node.attrs["kind"]) for node in tree.children.values() if "kind" in node.attrs}
    parts += sorted(kinds - {"gradient"})
    if "flow" in tree.children:
        flow = tree["flow"].to_dataset()
        methods = {str(name) for name in flow["method"].values.ravel()}
        method = methods.pop() if len(methods) == 1 else "several methods"
        parts.append(f"{method}, rtol {flow.attrs['rtol']:g}" if "rtol" in flow.attrs else method)
    elif not kinds - {"gradient"}:
        parts.append("gradient descent")
    if tree.attrs.get(DRAWN):
        parts.append(str(tree.attrs[DRAWN]))
    return "  ·  ".join(parts)


def _differs(told: object) -> bool:
    """Whether an attribute says that the flows of a sweep or an ensemble have different ones."""
    return str(told) == VARIES or str(told).endswith(" of them")


def verdicts(tree: xr.DataTree, kind: str) -> list[str]:
    """How the runs ended that are ok, is_open or failed, those of one status together."""
    found = []
    for members, describe in ((flows(tree), _flows), (descents(tree), _descents)):
        statuses = dict.fromkeys(run.status for run in members if getattr(run, kind))
        for status in statuses:
            same = [run for run in members if run.status == status]
            found.append(f"{describe(same, len(members))} ({status})")
    return found


def _flows(same: list[Run], total: int) -> str:
    if total > 1:
        return f"{_count(same, total)} flows"
    end = same[0].time[-1:]
    return f"flow at t = {end[0]:.5g}" if end.size else "flow"


def _descents(same: list[Run], total: int) -> str:
    if len(same) > LISTED:
        return f"GD at {_count(same, total)} step sizes"
    return "GD at η = " + ", ".join(f"{run.step_size:g}" for run in same)


def _count(same: list[Run], total: int) -> str:
    return str(total) if len(same) == total else f"{len(same)} of {total}"
