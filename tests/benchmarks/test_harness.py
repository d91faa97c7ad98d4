"""The benchmarks' harness: the ladder, the race and the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = str(Path(__file__).parents[2] / "benchmarks")
TOLERANCES = (1e-4, 1e-2, 1e-1, 1e-3)


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(FOLDER)
    import harness

    yield harness
    for name in [n for n in sys.modules if n == "harness" or n.split(".")[0] == "peers"]:
        del sys.modules[name]


def proportional(tolerance: float) -> tuple[float, Mapping[str, float]]:
    """A contender whose error is half its tolerance and whose work is its inverse."""
    return tolerance / 2, {"gradients": 1 / tolerance}


def test_ladder_stops_at_the_loosest_tolerance_that_meets_the_target(harness):
    found = harness.ladder("ours", TOLERANCES, proportional, 1e-2)
    assert [each.tolerance for each in found] == [1e-1, 1e-2]
    assert [each.meets for each in found] == [False, True]
    assert found[-1].error == 5e-3
    assert found[-1].work == {"gradients": 100.0}


def test_ladder_goes_on_for_the_plot_without_changing_the_winner(harness):
    found = harness.ladder("ours", TOLERANCES, proportional, 1e-2, beyond=1)
    assert [each.tolerance for each in found] == [1e-1, 1e-2, 1e-3]
    assert harness.winners(found)["ours"].tolerance == 1e-2


def test_ladder_counts_nan_as_missed(harness):
    found = harness.ladder("nan", TOLERANCES, lambda tolerance: (float("nan"), {}), 1.0)
    assert len(found) == len(TOLERANCES)
    assert harness.winners(found) == {}


def test_error_may_be_computed_outside_the_clock(harness):
    clock = []
    found = harness.ladder("ours", (1e-2,), lambda tol: (lambda: clock.append(tol) or 0.0, {}), 1.0)
    assert found[0].error == 0.0
    assert clock == [1e-2]


def test_race_times_the_winners_in_turn(harness):
    calls: list[tuple[str, float]] = []

    def noted(name: str, error: float):
        def run(tolerance: float) -> tuple[float, Mapping[str, float]]:
            calls.append((name, tolerance))
            return error * tolerance, {}

        return run

    contenders = {"a": noted("a", 1.0), "b": noted("b", 10.0)}
    harness.race(contenders, TOLERANCES, 1e-2, rounds=2, warm_up=False)
    assert calls[-4:] == [("a", 1e-2), ("b", 1e-3)] * 2


def test_report_writes_what_it_prints(harness, tmp_path, capsys):
    found = harness.race({"gflow": proportional, "peer": proportional}, TOLERANCES, 1e-2, 1)
    omissions = {"absent": "The module absent is not installed."}
    harness.report("try", "A try", found, omissions, {"target": 1e-2}, tmp_path)
    printed = capsys.readouterr().out
    assert "A try" in printed
    assert "Left out: absent. The module absent is not installed." in printed
    record = json.loads((tmp_path / "try.json").read_text())
    assert [each["contender"] for each in record["measurements"]] == ["gflow"] * 2 + ["peer"] * 2
    assert record["omissions"] == omissions
    assert record["target"] == 1e-2
    assert {"torch", "numpy"} <= set(record["environment"]["versions"])
    assert (tmp_path / "try.png").stat().st_size > 0


def test_absent_peer_is_an_omission(harness):
    asked = harness.options("x", ["--only", "abc,De", "--quick"])
    assert asked.peer("no_such_peer") is None
    assert "no_such_peer" in asked.omissions["no_such_peer"]
    assert list(asked.chosen({"xabc": proportional, "other": proportional})) == ["xabc"]
