"""The schema's own rules, and what the validator finds."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

import gflow
from gflow import schema
from gflow.diagnostics.pointwise import POINTWISE
from gflow.errors import SchemaError


@pytest.fixture
def tree() -> xr.DataTree:
    problem = gflow.Problem(gflow.LinearDEQ(1), [[0.5], [1.0]], [1.0, 2.0])
    return gflow.compare(problem, [0.1, 0.0], [0.01], 1.0, times=4, records=4)


def test_every_run_follows_the_schema(tree: xr.DataTree) -> None:
    gflow.validate(tree)
    for name, node in tree.children.items():
        for variable, array in node.data_vars.items():
            assert variable in schema.GROUPS[name]
            assert array.attrs["long_name"]
            assert array.attrs["units"] == ("s" if variable == "wall_seconds" else "1")
        for coordinate in node.coords.values():
            assert {"long_name", "units"} <= set(coordinate.attrs)


def test_every_pointwise_diagnostic_has_its_line_in_the_schema() -> None:
    for name in (*POINTWISE, "sharpness", "evaluation_loss"):
        assert name in schema.GROUPS["flow"]
        assert name in schema.GROUPS["descent"]


def drop_attribute(tree: xr.DataTree) -> None:
    del tree.attrs["versions"]


def newer_version(tree: xr.DataTree) -> None:
    tree.attrs["schema_version"] = 99


def drop_theta(tree: xr.DataTree) -> None:
    tree["flow"] = xr.DataTree(tree["flow"].to_dataset().drop_vars("theta"))


def drop_units(tree: xr.DataTree) -> None:
    del tree["flow"].loss.attrs["units"]


def drop_coordinate(tree: xr.DataTree) -> None:
    tree["flow"] = xr.DataTree(tree["flow"].to_dataset().drop_vars("time"))


def turn_theta(tree: xr.DataTree) -> None:
    tree["flow"] = xr.DataTree(tree["flow"].to_dataset().transpose("parameter", "time"))


def add_group(tree: xr.DataTree) -> None:
    tree["surprise"] = xr.DataTree(xr.Dataset({"a": ((), np.float64(1))}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (drop_attribute, "/ lacks the attribute versions"),
        (newer_version, "schema_version is 99; this gflow reads version 1"),
        (drop_theta, "/flow lacks theta"),
        (drop_units, "/flow/loss lacks units"),
        (drop_coordinate, "/flow: dimension time has no coordinate"),
        (turn_theta, "/flow/theta has dimensions ('parameter', 'time')"),
        (add_group, "/surprise is no group of the schema"),
    ],
)
def test_the_validator_names_each_violation(
    tree: xr.DataTree, damage: Callable[[xr.DataTree], None], sentence: str
) -> None:
    damage(tree)
    with pytest.raises(SchemaError, match=re.escape(sentence)):
        gflow.validate(tree)


def test_an_ensemble_tells_where_each_trajectory_ended() -> None:
    problem = gflow.Problem(gflow.LinearDEQ(1), [[0.5], [1.0]], [1.0, 2.0])
    tree = gflow.integrate(problem, [[0.1, 0.0], [0.2, 0.0]], 1.0, times=3)
    gflow.validate(tree)
    tree["flow"] = xr.DataTree(tree["flow"].to_dataset().drop_vars(["t_final", "loss_final"]))
    with pytest.raises(SchemaError, match="/flow lacks t_final; /flow lacks loss_final"):
        gflow.validate(tree)


def test_a_tree_without_a_run_is_refused(tree: xr.DataTree) -> None:
    bare = xr.DataTree.from_dict({"problem": tree["problem"].to_dataset()})
    bare.attrs = tree.attrs
    with pytest.raises(SchemaError, match="neither a /flow nor a /descent"):
        gflow.validate(bare)
