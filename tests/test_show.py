from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import xarray as xr

import gflow
from gflow.integrators.trajectory import verdict
from gflow.show import SHOWN, Rows, summary
from gflow.status import Status

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
    kept = ["conditioning", "singular distance", "largest equilibrium residual"]
    assert names == ["quantity", "loss", *kept]
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


def test_what_goes_on_has_not_ended(linear: xr.DataTree) -> None:
    tree = linear.copy()
    for group, words in (("flow", "running"), ("descent", ["interrupted", "running"])):
        data = tree[group].to_dataset()
        data["status"] = data.status.copy(data=np.array(words))
        tree[group] = xr.DataTree(data)
    found = dict(summary(tree))
    assert "Where the flow has come to" in found
    assert "Where the flow ended" not in found
    assert [row[0] for row in found["Step sizes that ended early"]] == ["0.05"]
    assert [row[0] for row in found["Step sizes that go on, or were killed"]] == ["0.1"]
    told = verdict(Status.RUNNING, "", 1.0, 2, 3, 0.5, 9)
    assert told.endswith(
        " It has come to t = 1 after 2 steps (1 rejected, last dt = 0.5) and 9 field evaluations."
    )


def test_an_ensemble_has_a_row_per_trajectory(tanh: gflow.Problem) -> None:
    tree = gflow.integrate(tanh, [[0.1, 0.0], [0.1, 3.0]], 1.0, times=5)
    header, first, second = section(tree, "Flows")
    assert header[:4] == ("trajectory", "status", "t reached", "loss")
    assert first[:4] == ("0", "t_end", "1", f"{tree['flow'].loss.values[0, -1]:.6g}")
    assert int(first[6]) == int(tree["flow_steps"].nfe.isel(trajectory=0).max())
    assert second[:4] == ("1", "equilibrium_lost", "0", "-")
    assert math.isnan(float(tree["flow"].loss.values[1, 0]))


@pytest.fixture(scope="module")
def many(tanh: gflow.Problem) -> xr.DataTree:
    """More flows than have a row by default; numbers 5 and 24 start where none can."""
    starts = np.column_stack([np.linspace(-0.5, 0.5, 25), np.zeros(25)])
    starts[[5, 24], 1] = 3.0
    return gflow.integrate(tanh, starts, 1.0, times=5)


def test_what_an_ensemble_has_in_common_is_told_once(many: xr.DataTree) -> None:
    flow = many["flow"]
    assert dict(section(many, "Ensemble")) == {
        "trajectories": "25",
        "method": str(flow.method[0].item()),
        "reason": str(flow.method_reason[0].item()),
        "tolerances": "rtol 1e-06, atol 1e-09",
        "status": "t_end (23), equilibrium_lost (2)",
    }
    ((status, told),) = section(many, "Flows that ended early")
    assert status == "equilibrium_lost"
    message = flow.status_message[5].item()
    assert told == f"2, the first of them trajectory 5: {message}"


def test_different_methods_are_counted(many: xr.DataTree) -> None:
    tree = many.copy(deep=True)
    flow = tree["flow"].to_dataset()
    for name in ("method", "method_reason"):
        flow[name] = ("trajectory", ["a"] * 20 + ["b"] * 5, flow[name].attrs)
    tree["flow"] = xr.DataTree(flow)
    told = dict(section(tree, "Ensemble"))
    assert told["method"] == "a (20), b (5)"
    assert told["reason"] == "a (20 of 25; the others in flow.method_reason)"


def test_how_the_trajectories_spread(many: xr.DataTree) -> None:
    header, *rows = section(many, "Over the trajectories")
    told = {name: values for name, *values in rows}
    flow, steps = many["flow"], many["flow_steps"]
    assert header == ("quantity", "least", "median", "largest")

    def numbers(values: Any) -> list[str]:
        return [f"{found:.6g}" for found in (np.min(values), np.median(values), np.max(values))]

    assert told["t reached"] == ["0", "1", "1"]
    assert told["loss (23 of 25)"] == numbers(flow.loss_final.dropna("trajectory").values)
    assert told["evaluations"] == numbers(flow.nfe.values)
    for name, flag in (("accepted", 1), ("rejected", 0)):
        assert told[f"{name} steps"] == numbers((steps.accepted.values == flag).sum(axis=1))
    assert "Hessians" in told or not (steps.hessians > 0).any()


def test_of_many_trajectories_the_first_are_shown_those_that_ended_early_before(
    many: xr.DataTree,
) -> None:
    title = "Flows: 20 of 25, those that ended early first; --all lists every one"
    _, *rows = section(many, title)
    assert [int(row[0]) for row in rows] == [5, 24, *(n for n in range(SHOWN - 1) if n != 5)]
    assert {row[1] for row in rows[:2]} == {"equilibrium_lost"}
    assert {row[1] for row in rows[2:]} == {"t_end"}
    _, *every = dict(summary(many, every=True))["Flows"]
    assert [int(row[0]) for row in every] == list(range(25))
    assert set(rows) <= set(every)


def test_the_gradient_norm_is_that_of_the_end_or_none() -> None:
    problem = gflow.Problem(gflow.LinearDEQ(1), X, 2 * X[:, 0])
    starts = [[0.1, 0.0], [2.0, 0.5]]
    stop = {"gradient_norm": 0.1}
    tree = gflow.integrate(problem, starts, 5.0, times=3, stop=stop)
    flow = tree["flow"].to_dataset().drop_vars("gradient_norm_final", errors="ignore")
    assert list(flow.status.values) == ["gradient_norm"] * 2
    assert not np.isin(flow.t_final, flow.time).any()
    tree["flow"] = xr.DataTree(flow)
    assert "gradient norm" not in section(tree, "Flows")[0]
    tree["flow"] = xr.DataTree(flow.assign(gradient_norm_final=("trajectory", [0.1, 0.1])))
    header, *rows = section(tree, "Flows")
    assert [row[header.index("gradient norm")] for row in rows] == ["0.1", "0.1"]
    tree = gflow.integrate(problem, starts[0], 5.0, times=3, stop=stop)
    told = {row[0]: row[1] for row in section(tree, "Where the flow ended")}
    assert float(told["gradient norm"]) == pytest.approx(0.1, rel=1e-5)


def test_the_gradient_norm_at_the_last_save_is_shown_if_the_flow_ended_there(
    many: xr.DataTree,
) -> None:
    header, *rows = dict(summary(many, every=True))["Flows"]
    column = [row[header.index("gradient norm")] for row in rows]
    norms = many["flow"].gradient_norm.values[:, -1]
    assert column == ["-" if np.isnan(norm) else f"{norm:.6g}" for norm in norms]
    assert column.count("-") == 2
