from __future__ import annotations

import copy
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gflow.config import (
    Stop,
    TeacherData,
    config_from_dict,
    describe_keys,
    load_config,
)
from gflow.errors import ConfigError
from gflow.models.activations import parse_activation

TEACHER = {
    "model": {"dim": 2},
    "data": {"source": "teacher", "samples": 10, "seed": 1},
    "start": {"seed": 1},
    "flow": {"t_end": 3.0},
}
FILE = {
    "data": {"source": "file", "path": "a.csv", "inputs": ["a", "b"], "target": "y"},
    "start": {"theta": [1, 2, 3]},
}
JARGON = re.compile(r"pydantic|Input should|Extra inputs|Field required|[Vv]alid|type=|Value error")


def changed(base, **changes):
    raw = copy.deepcopy(base)
    for dotted, value in changes.items():
        *tables, leaf = dotted.split("__")
        node = raw
        for name in tables:
            node = node.setdefault(name, {})
        node[leaf] = value
    return raw


def complaint(raw):
    with pytest.raises(ConfigError) as caught:
        config_from_dict(raw)
    return str(caught.value)


def test_kinds_of_models_have_keys_of_their_own():
    vector = config_from_dict(changed(FILE, model__kind="vector", model__width=8))
    assert vector.model.train == ("W", "U", "b", "C", "c")
    module = changed(FILE, model__kind="module", model__factory="net.py:make")
    del module["start"]
    assert config_from_dict(module).start is None
    several = config_from_dict(changed(FILE, data__target=["y", "z"]))
    assert several.data.targets == ("y", "z")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model__kind": "vector"}, "model.width is missing; a vector DEQ needs it."),
        ({"model__kind": "module"}, "model.factory is missing; a module needs it, such as"),
        ({"model__width": 3}, 'model.width has no meaning but with model.kind = "vector"'),
        ({"model__factory": "a.py:b"}, 'model.factory has no meaning but with model.kind = "mod'),
        (
            {"model__kind": "module", "model__factory": "a.py:b", "model__activation": "relu"},
            'model.activation has no meaning with model.kind = "module"',
        ),
        (
            {"model__kind": "vector", "model__width": 3, "model__train": ["V"]},
            'model.train is ["V"]; it must be a list of some of W, U, b, C, c.',
        ),
        ({"model__loss": "mes"}, 'model.loss is "mes"; it must be "mse", "cross_entropy" or'),
        ({"start__scheme": "norm"}, 'start.scheme and start.radius need model.kind = "vector"'),
        (
            {"model__kind": "vector", "model__width": 3, "start": {"seed": 1, "offset": [1, 2]}},
            'start.offset has no meaning with model.kind = "vector"',
        ),
        ({"data__target": ["y", "a"]}, "data.target is also one of data.inputs."),
    ],
)
def test_keys_that_do_not_go_with_the_model_are_told(changes, sentence):
    assert complaint(changed(FILE, **changes)).startswith(sentence)


def test_defaults():
    config = config_from_dict(TEACHER)
    assert (config.model.kind, config.model.activation) == ("single_index", "tanh")
    assert isinstance(config.data, TeacherData)
    assert (config.flow.rtol, config.flow.atol, config.flow.times) == (1e-6, 1e-9, 200)
    assert config.descent is None
    assert config.diagnostics.sharpness
    assert config.run.store_data is None


def test_lists_become_tuples_and_integers_become_floats():
    config = config_from_dict(changed(FILE, descent__step_sizes=[1, 0.5], descent__t_end=4))
    assert config.start.theta == (1.0, 2.0, 3.0)
    assert config.descent.step_sizes == (1.0, 0.5)
    assert isinstance(config.start.theta[0], float)


def test_a_config_is_immutable_and_hashable():
    config = config_from_dict(FILE)
    with pytest.raises(Exception, match="frozen"):
        config.start = None
    assert hash(config) == hash(config_from_dict(FILE))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"flow__rtoll": 1}, "flow.rtoll is unknown; did you mean flow.rtol?"),
        ({"rtol": 1}, "rtol is unknown; did you mean flow.rtol?"),
        ({"flow__stop__rtol": 1}, "flow.stop.rtol is unknown; did you mean flow.rtol?"),
        (
            {"flow__events": {"nope": 1}},
            "flow.events.nope is unknown; the keys of [flow.events] are loss, gradient_norm, "
            "sharpness, singular_distance, conditioning.",
        ),
        ({"seed": 1}, "seed is unknown; did you mean data.seed or start.seed?"),
        ({"flows": {"t_end": 1}}, "flows is unknown; did you mean flow?"),
        (
            {"qqq": 1},
            "qqq is unknown; the tables are model, data, start, flow, descent, diagnostics, run.",
        ),
        (
            {"run__qqq": 1},
            "run.qqq is unknown; the keys of [run] are dtype, device, threads, store_data, "
            "checkpoint_seconds, store_theta.",
        ),
        ({"flow.rtol": 1}, '"flow.rtol" is unknown; did you mean flow.rtol?'),
        ({"flow__rtol": "abc"}, 'flow.rtol is "abc"; it must be a number between 0 and 1.'),
        ({"flow__rtol": 1}, "flow.rtol is 1; it must be a number between 0 and 1."),
        ({"flow__rtol": True}, "flow.rtol is true; it must be a number between 0 and 1."),
        ({"flow__atol": math.nan}, "flow.atol is nan; it must be a positive number, and finite."),
        (
            {"start__theta": [math.inf, 0.0]},
            "start.theta is [inf, 0.0]; it must be a list of at least 2 numbers, and finite.",
        ),
        ({"model__dim": "2"}, 'model.dim is "2"; it must be an integer of at least 1.'),
        ({"model__dim": 2.0}, "model.dim is 2.0; it must be an integer of at least 1."),
        ({"data__seed": -1}, "data.seed is -1; it must be an integer of at least 0."),
        ({"flow__spacing": "lin"}, 'flow.spacing is "lin"; it must be "linear" or "log".'),
        ({"flow__stop__loss": [1, [2]]}, "flow.stop.loss is [1, [...]]; it must be a positive"),
        ({"flow": 3}, "flow is 3; it must be a table with kind, t_end, method, rtol"),
        ({"data__source": "net"}, 'data.source is "net"; it must be "teacher" or "file".'),
        ({"data": {}}, 'data.source is missing; it must be "teacher" or "file".'),
        ({"data__path": "a"}, 'data.path has no meaning with data.source = "teacher"; leave it'),
        ({"flow": {}}, "flow.t_end is missing; it must be a positive number, or inf with"),
        ({"run__store_data": 1}, "run.store_data is 1; it must be true or false."),
        ({"descent__step_sizes": []}, "descent.step_sizes is []; it must be a list of distinct"),
        ({"descent__step_sizes": [1, 1]}, "descent.step_sizes is [1, 1]; it must be a list of"),
        ({"start__theta": [1]}, "start.theta is [1]; it must be a list of at least 2 numbers."),
        ({"data__seed": 16**9999}, "data.seed is 0x1000"),
    ],
)
def test_a_wrong_key_is_told_in_one_sentence(changes, sentence):
    told = complaint(changed(TEACHER, **changes))
    assert told.startswith(sentence)
    assert "\n" not in told


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"start": {}}, "[start] is empty; give it start.theta or start.seed."),
        ({"start__theta": [1, 2, 3]}, "start.theta and start.seed are both given; keep one of"),
        ({"start": {"theta": [1, 2, 3], "scale": 2}}, "start.scale and start.offset need start.s"),
        ({"start__offset": [1, 2]}, "start.offset has 2 values; with 2 inputs it needs 3."),
        ({"start": {"theta": [1, 2]}}, "start.theta has 2 values; with 2 inputs it needs 3."),
        ({"data__theta": [1, 2]}, "data.theta has 2 values; with 2 inputs it needs 3."),
        ({"model": {}}, "model.dim is missing; a teacher needs it unless data.theta is given."),
        (
            {"data__low": -1},
            'data.low and data.high need data.distribution = "uniform"; leave them out.',
        ),
        ({"flow__t_end": math.inf}, "flow.t_end is inf; add a condition to [flow.stop]"),
        ({"flow__times": [0, 5]}, "flow.times runs past flow.t_end; raise flow.t_end"),
        ({"model__kind": "linear", "model__activation": "relu"}, "model.activation has no meaning"),
    ],
)
def test_keys_that_contradict_each_other(changes, sentence):
    told = complaint(changed(TEACHER, **changes))
    assert told.startswith(sentence)
    assert "\n" not in told


def test_a_uniform_distribution_needs_an_interval():
    raw = changed(TEACHER, data__distribution="uniform", data__low=1)
    assert complaint(raw) == "data.low must lie below data.high."


def test_a_flow_without_end_may_stand_beside_a_descent():
    endless = {"flow__t_end": math.inf, "flow__stop__loss": 1e-3, "descent__step_sizes": [0.1]}
    assert config_from_dict(changed(TEACHER, **endless)).descent.t_end is None
    ended = config_from_dict(changed(TEACHER, **endless, descent__t_end=5))
    assert ended.flow.stop.is_set
    assert not Stop().is_set


def test_a_target_cannot_be_an_input():
    assert complaint(changed(FILE, data__target="a")) == "data.target is also one of data.inputs."


def test_the_teachers_theta_stands_in_for_dim():
    config = config_from_dict(changed(TEACHER, model={}, data__theta=[1, 2, 3, 4]))
    assert config.model.dim is None
    assert "with 3 inputs it needs 4" in complaint(
        changed(TEACHER, model={}, data__theta=[1, 2, 3, 4], start={"theta": [1, 2]})
    )


def test_all_wrong_keys_are_told_at_once():
    raw = changed(TEACHER, flow__rtoll=1, flow__atol=0, start={}, run__threads=0)
    told = complaint(raw).splitlines()
    assert len(told) == 4
    assert len(set(told)) == 4


def test_many_errors_are_cut_and_errors_of_one_list_count_once():
    assert complaint({str(i): 0 for i in range(99)}).splitlines()[-1] == "There are more errors."
    assert len(complaint(changed(TEACHER, flow__times=["x"] * 99)).splitlines()) == 1


@pytest.mark.parametrize("name", ["identity", "leaky-relu", "weak-tanh:0.25", "weak-tanh:1e-3"])
def test_activations(name):
    assert config_from_dict(changed(TEACHER, model__activation=name)).model.activation == name


@pytest.mark.parametrize("epsilon", [0.25, 1e-7, 2])
def test_epsilon_beside_its_activation(epsilon):
    raw = changed(TEACHER, model__activation="weak-tanh", model__epsilon=epsilon)
    model = config_from_dict(raw).model
    assert model.sigma == f"weak-tanh:{float(epsilon)!r}"
    assert parse_activation(model.sigma).epsilon == epsilon


@pytest.mark.parametrize(
    ("activation", "epsilon", "sentence"),
    [
        ("weak-tanh", None, 'model.activation is "weak-tanh" without an epsilon; give model.epsil'),
        ("weak-tanh:0.5", 0.25, 'model.activation is "weak-tanh:0.5" and model.epsilon is 0.25;'),
        ("tanh", 0.25, 'model.epsilon needs model.activation = "weak-tanh"; leave it out.'),
        ("weak-tanh", 0, "model.epsilon is 0; it must be a positive number."),
    ],
)
def test_epsilon_and_activation_that_do_not_go_together(activation, epsilon, sentence):
    raw = changed(TEACHER, model__activation=activation)
    if epsilon is not None:
        raw["model"]["epsilon"] = epsilon
    assert sentence in complaint(raw)


@pytest.mark.parametrize("name", ["", "Tanh", "weak-tanh:0", "weak-tanh:1e999"])
def test_wrong_activations(name):
    assert "it must be identity, tanh," in complaint(changed(TEACHER, model__activation=name))


@pytest.mark.parametrize("name", ["exact", "jfb", "neumann:3", "damped:2:0.5", "damped:10:1"])
def test_backwards(name):
    assert config_from_dict(changed(TEACHER, model__backward=name)).model.backward == name


@pytest.mark.parametrize("name", ["neumann", "neumann:0", "neumann:1.5", "damped:2", "damped:2:0"])
def test_wrong_backwards(name):
    assert "exact, jfb, neumann:K" in complaint(changed(TEACHER, model__backward=name))


def test_steady_state_is_a_switch_or_a_threshold():
    for value in (True, False, 1e-8, 1):
        stop = config_from_dict(changed(TEACHER, flow__stop__steady_state=value)).flow.stop
        assert stop.steady_state == value
        assert isinstance(stop.steady_state, bool) == isinstance(value, bool)


positive = st.floats(1e-300, 1e300)
many = st.integers(2, 2**63 - 1)
several = st.integers(2, 10**7)
several_times = st.lists(st.floats(0, 1), min_size=1, max_size=5, unique=True).map(sorted)
valid = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries({}, optional={"backward": st.just("damped:2:0.5")}),
        "data": st.fixed_dictionaries(
            {
                "source": st.just("file"),
                "path": st.text(st.characters(codec="utf-8"), min_size=1),
                "inputs": st.just(['a "quoted" \n name', "b\\"]),
                "target": st.just("é"),
            },
            optional={"holdout": st.floats(0, 0.99), "seed": many},
        ),
        "start": st.fixed_dictionaries(
            {"seed": many},
            optional={"offset": st.lists(st.floats(-1e300, 1e300), min_size=2, max_size=4)},
        ),
        "flow": st.fixed_dictionaries(
            {"t_end": st.just(math.inf) | st.floats(1, 1e300), "stop": st.just({"loss": 1e-9})},
            optional={"times": several | several_times, "rtol": st.floats(1e-300, 0.99)},
        ),
    },
    optional={
        "descent": st.fixed_dictionaries(
            {"step_sizes": st.lists(positive, min_size=1, max_size=3, unique=True)}
            | {"t_end": positive}
        ),
        "run": st.fixed_dictionaries(
            {}, optional={"threads": st.integers(1, 1024), "store_data": st.booleans()}
        ),
    },
)


@given(valid)
def test_toml_round_trips_exactly(tmp_path_factory, raw):
    config = config_from_dict(raw)
    path = tmp_path_factory.getbasetemp() / "round.toml"
    path.write_text(config.to_toml(), encoding="utf-8", newline="")
    assert load_config(path) == config


names = st.sampled_from([part for key in describe_keys() for part in key.split(".")])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.dates()
    | st.sampled_from(["teacher", "file", "tanh", 2**64, 10**400, "\ud800"])
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(names | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=30,
)


def message(raw):
    """What is wrong with `raw`, or nothing."""
    try:
        assert config_from_dict(raw).to_toml()
    except ConfigError as error:
        return str(error)
    return ""


@given(st.dictionaries(names | st.text(max_size=3) | st.integers(), anything, max_size=7))
def test_any_dict_gives_a_config_or_a_config_error(raw):
    told = message(raw)
    assert told.encode()
    assert not JARGON.search(told)


@given(st.sampled_from(sorted(describe_keys())), anything)
def test_any_value_of_a_known_key(key, value):
    told = message(changed(TEACHER, **{key.replace(".", "__"): value}))
    assert not told or "; " in told
    assert not JARGON.search(told)
