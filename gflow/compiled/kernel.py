"""A batched field as C, which a method's loop is compiled with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Kernel:
    """An autonomous field on rows in double precision, each with numbers of its own.

    Attributes
    ----------
    source : str
        A file of this package that defines, for ``lanes`` of several rows at once::

            static inline void field(int64_t size, const double *shared, const lanes *own,
                                     const lanes *theta, lanes *out);
            static inline lanes branch(int64_t size, const lanes *theta);

        the field (size,) at theta (size,), not finite where it has no value, and the label that no
        step may change.
    shared : array
        Numbers of all rows.
    own : array, shape (B, K)
        Those of each row.
    options : mapping
        Names and numbers that the source is compiled with.
    """

    source: str
    shared: np.ndarray
    own: np.ndarray
    options: Mapping[str, int] = field(default_factory=dict)

    def select(self, rows: np.ndarray) -> Kernel:
        """The field of some rows."""
        return replace(self, own=self.own[rows])
