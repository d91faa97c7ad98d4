"""Which events are asked for, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import gflow
from gflow.diagnostics.thresholds import KINDS, Threshold, read_events
from gflow.errors import ProblemError

POINT = gflow.Objective(lambda w: (w * w).sum(), 2)
DEQ = gflow.Problem(gflow.LinearDEQ(1), [[1.0]], [1.0])


@pytest.mark.parametrize("nothing", [None, {}, dict.fromkeys(KINDS), dict.fromkeys(KINDS, False)])
def test_nothing_is_asked_for(nothing):
    assert read_events(nothing, DEQ) == ()


def test_a_number_or_several_of_each_kind():
    given = {"loss": (1e-2, 1e-4), "conditioning": 0.05, "gradient_norm": np.array([3, 2])}
    assert read_events(given, DEQ) == (
        Threshold("loss", 1e-2),
        Threshold("loss", 1e-4),
        Threshold("conditioning", 0.05),
        Threshold("gradient_norm", 3.0),
        Threshold("gradient_norm", 2.0),
    )


def test_a_value_given_twice_is_one_event():
    assert read_events({"loss": [1e-2, 0.01]}, DEQ) == (Threshold("loss", 1e-2),)


def test_step_sizes_stand_for_the_sharpness_at_which_they_are_just_stable():
    assert read_events({"sharpness": 0.1}, POINT) == (Threshold("sharpness", 20.0),)
    found = read_events({"sharpness": True}, POINT, [0.1, 0.05])
    assert [one.level for one in found] == [20.0, 40.0]


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ("loss", "events is 'loss'; it must be a mapping"),
        ({"los": 1.0}, 'events.los is unknown; did you mean "loss"?'),
        ({"loss": 0}, "events.loss is 0; it must be a value, a positive finite number"),
        ({"loss": [1e-2, np.inf]}, "a positive finite number, or several"),
        ({"loss": "1e-2"}, "events.loss is '1e-2'"),
        ({"loss": True}, "events.loss is True"),
        ({"sharpness": -0.1}, "it must be a step size"),
        ({"sharpness": True}, "means the step sizes of the descents, and there are none"),
    ],
)
def test_what_is_refused(events, told):
    with pytest.raises(ProblemError) as caught:
        read_events(events, DEQ)
    assert told in str(caught.value)


@pytest.mark.parametrize("kind", ["conditioning", "singular_distance"])
def test_a_loss_without_a_model_has_no_equilibrium_to_lose(kind):
    with pytest.raises(ProblemError, match=f"events.{kind} has no meaning here"):
        read_events({kind: 0.1}, POINT)
