from __future__ import annotations

import re
import sys

import pytest

from gflow.cli.tables import print_table


def plain(text: str) -> str:
    """The text without a terminal's escape sequences."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_names_and_values_are_printed_without_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Run [flow]", [("method", "[red]x[/red]"), ("t", "2")])
    assert capsys.readouterr().out == "Run [flow]\nmethod  [red]x[/red]\nt       2\n\n"


def test_the_first_of_wide_rows_is_the_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Runs", [("step size", "updates", "loss"), ("0.05", "4000", "1e-05")])
    assert capsys.readouterr().out == (
        "Runs\nstep size  updates  loss\n0.05       4000     1e-05\n\n"
    )


def test_elsewhere_than_on_a_terminal_nothing_is_wrapped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table("Run", [("status", "one two three " * 30)])
    assert capsys.readouterr().out.count("\n") == 3


def test_on_a_terminal_sentences_are_wrapped_and_numbers_are_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table("Run", [("status", "one two three " * 9)])
    lines = plain(capsys.readouterr().out).splitlines()
    assert len(lines) > 4
    assert max(map(len, lines)) <= 40
    print_table("Runs", [tuple("abcdefgh"), ("1.234e-05",) * 8])
    assert plain(capsys.readouterr().out).splitlines()[-2].split() == ["1.234e-05"] * 8


def test_what_a_terminal_would_obey_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Run", [("command", "\x1b[2Jrun\x07 \u202eevil\r"), ("t", "2")])
    assert "\\u001b[2Jrun\\u0007 \\u202eevil\\u000d" in capsys.readouterr().out
