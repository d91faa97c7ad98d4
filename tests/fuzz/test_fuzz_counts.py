"""How many inputs the fuzz tests take."""

from __future__ import annotations

from hostile import COUNTS, WIDER


def test_there_are_so_many_inputs() -> None:
    daily, full = (sum(counts) for counts in zip(*COUNTS.values(), strict=True))
    assert WIDER >= 1
    assert daily >= 1_000
    assert full >= 10_000
