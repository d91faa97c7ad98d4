"""Whether two datasets hold the same bytes of data."""

from __future__ import annotations

import numpy as np

MEASURED = ("wall_seconds",)
"""Variables that no two runs share."""


def assert_same_data(first, second, groups=None):
    """All variables and coordinates of all groups but the checkpoint's, bit for bit."""
    names = (set(first.children) | set(second.children)) - {"checkpoint"}
    for name in sorted(groups or names):
        assert name in first.children, name
        assert name in second.children, name
        one, two = (tree[name].to_dataset(inherit=False) for tree in (first, second))
        assert set(one.variables) == set(two.variables), name
        for key in set(one.variables) - set(MEASURED):
            a, b = one[key], two[key]
            assert a.dims == b.dims, (name, key)
            assert a.dtype.kind == b.dtype.kind, (name, key)
            same = np.array_equal(a.values, b.values, equal_nan=a.dtype.kind == "f")
            assert same, (name, key)
