from __future__ import annotations

from pathlib import Path

import numpy as np

import gflow as package
from gflow.show import summary


def test_a_summary_has_every_cell(gflow, saved: Path) -> None:
    result = gflow("show", saved)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("saved.nc\n\nRun\n")
    blocks = dict(block.split("\n", 1) for block in result.stdout.split("\n\n")[1:-1])
    sections = summary(package.open(saved))
    assert list(blocks) == [title for title, _ in sections]
    for title, rows in sections:
        lines = blocks[title].splitlines()
        assert len(lines) == len(rows)
        for line, row in zip(lines, rows, strict=True):
            assert line.split() == " ".join(row).split()


def test_several_files_are_shown_and_a_wrong_one_is_told(gflow, saved: Path) -> None:
    Path("text.nc").write_text("no netCDF")
    result = gflow("show", saved, "saved2.nc", "text.nc", saved)
    assert result.exit_code == 2
    assert result.stdout.count("saved.nc\n\nRun\n") == 2
    missing, unreadable = result.stderr.splitlines()
    assert missing == "Error: saved2.nc does not exist. Did you mean saved.nc?"
    assert unreadable.startswith("Error: text.nc cannot be read as netCDF4: ")


def test_all_trajectories_are_listed_on_request(gflow, config: str) -> None:
    problem = package.Problem(package.LinearDEQ(1), [[1.0], [2.0]], [1.0, 2.0])
    starts = np.column_stack([np.linspace(0.1, 0.9, 22), np.zeros(22)])
    package.save(package.integrate(problem, starts, 0.1, times=3), "many.nc")
    for arguments, title, count in [
        (["many.nc"], "Flows: 20 of 22; --all lists every one", 20),
        (["--all", "many.nc"], "Flows", 22),
    ]:
        result = gflow("show", *arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        heading, header, *rows = result.stdout.split("\n\n")[-2].splitlines()
        assert heading == title
        assert header.split()[:2] == ["trajectory", "status"]
        assert [int(row.split()[0]) for row in rows] == list(range(count))


def test_the_stored_configuration_runs_again(gflow, saved: Path) -> None:
    result = gflow("show", "--config", saved)
    assert (result.exit_code, result.stderr) == (0, "")
    Path("again.toml").write_text(result.stdout, encoding="utf-8")
    assert gflow("compare", "again.toml").exit_code == 0
    first, again = package.open(saved), package.open("again.nc")
    for group in ("flow", "descent"):
        np.testing.assert_array_equal(first[group].theta.values, again[group].theta.values)
    assert again.attrs["config"] == first.attrs["config"]


def test_a_configuration_is_printed_for_one_file(gflow, saved: Path) -> None:
    result = gflow("show", "--config", saved, saved)
    assert result.exit_code == 2
    assert result.stderr.endswith("\n\nError: --config takes one FILE.\n")


def test_a_run_from_python_has_no_configuration(gflow, saved: Path) -> None:
    tree = package.open(saved)
    tree.attrs["config"] = ""
    package.save(tree, "python.nc")
    result = gflow("show", "--config", "python.nc")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: python.nc holds no configuration; it was made in Python.\n"
    assert gflow("show", "python.nc").exit_code == 0
