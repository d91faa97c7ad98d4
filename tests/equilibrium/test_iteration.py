"""Fixed points of many samples: closed forms, agreement of the methods, and failures by sample."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gflow.equilibrium import iteration
from gflow.equilibrium.iteration import METHODS, solve_fixed_point
from gflow.errors import ProblemError

F64 = torch.float64


def _normal(seed, *shape, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def _weights(seed, size, norm):
    weights = _normal(seed, size, size)
    return weights * (norm / torch.linalg.matrix_norm(weights, 2))


def _tanh_map(weights, shift):
    def function(z, rows):
        return torch.tanh(z @ weights.T + shift[rows])

    def jacobian(z, rows):
        return (1 - function(z, rows) ** 2)[..., None] * weights

    return function, jacobian


def _gap(function, point):
    return (function(point, torch.arange(len(point))) - point).abs().amax(-1)


@pytest.mark.parametrize("method", METHODS)
@given(size=st.integers(1, 9), samples=st.integers(1, 6), seed=st.integers(0, 999))
def test_an_affine_map_has_its_closed_form(method, size, samples, seed):
    weights, shift = _weights(seed, size, 0.6), _normal(seed + 1, samples, size)
    expected = torch.linalg.solve(torch.eye(size, dtype=F64) - weights, shift.T).T
    found = solve_fixed_point(lambda z, k: z @ weights.T + shift[k], 0 * shift, method=method)
    assert found.converged.all()
    assert torch.allclose(found.point, expected, rtol=1e-12, atol=2e-12)
    assert ((found.iterations >= 1) & (found.iterations <= 100)).all()


@pytest.mark.parametrize("given_jacobian", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_the_methods_agree_on_a_tanh_map(method, given_jacobian):
    function, jacobian = _tanh_map(_weights(0, 30, 1.2), _normal(1, 9, 30))
    oracle = torch.zeros(9, 30, dtype=F64)
    for _ in range(2000):
        oracle = function(oracle, torch.arange(9))
    found = solve_fixed_point(
        function,
        torch.zeros(9, 30, dtype=F64),
        method=method,
        jacobian=jacobian if given_jacobian else None,
    )
    assert found.converged.all()
    assert torch.allclose(found.point, oracle, rtol=0, atol=3e-13)


@given(size=st.integers(1, 40), norm=st.floats(0.0, 0.97), seed=st.integers(0, 999))
def test_auto_converges_from_zero_wherever_the_map_contracts(size, norm, seed):
    function, jacobian = _tanh_map(_weights(seed, size, norm), 3 * _normal(seed + 1, 5, size))
    found = solve_fixed_point(function, torch.zeros(5, size, dtype=F64), jacobian=jacobian)
    assert found.converged.all()
    assert (_gap(function, found.point) <= 1e-13 * (1 + found.point.abs().amax(-1))).all()


def test_auto_hands_what_anderson_is_slow_at_to_newton_of_either_kind(monkeypatch):
    """Rotations by almost a quarter turn in many planes, at many rates."""
    size = 60
    weights = _weights(3, size, 1.0)
    weights = 0.995 * torch.linalg.qr(weights)[0]
    shift = 0.05 * _normal(4, 6, size)
    function, jacobian = _tanh_map(weights, shift)
    start = torch.zeros(6, size, dtype=F64)
    found = solve_fixed_point(function, start, jacobian=jacobian, max_iterations=100)
    assert found.method == "anderson then newton"
    assert found.converged.all()
    monkeypatch.setattr(iteration, "KRYLOV_FROM", 50)
    large = solve_fixed_point(function, start, jacobian=jacobian, max_iterations=100)
    assert large.method == "anderson then newton-krylov"
    assert large.converged.all()
    assert torch.allclose(large.point, found.point, rtol=0, atol=1e-11)


def _mixed(method, size=6):
    """Easy samples, a stiff one, one that has no fixed point, one that is NaN, one that overflows.

    The stiff one's map is cos(3 z), which repels.
    """
    weights, shift = _weights(7, size, 0.5), _normal(8, 7, size)

    def function(z, rows):
        value = torch.tanh(z @ weights.T + shift[rows])
        value = torch.where((rows == 2)[:, None], torch.cos(3 * z), value)
        value = torch.where((rows == 3)[:, None], z + 1, value)
        value = torch.where((rows == 4)[:, None], torch.nan, value)
        return torch.where((rows == 5)[:, None], torch.exp(z.abs() + 1.0) ** 2, value)

    def run(*chosen):
        rows = torch.tensor(chosen)
        start = torch.zeros(len(chosen), size, dtype=F64)
        return solve_fixed_point(lambda z, k: function(z, rows[k]), start, method=method)

    return run


@pytest.mark.parametrize("method", METHODS)
def test_no_sample_drives_the_others(method):
    run = _mixed(method)
    together = run(*range(7))
    for row in range(7):
        alone = run(row)
        assert bool(together.converged[row]) == bool(alone.converged[0])
        if alone.converged[0]:
            assert torch.allclose(together.point[row], alone.point[0], rtol=0, atol=1e-13)
            assert abs(int(together.iterations[row]) - int(alone.iterations[0])) <= 1
    assert together.converged[[0, 1, 6]].all()
    assert not together.converged[[3, 4, 5]].any()
    assert (together.residual[[3, 4]] > 1e-3).all()
    assert (together.iterations <= 200).all()
    assert together.iterations[[0, 1, 6]].max() < 40


def test_only_newton_finds_the_point_that_repels():
    start = torch.full((3, 1), 0.4, dtype=F64)

    def function(z, rows):
        return torch.cos(8 * z)

    found = solve_fixed_point(function, start, method="newton")
    assert found.converged.all()
    assert torch.allclose(found.point, torch.cos(8 * found.point), rtol=0, atol=1e-13)
    assert not solve_fixed_point(
        function, start, method="damped", max_iterations=20
    ).converged.any()
    assert solve_fixed_point(function, start).converged.all()


def test_damping_reaches_what_the_plain_iteration_leaves():
    found = solve_fixed_point(lambda z, k: 1 - 3 * z, torch.zeros(2, 4, dtype=F64), method="damped")
    assert torch.allclose(found.point, torch.full((2, 4), 0.25, dtype=F64), rtol=1e-12)


def test_a_kinked_map_converges():
    weights, shift = _weights(11, 12, 0.95), _normal(12, 50, 12)
    found = solve_fixed_point(
        lambda z, k: torch.relu(z @ weights.T + shift[k]),
        torch.zeros(50, 12, dtype=F64),
        jacobian=lambda z, k: (z @ weights.T + shift[k] > 0)[..., None] * weights,
    )
    assert found.converged.all()


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_reaches_its_own_tolerance(method):
    weights, shift = _weights(5, 8, 0.7).float(), _normal(6, 20, 8, dtype=torch.float32)
    function, jacobian = _tanh_map(weights, shift)
    found = solve_fixed_point(function, 0 * shift, method=method, jacobian=jacobian)
    assert found.converged.all()
    assert found.point.dtype == found.residual.dtype == torch.float32
    exact = solve_fixed_point(
        _tanh_map(weights.double(), shift.double())[0], 0 * shift.double(), method="newton"
    )
    assert torch.allclose(found.point.double(), exact.point, rtol=0, atol=1e-5)


def test_the_tolerance_and_the_limit_are_kept():
    function, _ = _tanh_map(_weights(2, 5, 0.9), _normal(3, 4, 5))
    start = torch.zeros(4, 5, dtype=F64)
    rough = solve_fixed_point(function, start, method="damped", tolerance=1e-3)
    assert rough.converged.all()
    assert (rough.residual > 1e-6).all()
    for method in METHODS:
        short = solve_fixed_point(function, start, method=method, tolerance=1e-15, max_iterations=3)
        assert short.iterations.max() <= 3


def test_a_start_at_the_fixed_point_takes_one_evaluation():
    function, jacobian = _tanh_map(_weights(2, 5, 0.9), _normal(3, 4, 5))
    found = solve_fixed_point(function, torch.zeros(4, 5, dtype=F64), jacobian=jacobian)
    again = solve_fixed_point(function, found.point, jacobian=jacobian)
    assert (again.iterations == 1).all()
    assert torch.equal(again.point, found.point)


def test_no_gradient_is_tracked():
    shift = _normal(3, 4, 5).requires_grad_()
    found = solve_fixed_point(lambda z, k: 0.5 * z + shift[k], torch.zeros(4, 5, dtype=F64))
    assert not found.point.requires_grad


@pytest.mark.parametrize(
    ("start", "options", "word"),
    [
        (torch.zeros(2, 2), {"method": "halley"}, "halley"),
        (torch.zeros(2), {}, r"\(2,\)"),
        (torch.zeros(2, 2, dtype=torch.int64), {}, "int64"),
        (torch.zeros(2, 2), {"max_iterations": 0}, "max_iterations is 0"),
    ],
)
def test_wrong_requests_are_sentences(start, options, word):
    with pytest.raises(ProblemError, match=word):
        solve_fixed_point(lambda z, k: z, start, **options)
