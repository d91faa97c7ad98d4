"""Events are thin vertical lines in the panel of the loss."""

from __future__ import annotations

import pytest
from drawn import line_problem

import gflow
from gflow.plot import plot_run


@pytest.mark.parametrize("events", [{"loss": [0.1, 0.01]}, {}])
def test_one_flow_has_a_line_at_each_event(events):
    tree = gflow.integrate(line_problem(), [0.02, 0.07], 20.0, times=21, events=events)
    ax = next(ax for ax in plot_run(tree).axes if ax.get_label() == "loss")
    drawn = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "-."]
    expected = tree["flow"].event_time.values.tolist() if events else []
    assert drawn == expected
    assert len(drawn) == len(events.get("loss", []))
