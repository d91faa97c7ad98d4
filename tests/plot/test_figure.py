"""The figure of a run: title, key, arrangement, files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from drawn import ETAS, axes_of, lines_of, notes_of, same
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import gflow
from gflow.errors import SchemaError, StoreError
from gflow.plot import PANELS, plot_run
from gflow.plot.decor import GREY, RED, TIME_LABEL
from gflow.plot.runs import step_colours


def test_a_comparison_of_linear_deqs_has_all_panels(linear: xr.DataTree) -> None:
    figure = plot_run(linear)
    assert list(axes_of(figure)) == list(PANELS)
    for name, ax in axes_of(figure).items():
        assert ax.get_title(loc="left")
        assert ax.get_ylabel()
        assert (ax.get_xlabel() == TIME_LABEL) == (name != "theta_plane")


def test_one_colour_per_step_size_in_every_panel(linear: xr.DataTree) -> None:
    figure = plot_run(linear)
    colours = step_colours(ETAS)
    (key,) = figure.legends
    shown = dict(
        zip(
            [text.get_text() for text in key.get_texts()],
            [to_hex(handle.get_color()) for handle in key.legend_handles],
            strict=True,
        )
    )
    assert shown == {"flow": "#000000"} | {f"η = {eta:g}": colours[eta] for eta in ETAS}
    for name in ("loss", "theta_plane", "conservation", "distance", "sharpness"):
        assert all(lines_of(axes_of(figure)[name], colour) for colour in colours.values())


def test_the_title_says_what_ran_and_how_it_ended(linear: xr.DataTree) -> None:
    figure = plot_run(linear)
    title = figure.get_suptitle()
    for part in ("LinearDEQ(dim=1)", "exact", str(linear["flow"].method.values)):
        assert part in title
    (note,) = notes_of(figure)
    assert "flow at t = 2 (t_end); GD at η = 0.02, 0.05 (t_end)" in note
    assert RED not in notes_of(figure).values()


def test_failures_are_named_in_red(lost: xr.DataTree, diverging: xr.DataTree) -> None:
    (note,) = (text for text, colour in notes_of(plot_run(lost)).items() if colour == RED)
    assert f"flow at t = {float(lost['flow'].time[-1]):.5g} (equilibrium_lost)" in note
    notes = notes_of(plot_run(diverging))
    assert notes["failed: GD at η = 8 (diverged)"] == RED
    assert len(notes) == 2


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_what_goes_on_has_not_failed(linear: xr.DataTree, status: str) -> None:
    tree = linear.copy()
    for group, words in (("flow", status), ("descent", ["t_end", status])):
        data = tree[group].to_dataset()
        data["status"] = data.status.copy(data=np.array(words))
        tree[group] = xr.DataTree(data)
    figure = plot_run(tree)
    notes = notes_of(figure)
    assert notes[f"so far: flow at t = 2 ({status}); GD at η = 0.05 ({status})"] == GREY
    assert notes["ended as asked: GD at η = 0.02 (t_end)"] == GREY
    assert len(notes) == 2
    crosses = [line for ax in figure.axes for line in ax.lines if line.get_marker() == "X"]
    assert crosses == []


def headings(figure: Figure) -> Iterator[tuple[Axes, list[Bbox]]]:
    """Each panel with the places of its title and its key."""
    figure.canvas.draw()
    for ax in figure.axes:
        title = ax.get_title(loc="left")
        parts = ax.findobj(
            lambda artist, t=title: isinstance(artist, Text) and artist.get_text() == t
        )
        parts += ax.findobj(Legend)
        yield ax, [part.get_window_extent() for part in parts]


@pytest.mark.parametrize("name", ["linear", "tanh", "ensemble", "many", "diverging", "lost"])
def test_keys_cover_neither_data_nor_titles(name: str, request: pytest.FixtureRequest) -> None:
    figure = plot_run(request.getfixturevalue(name))
    for ax, boxes in headings(figure):
        assert not any(box.overlaps(ax.get_window_extent().padded(-1)) for box in boxes)
        assert not (len(boxes) == 2 and boxes[0].overlaps(boxes[1]))
        assert not figure.legends[0].get_window_extent().overlaps(ax.get_tightbbox())
    assert figure.get_size_inches()[0] * figure.dpi == 1400


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".SVG", b"<?xml")]
)
def test_the_suffix_decides_the_format(
    suffix: str, magic: bytes, linear: xr.DataTree, tmp_path: Path
) -> None:
    target = tmp_path / f"run{suffix}"
    figure = plot_run(linear, target)
    assert isinstance(figure, Figure)
    assert target.read_bytes().startswith(magic)


def test_a_file_is_drawn_like_its_tree(linear: xr.DataTree, tmp_path: Path) -> None:
    gflow.save(linear, tmp_path / "run.nc")
    from_file, from_tree = plot_run(tmp_path / "run.nc"), plot_run(linear)
    for one, other in zip(from_file.axes, from_tree.axes, strict=True):
        for a, b in zip(one.lines, other.lines, strict=True):
            assert same(a, *b.get_data())
    assert plot_run(str(tmp_path / "run.nc")).get_suptitle() == from_tree.get_suptitle()


def test_what_cannot_be_written_is_said_before_drawing(
    linear: xr.DataTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gflow.plot.figure.PANELS", {"never": None})
    (tmp_path / "old.png").write_bytes(b"old")
    for name, message in [
        ("run.gif", r'suffix "\.gif".*\.png, \.pdf, \.svg'),
        ("run", "has no suffix"),
        ("missing/run.png", "folder .* does not exist"),
        ("old.png", "exists; choose another name"),
    ]:
        with pytest.raises(StoreError, match=message):
            plot_run(linear, tmp_path / name)
    assert (tmp_path / "old.png").read_bytes() == b"old"


def test_overwrite_replaces_the_file(linear: xr.DataTree, tmp_path: Path) -> None:
    (tmp_path / "old.png").write_bytes(b"old")
    plot_run(linear, tmp_path / "old.png", overwrite=True)
    assert (tmp_path / "old.png").read_bytes().startswith(b"\x89PNG")


def test_a_disk_that_refuses_is_told_in_a_sentence(
    linear: xr.DataTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(StoreError, match=r"run\.png could not be written: .*No space left"):
        plot_run(linear, tmp_path / "run.png")


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="neither a /flow nor a /descent"):
        plot_run(xr.DataTree())
    with pytest.raises(StoreError, match="does not exist"):
        plot_run(tmp_path / "none.nc")


def test_global_settings_and_the_tree_are_left_alone(linear: xr.DataTree) -> None:
    before, copy = dict(matplotlib.rcParams), linear.copy(deep=True)
    plot_run(linear)
    assert dict(matplotlib.rcParams) == before
    assert linear.identical(copy)


def test_neither_torch_nor_pyplot_is_imported(linear: xr.DataTree, tmp_path: Path) -> None:
    gflow.save(linear, tmp_path / "run.nc")
    code = (
        "import sys; from gflow.plot import plot_run; plot_run('run.nc', 'run.png'); "
        "print(sorted({'torch', 'matplotlib.pyplot', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(gflow.__file__).parents[1]), "PATH": "", "HOME": str(tmp_path)},
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert (tmp_path / "run.png").is_file()
