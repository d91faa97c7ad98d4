"""What an ensemble saves, where its stopping rules end it, and what its observers see."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fleet import check_log, sail, starts

from gflow.integrators.base import Settings
from gflow.integrators.driver import Target
from gflow.integrators.explicit import TSIT5_METHOD
from gflow.integrators.exponential import EXPRB43
from gflow.status import Status

SETTINGS = Settings(2.0, 1e-6, 1e-9)
TIMES = torch.linspace(0, 2, 9, dtype=torch.float64)
OURS = pytest.mark.parametrize("method", [TSIT5_METHOD, EXPRB43], ids=lambda m: m.info.name)
TROUBLED = ("mild", "breaks", "moving", "blows up", "cubic", "broken", "leaves", "moving")


@OURS
def test_saves_are_evaluated_at_the_grid_and_nowhere_else(method):
    """Dense output is within tolerance of the exact solution at crowded times and at none."""
    crowded = torch.cat([torch.tensor([0.0]), torch.linspace(0.01, 1.4, 40) ** 2])
    for times in (crowded.double(), torch.tensor([2.0]).double(), crowded[3:9].double()):
        found = sail(("mild", "moving"), method, SETTINGS, times)[0]
        expected = times if float(times[-1]) == 2.0 else torch.cat([times, times.new_tensor([2.0])])
        assert torch.equal(found.t, expected)
        exact = starts(2)[0] * torch.exp(-0.5 * expected)[:, None]
        assert torch.allclose(found.theta, exact, rtol=1e-5, atol=1e-8)


@OURS
@pytest.mark.parametrize("t_end", [math.inf, 50.0])
def test_everyone_stops_at_its_own_rule(method, t_end):
    """|theta_0| falls to a level of its own; an endless flow needs no other end."""
    levels = torch.tensor([0.5, 0.1, 0.01], dtype=torch.float64)

    def targets(index):
        return [Target(Status.LOSS, lambda t, y: float(y[0].abs() - levels[index]))]

    def met(ids, t, theta):
        return (theta[:, 0].abs() <= levels[torch.as_tensor(ids)]).numpy()

    times = torch.tensor([0.0, 0.5, 1.0, 8.0, 1000.0], dtype=torch.float64)
    settings = replace(SETTINGS, t_end=t_end)
    times = times[times < t_end] if math.isfinite(t_end) else times
    together = sail(("mild",) * 3, method, settings, times, targets=targets, met=met)
    for found, start, level in zip(together, starts(3)[:, 0], levels, strict=True):
        exact = 2 * math.log(float(start / level))
        assert found.status is Status.LOSS
        assert float(found.t[-1]) == pytest.approx(exact, rel=1e-5)
        assert float(found.theta[-1, 0]) <= float(level)
        check_log(found)
        passed = times[times <= exact]
        assert torch.equal(found.t, torch.cat([passed, found.t[-1:]]))
        assert torch.allclose(
            found.theta[:, 0], start * torch.exp(-0.5 * found.t), rtol=1e-5, atol=1e-8
        )


def test_an_endless_trajectory_that_no_rule_ends_is_stalled():
    """It is at rest long before; the other has its rule."""
    levels = torch.tensor([-1.0, 0.1], dtype=torch.float64)

    def targets(index):
        return [Target(Status.LOSS, lambda t, y: float(y[0] - levels[index]))]

    def met(ids, t, theta):
        return (theta[:, 0] <= levels[torch.as_tensor(ids)]).numpy()

    settings, kinds = replace(SETTINGS, t_end=math.inf), ("mild", "mild")
    together = sail(kinds, EXPRB43, settings, TIMES, targets=targets, met=met)
    assert [found.status for found in together] == [Status.STALLED, Status.LOSS]
    assert 1e4 < float(together[0].t[-1]) < 1e12
    assert torch.equal(together[0].t[:-1], TIMES)


def test_a_rule_that_holds_at_the_start_ends_there():
    def met(ids, t, theta):
        return (theta[:, 0] < 1.0).numpy()

    def targets(index):
        return [Target(Status.GRADIENT_NORM, lambda t, y: float(y[0]) - 0.9999)]

    together = sail(("mild",) * 3, TSIT5_METHOD, SETTINGS, TIMES, targets=targets, met=met)
    assert [found.status.value for found in together] == ["gradient_norm"] * 3
    assert [float(found.t[-1]) > 0 for found in together] == [False, True, True]
    assert together[0].t.tolist() == [0.0]
    assert len(together[0].log) == 0


class _Witness:
    """Keeps the ends of all steps by trajectory."""

    def __init__(self):
        self.ends = {}

    def observe_batch(self, ids, rows, step, nfe):
        for row in rows:
            x = torch.tensor([0.0, 1.0], dtype=torch.float64)
            ends = step.dense(torch.tensor([row, row]), x)
            assert torch.allclose(ends[0], step.theta0[row], rtol=1e-12, atol=1e-14)
            assert torch.allclose(ends[1], step.theta1[row], rtol=1e-12, atol=1e-14)
            self.ends.setdefault(int(ids[row]), []).append((step.t0[row], step.t1[row]))

    def alone(self, index):
        witness = self

        class _Lone:
            def observe(self, step, nfe):
                witness.ends.setdefault(index, []).append((step.t0, step.t1))

        return _Lone()


@OURS
def test_an_observer_may_be_interrupted(method):
    """The steps that it was shown have been made."""

    class _Impatient(_Witness):
        def observe_batch(self, ids, rows, step, nfe):
            super().observe_batch(ids, rows, step, nfe)
            if len(self.ends[0]) == 3:
                raise KeyboardInterrupt

    witness = _Impatient()
    together = sail(("mild", "moving", "cubic"), method, SETTINGS, TIMES, observer=witness)
    for index, found in enumerate(together):
        assert found.status is Status.INTERRUPTED
        assert found.accepted == len(witness.ends[index])
        assert float(found.t[-1]) == witness.ends[index][-1][1]
        assert torch.isfinite(found.theta).all()


@OURS
def test_an_observer_sees_every_step_of_everyone(method):
    witness = _Witness()
    together = sail(TROUBLED, method, SETTINGS, TIMES, observer=witness)
    for index, found in enumerate(together):
        ends = witness.ends.get(index, [])
        assert len(ends) == found.accepted
        assert [a for a, _ in ends[1:]] == [b for _, b in ends[:-1]]
        if ends:
            assert ends[-1][1] == float(found.t[-1])
