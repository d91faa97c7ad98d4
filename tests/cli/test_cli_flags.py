from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gflow.cli.flags import SHORT, key_options, overrides, read_value
from gflow.cli.run import RunCommand, compare, descend, integrate
from gflow.config import Config, config_from_dict, describe_keys
from gflow.errors import UsageError

TEACHER = {
    "model": {"kind": "single_index", "dim": 1},
    "data": {"source": "teacher", "samples": 9, "seed": 1, "distribution": "uniform"},
    "start": {"seed": 2},
    "flow": {"t_end": 1.0},
    "descent": {"step_sizes": [0.1]},
}
FILE = TEACHER | {"data": {"source": "file", "path": "a.csv", "inputs": ["a"], "target": "y"}}
GIVEN = TEACHER | {"start": {}}
VECTOR = TEACHER | {"model": {"kind": "vector", "width": 3, "dim": 1}}
WEAK = TEACHER | {"model": {"activation": "weak-tanh", "epsilon": 1.0, "dim": 1}}
MODULE = TEACHER | {"model": {"kind": "module", "factory": "a.py:make", "dim": 1}}

# key: what is typed, what the configuration then holds, and the file that it is typed for
SAMPLES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "model.kind": ("linear", "linear", TEACHER),
    "model.dim": ("1", 1, TEACHER),
    "model.activation": ("weak-tanh:0.5", "weak-tanh:0.5", TEACHER),
    "model.epsilon": ("0.5", 0.5, WEAK),
    "model.backward": ("neumann:3", "neumann:3", TEACHER),
    "model.loss": ("logistic", "logistic", TEACHER),
    "model.width": ("7", 7, VECTOR),
    "model.train": ("W,U,C", ("W", "U", "C"), VECTOR),
    "model.factory": ("b.py:make", "b.py:make", MODULE),
    "model.factory_sha256": ("0a" * 32, "0a" * 32, MODULE),
    "model.chunk": ("100", 100, MODULE),
    "data.source": ("teacher", "teacher", TEACHER),
    "data.distribution": ("normal", "normal", TEACHER),
    "data.low": ("-1.5", -1.5, TEACHER),
    "data.high": ("2", 2.0, TEACHER),
    "data.samples": ("7", 7, TEACHER),
    "data.seed": ("5", 5, TEACHER),
    "data.theta": ("-1,0.5", (-1.0, 0.5), TEACHER),
    "data.noise": (".1", 0.1, TEACHER),
    "data.evaluation_samples": ("3", 3, TEACHER),
    "data.path": ("7", "7", FILE),
    "data.sha256": ("12" * 32, "12" * 32, FILE),
    "data.inputs": ("bmi, 5", ("bmi", "5"), FILE | {"model": {"dim": 2}}),
    "data.target": ("true", "true", FILE),
    "data.input_scaling": ("standard", "standard", FILE),
    "data.target_scaling": ("range", "range", FILE),
    "data.holdout": ("0.25", 0.25, FILE),
    "start.theta": ("[1, -0.5]", (1.0, -0.5), GIVEN),
    "start.seed": ("3", 3, GIVEN),
    "start.scale": ("0.5", 0.5, TEACHER),
    "start.offset": ("1,2", (1.0, 2.0), TEACHER),
    "start.scheme": ("monotone", "monotone", VECTOR),
    "start.radius": ("0.9", 0.9, VECTOR),
    "flow.kind": ("scaled:theta1=0.1,theta2=2", "scaled:theta1=0.1,theta2=2", TEACHER),
    "flow.weight_decay": ("1e-3", 1e-3, TEACHER),
    "flow.t_end": ("1e3", 1000.0, TEACHER),
    "flow.method": ("LSODA", "LSODA", TEACHER),
    "flow.rtol": ("1e-8", 1e-8, TEACHER),
    "flow.atol": ("1e-12", 1e-12, TEACHER),
    "flow.times": ("0,0.5,1", (0.0, 0.5, 1.0), TEACHER),
    "flow.spacing": ("log", "log", TEACHER),
    "flow.step_size": ("0.25", 0.25, TEACHER),
    "flow.stop.loss": ("1e-4", 1e-4, TEACHER),
    "flow.stop.gradient_norm": ("1e-5", 1e-5, TEACHER),
    "flow.stop.steady_state": ("true", True, TEACHER),
    "flow.stop.max_steps": ("17", 17, TEACHER),
    "flow.stop.wall_seconds": ("60", 60.0, TEACHER),
    "flow.events.loss": ("1e-2,1e-4", (1e-2, 1e-4), TEACHER),
    "flow.events.gradient_norm": ("1e-3", 1e-3, TEACHER),
    "flow.events.sharpness": ("true", True, TEACHER),
    "flow.events.singular_distance": ("[0.1]", (0.1,), TEACHER),
    "flow.events.conditioning": ("0.05", 0.05, TEACHER),
    "descent.step_sizes": ("0.5", (0.5,), TEACHER),
    "descent.t_end": ("4", 4.0, TEACHER),
    "descent.records": ("11", 11, TEACHER),
    "descent.spacing": ("log", "log", TEACHER),
    "descent.wall_seconds": ("9.5", 9.5, TEACHER),
    "descent.schedule": ("step:0.5:0.1", "step:0.5:0.1", TEACHER),
    "descent.kind": ("heavy_ball:0.5", "heavy_ball:0.5", TEACHER),
    "descent.weight_decay": ("0.1", 0.1, TEACHER),
    "diagnostics.sharpness": ("all", "all", TEACHER),
    "diagnostics.eigenvalues": ("3", 3, TEACHER),
    "run.store_theta": ("ends", "ends", TEACHER),
    "run.checkpoint_seconds": ("2.5", 2.5, TEACHER),
    "run.dtype": ("float32", "float32", TEACHER),
    "run.device": ("cuda:1", "cuda:1", TEACHER),
    "run.threads": ("2", 2, TEACHER),
}
COMMANDS = {"integrate": integrate, "descend": descend, "compare": compare}


def config_of(command: RunCommand, arguments: list[str], raw: dict[str, Any]) -> Config:
    """The configuration that the flags make of a file's content."""
    import tomli_w

    Path("a.toml").write_text(tomli_w.dumps(raw), encoding="utf-8")
    caught: list[Config] = []

    def stop(config: Config, *_: object, **__: object) -> None:
        caught.append(config)
        raise UsageError("stopped before the run")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gflow.configured.run_config", stop)
        with pytest.raises(UsageError, match="stopped"):
            command.main(["a.toml", *arguments], standalone_mode=False)
    return caught[0]


def value_of(config: Config, key: str) -> object:
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def flag(name: str) -> str:
    return "--" + name.replace(".", "-").replace("_", "-")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "key", [key for key, info in describe_keys().items() if info.type != "boolean"]
)
def test_the_flag_of_every_key_reaches_the_configuration(key: str) -> None:
    typed, expected, raw = SAMPLES[key]
    config = config_of(compare, [flag(key), typed], raw)
    assert value_of(config, key) == expected
    assert type(value_of(config, key)) is type(expected)


@pytest.mark.parametrize(
    "key", [key for key, info in describe_keys().items() if info.type == "boolean"]
)
@pytest.mark.parametrize("on", [True, False])
def test_the_switch_of_every_boolean_key_reaches_the_configuration(key: str, on: bool) -> None:
    switch = flag(key) if on else "--no-" + flag(key)[2:]
    assert value_of(config_of(compare, [switch], TEACHER), key) is on


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind in SHORT for key in SHORT[kind]])
def test_the_short_flags_set_the_same_keys(kind: str, key: str) -> None:
    typed, expected, raw = SAMPLES[key]
    config = config_of(COMMANDS[kind], [flag(key.rpartition(".")[2]), typed], raw)
    assert value_of(config, key) == expected


def test_without_flags_the_file_stands() -> None:
    assert config_of(compare, [], TEACHER) == config_from_dict(TEACHER)


def test_flags_win_over_set_and_set_over_the_file() -> None:
    raw = TEACHER | {"flow": {"t_end": 1.0, "rtol": 1e-3, "atol": 1e-3}}
    sets = ["--set", "flow.rtol=1e-4", "--set", "flow.atol=1e-4"]
    config = config_of(integrate, ["--rtol", "1e-5", *sets], raw)
    assert config.flow is not None
    assert (config.flow.rtol, config.flow.atol) == (1e-5, 1e-4)


def test_a_flag_wins_over_a_whole_table_that_is_set_after_the_key() -> None:
    sets = ["flow.rtol=1e-4", "flow={t_end=2}"]
    options = key_options("integrate")
    values = dict.fromkeys((option.name or "" for option in options), None)
    given = overrides(sets, options, values | {"flow__rtol": 1e-5})
    assert list(given.items()) == [("flow", {"t_end": 2}), ("flow.rtol", 1e-5)]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_flag_means_two_things(command: RunCommand) -> None:
    with click.Context(command) as context:
        params = command.get_params(context)
    counted = Counter(name for param in params for name in (*param.opts, *param.secondary_opts))
    assert [name for name, count in counted.items() if count > 1] == []


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_help_of_every_flag_is_in_sentences(command: RunCommand) -> None:
    for option in command.key_options:
        assert option.help is not None
        assert option.help[0].isupper() or not option.help[0].isalpha()
        assert option.help.endswith(".")
        assert ".." not in option.help.replace("...", "")


def test_the_help_tells_expectations_and_defaults() -> None:
    told = {option.key: option.help for option in key_options("integrate")}
    assert told["flow.rtol"] == (
        "Relative tolerance. It must be a number between 0 and 1. Default: 1e-06."
    )
    assert told["flow.method"] == "Integrator; see gflow methods. Default: auto."
    assert told["flow.t_end"] == (
        "End of the flow (flow time). It must be a positive number, or inf with [flow.stop]. "
        "No default."
    )
    assert told["model.dim"] == (
        "Number of inputs d (none: that of the data). It must be an integer of at least 1."
    )


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_lists_of_numbers_are_read_exactly(numbers: list[float]) -> None:
    text = ",".join(map(repr, numbers))
    assert read_value("list of numbers", text) == numbers
    assert read_value("integer or list of numbers", f"[{text}]") == numbers


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("integer or list of numbers", "50", 50),
        ("integer or list of numbers", "0.5,", [0.5]),
        ("boolean or number", "False", False),
        ("boolean or number", "0.1", 0.1),
        ("list of strings", '["a, b", "c"]', ["a, b", "c"]),
        ("list of strings", "1,2", ["1", "2"]),
        ("number", "inf", float("inf")),
        ("number", "soon", "soon"),
        ("string", "1e-3", "1e-3"),
    ],
)
def test_a_flag_is_read_by_its_type(kind: str, text: str, expected: object) -> None:
    assert read_value(kind, text) == expected
