from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from gflow.cli.live import LiveLine, describe, time_left
from gflow.flow_run import Progress

FLOW = Progress(0.25, 50.0, 1.23456e-3, 4.5e-6, 0.125, 1234, "flow")


@pytest.mark.parametrize(
    ("progress", "left", "text"),
    [
        (
            FLOW,
            75.4,
            "flow: t = 50 (25%)  1:15 left  loss 1.235e-03  gradient 4.50e-06  step 0.12  nfe 1234",
        ),
        (
            Progress(math.nan, 1e6, 0.0, 0.0, 1e5, 7, "flow"),
            math.nan,
            "flow: t = 1e+06  time left unknown  loss 0.000e+00  gradient 0.00e+00  step 1e+05  "
            "nfe 7",
        ),
        (
            Progress(0.5, 1.0, 2.0, 3.0, math.nan, 0, "descent"),
            7384.0,
            "descent: t = 1 (50%)  2:03:04 left  loss 2.000e+00  gradient 3.00e+00",
        ),
    ],
)
def test_the_text_of_the_line(progress: Progress, left: float, text: str) -> None:
    assert describe(progress, left) == text


def test_the_time_left() -> None:
    assert time_left(0.1, 0.2, 3.0) == pytest.approx(24.0)
    assert math.isnan(time_left(0.1, 0.1, 3.0))
    assert math.isnan(time_left(math.nan, math.nan, 3.0))


@pytest.mark.parametrize(("shown", "seconds", "drawn"), [(True, 9, 1), (True, 0, 0), (False, 9, 0)])
def test_a_line_appears_on_long_runs_if_it_is_to(
    monkeypatch: pytest.MonkeyPatch, shown: bool, seconds: float, drawn: int
) -> None:
    clock = SimpleNamespace(perf_counter=lambda: 0.0)
    monkeypatch.setattr("gflow.cli.live.time", clock)
    texts: list[str] = []
    monkeypatch.setattr(LiveLine, "_draw", lambda _, text: texts.append(text))
    with LiveLine(shown) as line:
        clock.perf_counter = lambda: seconds
        line.update(FLOW)
        line.update(FLOW)
    assert len(texts) == drawn


def test_a_new_phase_has_its_own_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(perf_counter=lambda: 0.0)
    monkeypatch.setattr("gflow.cli.live.time", clock)
    texts: list[str] = []
    monkeypatch.setattr(LiveLine, "_draw", lambda _, text: texts.append(text))
    with LiveLine(True) as line:
        for now, fraction, what in [(10, 0.5, "flow"), (20, 0.2, "descent"), (21, 0.4, "descent")]:
            clock.perf_counter = lambda now=now: now
            line.update(Progress(fraction, 1.0, 1.0, 1.0, 1.0, 1, what))
    assert [text.split("  ")[1] for text in texts] == [
        "time left unknown",
        "time left unknown",
        "0:03 left",
    ]
