from __future__ import annotations

import gflow as package


def test_events_and_the_error_estimate_are_asked_for_by_flags_and_shown(gflow, config) -> None:
    flags = ["--flow-events-loss", "1e-1,1e-3", "--set", "flow.events.sharpness=true"]
    result = gflow(
        "compare", config, "-o", "a.nc", *flags, "--diagnostics-error-estimate", "--t-end", "20"
    )
    assert result.exit_code == 0, result.output
    flow = package.open("a.nc")["flow"]
    assert flow.attrs["events"] == "loss 0.1; loss 0.001; sharpness 40; sharpness 20"
    assert "loss" in flow.event_kind.values
    shown = gflow("show", "a.nc").stdout
    assert f"{flow.event_time.values[0]:.6g}" in shown
    assert f"{flow.error_estimate.values[-1]:.6g}" in shown


def test_a_wrong_threshold_is_told_in_a_sentence(gflow, config) -> None:
    result = gflow("integrate", config, "--flow-events-loss", "0")
    assert result.exit_code == 2
    assert "flow.events.loss is 0; it must be a positive number" in result.stderr
