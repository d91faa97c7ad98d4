"""Plain data goes through bytes exactly, and nothing else does."""

from __future__ import annotations

import contextlib
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gflow.errors import StoreError
from gflow.store.codec import HEAD, pack, unpack

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def _same(first, second):
    if isinstance(first, float):
        return isinstance(second, float) and (first == second or (first != first != second))
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[k], second[k]) for k in first)
    return type(first) is type(second) and first == second


@given(PLAIN)
def test_plain_data_is_kept(value):
    assert _same(unpack(pack(value)), value)


@pytest.mark.parametrize("dtype", ["bool", "int64", "float64", "float32"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (2, 3, 4)])
def test_arrays_are_kept(dtype, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(dtype)
    found = unpack(pack({"a": [array]}))["a"][0]
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()
    found[...] = 1  # its own memory


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128, torch.int64])
@pytest.mark.parametrize("turned", [lambda x: x, lambda x: x.mT, lambda x: x[1:], lambda x: x[0]])
def test_tensors_keep_values_and_layout(dtype, turned):
    tensor = turned(torch.randn(3, 4, dtype=torch.float64).to(dtype))
    found = unpack(pack(tensor))
    assert found.dtype == dtype
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.stride()


def test_a_conjugate_view_is_kept():
    tensor = torch.randn(3, 4, dtype=torch.complex128).mH
    assert torch.equal(unpack(pack(tensor)), tensor)


def test_bits_of_special_numbers_are_kept():
    values = torch.tensor([math.nan, -0.0, math.inf, 5e-324], dtype=torch.float64)
    assert unpack(pack(values)).view(torch.int64).tolist() == values.view(torch.int64).tolist()


@pytest.mark.parametrize("value", [object(), {1: 2}, {"f": print}, np.array(["a"]), 1j])
def test_anything_else_is_refused(value):
    with pytest.raises(TypeError):
        pack(value)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused_or_read(data):
    with contextlib.suppress(StoreError):
        unpack(np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    "told",
    [
        {"array": {"dtype": "object", "shape": [1], "at": 0}},
        {"array": {"dtype": "float64", "shape": [10**12], "at": 0}},
        {"array": {"dtype": "float64", "shape": [-1], "at": 0}},
        {"tensor": {"dtype": "float64", "shape": [1], "order": [5], "at": 0}},
        {"tensor": {"dtype": "float64", "shape": [1], "order": [0], "at": -8}},
        {"call": "print"},
        {"a": 1, "b": 2},
    ],
)
def test_hostile_layouts_are_refused(told):
    text = json.dumps(told).encode()
    data = len(text).to_bytes(HEAD, "little") + text + bytes(64)
    with pytest.raises(StoreError, match="checkpoint cannot be read"):
        unpack(np.frombuffer(data, np.uint8))
