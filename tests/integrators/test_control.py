"""Step-size control: factors within their limits, whatever the errors are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gflow.integrators.control import BROKEN, SAFETY, SHRINK_MOST, Controller

ratios = st.one_of(st.floats(0, 10), st.floats(0, 1e300), st.just(np.nan))
rows = st.lists(st.tuples(ratios, st.floats(1e-4, 1), st.booleans()), min_size=1, max_size=6)
controllers = st.builds(Controller, st.integers(2, 5), st.sampled_from([5.0, 8.0]))


def _factor(controller, ratio, previous=1.0, retrying=False):
    return float(
        controller.factors(np.array([ratio]), np.array([previous]), np.array([retrying]))[0]
    )


@given(controllers, rows)
def test_factors_stay_within_their_limits(controller, rows):
    ratio, previous, retrying = (np.array(part) for part in zip(*rows, strict=True))
    factors = controller.factors(ratio, previous, retrying)
    broken, rejected = np.isnan(ratio), ratio > 1
    assert (factors[broken] == BROKEN).all()
    assert ((factors >= SHRINK_MOST) & (factors <= controller.grow_most)).all()
    assert (factors[rejected] <= SAFETY).all()
    assert (factors[retrying] <= 1).all(), "no growth straight after a rejection"


@given(controllers, rows)
def test_every_row_is_controlled_by_itself(controller, rows):
    together = controller.factors(*(np.array(part) for part in zip(*rows, strict=True)))
    alone = [_factor(controller, *row) for row in rows]
    np.testing.assert_array_equal(together, alone)


@given(
    controllers,
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(1e-4, 1),
    st.floats(1, 1e6),
    st.floats(1, 1e6),
)
def test_a_larger_error_never_makes_a_longer_step(controller, a, b, previous, c, d):
    low, high = sorted((a, b))
    assert _factor(controller, low, previous) >= _factor(controller, high, previous)
    low, high = sorted((c, d))
    assert _factor(controller, low + 1e-9) >= _factor(controller, high + 1e-9)


@pytest.mark.parametrize("order", [3, 4, 5])
def test_the_integral_part_meets_the_tolerance_after_a_rejection(order):
    """With error C dt^k the next step has the ratio SAFETY^k."""
    controller = Controller(order)
    factor = _factor(controller, 8.0)
    assert 8.0 * factor**order == pytest.approx(SAFETY**order, rel=1e-12)


@pytest.mark.parametrize("order", [3, 4, 5])
def test_a_steady_error_settles_below_the_tolerance(order):
    """The step is kept where ratio^(-0.3/k) SAFETY = 1, and the way there does not swing."""
    controller, dt, previous, retrying = Controller(order), 1e-3, 1.0, False
    path = []
    for _ in range(60):
        ratio = (dt / 0.5) ** order
        factor = _factor(controller, ratio, previous, retrying)
        retrying = ratio > 1
        dt, previous = dt * factor, previous if retrying else max(ratio, 1e-4)
        path.append(ratio)
    settled = SAFETY ** (order / 0.3)
    assert path[-1] == pytest.approx(settled, rel=1e-4)
    assert max(path) <= 1.0, "no step was rejected"


def test_an_error_of_zero_grows_the_most():
    assert _factor(Controller(4, grow_most=8.0), 0.0) == 8.0
    assert _factor(Controller(5), 1e300) == SHRINK_MOST
