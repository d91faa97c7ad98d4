"""Arrays given in Python: a result for these very numbers, or a sentence."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import torch
from hostile import Rng, generators, inputs, outcome, pick

import gflow

ODD = (np.nan, np.inf, -np.inf, 1e308, 1e155, 1e-320, 0.0, 3e9)
TYPES = (
    "f8",
    "f8",
    "f8",
    "f4",
    "f2",
    "i4",
    "i8",
    "u1",
    "?",
    "c16",
    "O",
    "U4",
    "S3",
    "M8[s]",
    "m8[s]",
)
X = np.random.default_rng(0).normal(size=(5, 2))
SHAPES = (
    (5, 2),
    (5,),
    (2,),
    (3,),
    (5, 1),
    (1, 5),
    (),
    (0,),
    (0, 2),
    (5, 0),
    (5, 2, 1),
    (4, 2),
    (2, 3),
)


def array(rng: Rng, usual: tuple[int, ...]) -> Any:
    """An array, or what may be taken for one."""
    shape = usual if rng.random() < 0.6 else pick(rng, SHAPES)
    values = rng.normal(size=shape)
    if values.size and rng.random() < 0.3:
        values.flat[int(rng.integers(values.size))] = pick(rng, ODD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = values.astype(pick(rng, TYPES))
    kind = int(rng.integers(14))
    if kind == 0:
        return values.tolist()
    if kind == 1:
        return np.ma.masked_array(values, mask=rng.random(shape) < 0.3)
    if kind == 2 and values.dtype.kind in "fiu":
        return torch.as_tensor(values).requires_grad_(values.dtype.kind == "f")
    if kind == 3:
        return pick(rng, (None, "text", b"bytes", {}, {"a": 1}, [[1.0], [1.0, 2.0]], object(), 1j))
    if kind == 4:
        return [values, values]
    if kind == 5 and values.ndim:
        return np.broadcast_to(values[..., :1], shape) if values.size else values
    return values[::-1] if kind == 6 and values.ndim else values


def usual(value: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == "f8" and value.shape == shape


def run(built: list[gflow.Problem], model: Any, x: Any, y: Any, theta: Any) -> None:
    built.append(gflow.Problem(model, x, y))
    stop = {"max_steps": 5}
    gflow.integrate(built[0], theta, 1e-3, times=3, stop=stop, method="tsit5")


@inputs("arrays")
def test_odd_arrays(seeds: range) -> None:
    for seed, rng in generators(seeds):
        x, y, theta = array(rng, (5, 2)), array(rng, (5,)), array(rng, (3,))
        model = pick(rng, (gflow.LinearDEQ(2), gflow.SingleIndexDEQ(2)))
        built: list[gflow.Problem] = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            outcome(seed, functools.partial(run, built, model, x, y, theta))
        if built and usual(x, (5, 2)) and usual(y, (5,)):
            np.testing.assert_array_equal(built[0].x.numpy(), x)
            np.testing.assert_array_equal(built[0].y.numpy().ravel(), y)
            assert np.isfinite(x).all()
            assert np.isfinite(y).all()
        if built:
            masked = any(np.ma.is_masked(one) for one in (x, y))
            assert not masked, f"seed {seed}: masked values were used as numbers"
