"""Events of an ensemble whose flows are of several shapes, and go together or one by one."""

from __future__ import annotations

import numpy as np
import pytest

import gflow


def _problems():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(12, 2))
    weights = [0.8, -0.5]
    make = [gflow.LinearDEQ(2), gflow.SingleIndexDEQ(2, "tanh"), gflow.LinearDEQ(2)]
    return [gflow.Problem(model, x, x @ weights) for model in make]


@pytest.mark.parametrize("method", ["tsit5", "dopri5"])
def test_every_flow_has_the_events_that_it_has_alone(method):
    problems = _problems()
    starts = np.array([[0.1, 0.2, 0.0], [0.3, -0.2, 0.1], [-0.4, 0.1, 0.2]])
    options = {"method": method, "rtol": 1e-8, "events": {"loss": [0.1, 0.01], "sharpness": 0.6}}
    together = gflow.integrate(problems, starts, 20.0, **options)["flow"]
    for row, (problem, start) in enumerate(zip(problems, starts, strict=True)):
        alone = gflow.integrate(problem, start, 20.0, **options)["flow"]
        count = int(alone.event_count)
        assert count == int(together.event_count[row]) > 0
        here = together.isel(trajectory=row, event=slice(count))
        assert here.event_kind.values.tolist() == alone.event_kind.values.tolist()
        assert here.event_direction.values.tolist() == alone.event_direction.values.tolist()
        assert here.event_time.values == pytest.approx(alone.event_time.values, rel=1e-6)
        assert (together.event_kind.values[row, count:] == "").all()
