"""What a summary tells of events."""

from __future__ import annotations

import numpy as np
import pytest

import gflow
from gflow.show import summary
from gflow.show_events import SHOWN, event_rows

BOWL = gflow.Objective(lambda w: (w * w).sum(), 2)


def _events(tree):
    return dict(summary(tree)).get("Events")


def test_each_event_of_a_flow_has_its_time():
    # The loss is 4 exp(-4 t).
    tree = gflow.integrate(BOWL, [2.0, 0.0], 3.0, rtol=1e-9, events={"loss": [1.0, 0.01]})
    times = np.log([4.0, 400.0]) / 4
    assert _events(tree) == [
        ("event", "time", "loss"),
        ("loss falls through 1", f"{times[0]:.6g}", "1"),
        ("loss falls through 0.01", f"{times[1]:.6g}", "0.01"),
    ]


def test_events_that_did_not_happen_are_told():
    tree = gflow.integrate(BOWL, [2.0, 0.0], 3.0, events={"loss": 9.0, "gradient_norm": 1e-9})
    assert _events(tree)[1:] == [
        ("none was crossed (asked for: loss 9, gradient_norm 1e-09)", "", "")
    ]
    assert _events(gflow.integrate(BOWL, [2.0, 0.0], 3.0)) is None


def test_many_events_are_cut_short():
    tree = gflow.integrate(BOWL, [2.0, 0.0], 30.0, flow="heavy_ball:50", events={"loss": 0.5})
    flow = tree["flow"].to_dataset().isel(event=slice(3)).assign(event_count=SHOWN + 9)
    assert event_rows(flow)[-1] == (f"{SHOWN + 6} more", "", "")


def test_events_of_an_ensemble_are_counted_over_its_trajectories():
    starts = [[2.0, 0.0], [1.0, 0.0], [0.5, 0.0]]
    tree = gflow.integrate(BOWL, starts, 3.0, rtol=1e-9, events={"loss": [0.5, 1e-9]})
    header, row = _events(tree)
    assert header == ("event", "trajectories", "first", "median", "last")
    times = np.log([8.0, 2.0]) / 4
    assert row[:2] == ("loss falls through 0.5", "2 of 3")
    told = [times.min(), times.mean(), times.max()]
    assert [float(cell) for cell in row[2:]] == pytest.approx(told, rel=1e-5)


def test_the_last_error_estimate_is_told():
    on = {"error_estimate": True}
    flow = gflow.integrate(BOWL, [2.0, 0.0], 3.0, diagnostics=on)
    told = dict(row[:2] for row in dict(summary(flow))["Where the flow ended"])
    value = float(flow["flow"].error_estimate[-1])
    assert told["estimated error of theta"] == f"{value:.6g}"
    tree = gflow.integrate(BOWL, [[2.0, 0.0], [1.0, 1.0]], 3.0, diagnostics=on)
    rows = dict(row[:2] for row in dict(summary(tree))["Over the trajectories"])
    least = float(tree["flow"].error_estimate[:, -1].min())
    assert rows["error estimate (last save)"] == f"{least:.6g}"
