"""The limit of descents, against a quadratic on which they are run."""

from __future__ import annotations

import numpy as np
import pytest

import gflow
from gflow.stability import stable_sharpness


@pytest.mark.parametrize("decay", [0.0, 3.0])
@pytest.mark.parametrize(("part", "stable"), [(0.97, True), (1.03, False)])
def test_descent_is_stable_up_to_it(decay, part, stable):
    step = 0.1
    limit = stable_sharpness({"kind": "gradient", "weight_decay": decay}, step)
    bowl = gflow.Objective(lambda w: 0.5 * part * limit * w[0] ** 2, 1)
    tree = gflow.descend(bowl, [1.0], [step], 50, weight_decay=decay)
    ends = np.abs(tree["descent"].theta.values[0, [0, -1], 0])
    assert bool(ends[1] < ends[0]) is stable
    assert stable_sharpness(tree["descent"].attrs, step) == pytest.approx(limit)


@pytest.mark.parametrize(
    "attributes", [{"kind": "heavy_ball:0.5"}, {"kind": "nesterov"}, {"schedule": "cosine"}]
)
def test_of_other_updates_it_is_not_told(attributes):
    assert stable_sharpness(attributes, 0.1) is None
