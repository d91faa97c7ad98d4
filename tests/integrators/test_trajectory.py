"""What an integration leaves: saves, dense output, the log as a table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from leap import CONSTANT, START, Leap

from gflow.assemble import steps_group
from gflow.integrators.base import Field, Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.trajectory import evaluate_steps
from gflow.status import Status


def _line(times):
    return START + times[:, None] * torch.tensor([1.0, -2.0], dtype=torch.float64)


def _times(*values):
    return torch.tensor(values, dtype=torch.float64)


@given(
    times=st.lists(st.floats(0, 2), max_size=12, unique=True).map(sorted),
    dt=st.floats(0.03, 3.0),
)
def test_the_saves_are_0_the_times_asked_for_and_the_end(times, dt):
    trajectory = integrate_field(
        CONSTANT, START, Leap(), Settings(2.0, first_step=dt), _times(*times), dense=True
    )
    assert trajectory.t.tolist() == sorted({0.0, 2.0, *times})
    assert torch.allclose(trajectory.theta, _line(trajectory.t), rtol=0, atol=1e-11)
    assert torch.allclose(trajectory.path(trajectory.t), trajectory.theta, rtol=0, atol=1e-15)
    assert trajectory.status is Status.T_END


def test_without_times_the_ends_are_saved():
    trajectory = integrate_field(CONSTANT, START, Leap(), Settings(1.0))
    assert trajectory.t.tolist() == [0.0, 1.0]
    assert torch.equal(trajectory.theta[0], START)
    assert trajectory.path is None


def test_single_precision_keeps_its_dtype_and_times_are_double():
    field = Field(lambda t, y: -y)
    trajectory = integrate_field(field, START.float(), Leap(), Settings(1.0), _times(0.25, 1.0))
    assert (trajectory.theta.dtype, trajectory.t.dtype) == (torch.float32, torch.float64)


def test_the_log_becomes_a_table():
    trajectory = integrate_field(
        CONSTANT, START, Leap(solves=3), Settings(0.45, first_step=0.2), max_steps=100
    )
    table = steps_group(trajectory)
    assert table.sizes["step"] == len(trajectory.log) == 6
    assert table.t.values.tolist() == pytest.approx([0, 0, 0.2, 0.2, 0.4, 0.4])
    assert table.dt.values.tolist() == pytest.approx([0.4, 0.2, 0.4, 0.2, 0.4, 0.05])
    assert table.error_ratio.values.tolist() == [3.0, 0.5] * 3
    assert table.accepted.values.tolist() == [0, 1] * 3
    assert table.nfe.values.tolist() == [2, 2, 4, 4, 6, 6]
    assert table.hessians.values.tolist() == [0] * 6
    assert table.linear_solves.values.tolist() == [3, 3, 6, 6, 9, 9]
    empty = integrate_field(CONSTANT, START, Leap(), Settings(1.0), max_steps=0)
    assert steps_group(empty).sizes["step"] == 0


def test_dense_output_is_exact_at_the_ends_of_steps_and_holds_beyond_no_end():
    """Within rounding of an end no interpolant is asked."""
    settings = Settings(1.0, first_step=0.3)
    trajectory = integrate_field(Field(lambda t, y: -y), START, Leap(), settings, dense=True)
    steps = trajectory.path.steps
    ends = torch.tensor([0.0, *(step.t1 for step in steps)], dtype=torch.float64)
    thetas = torch.stack([START, *(step.theta1 for step in steps)])
    assert torch.equal(evaluate_steps(steps, ends), thetas)
    near = ends + 1e-14 * torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0], dtype=torch.float64)
    assert torch.equal(trajectory.path(near), thetas)
    shuffled = torch.tensor([0.95, 0.15, 0.45], dtype=torch.float64)
    middles = torch.stack([(thetas[3] + thetas[4]), thetas[0] + thetas[1], thetas[1] + thetas[2]])
    assert torch.allclose(trajectory.path(shuffled), middles / 2, rtol=1e-14, atol=0)


def test_a_trajectory_is_saved_anew_only_with_its_path():
    alone = integrate_field(CONSTANT, START, Leap(), Settings(1.0))
    assert alone.resaved(lambda end: 1 / 0) is alone
    nothing = integrate_field(CONSTANT, START, Leap(), Settings(1.0), max_steps=0, dense=True)
    assert nothing.resaved(lambda end: 1 / 0) is nothing
    dense = integrate_field(CONSTANT, START, Leap(), Settings(1.0), dense=True)
    again = dense.resaved(lambda end: _times(0.0, end / 4, end))
    assert again.t.tolist() == [0.0, 0.25, 1.0]
    assert torch.allclose(again.theta, _line(again.t), rtol=0, atol=1e-14)
    assert (again.log, again.message) == (dense.log, dense.message)
