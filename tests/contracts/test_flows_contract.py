"""What every flow of the registry promises: its Jacobian, its audit, its discrete counterpart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gflow
from gflow.config import config_from_dict
from gflow.descent import gradient_descent
from gflow.errors import ConfigError, ProblemError
from gflow.flows import FLOWS, ModifiedFlow, Preconditioned, flow_field, parse_flow
from gflow.flows.point import Point
from gflow.integrators.base import Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.registry import resolve

NAMES = [
    "gradient",
    "heavy_ball:0.5",
    "nesterov",
    "modified:0.2",
    "natural:0.1",
    "scaled:theta1=0.3,theta2=2",
]
ORDERS = dict.fromkeys(NAMES, 1.0)
"""Of the discrete counterpart, in the time that an update takes: eta, or sqrt(eta) for nesterov."""
STARTS = torch.tensor([[0.3, -0.4, 0.2], [-0.5, 0.1, 0.4]], dtype=torch.float64)
TIMES = np.array([0.0, 0.7])

each_flow = pytest.mark.parametrize("name", NAMES)


def _problem(backward="exact", scale=1.0):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(12, 2))
    target = scale * np.tanh(x @ [0.8, -0.5]) + 0.1 * rng.normal(size=12)
    return gflow.Problem(gflow.SingleIndexDEQ(2, "tanh"), x, target, backward=backward)


def _states(flow):
    """Rows at the two times; a second-order flow moves at the later one."""
    states = flow.start(STARTS)
    if flow.second_order:
        states[1, 3:] = torch.tensor([0.3, -0.2, 0.1])
    return states


def _backwards(name):
    return ["exact"] if name.startswith("modified") else ["exact", "neumann:3"]


def test_every_flow_of_the_registry_is_here():
    assert [name.partition(":")[0] for name in NAMES] == list(FLOWS)
    assert [parse_flow(name).name for name in NAMES] == NAMES


@pytest.mark.parametrize("decay", [0.0, 0.3])
@each_flow
def test_jacobian_and_products_are_those_of_the_field(name, decay):
    for backward in _backwards(name):
        flow = parse_flow(name, decay)
        field, states = flow_field(flow, _problem(backward)), _states(flow)
        jacobian, step = field.jacobian(TIMES, states), 1e-4
        for j in range(states.shape[-1]):
            axis = torch.eye(states.shape[-1], dtype=torch.float64)[j].expand_as(states)
            ahead, behind, far, back = (
                field.function(TIMES, states + k * step * axis) for k in (1, -1, 2, -2)
            )
            column = (8 * (ahead - behind) - (far - back)) / (12 * step)
            if name == "nesterov" and j >= 3:  # nothing but v = 0 is met at t = 0
                column[0, 3:] = 0.0
            scale = 1 + float(column.abs().max())
            assert float((jacobian[..., j] - column).abs().max()) <= 1e-9 * scale
            product = field.jvp(TIMES, states, axis)
            assert float((product - jacobian[..., j]).abs().max()) <= 1e-9 * scale


@each_flow
def test_the_jacobian_is_symmetric_where_and_only_where_it_says_so(name):
    for backward in _backwards(name):
        flow = parse_flow(name)
        field = flow_field(flow, _problem(backward))
        jacobian = field.jacobian(0.7, _states(flow)[1])
        apart = float((jacobian - jacobian.mT).abs().max())
        assert (apart <= 1e-11) == field.symmetric
        assert field.symmetric or apart > 1e-3


@each_flow
def test_the_derivative_in_time_is_that_of_the_field(name):
    flow = parse_flow(name)
    field, state = flow_field(flow, _problem()), _states(flow)[1]
    change = (field(0.7 + 1e-5, state) - field(0.7 - 1e-5, state)) / 2e-5
    if field.autonomous:
        assert field.time_derivative is None
        assert float(change.abs().max()) == 0.0
    else:
        told = field.time_derivative(0.7, state)
        assert torch.allclose(told, change, rtol=1e-8, atol=1e-9)
        assert float(told.abs().max()) > 0.1


@pytest.mark.parametrize("decay", [0.0, 0.3])
@each_flow
def test_the_dissipation_is_the_losss_rate_of_decrease(name, decay):
    for backward in _backwards(name):
        problem, flow = _problem(backward), parse_flow(name, decay)
        states = _states(flow)[1:]
        moving = flow_field(flow, problem).function(TIMES[1:], states)[..., :3]
        theta, step = states[..., :3], 1e-5
        fall = problem.loss(theta - step * moving) - problem.loss(theta + step * moving)
        told = flow.dissipation(Point(problem, theta, decay), states)
        assert torch.allclose(told, fall / (2 * step), rtol=1e-7, atol=1e-9)


@each_flow
def test_weight_decay_is_a_term_of_the_loss(name):
    """Of the model's loss alone, for the natural flow, whose metric is that of the outputs."""
    if name.startswith("natural"):
        problem, flow = _problem(), parse_flow(name, 0.3)
        field, plain = flow_field(flow, problem), flow_field(parse_flow(name), problem)
        theta = STARTS[0]
        extra = field(0.0, theta) - plain(0.0, theta)
        metric = torch.linalg.inv(_natural_inverse(problem, theta, 0.1))
        assert torch.allclose(metric @ extra, -0.3 * theta, rtol=1e-9)
        return
    names = ["theta1[0]", "theta1[1]", "theta2"]

    def loss(theta):
        return (theta[0] * theta[2] - 1) ** 2 + theta[1].cosh() * theta[2] ** 2

    bare = gflow.Objective(loss, names)
    whole = gflow.Objective(lambda theta: loss(theta) + 0.15 * theta.square().sum(), names)
    flow, plain = parse_flow(name, 0.3), parse_flow(name)
    state = _states(flow)[1]
    mine, theirs = flow_field(flow, bare), flow_field(plain, whole)
    assert torch.allclose(mine(0.7, state), theirs(0.7, state), rtol=1e-12, atol=1e-13)
    jacobians = mine.jacobian(0.7, state), theirs.jacobian(0.7, state)
    assert torch.allclose(*jacobians, rtol=1e-9, atol=1e-9)
    both = [
        gradient_descent(problem, STARTS[0], [0.05], 1.0, records=3, flow=law)
        for problem, law in ((bare, flow), (whole, plain))
    ]
    assert torch.allclose(both[0].theta, both[1].theta, rtol=1e-12, atol=1e-13)


def _natural_inverse(problem, theta, damping):
    """(G + lambda I)^-1 with G = (2/n) J^T J, J by central differences."""
    basis, step = torch.eye(3, dtype=torch.float64), 1e-5
    ahead, behind = (problem.predict(theta + sign * step * basis) for sign in (1, -1))
    jacobian = ((ahead - behind) / (2 * step)).mT
    return torch.linalg.inv(2 / problem.n_samples * jacobian.mT @ jacobian + damping * basis)


def test_the_natural_direction_is_that_of_the_outputs_jacobian():
    problem, theta = _problem(), STARTS[0]
    direction = -_natural_inverse(problem, theta, 0.1) @ problem.gradient(theta)
    field = flow_field(parse_flow("natural:0.1"), problem)
    assert torch.allclose(field(0.0, theta), direction, rtol=1e-7)


def _flow_end(flow, problem, t_end):
    return integrate_field(
        flow_field(flow, problem),
        flow.start(STARTS[0]),
        resolve("DOP853"),
        Settings(t_end, 1e-12, 1e-14),
    ).theta[-1, :3]


def _errors(name, flow_of, t_end=2.0, count=4):
    """Distances to the flow at t_end, of updates that take 0.04 / 2^k of time."""
    problem = _problem()
    errors = []
    for k in range(count):
        tick = 0.04 / 2**k
        eta = tick**2 if name == "nesterov" else tick
        flow = flow_of(eta)
        descent = gradient_descent(problem, STARTS[0], [eta], t_end, records=2, flow=flow)
        assert descent.time[0, -1] == pytest.approx(t_end, rel=1e-12)
        errors.append(float((descent.theta[0, -1] - _flow_end(flow, problem, t_end)).norm()))
    return np.array(errors)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("modified")])
def test_the_discrete_counterpart_tends_to_the_flow(name):
    errors = _errors(name, lambda eta: parse_flow(name, 0.05))
    slopes = np.log2(errors[:-1] / errors[1:])
    assert slopes == pytest.approx([ORDERS[name]] * 3, abs=0.1)
    assert errors[0] > 1e-5


def test_gradient_descent_follows_the_modified_flow_of_its_step_size_to_second_order():
    errors = _errors("modified", lambda eta: ModifiedFlow(eta, weight_decay=0.05))
    assert np.log2(errors[:-1] / errors[1:]) == pytest.approx([2.0] * 3, abs=0.05)
    plain = _errors("gradient", lambda eta: parse_flow("gradient", 0.05), count=1)
    assert plain[0] > 20 * errors[0] > 1e-6


@pytest.mark.parametrize("method", ["tsit5", "expcol8"])
@each_flow
def test_the_loss_is_accounted_for_and_an_ensembles_rows_are_lone_flows(name, method):
    problems = [_problem(), _problem(scale=0.5)]
    options = {"flow": name, "weight_decay": 0.02, "method": method, "rtol": 1e-8, "atol": 1e-10}
    few = {"sharpness": False, "singular_distance": False}
    together = gflow.integrate(problems, STARTS, 3.0, times=9, diagnostics=few, **options)
    gflow.validate(together)
    for row, problem in enumerate(problems):
        alone = gflow.integrate(problem, STARTS[row], 3.0, times=9, diagnostics=few, **options)
        gflow.validate(alone)
        for variable in alone["flow"].theta, together["flow"].theta[row]:
            assert np.isfinite(variable).all()
        apart = together["flow"].theta[row] - alone["flow"].theta
        assert float(abs(apart).max()) <= 1e-7
        assert float(abs(alone["flow"].energy_residual).max()) <= 1e-7
        assert float(abs(together["flow"].energy_residual[row]).max()) <= 1e-7
        assert ("velocity" in alone["flow"]) == parse_flow(name).second_order
        if "velocity" in alone["flow"]:
            gap = together["flow"].velocity[row] - alone["flow"].velocity
            assert float(abs(gap).max()) <= 1e-7
    assert together["flow"].attrs["kind"] == name


@each_flow
def test_the_warm_start_leaves_no_trace(name):
    """Whatever was evaluated before, all that a field gives is that of a fresh one."""
    flow, problem = parse_flow(name), _problem()
    field = flow_field(flow, problem)
    for t, state in zip(TIMES, _states(flow), strict=True):
        fresh = flow_field(flow, problem)
        assert torch.allclose(field(t, state), fresh(t, state), rtol=1e-11, atol=1e-12)
        pair = field.jacobian(t, state), fresh.jacobian(t, state)
        assert torch.allclose(*pair, rtol=1e-8, atol=1e-8)
        assert field.memory.value is not None
    many = field.many(TIMES, _states(flow))
    assert torch.allclose(many, field.function(TIMES, _states(flow)), rtol=1e-11, atol=1e-12)


TEXTS = [
    *NAMES,
    *("gradient:1", "nesterov:", "heavy_ball", "heavy_ball:0", "heavy_ball:-1", "heavy_ball:inf"),
    *("heavy_ball:x", "modified", "modified:0", "modified:nan", "natural:0", "natural:-1"),
    *("natural", "scaled", "scaled:", "scaled:theta1", "scaled:theta1=0", "scaled:theta1=1e-3"),
    *("scaled:theta1=1,theta1=2", "scaled:theta1=1=2", "momentum:0.9", ""),
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_configuration_accepts_what_is_a_flow(text):
    raw = {
        "model": {"dim": 1},
        "data": {"source": "teacher", "samples": 3, "seed": 1},
        "start": {"theta": [0.1, 0.2]},
        "flow": {"t_end": 1.0, "kind": text},
    }
    try:
        parse_flow(text)
    except ProblemError:
        with pytest.raises(ConfigError, match=r"flow.kind is .*; it must be gradient, heavy_ball:"):
            config_from_dict(raw)
    else:
        assert config_from_dict(raw).flow.kind == text


def test_a_point_solves_once():
    problem, solves = _problem(), []
    solve = problem.model.equilibrium
    problem.model.equilibrium = lambda *given: solves.append(given) or solve(*given)
    point = Point(problem, STARTS[0])
    assert not point.solved
    assert point.gradient is point.gradient
    assert point.jacobian().shape == (3, 3)
    assert point.loss_gradient is point.gradient
    assert len(solves) == 1


def test_the_difference_along_a_vector_is_of_fourth_order_and_zero_along_none():
    problem = gflow.Objective(lambda theta: theta.exp().sum(), 2)
    point = Point(problem, torch.tensor([0.3, -0.2], dtype=torch.float64))
    vector = torch.tensor([3.0, -1.0], dtype=torch.float64)
    found = point.derivative(lambda near: near.gradient, vector)
    assert torch.allclose(found, point.theta.exp() * vector, rtol=1e-11)
    matrix = point.derivative(lambda near: near.jacobian(), vector)
    assert torch.allclose(matrix, torch.diag(point.theta.exp() * vector), rtol=1e-10, atol=1e-11)
    assert point.derivative(lambda near: near.gradient, 0 * vector).tolist() == [0.0, 0.0]


def test_a_flow_may_be_an_object():
    weights = [0.3, 0.3, 2.0]
    problem = _problem()
    given = gflow.integrate(problem, STARTS[0], 1.0, flow=Preconditioned(np.diag(weights)), times=3)
    named = gflow.integrate(problem, STARTS[0], 1.0, flow=NAMES[-1], times=3)
    apart = given["flow"].theta - named["flow"].theta
    assert float(abs(apart).max()) <= 1e-6
    assert given["flow"].attrs["kind"] == "preconditioned"
    assert math.isclose(float(named["flow"].time[-1]), 1.0)
