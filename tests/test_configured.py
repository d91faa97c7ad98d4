"""From a configuration to a dataset, and the agreement of all defaults."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import numpy as np
import pytest

import gflow
from gflow.config import Flow, config_from_dict, load_config
from gflow.configured import make_problem, make_start, run_config
from gflow.errors import ConfigError, DataError

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"

TINY = {
    "model": {"kind": "linear"},
    "data": {"source": "teacher", "samples": 20, "seed": 1, "theta": [1.0, 0.5, 0.0]},
    "start": {"theta": [0.1, 0.2, 0.3]},
    "flow": {"t_end": 1.0, "times": 3},
    "descent": {"step_sizes": [0.1]},
}


def tiny(**tables: object) -> dict[str, object]:
    return {**TINY, **tables}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.toml")))
def test_every_example_runs(name: str) -> None:
    config = load_config(EXAMPLES / name)
    tree = run_config(config, "compare", EXAMPLES)
    assert str(tree["flow"].status.values) == "t_end"
    assert set(tree["descent"].status.values) == {"t_end"}
    stored = tomllib.loads(tree.attrs["config"])
    for table, key in (("run", "threads"), ("data", "sha256"), ("model", "factory_sha256")):
        stored[table].pop(key, None)
    assert config_from_dict(stored) == config
    gflow.validate(tree)


def test_a_config_is_the_python_call() -> None:
    tree = run_config(config_from_dict(tiny()), "compare", Path())
    x = np.random.default_rng(1).normal(size=(20, 2))
    problem = gflow.Problem(gflow.LinearDEQ(2), x, x @ [1.0, 0.5])
    again = gflow.compare(problem, [0.1, 0.2, 0.3], [0.1], 1.0, times=3)
    np.testing.assert_allclose(tree["flow"].theta, again["flow"].theta, rtol=0, atol=1e-13)
    np.testing.assert_allclose(tree["descent"].theta, again["descent"].theta, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["integrate", "descend"])
def test_each_kind_runs_what_it_says(kind: str) -> None:
    tree = run_config(config_from_dict(tiny()), kind, Path())  # type: ignore[arg-type]
    assert ("flow" in tree.children) == (kind == "integrate")
    assert ("descent" in tree.children) == (kind == "descend")


@pytest.mark.parametrize(("kind", "table"), [("integrate", "flow"), ("compare", "descent")])
def test_a_missing_table_is_told(kind: str, table: str) -> None:
    raw = tiny()
    raw.pop(table)
    raw |= {"descent": {"step_sizes": [0.1], "t_end": 1.0}} if table == "flow" else {}
    with pytest.raises(ConfigError, match=rf"\[{table}\] is missing"):
        run_config(config_from_dict(raw), kind, Path())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"flow": {"t_end": float("inf"), "stop": {"loss": 1e-3}}}, "flow.t_end is inf"),
        ({"flow": None}, "with no .flow. to give it"),
        ({"data": {**TINY["data"], "theta": [1.0, 0.5, 1.0]}}, "data.theta is no teacher"),
    ],
)
def test_what_cannot_run_is_told(tables: dict[str, object], sentence: str) -> None:
    raw = {key: table for key, table in tiny(**tables).items() if table is not None}
    with pytest.raises(ConfigError, match=sentence):
        run_config(config_from_dict(raw), "descend", Path())


def test_a_drawn_start_is_offset_plus_noise() -> None:
    config = config_from_dict(tiny(start={"seed": 43, "scale": 0.1, "offset": [0.0, 0.0, 1.0]}))
    expected = np.random.default_rng(43).normal(0, 0.1, 3) + [0, 0, 1]
    np.testing.assert_array_equal(make_start(config, gflow.LinearDEQ(2)), expected)


def test_the_evaluation_set_is_used() -> None:
    data = {**TINY["data"], "evaluation_samples": 7}
    tree = run_config(config_from_dict(tiny(data=data)), "integrate", Path())
    assert "evaluation_loss" in tree["flow"]
    assert tree["problem"].sizes["evaluation_sample"] == 7


def test_the_dtype_and_the_backward_reach_the_problem() -> None:
    config = config_from_dict(
        tiny(run={"dtype": "float32"}, model={"kind": "linear", "backward": "jfb"})
    )
    problem, _ = make_problem(config, Path())
    assert str(problem.dtype) == "torch.float32"
    assert problem.backward.name == "jfb"


def test_a_file_s_folder_is_the_config_s(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b\n1,2\n2,4\n3,6\n")
    data = {"source": "file", "path": "data.csv", "inputs": ["a"], "target": "b"}
    config = config_from_dict(tiny(data=data, start={"theta": [0.1, 0.2]}))
    tree = run_config(config, "integrate", tmp_path)
    np.testing.assert_array_equal(tree["problem"].inputs[:, 0], [1, 2, 3])
    with pytest.raises(DataError, match=r"data\.csv"):
        run_config(config, "integrate", tmp_path / "elsewhere")


def test_all_defaults_agree() -> None:
    """The signatures and the configuration state each default once more, so they are compared."""
    integrate = inspect.signature(gflow.integrate).parameters
    compare = inspect.signature(gflow.compare).parameters
    for name in (
        *("method", "rtol", "atol", "times", "spacing", "step_size", "flow", "weight_decay"),
    ):
        assert compare[name].default == integrate[name].default
        key = "kind" if name == "flow" else name
        assert Flow.model_fields[key].default == integrate[name].default
    assert (
        compare["records"].default == inspect.signature(gflow.descend).parameters["records"].default
    )


def test_a_flow_of_another_kind_reaches_the_run_and_its_counterpart() -> None:
    flow = {"t_end": 1.0, "kind": "heavy_ball:0.5", "weight_decay": 0.1}
    descent = {"step_sizes": [0.1], "schedule": "cosine"}
    tree = run_config(config_from_dict(tiny(flow=flow, descent=descent)), "compare", Path())
    told = {"kind": "heavy_ball:0.5", "weight_decay": 0.1}
    assert told.items() <= tree["flow"].attrs.items()
    assert (told | {"schedule": "cosine"}).items() <= tree["descent"].attrs.items()
    assert "velocity" in tree["flow"]
    alone = run_config(config_from_dict(tiny(flow=flow, descent=descent)), "descend", Path())
    np.testing.assert_array_equal(alone["descent"].theta, tree["descent"].theta)


def test_a_descent_alone_may_have_its_own_kind() -> None:
    own = {"step_sizes": [0.1], "kind": "nesterov", "weight_decay": 0.2, "t_end": 2.0}
    raw = tiny(descent=own)
    for without_flow in (False, True):
        if without_flow:
            del raw["flow"]
        descent = run_config(config_from_dict(raw), "descend", Path())["descent"]
        assert (descent.attrs["kind"], descent.attrs["weight_decay"]) == ("nesterov", 0.2)
    with pytest.raises(ConfigError) as refusal:
        run_config(config_from_dict(tiny(descent=own)), "compare", Path())
    assert str(refusal.value) == (
        'descent.kind is "nesterov" but flow.kind is "gradient"; gflow compare runs '
        "the flow's own counterpart, so leave descent.kind out."
    )


def test_every_flow_key_reaches_integrate() -> None:
    known = set(inspect.signature(gflow.integrate).parameters)
    assert {"flow" if key == "kind" else key for key in Flow.model_fields} <= known
