from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gflow.config import config_from_dict, with_values
from gflow.errors import ConfigError, MethodError
from gflow.sweeps.over import read_axes
from gflow.sweeps.parts import LARGEST, divide
from gflow.sweeps.plan import grid_of, make_plan


def planned(base, *over, kind="integrate", folder=Path()):
    return make_plan(base, read_axes(over), kind, folder)


def test_the_last_axis_varies_fastest(base):
    plan = planned(base, "data.seed=0:2", "flow.rtol=1e-3,1e-4,1e-5")
    assert (plan.shape, plan.cells) == ((2, 3), 6)
    assert plan.index(4) == (1, 1)
    assert plan.settings(4) == {"data.seed": 1, "flow.rtol": 1e-4}
    assert plan.config(4).data.seed == 1
    assert len(set(plan.keys)) == 6


def test_the_kind_is_that_of_the_tables(base):
    assert planned(base, "data.seed=0:2", kind=None).kind == "compare"
    flow = {name: table for name, table in base.items() if name != "descent"}
    assert planned(flow, "data.seed=0:2", kind=None).kind == "integrate"
    assert planned(flow, "descent.step_sizes=0.1,0.2", kind=None).kind == "compare"
    descent = {name: table for name, table in base.items() if name != "flow"}
    descent["descent"]["t_end"] = 1.0
    assert planned(descent, "data.seed=0:2", kind=None).kind == "descend"


def test_a_value_that_its_key_refuses_is_a_wrong_request(base):
    with pytest.raises(ConfigError) as caught:
        planned(base, "flow.rtol=1e-3,2")
    told = "--over flow.rtol=1e-3,2: flow.rtol is 2; it must be a number between 0 and 1."
    assert str(caught.value) == told


def test_an_unknown_method_is_a_wrong_request(base):
    with pytest.raises(MethodError, match='method "rk99" is unknown'):
        planned(base, "flow.method=auto,rk99")
    assert planned(base, "flow.method=auto,rk99", kind="descend").cells == 2


def test_cells_are_refused_one_by_one_unless_all_are(base):
    plan = planned(base, "model.kind=linear,vector")
    assert plan.refused == {1: "model.width is missing; a vector DEQ needs it."}
    assert plan.accepted == [0]
    with pytest.raises(ConfigError) as caught:
        planned(base, "model.epsilon=0.5,0.25")
    assert str(caught.value) == (
        "No cell of the sweep can be configured: model.epsilon needs model.activation = "
        '"weak-tanh"; leave it out.'
    )
    del base["descent"]
    with pytest.raises(ConfigError, match=r"\[descent\] is missing"):
        planned(base, "data.seed=0:2", kind="descend")


def test_a_key_holds_all_that_decides_a_cell(base, tmp_path):
    over = "start.seed=0:1"
    base["model"]["kind"], base["model"]["activation"] = "single_index", "tanh"
    known = planned(base, over).keys
    assert planned(base, over).keys == known
    assert planned(base, over, kind="compare").keys != known
    assert planned(with_values(base, {"flow.rtol": 1e-4}), over).keys != known
    table = tmp_path / "a.csv"
    table.write_text("a,y\n1,2\n2,3\n")
    base["data"] = {"source": "file", "path": "a.csv", "inputs": ["a"], "target": "y"}
    first = planned(base, over, folder=tmp_path).keys
    table.write_text("a,y\n1,2\n2,4\n")
    assert planned(base, over, folder=tmp_path).keys != first


def test_a_key_holds_the_code_of_a_factory(base, tmp_path):
    base["model"] = {"kind": "module", "factory": "m.py:make", "dim": 1}
    (tmp_path / "m.py").write_text("from .other import make\n")
    (tmp_path / "other.py").write_text("def make(): ...\n")
    first = planned(base, "start.seed=0:1", folder=tmp_path).keys
    (tmp_path / "other.py").write_text("def make():  ...\n")
    assert planned(base, "start.seed=0:1", folder=tmp_path).keys != first


@pytest.mark.parametrize(
    ("changes", "grid"),
    [
        ({}, [0, 0.25, 0.5, 0.75, 1]),
        ({"flow.times": [0.5]}, [0, 0.5, 1]),
        ({"flow.t_end": np.inf, "flow.stop": {"loss": 1e-3}, "flow.times": [0.5]}, [0, 0.5]),
    ],
)
def test_the_saves_of_a_flow(base, changes, grid):
    assert grid_of(config_from_dict(with_values(base, changes))).tolist() == grid


def test_saves_differ_where_they_are_an_axis_or_the_end_decides_them(base):
    assert not planned(base, "data.seed=0:2").by_save
    assert planned(base, "flow.t_end=1.0,2.0").by_save
    endless = with_values(base, {"flow.t_end": np.inf, "flow.stop": {"loss": 1e-3}})
    assert planned(endless, "data.seed=0:2").by_save


def sizes(plan, workers=1):
    return sorted(len(part.keys) for part in divide(plan, plan.accepted, workers, ""))


def test_flows_of_one_family_go_together_in_parts_for_all_workers(base):
    plan = planned(base, "data.seed=0:10", "start.seed=0:4")
    assert sizes(plan) == [20, 20]
    assert sizes(plan, 4) == [5] * 8
    assert sizes(plan, 100) == [1] * 40
    assert max(sizes(planned(base, "data.seed=0:200"))) == LARGEST
    assert sizes(planned(base, "data.seed=0:4", "flow.rtol=1e-3,1e-5")) == [4, 4]
    assert sizes(planned(base, "data.seed=0:4", kind="compare")) == [1] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"flow.stop": {"wall_seconds": 60.0}},
        {"flow.stop": {"loss": 1e-3}, "flow.t_end": np.inf},
        {"run.store_data": True},
        {"data.evaluation_samples": 5},
        {"model": {"kind": "module", "factory": "m.py:make", "dim": 1}},
    ],
)
def test_what_is_a_runs_own_keeps_it_alone(base, changes):
    assert sizes(planned(with_values(base, changes), "data.seed=0:4")) == [1] * 4


def test_a_common_evaluation_set_keeps_flows_together(base):
    shared = with_values(base, {"data.evaluation_samples": 5})
    assert sizes(planned(shared, "start.seed=0:4")) == [2, 2]


def test_a_split_part_has_its_cells_alone(base):
    plan = planned(base, "data.seed=0:4")
    part = divide(plan, plan.accepted, 1, "typed")[0]
    halves = part.split()
    assert [one.keys for one in halves] == [(key,) for key in part.keys]
    assert [one.configs for one in halves] == [(text,) for text in part.configs]
