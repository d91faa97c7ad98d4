"""The closed forms against the full flow, central differences and 60-digit arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from gflow.errors import ProblemError
from gflow.theory import LinearReference, critical_radius, exact_trajectory, reduced_field, time_of

EPS = np.finfo(float).eps
SEEDS = st.integers(0, 2**32 - 1)
SLOPES = st.one_of(st.just(0.0), st.floats(-5.0, 5.0))


def _loss(theta, x, y):
    return np.mean((x @ theta[:-1] / (1.0 - theta[-1]) - y) ** 2)


def _gradient(theta, x, y):
    gap = 1.0 - theta[-1]
    output = x @ theta[:-1] / gap
    error = output - y
    return 2.0 / (y.size * gap) * np.append(x.T @ error, output @ error)


def _hessian(theta, x, y, h=1e-5):
    steps = h * np.eye(theta.size)
    rows = [_gradient(theta + s, x, y) - _gradient(theta - s, x, y) for s in steps]
    return np.array(rows) / (2.0 * h)


def _flow(theta0, x, y, times):
    """The full flow by an explicit integrator of order 8, shape (T, P)."""
    solution = solve_ivp(
        lambda t, theta: -_gradient(theta, x, y),
        (0.0, times[-1]),
        theta0,
        method="DOP853",
        t_eval=times,
        rtol=1e-13,
        atol=1e-15,
    )
    assert solution.success
    return solution.y.T


def _noisy(seed, n=12, d=3, side=1.0):
    """Inputs, targets that no xi fits, and an initial theta of radius 1.5 on the given side."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=n)
    offset = rng.normal(size=d + 1)
    offset *= 1.5 / np.linalg.norm(offset)
    return x, y, np.append(offset[:-1], 1.0 - side * abs(offset[-1]))


def _theta(phi0, radius, side):
    gap = side * radius / np.hypot(1.0, phi0)
    return np.array([phi0 * gap, 1.0 - gap])


def _exact_time(phi, phi0, mean_square, xi, radius_squared, log_ratio):
    """Time by partial fractions; log_ratio = log((phi0 - xi) / (phi - xi)); all are mpf."""
    q = 1 + xi**2

    def primitive(p):
        arctangent = xi * mpmath.atan(p)
        rational = (xi * p - 1) / (1 + p**2)
        return (mpmath.log(1 + p**2) / 2 + arctangent) / q**2 + (arctangent + rational) / (2 * q)

    return (
        radius_squared / (2 * mean_square) * (log_ratio / q**2 - primitive(phi0) + primitive(phi))
    )


# [DR] experiment A.1: the inputs, and the flow's end and sharpness as recorded from integrators.
A1 = {
    "linear": (0, [0.834055189944536, 0.5829724050277321], 0.9325020508512407, 19.09718512840126),
    "near-singular": (
        1, [-0.06447163008667357, 1.0322358150433368], 0.07208147374701138, 3196.1093859475986
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", A1)
def test_recorded_numbers_of_experiment_a1(name: str) -> None:
    centre, limit, radius, sharpness = A1[name]
    x = np.random.default_rng(42).uniform(0.0, 1.0, 1000)
    theta0 = np.random.default_rng(43).normal([0, centre], 0.1)
    reference = LinearReference.from_data(x[:, None], 2.0 * x, theta0)
    assert reference.sigma[0, 0] == pytest.approx(0.33212299459039474, rel=1e-14)
    assert reference.xi == pytest.approx([2.0], rel=1e-14)
    assert reference.limit == pytest.approx(limit, rel=1e-11)
    assert reference.radius == pytest.approx(radius, rel=1e-13)
    assert reference.sharpness_at_limit == pytest.approx(sharpness, rel=1e-11)
    assert critical_radius(0.01, reference.sigma, reference.xi) == pytest.approx(0.28815, abs=5e-6)
    assert reference.minimal_loss < 1e-29


def test_recorded_flow_of_experiment_a1_at_t_2() -> None:
    theta0 = np.random.default_rng(43).normal(0.0, 0.1, 2)
    theta = exact_trajectory(2.0, theta0, 0.33212299459039474, 2.0)
    assert theta == pytest.approx([0.8340551899436576, 0.582972405025971], rel=1e-12)


@pytest.mark.parametrize("side", [1.0, -1.0])
@given(seed=SEEDS)
def test_the_full_flow_obeys_conditioning_bound_and_sphere(seed: int, side: float) -> None:
    x, y, theta0 = _noisy(seed, side=side)
    assume(abs(1.0 - theta0[-1]) > 0.2)
    reference = LinearReference.from_data(x, y, theta0)
    times = np.linspace(0.0, 3.0, 13)
    theta = _flow(theta0, x, y, times)
    gap = 1.0 - theta[:, -1]
    assert reference.side == side
    assert np.hypot(np.linalg.norm(theta[:, :-1], axis=1), gap) == pytest.approx(reference.radius)
    conditioning = reference.conditioning(theta[:, :-1] / gap[:, None])
    assert conditioning == pytest.approx(side * gap, rel=1e-10)
    losses = np.array([_loss(point, x, y) for point in theta])
    assert np.all(losses <= reference.loss_bound(times) * (1.0 + 1e-12))
    assert reference.loss_bound(0.0) == pytest.approx(losses[0], rel=1e-12)


def test_the_rate_is_attained_at_xi_0() -> None:
    x = np.random.default_rng(1).normal(size=(50, 1))
    theta0 = np.array([1e-3, 0.4])
    reference = LinearReference.from_data(x, np.zeros(50), theta0)
    losses = [_loss(point, x, np.zeros(50)) for point in _flow(theta0, x, np.zeros(50), [0.0, 1.0])]
    assert losses[1] / losses[0] == pytest.approx(np.exp(-reference.rate), rel=1e-4)
    assert losses[1] < 0.1 * losses[0]


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_the_full_flow_ends_at_the_limit(side: float) -> None:
    x, y, theta0 = _noisy(7, side=side)
    reference = LinearReference.from_data(x, y, theta0)
    end = _flow(theta0, x, y, [0.0, 40.0])[-1]
    assert end == pytest.approx(reference.limit, abs=1e-10)
    assert np.linalg.norm(_gradient(reference.limit, x, y)) < 1e-13
    assert np.linalg.norm(theta0 - reference.limit) > 0.1


@given(seed=SEEDS, side=st.sampled_from([1.0, -1.0]))
def test_sharpness_at_the_limit_of_noisy_targets(seed: int, side: float) -> None:
    x, y, theta0 = _noisy(seed, side=side)
    reference = LinearReference.from_data(x, y, theta0)
    assert reference.minimal_loss == pytest.approx(_loss(reference.limit, x, y), rel=1e-12)
    assume(reference.minimal_loss > 0.01 and np.linalg.norm(reference.xi) < 5.0)
    hessian = _hessian(reference.limit, x, y)
    assert np.linalg.eigvalsh(hessian)[-1] == pytest.approx(reference.sharpness_at_limit, rel=1e-6)


@given(seed=SEEDS, step_size=st.floats(1e-3, 1.0))
def test_at_the_critical_radius_the_sharpness_is_two_over_the_step_size(
    seed: int, step_size: float
) -> None:
    x, y, theta0 = _noisy(seed)
    reference = LinearReference.from_data(x, y, theta0)
    radius = critical_radius(step_size, reference.sigma, reference.xi)
    scaled = (theta0 - [0, 0, 0, 1]) * radius / reference.radius + [0, 0, 0, 1]
    there = LinearReference.from_data(x, y, scaled)
    assert there.sharpness_at_limit == pytest.approx(2.0 / step_size, rel=1e-9)


def test_critical_radius_in_one_dimension() -> None:
    expected = np.sqrt(0.02 * 0.7) * (1.0 + 1.5**2)
    assert critical_radius(0.02, 0.7, -1.5) == pytest.approx(expected, rel=1e-14)
    assert critical_radius(0.02, [[0.7]], [-1.5]) == pytest.approx(expected, rel=1e-14)


@given(seed=SEEDS, side=st.sampled_from([1.0, -1.0]))
def test_reduced_field_is_the_full_flow_seen_through_phi(seed: int, side: float) -> None:
    x, y, theta = _noisy(seed, side=side)
    assume(abs(1.0 - theta[-1]) > 0.2)
    reference = LinearReference.from_data(x, y, theta)
    velocity, h = -_gradient(theta, x, y), 1e-5
    h /= np.linalg.norm(velocity)
    ahead, behind = theta + h * velocity, theta - h * velocity
    rate = (ahead[:-1] / (1 - ahead[-1]) - behind[:-1] / (1 - behind[-1])) / (2.0 * h)
    phi = theta[:-1] / (1.0 - theta[-1])
    field = reduced_field(phi, reference.sigma, reference.xi, reference.radius)
    assert field == pytest.approx(rate, rel=1e-6, abs=1e-6 * np.linalg.norm(rate))
    stacked = reduced_field([phi, 0 * phi], reference.sigma, reference.xi, reference.radius)
    assert stacked[0] == pytest.approx(field, rel=1e-14)
    assert stacked[1] == pytest.approx(2 / 1.5**2 * reference.sigma @ reference.xi, rel=1e-12)


def test_a_rank_deficient_problem_has_a_minimal_loss_and_no_limit() -> None:
    x, y, theta0 = _noisy(3)
    x[:, 2] = x[:, 0] - x[:, 1]
    reference = LinearReference.from_data(x, y, theta0)
    assert not reference.full_rank
    assert reference.limit is None
    assert reference.sharpness_at_limit is None
    assert reference.rate == 0.0
    assert reference.loss_bound([0.0, 9.0]) == pytest.approx(_loss(theta0, x, y))
    assert reference.minimal_loss == pytest.approx(
        np.mean((x[:, :2] @ np.linalg.solve(x[:, :2].T @ x[:, :2], x[:, :2].T @ y) - y) ** 2)
    )
    assert not LinearReference.from_data(x[:2], y[:2], theta0).full_rank


@given(
    xi=st.one_of(SLOPES, st.sampled_from([-40.0, 40.0])),
    phi0=st.one_of(st.floats(-10.0, 10.0), st.sampled_from([1e3, -1e3, 1e9, -1e9])),
    log_radius=st.floats(-2.0, 1.0),
    side=st.sampled_from([1.0, -1.0]),
    mean_square=st.floats(1e-2, 1e2),
    log_decay=st.floats(-6.0, 4.0),
)
def test_exact_trajectory_against_partial_fractions_in_sixty_digits(
    xi: float, phi0: float, log_radius: float, side: float, mean_square: float, log_decay: float
) -> None:
    """(phi - xi) shrinks by exp(-decay), up to 10^4: far below what a float can hold."""
    theta0 = _theta(phi0, 10.0**log_radius, side)
    with mpmath.workdps(60):
        slope, mean = mpmath.mpf(xi), mpmath.mpf(mean_square)
        gap, decay = 1 - mpmath.mpf(theta0[1]), mpmath.mpf(10.0**log_decay)
        start, squared = theta0[0] / gap, mpmath.mpf(theta0[0]) ** 2 + gap**2
        assume(abs(start - slope) > 1e-12)
        phi = slope + (start - slope) * mpmath.exp(-decay)
        t = _exact_time(phi, start, mean, slope, squared, decay)
        # The angle that the flow turns through while t changes by its own size: t is rounded.
        turn = float(2 * mean / squared * (1 + phi**2) * abs(phi - slope) * t)
        end = mpmath.sign(gap) * mpmath.sqrt(squared / (1 + phi**2))
        expected = np.array([float(phi * end), float(1 - end)])
    radius = float(mpmath.sqrt(squared))
    error = np.abs(exact_trajectory(float(t), theta0, mean_square, xi) - expected)
    assert error[0] <= 40.0 * EPS * radius * (1.0 + turn)
    assert error[1] <= 40.0 * EPS * radius * (1.0 + turn) + EPS


@given(
    xi=SLOPES,
    phi0=st.one_of(st.floats(-10.0, 10.0), st.sampled_from([1e3, -1e3, 1e9])),
    fraction=st.floats(1e-6, 1.0 - 1e-3),
)
def test_time_of_against_partial_fractions_in_sixty_digits(
    xi: float, phi0: float, fraction: float
) -> None:
    phi = phi0 + fraction * (xi - phi0)
    assume(abs(phi0 - xi) > 1e-3 and min(phi0, xi) < phi < max(phi0, xi))
    with mpmath.workdps(60):
        numbers = [mpmath.mpf(value) for value in (phi, phi0, 0.3, xi, 4.0)]
        ratio = mpmath.log((numbers[1] - xi) / (numbers[0] - xi))
        expected = float(_exact_time(*numbers, ratio))
    # Beyond the relative error: what one rounding of phi, xi or phi0 changes.
    speed = abs(reduced_field([phi], 0.3, xi, 2.0)[0])
    rounding = EPS * (max(abs(phi0), abs(xi))) / speed
    assert abs(time_of(phi, phi0, 0.3, xi, 2.0) - expected) <= 60.0 * (EPS * expected + rounding)


@given(xi=SLOPES, phi0=st.floats(-3.0, 3.0), side=st.sampled_from([1.0, -1.0]))
def test_exact_trajectory_is_the_full_flow_of_noisy_data(
    xi: float, phi0: float, side: float
) -> None:
    rng = np.random.default_rng(5)
    x = rng.uniform(0.5, 1.5, (20, 1))
    y = xi * x[:, 0] + rng.normal(size=20)
    theta0 = _theta(phi0, 2.0, side)
    reference = LinearReference.from_data(x, y, theta0)
    times = np.linspace(0.0, 2.0, 9)
    exact = exact_trajectory(times, theta0, reference.sigma[0, 0], reference.xi[0])
    assert reference.minimal_loss > 0.1
    assert exact == pytest.approx(_flow(theta0, x, y, times), abs=2e-11)


@given(xi=SLOPES, phi0=st.one_of(st.floats(-10.0, 10.0), st.sampled_from([1e6, -1e6])))
def test_exact_trajectory_starts_at_theta0_ends_at_the_limit_and_inverts_time_of(
    xi: float, phi0: float
) -> None:
    theta0 = _theta(phi0, 0.5, -1.0)
    times = np.append(0.0, np.geomspace(1e-12, 1e300, 200))
    theta = exact_trajectory(times, theta0, 0.8, xi)
    gap = -0.5 / np.hypot(1.0, xi)
    assert theta[0] == pytest.approx(theta0, abs=1e-14)
    assert theta[-1] == pytest.approx([gap * xi, 1.0 - gap], abs=1e-14)
    phi = theta[:, 0] / (1.0 - theta[:, 1])
    inside = (np.abs(phi - xi) > 1e-3) & (np.abs(phi - xi) < 0.9 * abs(phi0 - xi))
    start = theta0[0] / (1.0 - theta0[1])
    again = time_of(phi[inside], start, 0.8, xi, np.hypot(theta0[0], 1.0 - theta0[1]))
    assert again == pytest.approx(times[inside], rel=1e-9)


def test_at_xi_0_theta1_is_accurate_relative_to_itself() -> None:
    """It decays as exp(-2 m t / R^2), here down to 1e-300."""
    theta0 = np.array([1e-9, 0.0])
    times = np.array([0.0, 1.0, 100.0, 330.0])
    expected = 1e-9 * np.exp(-2.0 * times)
    assert exact_trajectory(times, theta0, 1.0, 0.0)[:, 0] == pytest.approx(
        expected, rel=1e-12, abs=0
    )


def test_a_start_at_xi_stays() -> None:
    theta0 = np.array([1.0, 0.5])
    assert np.array_equal(exact_trajectory([0.0, 1e9], theta0, 1.0, 2.0), [theta0, theta0])
    assert time_of([2.0], 2.0, 1.0, 2.0, 1.0) == [0.0]


def test_shapes_follow_the_times() -> None:
    theta0 = [0.3, 0.2]
    assert exact_trajectory(1.0, theta0, 1.0, 2.0).shape == (2,)
    assert exact_trajectory([], theta0, 1.0, 2.0).shape == (0, 2)
    assert exact_trajectory([0.7], theta0, 1.0, 0.375).shape == (1, 2)
    grid = exact_trajectory([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]], theta0, 1.0, 2.0)
    assert grid.shape == (2, 3, 2)
    assert np.array_equal(grid[1, 0], exact_trajectory(1.0, theta0, 1.0, 2.0))
    assert time_of(1.0, 0.5, 1.0, 2.0, 1.0).shape == ()
    assert np.array_equal(time_of([0.5, 2.0], 0.5, 1.0, 2.0, 1.0), [0.0, np.inf])


X, Y, THETA0 = np.eye(2), np.ones(2), np.zeros(3)
BAD_CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "singular": (lambda: LinearReference.from_data(X, Y, [1, 1, 1]), "singular point"),
    "singular in 1-d": (lambda: exact_trajectory(1.0, [1, 1], 1.0, 2.0), "singular point"),
    "x is flat": (lambda: LinearReference.from_data(Y, Y, THETA0), r"x has shape \(2,\)"),
    "x is empty": (lambda: LinearReference.from_data(X[:0], [], THETA0), r"x has shape \(0, 2\)"),
    "y is short": (lambda: LinearReference.from_data(X, [1.0], THETA0), r"y has shape \(1,\)"),
    "theta0 is short": (lambda: LinearReference.from_data(X, Y, [0, 0]), r"theta0 .* \(3,\)"),
    "nan": (lambda: LinearReference.from_data(X, [0, np.nan], THETA0), r"y is nan at index \(1,\)"),
    "words": (lambda: LinearReference.from_data(X, ["a", "b"], THETA0), "y cannot be read"),
    "ragged": (lambda: LinearReference.from_data([[1], [1, 2]], Y, THETA0), "x cannot be read"),
    "phi shape": (lambda: reduced_field([1.0], X, Y, 1.0), r"phi has shape \(1,\)"),
    "phi scalar": (lambda: reduced_field(1.0, X, Y, 1.0), r"phi has shape \(\)"),
    "sigma shape": (lambda: reduced_field(Y, 1.0, Y, 1.0), r"sigma has shape \(1, 1\)"),
    "radius": (lambda: reduced_field(Y, X, Y, 0.0), "radius is 0; it must be positive"),
    "step size": (lambda: critical_radius(-1.0, 1.0, 1.0), "step_size is -1; it must be positive"),
    "several step sizes": (lambda: critical_radius([1, 2], 1.0, 1.0), "step_size has shape"),
    "mean square": (lambda: exact_trajectory(1.0, [1, 0], 0.0, 2.0), "mean_square is 0"),
    "negative time": (lambda: exact_trajectory([1, -1], [1, 0], 1.0, 2.0), "t is -1; it must"),
    "infinite time": (lambda: exact_trajectory(np.inf, [1, 0], 1.0, 2.0), "t is inf"),
    "never passed": (lambda: time_of([1.0, 4.0], 0.0, 1.0, 2.0, 1.0), r"in \[0, 2\]"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_wrong_arguments_are_refused_in_a_sentence(name: str) -> None:
    call, message = BAD_CALLS[name]
    with pytest.raises(ProblemError, match=message):
        call()
