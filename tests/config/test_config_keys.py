from __future__ import annotations

from functools import reduce
from itertools import pairwise

from gflow.config import config_from_dict, describe_keys

TEACHER = {
    "model": {"dim": 2},
    "data": {"source": "teacher", "samples": 10, "seed": 1},
    "start": {"seed": 1},
    "flow": {"t_end": 3.0},
}


def test_keys_are_described():
    keys = describe_keys()
    assert next(iter(keys)) == "model.kind"
    for key, info in keys.items():
        assert info.description, key
        assert "\n" not in info.description
        assert len(info.description) < 90, key
    assert keys["flow.rtol"].type == "number"
    assert keys["flow.rtol"].default == 1e-6
    assert keys["flow.times"].type == "integer or list of numbers"
    assert keys["flow.spacing"].type == "linear|log"
    assert keys["data.source"].type == "teacher|file"
    assert keys["data.inputs"].type == "list of strings"
    assert keys["flow.t_end"].required
    assert not keys["flow.stop.loss"].required
    tables = [key.partition(".")[0] for key in keys]
    assert sum(a != b for a, b in pairwise(tables)) == len(set(tables)) - 1


def test_the_described_defaults_are_the_configs():
    config = config_from_dict(TEACHER)
    for key, info in describe_keys().items():
        table, _, leaf = key.rpartition(".")
        if (
            table in ("model", "flow", "flow.stop", "diagnostics", "run")
            and key not in given_keys()
        ):
            assert getattr(reduce(getattr, table.split("."), config), leaf) == info.default, key


def given_keys():
    return {f"{table}.{key}" for table, keys in TEACHER.items() for key in keys}
