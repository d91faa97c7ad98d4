"""Rule R3: every adaptive method keeps the distance from its tolerance that is published for it."""

from __future__ import annotations

import pytest
import torch

from gflow.integrators.base import Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.measured import MEASURED
from gflow.integrators.registry import METHODS
from gflow.integrators.testbed import CASES, decay, valley

SLACK = 1.25
HONEST = 11.0
ERRATIC = {"scipy:DOP853": 150.0}
"""On its stability limit its dense output is not bounded by the tolerance; ``auto`` knows."""
ADAPTIVE = [name for name, method in METHODS.items() if method.info.adaptive]


def _tolerances(info):
    return (1e-3, 1e-6) if info.order is not None and info.order <= 3 else (1e-3, 1e-6, 1e-9)


def _is_slow(info, make, rtol):
    """Ten thousand steps: an explicit method on the stiff problem, a low order at 1e-6."""
    order = info.order or 5
    if make is decay and not info.implicit:
        return rtol < 1e-3 or order <= 3
    return rtol < 1e-3 and order <= 2


def _combinations():
    for name in ADAPTIVE:
        for make in CASES:
            for rtol in _tolerances(METHODS[name].info):
                slow = (pytest.mark.slow,) if _is_slow(METHODS[name].info, make, rtol) else ()
                label = f"{name}-{make.__name__}-{rtol:g}"
                yield pytest.param(name, make, rtol, marks=slow, id=label)


@pytest.mark.parametrize(("name", "make", "rtol"), list(_combinations()))
def test_the_error_is_within_the_published_figure(name, make, rtol):
    case, atol = make(), 1e-3 * rtol
    times = torch.linspace(0, case.t_end, 101, dtype=torch.float64)
    settings = Settings(case.t_end, rtol, atol)
    trajectory = integrate_field(case.field, case.theta0, METHODS[name], settings, times)
    assert trajectory.status.ok, trajectory.message
    assert torch.equal(trajectory.t, times)
    ratio = case.ratio(times, trajectory.theta, rtol, atol)
    at_end, between = MEASURED[name]
    assert float(ratio[-1]) <= SLACK * at_end
    assert float(ratio.max()) <= SLACK * between


@pytest.mark.parametrize("name", [name for name in ADAPTIVE if name.startswith("native:")])
@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9])
def test_our_own_methods_keep_their_tolerance_in_a_valley_that_turns(name, rtol):
    if name == "native:rkc2" and rtol < 1e-5:
        pytest.skip("a method of order 2, for moderate tolerances")
    _keeps_its_tolerance(METHODS[name], valley(), rtol)


@pytest.mark.parametrize("name", ["native:exprb43", "native:expcol8"])
@pytest.mark.parametrize("rate", [10.0, 1e5])
@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-7])
def test_exponential_methods_keep_it_in_valleys_of_any_width(name, rate, rtol):
    _keeps_its_tolerance(METHODS[name], valley(rate=rate), rtol)


@pytest.mark.parametrize("name", ["native:rkc2", "native:rkc4"])
@pytest.mark.parametrize("rate", [10.0, 1e4])
@pytest.mark.parametrize("rtol", [1e-2, 1e-4])
def test_stabilised_methods_keep_it_too(name, rate, rtol):
    _keeps_its_tolerance(METHODS[name], valley(rate=rate), rtol)


def _keeps_its_tolerance(method, case, rtol):
    atol, times = 1e-3 * rtol, torch.linspace(0, case.t_end, 101, dtype=torch.float64)
    settings = Settings(case.t_end, rtol, atol)
    trajectory = integrate_field(case.field, case.theta0, method, settings, times)
    assert trajectory.status.ok, trajectory.message
    assert float(case.ratio(times, trajectory.theta, rtol, atol).max()) <= 10.0


def test_every_adaptive_method_has_its_figures_and_they_are_honest():
    assert list(MEASURED) == ADAPTIVE
    for name, (at_end, between) in MEASURED.items():
        assert 0 < at_end <= 3
        assert at_end <= between <= ERRATIC.get(name, HONEST)
