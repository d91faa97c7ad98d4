"""Step-size control of the native methods: one step size a trajectory, on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SAFETY = 0.9
SHRINK_MOST = 0.2
BROKEN = 0.25
"""Factor on the step where the trial has no error to judge."""


@dataclass(frozen=True)
class Controller:
    """PI control of the step size (Gustafsson 1991; Hairer & Wanner 1996, section IV.2).

    The next step is ``dt * SAFETY * ratio^(-0.7/k) * previous^(0.4/k)`` where the error ratio
    behaves as dt^k; after a rejection the integral part alone decides and the step never grows.

    Attributes
    ----------
    error_order : int
        k, one more than the order of the embedded solution.
    grow_most : float
        Largest factor between two steps.
    far : float
        Error ratios below this ask for a longer step at once, by the integral part alone.
    """

    error_order: int
    grow_most: float = 5.0
    far: float = 0.0

    def factors(self, ratio: np.ndarray, previous: np.ndarray, retrying: np.ndarray) -> np.ndarray:
        """Factors on the steps just tried, shape (B,).

        Parameters
        ----------
        ratio : array, shape (B,)
            Error ratios; above 1 is a rejection, NaN has no error to judge.
        previous : array, shape (B,)
            Ratio of the last accepted step, 1 if there was none.
        retrying : array of bool, shape (B,)
            Whether the attempt before this one was rejected.
        """
        k = self.error_order
        safe = np.maximum(ratio, 1e-10)
        plain = SAFETY * safe ** (-1.0 / k)
        smooth = SAFETY * safe ** (-0.7 / k) * np.maximum(previous, 1e-4) ** (0.4 / k)
        accepted = ratio <= 1.0
        steady = np.where(ratio < self.far, plain, smooth)
        factor = np.where(accepted, steady, np.minimum(plain, SAFETY))
        most = np.where(retrying, 1.0, self.grow_most)
        factor = np.minimum(np.maximum(factor, SHRINK_MOST), most)
        return np.where(np.isnan(ratio), BROKEN, factor)
