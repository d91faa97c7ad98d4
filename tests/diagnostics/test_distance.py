"""The nearest point of a path against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gflow.diagnostics.distance import nearest_on_path
from gflow.flows import gradient_flow
from gflow.integrators.base import Settings, Step
from gflow.integrators.driver import integrate_field
from gflow.integrators.registry import resolve
from gflow.integrators.trajectory import Path
from gflow.models import SingleIndexDEQ
from gflow.problem import Problem


def _path(curve, edges):
    """A path of steps along a curve that maps times (k,) to points (k, P)."""
    edges = torch.tensor(edges, dtype=torch.float64)
    ends = curve(edges)
    steps = [
        Step(float(edges[i]), float(edges[i + 1]), ends[i], ends[i + 1], curve, ())
        for i in range(len(edges) - 1)
    ]
    return Path(steps)


def _spiral(t):
    return torch.stack([t * torch.cos(t), t * torch.sin(t), 0.1 * t], dim=-1)


def _brute(curve, theta, t0, t1):
    """Distance and time of the nearest of 40,001 points, looked at again more closely, twice."""
    for _ in range(3):
        times = torch.linspace(t0, t1, 40_001, dtype=torch.float64)
        distance, place = (curve(times) - theta).norm(dim=-1).min(0)
        best, gap = float(times[place]), 2 * (t1 - t0) / 40_000
        t0, t1 = max(t0, best - gap), min(t1, best + gap)
    return float(distance), best


EDGES = [0.0, 0.001, 0.1, 0.5, 1.2, 2.0, 2.8, 3.6, 4.4, 5.2, 6.0]
# Spacing in time of the last refinement, of two samples of the longest step, fourfold each time.
RESOLUTION = 2 * (0.8 / 8) / 8 / 4**7
SPEED = 6.2  # at most, along the spiral
offsets = st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=3)


@given(time=st.floats(1.0, 6.0), offset=offsets)
def test_near_the_path_distance_and_time_are_those_of_brute_force(time, offset):
    centre = _spiral(torch.tensor(time, dtype=torch.float64))
    point = centre + torch.tensor(offset, dtype=torch.float64)
    distance, found = nearest_on_path(_path(_spiral, EDGES), point[None])
    best, best_time = _brute(_spiral, point, 0.0, 6.0)
    assert float(distance) == pytest.approx(best, abs=SPEED * RESOLUTION)
    assert float(found) == pytest.approx(best_time, abs=1e-3)


@given(theta=st.lists(st.floats(-8, 8), min_size=3, max_size=3))
def test_far_from_the_path_the_distance_is_that_of_a_point_of_it(theta):
    """Of two passages that are almost equally near, the sampling may miss the nearer one."""
    point = torch.tensor(theta, dtype=torch.float64)
    distance, time = nearest_on_path(_path(_spiral, EDGES), point[None])
    best, _ = _brute(_spiral, point, 0.0, 6.0)
    assert 0.0 <= float(time) <= 6.0
    there = (_spiral(time) - point).norm()
    assert float(distance) == pytest.approx(float(there), abs=1e-12)
    half_a_sample = 0.5 * SPEED * 0.8 / 8
    assert best - 1e-9 <= float(distance) <= best + half_a_sample


@given(times=st.lists(st.floats(0.0, 6.0), min_size=1, max_size=9))
def test_a_point_of_the_path_is_at_distance_0_at_its_own_time(times):
    expected = torch.tensor(times, dtype=torch.float64)
    distance, time = nearest_on_path(_path(_spiral, EDGES), _spiral(expected))
    assert distance.shape == time.shape == expected.shape
    assert torch.allclose(time, expected, rtol=0, atol=RESOLUTION)
    assert float(distance.max()) <= SPEED * RESOLUTION


def test_beyond_the_ends_the_ends_are_nearest():
    def line(t):
        return torch.stack([t, 0 * t], dim=-1)

    theta = torch.tensor([[-3.0, 4.0], [13.0, -4.0], [4.0, 2.0]], dtype=torch.float64)
    distance, time = nearest_on_path(_path(line, [0.0, 1.0, 10.0]), theta)
    assert distance.tolist() == pytest.approx([5.0, 5.0, 2.0], abs=1e-9)
    assert time.tolist() == pytest.approx([0.0, 10.0, 4.0], abs=1e-4)
    assert time[:2].tolist() == [0.0, 10.0]


def test_where_the_path_passes_twice_the_first_passage_counts():
    def there_and_back(t):
        return torch.stack([1 - (1 - t).abs(), 0 * t], dim=-1)

    theta = torch.tensor([[0.5, 0.0], [0.25, 0.3]], dtype=torch.float64)
    distance, time = nearest_on_path(_path(there_and_back, [0.0, 1.0, 2.0]), theta)
    assert time.tolist() == [0.5, 0.25]
    assert distance.tolist() == pytest.approx([0.0, 0.3], abs=1e-15)


def test_a_path_at_rest_has_one_distance():
    def rest(t):
        return torch.ones(len(t), 2, dtype=torch.float64)

    theta = torch.tensor([[1.0, 1.0], [4.0, 5.0]], dtype=torch.float64)
    distance, time = nearest_on_path(_path(rest, [0.0, 1.0, 2.0]), theta)
    assert distance.tolist() == [0.0, 5.0]
    assert time.tolist() == [0.0, 0.0]


def test_nan_stays_nan_and_harms_no_other():
    theta = _spiral(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    alone = nearest_on_path(_path(_spiral, EDGES), theta[::2])
    theta[1, 2] = torch.nan
    together = nearest_on_path(_path(_spiral, EDGES), theta)
    for one, many in zip(alone, together, strict=True):
        assert many.isnan().tolist() == [False, True, False]
        assert torch.equal(many[::2], one)


def test_chunks_bound_the_distances_taken_at_once_and_change_nothing(monkeypatch):
    theta = _spiral(torch.linspace(0, 6, 11, dtype=torch.float64)) + 0.1
    whole, taken, cdist = nearest_on_path(_path(_spiral, EDGES), theta), [], torch.cdist
    monkeypatch.setattr("gflow.diagnostics.distance.CHUNK", 250)
    monkeypatch.setattr(
        torch, "cdist", lambda a, b, **options: taken.append(len(a)) or cdist(a, b, **options)
    )
    for one, other in zip(nearest_on_path(_path(_spiral, EDGES), theta), whole, strict=True):
        assert torch.equal(one, other)
    assert taken == [3, 3, 3, 2]  # with 8 samples of each of 10 steps, and the end


@pytest.mark.parametrize("method", ["dopri5", "BDF"])
def test_on_a_real_flow_it_is_the_distance_to_ten_thousand_saves(method):
    rng = np.random.default_rng(2)
    problem = Problem(SingleIndexDEQ(1, "sigmoid"), rng.uniform(size=30), rng.uniform(size=30))
    start = problem.theta([2.0, -3.0])
    times = torch.linspace(0, 30, 10_001, dtype=torch.float64)
    flow = integrate_field(
        gradient_flow(problem), start, resolve(method), Settings(30.0, 1e-8), times, dense=True
    )
    offsets = 1e-3 * torch.tensor([[1.0, 0.5], [0.0, -2.0], [3.0, 0.0], [0.0, 0.0]])
    theta = flow.theta[[0, 50, 3000, 9000]] + offsets
    distance, time = nearest_on_path(flow.path, theta)
    gaps = torch.cdist(theta, flow.theta, compute_mode="donot_use_mm_for_euclid_dist")
    least, place = gaps.min(-1)
    spacing = flow.theta.diff(dim=0).norm(dim=-1).max()
    assert (distance <= least + 1e-7).all()
    assert (distance >= least - spacing).all()
    assert float((distance - least)[:3].abs().max()) <= 1e-6
    assert torch.allclose(time, times[place], rtol=0, atol=0.01)
    assert float(distance[3]) <= 1e-7
