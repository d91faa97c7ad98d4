"""The events' variables: labelled, padded, and there with length 0 where nothing was crossed."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import gflow
from gflow.assemble_events import with_events
from gflow.diagnostics.crossings import Crossing
from gflow.diagnostics.thresholds import Threshold
from gflow.validation import validate

NAMES = ("kind", "value", "direction", "time", "loss", "count")
ASKED = (Threshold("loss", 0.5), Threshold("sharpness", 20.0))
LATE, EARLY = Crossing("loss", 0.5, -1, 3.0, 0.5), Crossing("sharpness", 20.0, 1, 1.0, 0.7)


def _flow(*dims):
    return xr.Dataset({"status": (dims, np.full([2] * len(dims), "t_end"))})


def test_the_events_of_one_flow_come_in_the_order_of_time():
    flow = with_events(_flow(), [[LATE, EARLY]], np.array([7]), ASKED)
    assert flow.event_kind.values.tolist() == ["sharpness", "loss"]
    assert flow.event_time.values.tolist() == [1.0, 3.0]
    assert flow.event_value.values.tolist() == [20.0, 0.5]
    assert flow.event_direction.values.tolist() == [1.0, -1.0]
    assert flow.event_loss.values.tolist() == [0.7, 0.5]
    assert (flow.event_count.item(), flow.event.values.tolist()) == (7, [0, 1])
    assert flow.attrs["events"] == "loss 0.5; sharpness 20"
    for name in NAMES:
        assert {"long_name", "units", "formula"} <= set(flow[f"event_{name}"].attrs)


def test_those_of_an_ensemble_are_padded():
    flow = with_events(_flow("trajectory"), [[EARLY, LATE], [LATE]], np.array([2, 1]), ASKED)
    assert flow.event_kind.values.tolist() == [["sharpness", "loss"], ["loss", ""]]
    assert flow.event_time.dims == ("trajectory", "event")
    assert np.isnan(flow.event_time.values[1, 1])
    assert np.isnan(flow.event_direction.values[1, 1])
    assert flow.event_count.values.tolist() == [2, 1]


def test_without_thresholds_nothing_is_added():
    flow = _flow()
    assert with_events(flow, [[]], np.array([0]), ()) is flow


@pytest.mark.parametrize("starts", [[0.1, 0.0], [[0.1, 0.0], [0.2, 0.1]]])
@pytest.mark.parametrize("level", [1e-20, 1.0])
def test_files_keep_them_found_or_not(starts, level, tmp_path):
    problem = gflow.Problem(gflow.LinearDEQ(1), [[0.5], [1.0]], [1.0, 2.0])
    events = {"loss": level, "sharpness": [1e-6]}
    tree = gflow.integrate(problem, starts, 5.0, times=3, events=events)
    validate(tree)
    gflow.save(tree, tmp_path / "run.nc")
    with xr.open_datatree(tmp_path / "run.nc") as plain:
        for name in NAMES:
            stored, made = plain["flow"][f"event_{name}"], tree["flow"][f"event_{name}"]
            assert stored.dims == made.dims
            assert stored.values.tolist() == made.values.tolist()
    validate(gflow.open(tmp_path / "run.nc"))
    found = int(level == 1.0)
    assert tree["flow"].sizes["event"] == found
    assert (tree["flow"].event_count.values == found).all()
    assert "event_time" not in gflow.integrate(problem, starts, 5.0, times=3)["flow"]
