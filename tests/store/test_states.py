"""State dicts from datasets."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import nn

import gflow
import gflow.store.states
from gflow import ModuleModel, Problem
from gflow.errors import StoreError


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(2, 3), nn.Tanh(), nn.BatchNorm1d(3), nn.Linear(3, 1)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def tree(net):
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double()
    model = ModuleModel(net)
    problem = Problem(model, x, x.sum(-1))
    return gflow.compare(problem, model.initial(), [0.1, 0.2], t_end=1.0, times=[0.25, 0.5])


def test_a_state_at_a_stored_time_is_thetas_by_name(net, tree, tmp_path):
    gflow.save(tree, tmp_path / "run.nc")
    stored = gflow.open(tmp_path / "run.nc")
    names = [name for name, _ in net.named_parameters()]
    for time in (0.0, 0.25, 1.0):
        states = gflow.state_dict(stored, time)
        assert list(states) == names
        flat = torch.cat([one.flatten() for one in states.values()])
        assert flat.tolist() == tree["flow"].theta.sel(time=time).values.tolist()
        shapes = {name: one.shape for name, one in net.named_parameters()}
        assert {name: one.shape for name, one in states.items()} == shapes
    assert gflow.state_dict(stored)["3.bias"].dtype == torch.float64


def test_a_module_loads_it_and_gives_the_runs_loss(net, tree):
    problem_x = torch.from_numpy(tree["problem"].inputs.values)
    twin = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    twin.load_state_dict(net.state_dict())
    missing = twin.load_state_dict(gflow.state_dict(tree), strict=False).missing_keys
    assert missing == ["2.running_mean", "2.running_var"]
    output = twin.eval()(problem_x)[:, 0]
    loss = ((output - torch.from_numpy(tree["problem"].target.values)) ** 2).mean()
    assert float(loss.detach()) == pytest.approx(float(tree["flow"].loss[-1]), rel=1e-12)


def test_a_descents_iterate_is_had_by_its_step_size(tree):
    descent = tree["descent"]
    last = gflow.state_dict(tree, step_size=0.2)
    flat = torch.cat([one.flatten() for one in last.values()])
    stored = descent.theta.sel(step_size=0.2).dropna("record")
    assert flat.tolist() == stored[-1].values.tolist()
    first = gflow.state_dict(tree, 0.1, step_size=0.1)
    flat = torch.cat([one.flatten() for one in first.values()])
    assert flat.tolist() == descent.theta.sel(step_size=0.1)[1].values.tolist()


def test_an_ensembles_states_are_had_by_trajectory_and_keep_its_dtype():
    problem = Problem(gflow.LinearDEQ(dim=2), [[1.0, 0.0], [0.0, 1.0]], [1.0, 2.0], dtype="float32")
    starts = [[0.1, 0.2, 0.0], [0.3, 0.4, 0.1]]
    tree = gflow.integrate(problem, starts, t_end=0.5, times=2, rtol=1e-4)
    found = gflow.state_dict(tree, 0.0, trajectory=1)
    assert found["theta1"].dtype == torch.float32
    assert found["theta1"].tolist() == pytest.approx([0.3, 0.4])
    assert found["theta2"].shape == ()
    with pytest.raises(StoreError, match="has the trajectories 0 to 1"):
        gflow.state_dict(tree)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"time": 0.3}, "not stored at t = 0.3; near it, it is at 0.0, 0.25, 0.5"),
        ({"time": 9.0}, "near it, it is at 0.5, 1.0"),
        ({"step_size": 0.3}, "step_size is 0.3; there are [0.1, 0.2]"),
    ],
)
def test_what_is_not_stored_is_told(tree, arguments, sentence):
    with pytest.raises(StoreError) as caught:
        gflow.state_dict(tree, **arguments)
    assert sentence in str(caught.value)


def test_a_run_without_the_group_is_told(tree):
    with pytest.raises(StoreError, match="no /flow; give a step_size"):
        gflow.state_dict(tree.filter(lambda node: node.name != "flow"))


def test_the_docstrings_example_runs():
    failures, tried = doctest.testmod(gflow.store.states)
    assert (failures, tried > 0) == (0, True)
