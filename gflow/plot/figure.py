"""The figure of a run: every panel that the dataset has data for."""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation

from gflow.errors import StoreError
from gflow.plot.decor import GREY, RED
from gflow.plot.panels import PANELS
from gflow.plot.sweep import as_ensemble
from gflow.plot.wording import description, verdicts
from gflow.store.files import check_output, open_tree
from gflow.validation import validate

if TYPE_CHECKING:
    import xarray as xr

SUFFIXES = (".png", ".pdf", ".svg")
WIDTH, ROW_HEIGHT, HEADER_HEIGHT, DPI = 10.0, 2.9, 0.9, 140

STYLE: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 8.5,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
}


def plot_run(
    tree: xr.DataTree | str | Path, output: str | Path | None = None, overwrite: bool = False
) -> Figure:
    """Draw a run: loss, path, conservation, distance, sharpness and steps, as far as stored.

    Parameters
    ----------
    tree : xarray.DataTree, str or Path
        A dataset, or the file of one.
    output : str or Path, optional
        Write the figure there; the suffix (.png, .pdf or .svg) decides the format.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    matplotlib.figure.Figure
        Independent of pyplot. The axes are those of :data:`PANELS` that have data, and their
        labels (``axes.get_label()``) the panels' names.

    Raises
    ------
    StoreError
        If the figure cannot be written there, or the dataset cannot be read.
    SchemaError
        If it is no gflow dataset.
    """
    target = None if output is None else check_target(Path(output), overwrite)
    if isinstance(tree, str | Path):
        tree = open_tree(tree)
    else:
        validate(tree)
    tree = as_ensemble(tree)
    with matplotlib.rc_context(STYLE):
        figure = Figure(layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06), dpi=DPI)
        FigureCanvasAgg(figure)
        _arrange(figure, _draw_panels(figure, tree))
        _add_title(figure, tree)
        _add_key(figure)
        if target is not None:
            write(figure, target)
    return figure


def check_target(target: Path, overwrite: bool) -> Path:
    """Check, before any drawing, that a figure can be written there, and return the path."""
    if target.suffix.lower() not in SUFFIXES:
        what = f'has the suffix "{target.suffix}"' if target.suffix else "has no suffix"
        raise StoreError(
            f"{target} {what}, which is no format of a figure; end it in {', '.join(SUFFIXES)}."
        )
    return check_output(target, overwrite)


def _draw_panels(figure: Figure, tree: xr.DataTree) -> list[Axes]:
    drawn = []
    for name, draw_panel in PANELS.items():
        ax = figure.add_subplot(label=name)
        draw_panel(ax, tree)
        if ax.has_data():
            drawn.append(ax)
        else:
            ax.remove()
    return drawn


def _arrange(figure: Figure, panels: list[Axes]) -> None:
    """Rows of at most three panels, all rows equally wide."""
    rows = np.array_split(np.arange(len(panels)), max(1, math.ceil(len(panels) / 3)))
    grid = figure.add_gridspec(len(rows), 6)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            span = 6 // len(row)
            panels[panel].set_subplotspec(grid[i, j * span : (j + 1) * span])
    figure.set_size_inches(WIDTH, HEADER_HEIGHT + ROW_HEIGHT * len(rows))


def _add_key(figure: Figure) -> None:
    """One key of colours for all panels, below them."""
    found: dict[str, Artist] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(
            handles=list(found.values()),
            labels=list(found),
            loc="outside lower center",
            ncols=min(8, len(found)),
            frameon=False,
        )


def _add_title(figure: Figure, tree: xr.DataTree) -> None:
    """What ran, and below it how it ended; failures in red."""
    head = textwrap.wrap(description(tree), 95)
    notes = [
        (line, colour)
        for start, kind, colour in (
            ("ended as asked: ", "ok", GREY),
            ("so far: ", "is_open", GREY),
            ("failed: ", "failed", RED),
        )
        for line in _wrapped(start, verdicts(tree, kind))
    ]
    # The title's empty lines keep the room for notes of another colour.
    text = "\n".join(head + [""] * len(notes))
    title = figure.suptitle(text, x=0.012, ha="left", fontsize=11, weight="bold")
    for i, (line, colour) in enumerate(reversed(notes)):
        place = (0.0, i / (len(head) + len(notes)))
        note = Annotation(line, place, xycoords=title, color=colour, va="bottom", fontsize=9)
        figure.add_artist(note)


def _wrapped(start: str, sentences: list[str]) -> list[str]:
    return textwrap.wrap(start + "; ".join(sentences), 135) if sentences else []


def write(figure: Figure, target: Path) -> None:
    """Write a figure in the format of the file's suffix."""
    picture = io.BytesIO()
    figure.savefig(picture, format=target.suffix[1:].lower())
    try:
        target.write_bytes(picture.getvalue())
    except OSError as error:
        raise StoreError(f"{target} could not be written: {error}.") from None
