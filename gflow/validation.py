"""The validator: whether a tree follows the schema."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

from gflow.errors import SchemaError
from gflow.schema import FINAL, GROUPS, ROOT_ATTRIBUTES, SCHEMA_VERSION, Variable
from gflow.schema_values import value_faults

if TYPE_CHECKING:
    import xarray as xr


def validate(tree: xr.DataTree) -> None:
    """Check a tree against the schema.

    Raises
    ------
    SchemaError
        With every violation, one a line.
    """
    faults = [f"/ lacks the attribute {name}" for name in ROOT_ATTRIBUTES if name not in tree.attrs]
    version = tree.attrs.get("schema_version", SCHEMA_VERSION)
    if str(version) != str(SCHEMA_VERSION):
        faults.append(f"schema_version is {version}; this gflow reads version {SCHEMA_VERSION}")
    if "flow" in tree.children:
        faults += [] if "flow_steps" in tree.children else ["/flow is there without /flow_steps"]
        wanted = ("rtol", "atol")
        flow = tree["flow"]
        lacking = [name for name in wanted if name not in flow.attrs and name not in flow]
        faults += [f"/flow lacks the attribute {name}" for name in lacking]
        events = [name for name in GROUPS["flow"] if name.startswith("event_")]
        if any(name in flow for name in events):
            faults += [f"/flow has events without {name}" for name in events if name not in flow]
        if "trajectory" in flow.dims:
            faults += [f"/flow lacks {name}" for name in FINAL if name not in flow]
    if not {"flow", "descent", "sweep"} & set(tree.children):
        faults.append("there is neither a /flow nor a /descent group")
    swept = sweep_dimensions(tree)
    for name, node in tree.children.items():
        known = GROUPS.get(name)
        unknown = [f"/{name} is no group of the schema"]
        faults += unknown if known is None else _faults(node, known, swept)
    faults += value_faults(tree, bool(swept))
    if faults:
        raise SchemaError("Not a gflow dataset: " + "; ".join(faults) + ".")


def sweep_dimensions(tree: xr.DataTree) -> tuple[str, ...]:
    """The dimensions, dotted keys, that all variables of a sweep have first; () if it is none."""
    attributes = tree["sweep"].attrs if "sweep" in tree.children else {}
    return tuple(str(attributes.get("dimensions", "")).split())


def _faults(node: xr.DataTree, known: dict[str, Variable], swept: tuple[str, ...]) -> list[str]:
    place, faults = f"/{node.name}", []
    data = node.to_dataset(inherit=False)
    faults += [f"{place} lacks {n}" for n, v in known.items() if v.required and n not in data]
    faults += [
        f"{place}: dimension {d} has no coordinate"
        for d in data.dims
        if d not in data.coords and d != "byte"
    ]
    for name, array in data.data_vars.items():
        missing = [key for key in ("long_name", "units", "formula") if key not in array.attrs]
        if missing:
            faults.append(f"{place}/{name} lacks {', '.join(missing)}")
        dims = tuple(d for d in array.dims if d != "trajectory" and d not in swept)
        allowed = known[str(name)].layouts if name in known else (dims,)
        if swept:
            allowed = (*allowed, *(_within_cell(one) for one in allowed))
        expected = allowed[0]
        if dims not in allowed:
            faults.append(f"{place}/{name} has dimensions {dims}, not {expected}")
    return faults


def _within_cell(dims: Iterable[Hashable]) -> tuple[str, ...]:
    """Dimensions within the cells of a sweep over saves or step sizes."""
    return tuple("save" if dim == "time" else str(dim) for dim in dims if dim != "step_size")
