"""Theta kept at some saves."""

from __future__ import annotations

import numpy as np
import pytest

import gflow
from gflow import LinearDEQ, Problem
from gflow.errors import ProblemError, StoreError

X, Y = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [1.0, 2.0, 2.5]
TIMES = [0.25, 0.5, 0.75]


def problem() -> Problem:
    return Problem(LinearDEQ(dim=2), X, Y)


def saved(theta) -> list[float]:
    return theta.time.values[~np.isnan(theta.values).any(-1)].tolist()


@pytest.mark.parametrize(
    ("choice", "times"),
    [
        ("all", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("ends", [0.0, 1.0]),
        ([0.5], [0.0, 0.5, 1.0]),
        ([0.3, 0.7], [0.0, 0.25, 0.75, 1.0]),
    ],
)
def test_theta_is_kept_where_chosen_and_all_else_everywhere(choice, times):
    arguments = {"t_end": 1.0, "times": TIMES}
    whole = gflow.integrate(problem(), [0.1, 0.2, 0.0], **arguments)["flow"]
    flow = gflow.integrate(problem(), [0.1, 0.2, 0.0], store_theta=choice, **arguments)["flow"]
    assert saved(flow.theta) == times
    assert flow.theta.sel(time=times).equals(whole.theta.sel(time=times))
    for name in ("loss", "gradient_norm", "sharpness", "sphere_radius"):
        assert flow[name].equals(whole[name])
        assert bool(flow[name].notnull().all())


def test_each_row_of_a_comparison_or_an_ensemble_keeps_its_own_ends():
    tree = gflow.compare(
        problem(), [0.1, 0.2, 0.0], [0.1, 0.4], t_end=1.0, times=TIMES, store_theta="ends"
    )
    assert saved(tree["flow"].theta) == [0.0, 1.0]
    descent = tree["descent"].to_dataset()
    for eta, last in ((0.1, 1.0), (0.4, 0.8)):
        row = descent.sel(step_size=eta)
        found = row.time.values[~np.isnan(row.theta.values).any(-1)]
        assert found == pytest.approx([0.0, last])
    assert bool(tree["comparison"].distance.notnull().any())
    both = gflow.integrate(
        problem(), [[0.1, 0.2, 0.0], [0.3, 0.2, 0.0]], 1.0, times=TIMES, store_theta=[0.5]
    )
    assert both["flow"].theta.notnull().all("parameter").sum("time").values.tolist() == [3, 3]


def test_what_is_not_kept_takes_no_room_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 400))
    wide = Problem(LinearDEQ(dim=400), x, x[:, 0])
    sizes = []
    for choice in ("all", "ends"):
        tree = gflow.integrate(
            wide, rng.normal(size=401) / 50, t_end=0.01, times=200, rtol=1e-3, store_theta=choice,
            store_data=False, diagnostics={"sharpness": False},
        )  # fmt: skip
        sizes.append(gflow.save(tree, tmp_path / f"{choice}.nc").stat().st_size)
    assert sizes[0] > 200 * 401 * 8
    assert sizes[1] < sizes[0] / 4
    stored = gflow.open(tmp_path / "ends.nc")
    assert gflow.state_dict(stored)["theta1"].shape == (400,)
    with pytest.raises(StoreError, match=r"theta is not stored at t = 0\.005"):
        gflow.state_dict(stored, 0.005)


@pytest.mark.parametrize("choice", ["end", [], 3, [np.nan], ["a"], None])
def test_other_choices_are_told(choice):
    with pytest.raises(ProblemError, match='it must be "all", "ends" or a list of times'):
        gflow.integrate(problem(), [0.1, 0.2, 0.0], t_end=1.0, store_theta=choice)
