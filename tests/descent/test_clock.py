"""The clock of a descent: updates that fit, their times under every schedule, and records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gflow.descent import Clock, record_times
from gflow.descent.schedule import SCHEDULES, parse_schedule
from gflow.errors import ProblemError

NAMES = ["constant", "linear", "cosine", "warmup:0.2", "step:0.3:0.1", "inverse:0.05"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0.5, 2.0, 5, "linear"), [0, 1, 2, 3, 4]),
        ((0.5, 2.0, 100, "linear"), [0, 1, 2, 3, 4]),
        ((0.5, 2.0, 2, "linear"), [0, 4]),
        ((0.5, 2.24, 3, "linear"), [0, 2, 4]),
        ((0.5, 0.5, 9, "log"), [0, 1]),
        ((0.1, 0.3, 4, "linear"), [0, 1, 2, 3]),  # 0.3 / 0.1 is below 3
        ((1e-3, 100.0, 7, "log"), [0, 1, 10, 100, 1000, 10_000, 100_000]),
        ((1.0, 1e6, 3, "linear"), [0, 500_000, 1_000_000]),
    ],
)
def test_records_are_updates_from_0_to_the_last_that_fits(arguments, expected):
    step_size, t_end, *how = arguments
    found = Clock(step_size, t_end).recorded(*how)
    assert found.tolist() == expected
    assert found.dtype == np.int64


@pytest.mark.parametrize(("step_size", "t_end"), [(1e-3, 1e20), (1e-320, 1.0)])
def test_more_updates_than_can_be_counted_are_refused(step_size, t_end):
    with pytest.raises(ProblemError, match="more than can be counted"):
        Clock(step_size, t_end)


def test_more_updates_than_a_schedule_keeps_are_refused():
    with pytest.raises(ProblemError, match="more than can be kept"):
        Clock(1e-9, 1.0, schedule=parse_schedule("cosine"))


def test_the_names_are_those_of_the_registry():
    assert {name.partition(":")[0] for name in NAMES} == set(SCHEDULES)


@pytest.mark.parametrize("name", NAMES)
def test_a_schedules_mean_is_its_integral(name):
    schedule = parse_schedule(name)
    shares = (np.arange(10**6) + 0.5) / 10**6
    assert schedule.mean == pytest.approx(schedule.scale(shares).mean(), rel=1e-5)


@given(
    name=st.sampled_from(NAMES),
    step_size=st.floats(1e-3, 0.4),
    t_end=st.floats(1.0, 30.0),
)
def test_the_clock_goes_on_by_each_updates_own_step_and_no_more_would_fit(name, step_size, t_end):
    schedule = parse_schedule(name)
    clock = Clock(step_size, t_end, schedule=schedule)
    count = clock.updates
    shares = (np.arange(count) + 0.5) / count
    sizes = step_size * schedule.scale(shares)
    np.testing.assert_allclose([clock.size(k) for k in range(count)], sizes, rtol=1e-13)
    times = clock.time(np.array([0, count // 2, count, -1]))
    expected = [0.0, sizes[: count // 2].sum(), sizes.sum()]
    np.testing.assert_allclose(times[:3], expected, rtol=1e-12)
    assert np.isnan(times[3])
    assert times[2] <= t_end * (1 + 1e-11)
    more = step_size * schedule.scale((np.arange(count + 1) + 0.5) / (count + 1))
    assert more.sum() > t_end * (1 - 1e-11)


def test_a_linear_and_a_cosine_schedule_end_at_t_end():
    """With midpoints their sums are those of half of the updates."""
    for name in ("linear", "cosine"):
        clock = Clock(0.1, 5.0, schedule=parse_schedule(name))
        assert clock.updates == 100
        assert float(clock.time(np.array([100]))[0]) == pytest.approx(5.0, rel=1e-13)


def test_a_step_schedule_falls_by_its_factor():
    clock = Clock(0.5, 10.0, schedule=parse_schedule("step:0.25:0.1"))
    sizes = [clock.size(k) for k in range(clock.updates)]
    assert sorted(set(np.round(sizes, 12)), reverse=True) == [0.5, 0.05, 0.005, 0.0005]


@pytest.mark.parametrize(
    "text",
    ["cosin", "warmup", "warmup:0", "warmup:1.5", "step:0.1", "linear:1", "inverse:x", "step:1:2"],
)
def test_what_is_no_schedule_is_told(text):
    with pytest.raises(ProblemError) as refusal:
        parse_schedule(text)
    assert str(refusal.value).startswith(f'schedule is "{text}"; it must be constant, linear, ')


def test_nesterovs_clock_goes_by_the_root_of_the_step_size_and_has_no_schedule():
    assert record_times([0.25], 2.0, 9, "linear", "nesterov") == [0.0, 0.5, 1.0, 1.5, 2.0]
    with pytest.raises(ProblemError, match='flow "nesterov" has no schedule'):
        record_times([0.25], 2.0, 9, "linear", "nesterov", "cosine")


def test_times_of_several_step_sizes_are_merged():
    times = record_times([0.5, 0.25], 1.0, 9, "linear")
    assert times == [0.0, 0.25, 0.5, 0.75, 1.0]
    with pytest.raises(ProblemError, match="a step size is given twice"):
        record_times([0.1, 0.1], 4.0, 9, "linear")
