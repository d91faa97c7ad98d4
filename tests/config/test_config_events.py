"""The table [flow.events], from a file to the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from gflow.config import config_from_dict
from gflow.configured import run_config
from gflow.errors import ConfigError, ProblemError

RAW = {
    "model": {"kind": "linear", "dim": 1},
    "data": {"source": "teacher", "samples": 10, "seed": 1},
    "start": {"theta": [0.1, 0.0]},
    "flow": {"t_end": 5.0, "times": 3},
}


def _config(events, **tables):
    return config_from_dict({**RAW, **tables, "flow": {**RAW["flow"], "events": events}})


def test_numbers_and_lists_are_read_and_written():
    config = _config({"loss": [1e-2, 1e-4], "conditioning": 0.5, "sharpness": True})
    table = config.flow.events
    assert (table.loss, table.conditioning, table.sharpness) == ((1e-2, 1e-4), 0.5, True)
    assert (table.gradient_norm, table.singular_distance) == (None, None)
    assert "[flow.events]" in config.to_toml()


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ({"loss": -1.0}, "flow.events.loss is -1.0; it must be a positive number, or a list of"),
        ({"loss": [1.0, 1.0]}, "a list of distinct positive numbers."),
        ({"sharpness": "x"}, 'flow.events.sharpness is "x"; it must be true or false, or a'),
        ({"los": 1.0}, "flow.events.los is unknown; did you mean flow.events.loss"),
    ],
)
def test_wrong_values_are_told(events, told):
    with pytest.raises(ConfigError) as caught:
        _config(events)
    assert told in str(caught.value)


@pytest.mark.parametrize("kind", ["integrate", "compare"])
def test_true_means_the_step_sizes_of_the_descent(kind):
    config = _config({"sharpness": True}, descent={"step_sizes": [0.1, 0.2], "records": 3})
    flow = run_config(config, kind, Path())["flow"]
    assert flow.attrs["events"] == "sharpness 20; sharpness 10"


def test_without_a_descent_it_means_nothing_and_that_is_told():
    with pytest.raises(ProblemError, match="means the step sizes of the descents"):
        run_config(_config({"sharpness": True}), "integrate", Path())
