from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gflow.wording import any_of, closest_keys, did_you_mean, show, similar_files


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("é\n", '"é\\n"'),
        (True, "true"),
        (1e-6, "1e-06"),
        ((1, "a", [2]), '[1, "a", [...]]'),
        ({"a": 1}, "a table"),
        (datetime.date(2020, 1, 2), "2020-01-02"),
        (2**64, "0x10000000000000000"),
        ("a" * 99, '"' + "a" * 59 + "..."),
    ],
)
def test_values_are_shown_as_in_toml(value, text):
    assert show(value) == text


def test_long_lists_are_cut():
    assert show(range(3)) == "range(0, 3)"
    assert show([0] * 1000, 1000) == f"[{', '.join('0' * 20)}, ...]"


def test_names_are_joined():
    assert any_of(["a"]) == "a"
    assert any_of(["a", "b", "c"]) == "a, b or c"


def test_close_names_are_asked_for_and_all_are_listed():
    assert did_you_mean("bmj", ["bmi", "age"]) == '; did you mean "bmi"? Choose from "bmi", "age".'
    assert did_you_mean("zzz", ["bmi", "age"]) == '. Choose from "bmi", "age".'
    assert did_you_mean("zzz", []) == "."
    assert did_you_mean("zzz", map(str, range(99))).endswith('"39", ....')


KEYS = ["flow.rtol", "flow.seed", "data.seed", "start"]


@pytest.mark.parametrize(
    ("key", "closest"),
    [
        ("rtol", ["flow.rtol"]),
        ("run.seed", ["flow.seed", "data.seed"]),
        ("flow.rtoll", ["flow.rtol"]),
        ("strat", ["start"]),
        ("xyz", []),
    ],
)
def test_closest_keys(key, closest):
    assert closest_keys(key, KEYS) == closest


@given(st.text())
def test_closest_keys_are_known_keys(key):
    assert set(closest_keys(key, KEYS)) <= set(KEYS)


def test_similar_files_have_the_suffix(tmp_path):
    for name in ("run.toml", "run.txt", "other.toml"):
        (tmp_path / name).touch()
    assert similar_files(tmp_path / "runn.toml", (".toml",)) == " Did you mean run.toml?"
    assert similar_files(tmp_path / "qqqqqqq", (".toml",)) == ""
