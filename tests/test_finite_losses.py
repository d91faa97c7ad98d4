"""A loss that is not finite is no end as asked, though theta and the gradient are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gflow

SAMPLE = "The loss is not finite at training sample 1 (input 2), where the output is"
METHODS = {"auto": {}, "rk4": {"step_size": 0.05}}
START = [1.0, 0.0]


def _cut(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Falls with the outputs, and is nan where one is below its target; its slope is not."""
    return output.mean() + torch.where(output < target, torch.nan, 0.0).mean().detach()


def _problem(*targets: float) -> gflow.Problem:
    """Two outputs that begin at 1 and 2."""
    return gflow.Problem(gflow.LinearDEQ(1), [[1.0], [2.0]], targets, loss=_cut)


LATER, NEVER, AT_ONCE = _problem(-99, 0), _problem(-99, -99), _problem(-99, 3)


@pytest.mark.parametrize("method", METHODS)
def test_a_flow_without_a_loss_at_a_save_names_its_sample(method):
    flow = gflow.integrate(LATER, START, 1.0, method=method, times=9, **METHODS[method])["flow"]
    bad = flow.time.values[np.isnan(flow.loss.values)]
    assert 0 < len(bad) < 5
    assert np.isfinite(flow.theta.values).all()
    assert (flow.status.item(), flow.diagnosis.item()) == ("nonfinite", "nonfinite_sample")
    assert f": the loss is nan at t = {bad[0]:g}. {SAMPLE}" in flow.status_message.item()


@pytest.mark.parametrize("method", METHODS)
def test_each_member_of_an_ensemble_has_its_own_verdict(method):
    problems = [NEVER, LATER, AT_ONCE]
    tree = gflow.integrate(problems, [START] * 3, 1.0, method=method, times=9, **METHODS[method])
    flow = tree["flow"]
    assert flow.status.values.tolist() == ["t_end", "nonfinite", "nonfinite_start"]
    assert flow.diagnosis.values.tolist() == ["", "nonfinite_sample", "nonfinite_sample"]
    assert all(SAMPLE in message for message in flow.status_message.values[1:])
    gflow.validate(tree)


def test_the_end_of_a_member_is_looked_at_where_it_is_no_save_of_all():
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output**2).mean() + torch.where(output < target, torch.nan, 0.0).mean().detach()

    problems = [gflow.Problem(gflow.LinearDEQ(1), [[1.0]], [y], loss=loss) for y in (0.5, -1.0)]
    stop = {"gradient_norm": 0.5}
    flow = gflow.integrate(problems, [START] * 2, 9.0, times=[9.0], stop=stop)["flow"]
    assert flow.status.values.tolist() == ["nonfinite", "gradient_norm"]
    assert (
        f": the loss is nan at t = {flow.t_final.values[0]:.6g}." in flow.status_message.values[0]
    )


def test_a_stopping_value_is_located_beside_values_that_are_none():
    def loss(w: torch.Tensor) -> torch.Tensor:
        hole = (w.sum() - 0.55).abs() < 0.04
        return w.sum() + torch.where(hole, torch.nan, 0.0).detach()

    stop = {"loss": 0.5}
    flow = gflow.integrate(gflow.Objective(loss, 1), [1.0], 9.0, stop=stop, times=[9.0])["flow"]
    assert flow.status.item() == "loss"
    assert flow.loss.values[-1] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("kind", ["descend", "compare"])
def test_a_descent_without_a_loss_at_a_record_names_its_sample(kind):
    tree = getattr(gflow, kind)(LATER, START, [0.1, 0.01], 1.0, records=21)
    descent = tree["descent"]
    assert np.isfinite(descent.theta.values[1]).all()
    assert descent.status.values.tolist() == ["nonfinite", "nonfinite"]
    update = int(descent["update"].values[1, np.isnan(descent.loss.values[1]).argmax()])
    told = f"It ended at update 100: at update {update} the loss is nan. {SAMPLE}"
    assert told in descent.status_message.values[1]
    assert gflow.descend(NEVER, START, [0.1], 1.0)["descent"].status.item() == "t_end"


def test_a_descent_whose_last_iterate_has_no_equilibrium_has_lost_it():
    problem = gflow.Problem(gflow.SingleIndexDEQ(1, "tanh"), [[0.1], [-0.1]], [0.9, -0.9])
    theta = torch.tensor([0.5, 0.9], dtype=torch.float64)
    eta = 2 * float((1.05 - theta[1]) / -problem.gradient(theta)[1])
    descent = gflow.descend(problem, theta, [eta], eta)["descent"]
    assert descent.theta.values[0, -1, 1] > 1
    assert descent.status.item() == "equilibrium_lost"
    assert "It ended at update 1: at update 1 " in descent.status_message.item()
    assert descent.status_message.item().endswith("so the tanh DEQ has no unique fixed point.")


def test_a_loss_that_overflows_in_the_sum_alone_blames_no_sample():
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output.mean() + (0.9e308 * torch.ones_like(output)).sum().detach()

    problem = gflow.Problem(gflow.LinearDEQ(1), [[1.0], [1.0], [1.0]], [0.0] * 3, loss=loss)
    flow = gflow.integrate(problem, START, 1.0)["flow"]
    assert (flow.status.item(), flow.diagnosis.item()) == ("nonfinite_start", "nonfinite")
    assert flow.status_message.item().endswith(": the loss is inf at t = 0.")
