"""The safeguarded Newton iteration on increasing, decreasing, kinked and badly scaled functions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from gflow.equilibrium.solvers import Root, safeguarded_newton

EPS = torch.finfo(torch.float64).eps
SHAPES = {
    "tanh": (torch.tanh, lambda s: 1 - torch.tanh(s) ** 2),
    "relu": (lambda s: s.clamp(min=0), lambda s: (s >= 0).to(s.dtype)),
    "sine": (torch.sin, torch.cos),
}
SLOPES = {"tanh": (0.0, 1.0), "relu": (0.0, 1.0), "sine": (-1.0, 1.0)}


def _tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Function:
    """F(s) = sign (s + gain shape(s) - level), remembering where it was evaluated."""

    def __init__(self, shape: str, gain: float, level: Tensor, sign: float = 1.0) -> None:
        self.shape, self.gain, self.level, self.sign = SHAPES[shape], gain, level, sign
        ends = [sign * (1 + gain * end) for end in SLOPES[shape]]
        self.slope_min, self.slope_max = _tensor(min(ends)), _tensor(max(ends))
        self.visited: list[Tensor] = []

    def __call__(self, s: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        self.visited.append(s)
        value, slope = (f(s) for f in self.shape)
        total = s + self.gain * value - self.level
        return self.sign * total, self.sign * (1 + self.gain * slope), (value, s)

    def tolerance(self, s: Tensor) -> Tensor:
        return 8 * EPS * (1 + self.level.abs() + s.abs())

    def solve(self, start: Tensor, **options: int) -> Root:
        at_zero = self.sign * self.level  # -F(0): every shape vanishes there
        bracket = at_zero / self.slope_min, at_zero / self.slope_max
        return safeguarded_newton(
            self, start, bracket, self.slope_min, self.slope_max, self.tolerance, **options
        )

    def bracket(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Where the root must be, seen from s, widened by what rounding may hide."""
        value = self(s)[0]
        ends = torch.stack([s - value / self.slope_min, s - value / self.slope_max])
        rounding = 8 * (self.tolerance(s) + EPS * value.abs())
        slack = rounding / torch.minimum(self.slope_min.abs(), self.slope_max.abs())
        return ends.amin(0) - slack, ends.amax(0) + slack


functions = st.builds(
    Function,
    st.sampled_from(["tanh", "relu"]),
    st.one_of(st.floats(-1 + 1e-6, 0.0), st.floats(0.0, 1e4)),
    st.floats(-1e8, 1e8).map(_tensor),
    st.sampled_from([1.0, -1.0]),
)
wavy = st.builds(Function, st.just("sine"), st.floats(-0.999, 0.999), st.just(_tensor(3.0)))


@given(function=st.one_of(functions, wavy), start=st.floats(-1e6, 1e6))
@example(function=Function("tanh", 1e4, _tensor(1.0)), start=50.0)
@example(function=Function("relu", -1 + 1e-6, _tensor(1e8)), start=-1e6)
def test_it_converges_and_never_leaves_the_bracket(function, start):
    root = function.solve(_tensor(start))
    assert root.converged
    assert function(root.point)[0].abs() <= function.tolerance(root.point)
    path = function.visited[: root.iterations]
    brackets = [function.bracket(point) for point in path]
    for k, (low, high) in enumerate(brackets):
        assert low <= root.point <= high
        # Every Newton point lies in its own bracket; from the third evaluation on, in all since.
        later = path[k + 1 :] if k >= 2 else path[k + 1 : k + 2]
        assert all(low <= point <= high for point in later)


@given(start=st.floats(-1e250, 1e250))
@example(start=1e250)
@example(start=-1e250)
@pytest.mark.parametrize("shape", ["tanh", "relu"])
@pytest.mark.parametrize("gain", [-1 + 1e-6, -0.9, 0.9])
def test_the_root_does_not_depend_on_the_start(shape, gain, start):
    function = Function(shape, gain, _tensor(-2.0, 0.3, 5.0))
    cold = function.solve(function.level)
    far = function.solve(torch.full_like(function.level, start))
    assert far.converged
    spread = (8 * function.tolerance(cold.point)) / function.slope_min
    assert ((far.point - cold.point).abs() <= spread).all()


@given(gain=st.floats(1e2, 1e8), level=st.floats(-1e3, 1e3), start=st.floats(-1e3, 1e3))
def test_where_newton_alone_would_diverge_the_bracket_is_halved(gain, level, start):
    """Plain Newton on a steep tanh jumps between two plateaus for ever."""
    root = Function("tanh", gain, _tensor(level)).solve(_tensor(start))
    assert root.converged
    assert root.iterations <= 60


def test_elements_are_independent_and_bounds_broadcast():
    level = _tensor(*range(-4, 5)).reshape(3, 3)
    gain = _tensor(-0.9, 0.0, 50.0).reshape(3, 1)

    def residual(s, gain=gain, level=level):
        value = torch.tanh(s)
        return s + gain * value - level, 1 + gain * (1 - value**2), (value,)

    low, high = torch.minimum(1 + gain, gain * 0 + 1), torch.maximum(1 + gain, gain * 0 + 1)
    whole = safeguarded_newton(
        residual,
        level,
        (level / low, level / high),
        low,
        high,
        lambda s: 8 * EPS * (1 + level.abs()),
    )
    assert whole.point.shape == (3, 3)
    assert torch.equal(whole.jet[0], torch.tanh(whole.point))
    for i in range(3):
        for j in range(3):
            alone = Function("tanh", float(gain[i]), level[i, j]).solve(level[i, j])
            assert float(alone.point) == pytest.approx(float(whole.point[i, j]), abs=1e-13)


def test_a_start_at_the_root_costs_one_evaluation_and_keeps_the_callers_jet():
    function = Function("tanh", 2.0, _tensor(0.0))
    root = function.solve(_tensor(0.0))
    assert (root.iterations, len(function.visited), root.converged) == (1, 1, True)
    assert root.jet[1] is root.point is function.visited[0]


def test_a_warm_start_is_polished_by_one_newton_step():
    function = Function("tanh", 2.0, _tensor(1.7))
    warm = function.solve(function.level).point + 1e-9
    function.visited.clear()
    assert function.solve(warm).iterations == 2


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_used_up_limit_is_said(limit):
    function = Function("tanh", 1e6, _tensor(1.0))
    root = function.solve(_tensor(50.0), max_iterations=limit)
    assert not root.converged
    assert root.iterations == len(function.visited) == limit + 1
    assert torch.equal(root.jet[1], root.point)


def test_nan_ends_unconverged():
    root = Function("tanh", 1.0, _tensor(0.0, float("nan"))).solve(_tensor(1.0, 1.0))
    assert not root.converged
    assert root.point[1].isnan()
    assert float(root.point[0]) == pytest.approx(0.0, abs=1e-15)
