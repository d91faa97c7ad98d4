"""The values that configuration keys take, each with the words that say what it must be."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gflow.config.keys import Expects

ACTIVATIONS = ("identity", "tanh", "sigmoid", "relu", "leaky-relu", "gelu", "softplus")
WEAK = "weak-tanh"
_NUMBER = r"([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?)"


def _activation(name: str) -> str:
    weak = re.fullmatch(f"weak-tanh:{_NUMBER}", name)
    known = name in (*ACTIVATIONS, WEAK)
    if not known and not (weak and 0 < float(weak[1]) < math.inf):
        raise ValueError
    return name


def _backward(name: str) -> str:
    damped = re.fullmatch(rf"(?:damped|phantom):[1-9][0-9]*:{_NUMBER}", name)
    if not re.fullmatch(r"exact|jfb|neumann:[1-9][0-9]*", name) and not (
        damped and 0 < float(damped[1]) <= 1
    ):
        raise ValueError
    return name


def _flow(name: str) -> str:
    kind, colon, arguments = name.partition(":")
    if kind in ("gradient", "nesterov") and not colon:
        return name
    rates = arguments.split(",") if kind == "scaled" else [f"{kind}={arguments}"]
    numbers = [float(rate) for _, rate in (part.split("=") for part in rates)]
    least = 0.0 if kind == "natural" else math.ulp(0.0)
    known = kind in ("heavy_ball", "modified", "natural", "scaled")
    if not known or not all(least <= number < math.inf for number in numbers):
        raise ValueError
    _distinct(tuple(part.split("=")[0].strip() for part in rates))
    return name


def _schedule(name: str) -> str:
    kind, *shares = name.split(":")
    counts = {"constant": 0, "linear": 0, "cosine": 0, "warmup": 1, "step": 2, "inverse": 1}
    if counts.get(kind) != len(shares) or not all(0 < float(share) <= 1 for share in shares):
        raise ValueError
    return name


def _increasing(values: tuple[float, ...]) -> tuple[float, ...]:
    if values[0] < 0 or any(a >= b for a, b in pairwise(values)):
        raise ValueError
    return values


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError
    return values


def _blocks(values: tuple[str, ...]) -> tuple[str, ...]:
    if not set(values) <= {"W", "U", "b", "C", "c"}:
        raise ValueError
    return values


# TOML has lists; tuples keep a frozen model frozen.
_FROM_LIST = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
_WORD_SIZE = 2**63  # TOML's integers have 64 bits

Text = Annotated[str, Field(min_length=1), Expects("a non-empty string")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$"), Expects("64 hexadecimal digits")]
Count = Annotated[int, Field(ge=1, lt=_WORD_SIZE), Expects("an integer of at least 1")]
Several = Annotated[int, Field(ge=2, le=10**7), Expects("an integer from 2 to 10,000,000")]
Threads = Annotated[int, Field(ge=1, le=1024), Expects("an integer from 1 to 1024")]
CountOrZero = Annotated[int, Field(ge=0, lt=_WORD_SIZE), Expects("an integer of at least 0")]
Seed = CountOrZero
Positive = Annotated[float, Field(gt=0), Expects("a positive number")]
NonNegative = Annotated[float, Field(ge=0), Expects("a number of at least 0")]
Tolerance = Annotated[float, Field(gt=0, lt=1), Expects("a number between 0 and 1")]
Fraction = Annotated[float, Field(ge=0, lt=1), Expects("a number of at least 0 and below 1")]
EndTime = Annotated[
    float, Field(gt=0, allow_inf_nan=True), Expects("a positive number, or inf with [flow.stop]")
]
Parameters = Annotated[
    tuple[float, ...], _FROM_LIST, Field(min_length=2), Expects("a list of at least 2 numbers")
]
Times = Annotated[
    tuple[float, ...],
    _FROM_LIST,
    Field(min_length=1),
    AfterValidator(_increasing),
    Expects("an increasing list of numbers, none negative"),
]
StepSizes = Annotated[
    tuple[Positive, ...],
    _FROM_LIST,
    Field(min_length=1),
    AfterValidator(_distinct),
    Expects("a list of distinct positive numbers"),
]
Columns = Annotated[
    tuple[Text, ...],
    _FROM_LIST,
    Field(min_length=1),
    AfterValidator(_distinct),
    Expects("a list of distinct column names"),
]
Blocks = Annotated[
    tuple[str, ...],
    _FROM_LIST,
    Field(min_length=1),
    AfterValidator(_distinct),
    AfterValidator(_blocks),
    Expects("a list of some of W, U, b, C, c"),
]
Activation = Annotated[
    str,
    AfterValidator(_activation),
    Expects(f"{', '.join(ACTIVATIONS)}, weak-tanh:EPS, or weak-tanh with model.epsilon"),
]
Backward = Annotated[
    str,
    AfterValidator(_backward),
    Expects(
        "exact, jfb, neumann:K, damped:K:LAMBDA or phantom:K:LAMBDA, with K >= 1 and "
        "0 < LAMBDA <= 1"
    ),
]
FlowKind = Annotated[
    str,
    AfterValidator(_flow),
    Expects(
        "gradient, heavy_ball:MASS, nesterov, modified:ETA, natural:LAMBDA or "
        "scaled:BLOCK=RATE,..., with positive numbers (LAMBDA may be 0)"
    ),
]
Schedule = Annotated[
    str,
    AfterValidator(_schedule),
    Expects(
        "constant, linear, cosine, warmup:F, step:F:FACTOR or inverse:F, with 0 < F <= 1 and "
        "0 < FACTOR <= 1"
    ),
]
Spacing = Literal["linear", "log"]
