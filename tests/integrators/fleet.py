"""Trajectories of many kinds in one batch, each of which can also be integrated alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gflow.integrators.base import Field
from gflow.integrators.driver import integrate_field
from gflow.integrators.ensemble import Plan, integrate_ensemble
from gflow.status import Status

WIDE = torch.tensor([1.0, 3.0], dtype=torch.float64)


def _broken(t, y, after):
    return torch.stack([-y[0], y[1] * 0 + (math.nan if t > after else 0.3)])


KINDS = {
    "mild": lambda t, y: -0.5 * y,
    "moving": lambda t, y: -WIDE * (y - math.cos(t)) - math.sin(t),
    "cubic": lambda t, y: -(y**3),
    "stiff": lambda t, y: -200.0 * (y - math.cos(t)) - math.sin(t),
    "blows up": lambda t, y: y * y,
    "breaks": lambda t, y: _broken(t, y, 0.5),
    "broken": lambda t, y: _broken(t, y, -1.0),
    "leaves": lambda t, y: -torch.sqrt(y - 0.5) - 0.1,
}


def lone(kind):
    """The field of one trajectory; its Jacobian by differentiation."""
    function = KINDS[kind]

    def jacobian(t, y):
        with torch.enable_grad():
            return torch.autograd.functional.jacobian(lambda y: function(t, y), y)

    return Field(function, jacobian=jacobian, symmetric=True)


def fleet(kinds, sizes=None):
    """The batched field of some kinds; notes how many rows it is asked for."""
    fields = [lone(kind) for kind in kinds]

    def stacked(name):
        def rows(t, y):
            if sizes is not None:
                sizes.append(len(y))
            return torch.stack(
                [getattr(f, name)(float(s), row) for f, s, row in zip(fields, t, y, strict=True)]
            )

        return rows

    return Field(
        stacked("function"),
        jacobian=stacked("jacobian"),
        symmetric=True,
        batched=True,
        select=lambda rows: fleet([kinds[i] for i in rows.tolist()], sizes),
    )


def check_log(trajectory):
    """Accepted steps lead from 0 to the end without a gap; what was counted only grows.

    A stopping rule cuts the last step.
    """
    table, end = trajectory.log.table, float(trajectory.t[-1])
    dt = table[:, 1] * table[:, 3]
    assert trajectory.accepted == table[:, 3].sum()
    np.testing.assert_allclose(table[:, 0], np.cumsum(dt) - dt, rtol=1e-12, atol=1e-15)
    if trajectory.status is Status.LOSS:
        assert table[-1, 0] < end <= dt.sum()
    else:
        assert dt.sum() == pytest.approx(end, rel=1e-12)
    assert (np.diff(table[:, 4:], axis=0) >= 0).all()
    if len(table):
        assert trajectory.nfe >= table[-1, 4]


def starts(count):
    """Rows of different starts."""
    return torch.linspace(0.6, 1.4, count, dtype=torch.float64)[:, None] * torch.tensor(
        [1.0, 0.8], dtype=torch.float64
    )


def sail(kinds, method, settings, times, **plan):
    """All together, through the ensemble's loop."""
    field = plan.pop("field", None) or fleet(kinds)
    theta0 = plan.pop("theta0", starts(len(kinds)))
    whole = Plan(method, settings, lambda i: lone(kinds[i]), **plan)
    return integrate_ensemble(field, theta0, times, whole)


def sail_alone(kinds, method, settings, times, **budgets):
    """One after another, each by itself."""
    return [
        integrate_field(lone(kind), theta0, method, settings, times, **budgets)
        for kind, theta0 in zip(kinds, starts(len(kinds)), strict=True)
    ]
