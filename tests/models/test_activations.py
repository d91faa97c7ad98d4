"""Every activation against its definition in 40 digits, eighth-order differences and extremes."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from gflow.errors import ProblemError
from gflow.models.activations import ACTIVATIONS, parse_activation

EPS = torch.finfo(torch.float64).eps
NAMES = [*ACTIVATIONS, "weak-tanh:0.25", "weak-tanh:3"]
DEFINITIONS = {
    "identity": lambda s: s,
    "tanh": mpmath.tanh,
    "sigmoid": lambda s: 1 / (1 + mpmath.exp(-s)),
    "relu": lambda s: max(s, mpmath.mpf(0)),
    "leaky-relu": lambda s: s if s >= 0 else s * mpmath.mpf(0.01),
    "gelu": lambda s: s * mpmath.erfc(-s / mpmath.sqrt(2)) / 2,
    "softplus": lambda s: mpmath.log1p(mpmath.exp(s)),
    "weak-tanh:0.25": lambda s: s + mpmath.tanh(s) / 4,
    "weak-tanh:3": lambda s: s + 3 * mpmath.tanh(s),
}
# Where the slope is smallest and where it is largest, or as good as.
EXTREMES = {
    "identity": (0.3, -7.0),
    "tanh": (40.0, 0.0),
    "sigmoid": (-800.0, 0.0),
    "relu": (-1e-9, 1e-9),
    "leaky-relu": (-1e-9, 1e-9),
    "gelu": (-math.sqrt(2.0), math.sqrt(2.0)),
    "softplus": (-800.0, 800.0),
    "weak-tanh:0.25": (40.0, 0.0),
    "weak-tanh:3": (-40.0, 0.0),
}
# Values far to the left and far to the right, as multiples of s and of 1.
TAILS = {
    "identity": ((1.0, 0.0), (1.0, 0.0)),
    "tanh": ((0.0, -1.0), (0.0, 1.0)),
    "sigmoid": ((0.0, 0.0), (0.0, 1.0)),
    "relu": ((0.0, 0.0), (1.0, 0.0)),
    "leaky-relu": ((0.01, 0.0), (1.0, 0.0)),
    "gelu": ((0.0, 0.0), (1.0, 0.0)),
    "softplus": ((0.0, 0.0), (1.0, 0.0)),
    "weak-tanh:0.25": ((1.0, -0.25), (1.0, 0.25)),
    "weak-tanh:3": ((1.0, -3.0), (1.0, 3.0)),
}
# Eighth-order central differences of a first derivative (Fornberg 1988).
STENCIL = torch.tensor(
    [1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280], dtype=torch.float64
)
STEP = 0.02

names = st.sampled_from(NAMES)


def test_the_table_below_misses_no_activation():
    for table in (DEFINITIONS, EXTREMES, TAILS):
        assert set(ACTIVATIONS) <= set(table) == set(NAMES)
    assert all(parse_activation(name).name == name for name in NAMES)


@given(name=names, s=st.floats(-700.0, 700.0))
def test_the_value_is_the_definition_to_relative_rounding(name, s):
    with mpmath.workdps(40 + 2 * int(abs(s))):
        expected = float(DEFINITIONS[name](mpmath.mpf(s)))
    # The tail of gelu is exp(-s^2/2): rounding its argument costs s^2 roundings.
    roundings = 8.0 + (4.0 * s * s if name == "gelu" else 0.0)
    value = float(parse_activation(name)(torch.tensor(s, dtype=torch.float64)))
    assert value == pytest.approx(expected, rel=roundings * EPS, abs=1e-300)


@given(name=names, s=st.floats(-12.0, 12.0))
def test_the_derivatives_are_eighth_order_differences(name, s):
    activation = parse_activation(name)
    assume(all(abs(s - kink) > 5 * STEP for kink in activation.kinks))
    around = s + STEP * torch.arange(-4, 5, dtype=torch.float64)
    value, slope, curvature = activation.jet(around, 2)
    rounding = 1e-12 * (1.0 + abs(s))
    assert float(STENCIL @ value) / STEP == pytest.approx(float(slope[4]), abs=rounding)
    assert float(STENCIL @ slope) / STEP == pytest.approx(float(curvature[4]), abs=1e-11)


@given(name=names, s=st.floats(allow_nan=False, allow_infinity=False))
def test_the_slope_stays_between_its_bounds_everywhere(name, s):
    activation = parse_activation(name)
    slope = float(activation.jet(torch.tensor(s, dtype=torch.float64), 1)[1])
    assert activation.slope_min - 4 * EPS <= slope <= activation.slope_max * (1 + 4 * EPS)


@pytest.mark.parametrize("name", NAMES)
def test_both_bounds_of_the_slope_are_reached(name):
    activation = parse_activation(name)
    points = torch.tensor(EXTREMES[name], dtype=torch.float64)
    smallest, largest = activation.jet(points, 1)[1].tolist()
    assert smallest == pytest.approx(activation.slope_min, abs=4 * EPS)
    assert largest == pytest.approx(activation.slope_max, rel=4 * EPS)


def test_the_extreme_slopes_of_gelu_are_where_its_curvature_vanishes():
    gelu = parse_activation("gelu")
    grid = torch.linspace(-6, 6, 120_001, dtype=torch.float64)
    slope = gelu.jet(grid, 1)[1]
    assert float(grid[slope.argmax()]) == pytest.approx(math.sqrt(2), abs=1e-4)
    assert float(grid[slope.argmin()]) == pytest.approx(-math.sqrt(2), abs=1e-4)
    assert float(slope.max()) == pytest.approx(gelu.slope_max, abs=1e-8)
    assert float(slope.min()) == pytest.approx(gelu.slope_min, abs=1e-8)
    assert (gelu.slope_min, gelu.slope_max) == pytest.approx((-0.1289, 1.1289), abs=1e-4)


@pytest.mark.parametrize("size", [1e3, 1e20, 1e160, 1e308])
@pytest.mark.parametrize("name", NAMES)
def test_far_out_the_jet_is_that_of_the_asymptote(name, size):
    s = torch.tensor([-size, size], dtype=torch.float64)
    value, slope, curvature = parse_activation(name).jet(s, 2)
    factor, offset = torch.tensor(TAILS[name], dtype=torch.float64).T
    assert torch.allclose(value, factor * s + offset, rtol=2 * EPS, atol=0.0)
    assert torch.allclose(slope, factor, rtol=2 * EPS, atol=1e-300)
    assert torch.equal(curvature, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_in_float32_the_jet_is_finite_and_that_of_float64(name):
    s = torch.tensor([-1e38, -1e12, -3.0, -0.4, 0.4, 3.0, 1e12, 1e38])
    single, double = (parse_activation(name).jet(t, 2) for t in (s, s.double()))
    for low, high in zip(single, double, strict=True):
        assert low.dtype == torch.float32
        assert torch.isfinite(low).all()
        assert torch.allclose(low.double(), high, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_kept_and_the_first_order_jet_is_the_start_of_the_second(name):
    activation = parse_activation(name)
    s = torch.randn(3, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second = activation.jet(s, 1), activation.jet(s, 2)
    assert (len(first), len(second)) == (2, 3)
    assert all(part.shape == s.shape and part.dtype == s.dtype for part in second)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=False))
    assert torch.equal(activation(s), first[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_kink_has_the_derivatives_of_its_right_hand_side(name):
    activation = parse_activation(name)
    for kink in activation.kinks:
        at, right, left = (
            [float(part) for part in activation.jet(torch.tensor(s, dtype=torch.float64), 2)]
            for s in (kink, math.nextafter(kink, math.inf), kink - 1e-9)
        )
        assert at == pytest.approx(right, abs=1e-300)
        assert at[1] - left[1] == pytest.approx(activation.slope_max - activation.slope_min)
    assert bool(activation.kinks) == (name in ("relu", "leaky-relu"))


def test_an_activation_is_passed_through():
    gelu = ACTIVATIONS["gelu"]
    assert parse_activation(gelu) is gelu


def test_weak_tanh_takes_any_positive_number():
    activation = parse_activation("weak-tanh:1e-3")
    assert activation.name == "weak-tanh:1e-3"
    assert (activation.slope_min, activation.slope_max) == (1.0, 1.001)


@pytest.mark.parametrize(
    "text",
    ["", "tan", "Tanh", "tanh:2", "weak-tanh", "weak-tanh:", "weak-tanh:0", "weak-tanh:-0.5"]
    + ["weak-tanh:nan", "weak-tanh:inf", "weak-tanh:1e400", "weak-tanh:a", "weak-tanh:1:2"]
    + [None, 3, ["tanh"]],
)
def test_what_is_no_activation_is_refused_in_a_sentence(text):
    with pytest.raises(ProblemError) as refusal:
        parse_activation(text)
    assert str(refusal.value) == (
        f'activation is "{text}"; it must be one of identity, tanh, sigmoid, relu, leaky-relu, '
        "gelu, softplus or weak-tanh:E with a positive number E (as in weak-tanh:0.25)."
    )
