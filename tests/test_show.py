from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import xarray as xr

import gflow
from gflow.show import Rows, summary

X = np.random.default_rng(0).uniform(size=(30, 1))


@pytest.fixture(scope="module")
def linear() -> xr.DataTree:
    problem = gflow.Problem(gflow.LinearDEQ(1), X, 2 * X[:, 0], theta_target=[2.0, 0.0])
    arguments: dict[str, Any] = {"t_end": 2.0, "times": 11, "rtol": 1e-8, "atol": 1e-12}
    return gflow.compare(problem, [0.1, 0.0], [0.05, 0.1], **arguments)


@pytest.fixture(scope="module")
def tanh() -> gflow.Problem:
    return gflow.Problem(gflow.SingleIndexDEQ(1, "tanh"), X, np.tanh(X[:, 0]))


def section(tree: xr.DataTree, title: str) -> Rows:
    return dict(summary(tree))[title]


def test_the_sections_of_a_comparison(linear: xr.DataTree) -> None:
    titles = [title for title, _ in summary(linear)]
    assert titles == ["Run", "Problem", "Flow", "Where the flow ended", "Gradient descent"]


def test_every_section_is_rectangular_text(linear: xr.DataTree) -> None:
    for _, rows in summary(linear):
        assert len({len(row) for row in rows}) == 1
        assert all(isinstance(cell, str) for row in rows for cell in row)


def test_the_run_and_its_problem(linear: xr.DataTree) -> None:
    run, problem = dict(section(linear, "Run")), dict(section(linear, "Problem"))
    attrs = linear.attrs
    assert run["created"].startswith(f"{attrs['created_at']} by gflow {gflow.__version__}")
    assert run["command"] == attrs["command"]
    assert run["computed on"] == "cpu, float64, 1 thread"
    assert float(run["wall time"].removesuffix(" s")) == pytest.approx(attrs["wall_seconds"], 5e-3)
    assert (problem["model"], problem["backward"], problem["samples"]) == (
        "LinearDEQ(dim=1)",
        "exact",
        "30",
    )
    assert problem["data"] == f"arrays given in Python; SHA-256 {attrs['data_sha256'][:12]}"


def test_a_dirty_checkout_is_told(linear: xr.DataTree) -> None:
    tree = linear.copy()
    tree.attrs = linear.attrs | {"git_revision": "0123456789" * 4 + "+dirty"}
    assert dict(section(tree, "Run"))["created"].endswith("(012345678901+dirty)")


def test_the_flow_and_what_it_cost(linear: xr.DataTree) -> None:
    told, flow = dict(section(linear, "Flow")), linear["flow"]
    accepted = int((linear["flow_steps"].accepted == 1).sum())
    rejected = linear["flow_steps"].sizes["step"] - accepted
    assert told == {
        "method": flow.method_reason.item(),
        "tolerances": "rtol 1e-08, atol 1e-12",
        "status": flow.status_message.item(),
        "t reached": "2",
        "steps": f"{accepted} accepted, {rejected} rejected",
        "field evaluations": str(flow.nfe.item()),
        "Hessians": str(int(linear["flow_steps"].hessians.max())),
    }


def test_the_end_of_the_flow_beside_what_is_expected(linear: xr.DataTree) -> None:
    header, *rows = section(linear, "Where the flow ended")
    assert header == ("quantity", "value", "expected")
    told = {name: (value, expected) for name, value, expected in rows}
    flow, known = linear["flow"], linear["reference"]
    assert told["loss"] == (f"{flow.loss[-1]:.6g}", f"at most {known.loss_bound[-1]:.6g}")
    assert told["radius"][1] == f"{known.sphere_radius:.6g}"
    assert told["sharpness"][1] == f"{known.sharpness_limit:.6g} at t = inf"
    energy = float(abs(flow.energy_residual).max())
    assert told["largest energy residual"] == (f"{energy:.6g}", "0")
    gap = np.linalg.norm(flow.theta.values[-1] - [2.0, 0.0])
    assert told["distance to theta_target"] == (f"{gap:.6g}", "")
    assert 0 < float(told["largest change of the radius"][0]) < 1e-7
    assert 0 < float(told["largest error of theta"][0]) < 1e-6


def test_gradient_descent_has_a_row_per_step_size(linear: xr.DataTree) -> None:
    header, *rows = section(linear, "Gradient descent")
    descent = linear["descent"]
    assert header == (
        "step size",
        "updates",
        "status",
        "loss",
        "sharpness",
        "2/(step size)",
        "distance to flow",
        "drift residual",
    )
    assert [row[:3] for row in rows] == [("0.05", "40", "t_end"), ("0.1", "20", "t_end")]
    for place, row in enumerate(rows):
        last = int((descent["update"].values[place] >= 0).sum()) - 1
        assert row[3] == f"{descent.loss.values[place, last]:.4g}"
        assert row[5] == ("40", "20")[place]
        assert row[6] == f"{linear['comparison'].distance.values[place, last]:.4g}"
        drift = np.nanmax(abs(descent.drift_identity_residual.values[place]))
        assert row[7] == f"{drift:.4g}"


def test_what_is_not_stored_is_left_out(tanh: gflow.Problem) -> None:
    off = dict.fromkeys(["sharpness", "gradient_norm", "sphere_radius", "energy_residual"], False)
    tree = gflow.integrate(tanh, [0.1, 0.0], 1.0, times=3, diagnostics=off)
    names = [row[0] for row in section(tree, "Where the flow ended")]
    assert names == ["quantity", "loss", "conditioning", "largest equilibrium residual"]
    tree = gflow.descend(tanh, [0.1, 0.0], [0.1], 1.0, diagnostics=off)
    assert [title for title, _ in summary(tree)] == ["Run", "Problem", "Gradient descent"]
    assert section(tree, "Gradient descent")[0] == (
        "step size",
        "updates",
        "status",
        "loss",
        "2/(step size)",
    )


def test_a_flow_that_failed_at_its_start_is_told(tanh: gflow.Problem) -> None:
    tree = gflow.integrate(tanh, [0.1, 3.0], 1.0)
    told = dict(section(tree, "Flow"))
    assert told["status"].startswith("The equilibrium is lost")
    assert (told["t reached"], told["steps"]) == ("0", "0 accepted, 0 rejected")
    assert ("loss", "-", "") in section(tree, "Where the flow ended")


def test_step_sizes_that_ended_early_are_told(linear: xr.DataTree) -> None:
    tree = linear.copy(deep=True)
    descent = tree["descent"].to_dataset()
    descent["status"] = ("step_size", ["t_end", "diverged"], descent.status.attrs)
    tree["descent"] = xr.DataTree(descent)
    message = descent.status_message.values[1]
    assert section(tree, "Step sizes that ended early") == [("0.1", str(message))]


def test_an_ensemble_has_a_row_per_trajectory(tanh: gflow.Problem) -> None:
    tree = gflow.integrate(tanh, [[0.1, 0.0], [0.1, 3.0]], 1.0, times=5)
    header, first, second = section(tree, "Flows")
    assert header[:4] == ("trajectory", "status", "t reached", "loss")
    assert first[:4] == ("0", "t_end", "1", f"{tree['flow'].loss.values[0, -1]:.6g}")
    assert int(first[6]) == int(tree["flow_steps"].nfe.isel(trajectory=0).max())
    assert second[:4] == ("1", "equilibrium_lost", "0", "-")
    assert math.isnan(float(tree["flow"].loss.values[1, 0]))
