from __future__ import annotations

from pathlib import Path


def test_a_figure_is_drawn_here_under_the_file_s_name(gflow, saved: Path) -> None:
    Path("folder").mkdir()
    saved.rename("folder/moved.nc")
    result = gflow("plot", "folder/moved.nc")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Wrote moved.png.\n", "")
    assert Path("moved.png").read_bytes().startswith(b"\x89PNG")


def test_an_existing_figure_is_replaced_only_on_request(gflow, saved: Path) -> None:
    Path("a b.pdf").write_text("precious")
    result = gflow("plot", saved, "-o", "a b.pdf")
    assert (result.exit_code, result.stdout) == (2, "")
    told = "Error: a b.pdf exists; choose another name, or pass --overwrite"
    assert result.stderr.startswith(told)
    assert Path("a b.pdf").read_text() == "precious"
    result = gflow("plot", saved, "-o", "a b.pdf", "--overwrite")
    assert (result.exit_code, result.stdout) == (0, "Wrote 'a b.pdf'.\n")
    assert Path("a b.pdf").read_bytes().startswith(b"%PDF")


def test_a_missing_file_is_told(gflow, config: str) -> None:
    result = gflow("plot", "run.nc")
    assert (result.exit_code, result.stderr) == (2, "Error: run.nc does not exist.\n")
