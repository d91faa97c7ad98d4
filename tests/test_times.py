from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gflow.errors import ProblemError
from gflow.times import save_times

ends = st.floats(1e-12, 1e12)


@given(count=st.integers(2, 300), t_end=ends)
def test_linear_times_are_equally_spaced_with_both_ends_exact(count, t_end):
    times = save_times(count, t_end)
    assert (len(times), times[0], times[-1]) == (count, 0.0, t_end)
    assert np.diff(times) == pytest.approx(t_end / (count - 1), rel=1e-9)
    assert np.array_equal(times, save_times(count, t_end, "linear"))


@given(count=st.integers(3, 300), t_end=ends)
def test_log_times_cover_five_decades_with_equal_ratios(count, t_end):
    times = save_times(count, t_end, "log")
    assert (len(times), times[0], times[-1]) == (count, 0.0, t_end)
    assert times[1] == (t_end if count == 3 - 1 else pytest.approx(1e-5 * t_end))
    ratio = 1e5 ** (1 / (count - 2))
    assert times[2:] / times[1:-1] == pytest.approx(ratio, rel=1e-9)
    assert (np.diff(times) > 0).all()


def test_two_times_are_the_ends_in_either_spacing():
    assert save_times(2, 3.0, "log").tolist() == save_times(2, 3.0).tolist() == [0.0, 3.0]
    assert save_times(np.int64(3), 3.0).tolist() == [0.0, 1.5, 3.0]


@given(
    times=st.lists(st.floats(0, 5, allow_subnormal=False), min_size=1, unique=True).map(sorted),
    spacing=st.sampled_from(["linear", "log"]),
)
def test_explicit_times_are_kept_whatever_the_spacing(times, spacing):
    for given_times in (times, tuple(times), np.array(times)):
        assert save_times(given_times, 5.0, spacing).tolist() == times
    assert save_times(times, math.inf).tolist() == times


def test_explicit_times_are_copied():
    mine = np.array([0.0, 1.0])
    save_times(mine, 1.0)[0] = 9.0
    assert mine[0] == 0.0


REFUSALS = {
    "one": ((1, 2.0), "times is 1; at least 2 saves are needed, the start and the end."),
    "none": ((0, 2.0), "times is 0; at least 2 saves are needed, the start and the end."),
    "minus": ((-5, 2.0), "times is -5; at least 2 saves are needed, the start and the end."),
    "no end": ((9, math.inf), "a count of times needs a finite t_end."),
    "no number": ((9, math.nan), "a count of times needs a finite t_end."),
    "spacing": ((9, 2.0, "cubic"), 'spacing is "cubic"; it must be linear or log.'),
    "spacing too": (([1.0], 2.0, "Log"), 'spacing is "Log"; it must be linear or log.'),
    "words": ((["a"], 2.0), "times is ['a']; it must be a count or a list of times."),
    "ragged": (([[1], [1, 2]], 2.0), "times is [[1], [1, 2]]; it must be a count or a list of"),
    "late": (([0, 2.5], 2.0), "times ends at 2.5, beyond t_end = 2."),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_no_choice_of_times_is_refused_in_a_sentence(case):
    arguments, sentence = REFUSALS[case]
    with pytest.raises(ProblemError) as refusal:
        save_times(*arguments)
    assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize(
    "times",
    [[], [[0.0, 1.0]], [1.0, 1.0], [1.0, 0.5], [-1e-300, 1.0], [0.0, math.nan], [0.0, math.inf]]
    + [True, 2.0, None],
)
def test_times_that_do_not_increase_from_0_are_refused(times):
    with pytest.raises(ProblemError) as refusal:
        save_times(times, 2.0)
    assert str(refusal.value) == "times must be a count, or increasing finite times from 0 on."
