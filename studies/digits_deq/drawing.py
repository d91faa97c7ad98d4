"""The study's figure."""

from __future__ import annotations

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gflow.study import Results

from .measures import descents, flows, vanishing

EXACT, JFB = "#0072b2", "#d55e00"
COLOURS = {"exact": EXACT, "jfb": JFB}
WORDS = {"exact": "exact", "jfb": "JFB"}
STEPS = {0.1: "#d8a800", 0.16: "#35b779", 0.24: "#8c5fb0", 0.8: "#b03060"}
"""Step sizes of descent and their colours."""
TIME = "time t = ηk"


def figure(results: Results) -> Figure:
    """Errors, descent, sharpness, JFB's gradient, what is conserved, and the singular set."""
    drawn = Figure(figsize=(10, 6.4), layout="constrained")
    axes = drawn.subplots(2, 3)
    whole, large = flows(results, "flow"), descents(results, "large")
    small = {"exact": large, "jfb": descents(results, "cheap")}
    _errors(axes[0, 0], whole, small)
    _losses(axes[0, 1], whole.sel(backward="exact"), large)
    _sharpness(axes[0, 2], whole, large)
    _angles(axes[1, 0], whole)
    _balance(axes[1, 1], results, whole)
    _singular(axes[1, 2], results)
    return drawn


def _errors(ax: Axes, whole: xr.Dataset, small: dict[str, xr.Dataset]) -> None:
    for backward, colour in COLOURS.items():
        flow = whole.sel(backward=backward)
        ax.plot(flow.time, 100 * (1 - flow.accuracy), color=colour, label=WORDS[backward])
        ax.plot(flow.time, 100 * (1 - flow.evaluation_accuracy), "--", color=colour)
        descent = small[backward].sel(step_size=0.1)
        descent = descent.isel(record=slice(0, None, descent.sizes["record"] // 12))
        for name, face in (("accuracy", colour), ("evaluation_accuracy", "white")):
            error = 100 * (1 - descent[name])
            ax.plot(descent.time, error, "o", color=colour, mfc=face, ms=3.5)
    ax.plot([], [], "k-", label="on training images")
    ax.plot([], [], "k--", label="on new images")
    ax.plot([], [], "o", color="0.4", ms=3.5, label="GD, η = 0.1")
    ax.set(yscale="log", xlabel=TIME, ylabel="images read wrongly, %", ylim=(0.7, 110))
    ax.set_yticks([1, 10, 100], ["1", "10", "100"])
    ax.set_title("Both backwards learn to read")
    ax.legend(loc="upper right")


def _losses(ax: Axes, flow: xr.Dataset, large: xr.Dataset) -> None:
    for eta, colour in STEPS.items():
        one = large.sel(step_size=eta)
        ax.plot(one.time, one.loss, color=colour, lw=1.2, label=f"GD, η = {eta:g}")
    ax.plot(flow.time, flow.loss, "k", lw=2, label="flow")
    ax.set(yscale="log", xlabel=TIME, ylabel="training loss L", ylim=(0.07, 60))
    ax.set_title("Steps above 2/sharpness: bursts")
    ax.legend(loc="upper right", ncols=2)


def _sharpness(ax: Axes, whole: xr.Dataset, large: xr.Dataset) -> None:
    for eta in (0.1, 0.16, 0.24):
        one = large.sel(step_size=eta)
        ax.plot(one.time, one.sharpness, color=STEPS[eta], lw=1.0)
        ax.axhline(2 / eta, color=STEPS[eta], ls=":", lw=1.2)
        ax.text(12.4, 2 / eta, f"2/{eta:g}", color=STEPS[eta], va="bottom")
    for backward, colour in (("exact", "k"), ("jfb", "0.6")):
        flow = whole.sel(backward=backward)
        ax.plot(
            flow.time,
            flow.sharpness,
            color=colour,
            lw=2,
            label=f"flow, {WORDS[backward]}",
        )
    ax.set(
        yscale="log",
        xlabel=TIME,
        ylabel="largest eigenvalue of the Hessian",
        ylim=(6, 60),
    )
    ax.set_yticks([6, 10, 20, 40], ["6", "10", "20", "40"])
    ax.set_yticks([], minor=True)
    ax.set_title("GD stays at the edge of stability")
    ax.legend(loc="upper right")


def _angles(ax: Axes, whole: xr.Dataset) -> None:
    for backward, colour in COLOURS.items():
        flow = whole.sel(backward=backward)
        ax.plot(
            flow.time,
            flow.cosine,
            color=colour,
            label=f"along the {WORDS[backward]} flow",
        )
        ax.plot(flow.time, flow.ratio, "--", color=colour)
    ax.plot([], [], "k-", label="cosine to the exact one")
    ax.plot([], [], "k--", label="length over the exact one's")
    ax.set(xlabel=TIME, ylim=(0.2, 1.02))
    ax.set_title("JFB's gradient turns away and shrinks")
    ax.legend(loc="lower left")


def _balance(ax: Axes, results: Results, whole: xr.Dataset) -> None:
    tanh = whole.sel(backward="exact")
    linear = flows(results, "linear").sel(backward="exact")
    labels = {"V": "UUᵀ + bbᵀ", "M": "(1-W)(1-W)ᵀ", "Q": "their sum"}
    for colour, (name, label) in zip(("#009e73", "#cc79a7", "k"), labels.items(), strict=True):
        ax.plot(tanh.time, tanh[name], color=colour, label=label)
        ax.plot(linear.time, linear[name], "--", color=colour)
    ax.plot([], [], "--", color="0.4", label="linear DEQ")
    ax.set(xlabel=TIME, ylabel="change, Frobenius norm", xlim=(0, 12))
    high = float(linear.M.max())
    ax.set(ylim=(-0.03 * high, 1.55 * high))
    ax.set_title("What 1 - W loses, U gains")
    ax.legend(loc="upper left", ncols=2)


def _singular(ax: Axes, results: Results) -> None:
    far = flows(results, "far")
    for backward, colour in COLOURS.items():
        flow = far.sel(backward=backward)
        ax.plot(flow.time, flow.conditioning, color=colour, lw=2, label=WORDS[backward])
        ax.plot(flow.time, flow.singular_distance, "--", color=colour)
    if not results.quick:
        last, end = (
            far.sel(backward="exact").isel(time=-1),
            vanishing(far.sel(backward="exact"), 12),
        )
        ax.plot([last.time, end], [last.conditioning, 0], ":", color=EXACT, lw=2)
        ax.text(end, -0.09, f"t = {end:.0f}", color=EXACT, ha="center")
    ax.axhline(0, color="k", lw=0.8)
    ax.plot([], [], "k-", label="σ_min(1 - J), nearest image")
    ax.plot([], [], "k--", label="certificate of uniqueness")
    ax.set(xlabel=TIME, ylim=(-0.4, 1.0), xlim=(-0.5, 22.5))
    ax.set_title("The exact flow nears a singular point")
    ax.legend(loc="upper right")
