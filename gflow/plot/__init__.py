"""Figures from a dataset alone: nothing is computed again, and torch is not needed.

:func:`plot_run` draws all that a dataset has data for; each panel is a function of an Axes and a
tree, for figures of one's own. A new panel is one function and one line of :data:`PANELS`.
"""

from gflow.plot.figure import plot_run
from gflow.plot.panels import (
    PANELS,
    plot_conservation,
    plot_distance,
    plot_loss,
    plot_sharpness,
    plot_steps,
)
from gflow.plot.plane import plot_theta_plane

__all__ = [
    "PANELS",
    "plot_conservation",
    "plot_distance",
    "plot_loss",
    "plot_run",
    "plot_sharpness",
    "plot_steps",
    "plot_theta_plane",
]
