"""Flows of functions of theta: derivatives, natural gradients, ensembles, files, refusals."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from scipy.linalg import expm

import gflow
import gflow.objective
from gflow.diagnostics.rows import row_dissipation
from gflow.errors import ProblemError
from gflow.flows import GradientFlow, gradient_flow
from gflow.show import summary

METHODS = ["auto", "expcol8", "exprb43", "tsit5", "rkc2", "LSODA", "dopri5"]
CURVATURE = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
METRIC = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
OPTIMUM = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
STARTS = np.random.default_rng(3).normal(size=(3, 2))
START = torch.tensor([1.0, -2.0], dtype=torch.float64)


def tolerance(method):
    return 1e-3 if method == "rkc2" else 1e-7


def quadratic(theta):
    return theta @ CURVATURE.to(theta) @ theta / 2


def network(w):
    return (w.prod() - 1) ** 2 / 2


def probabilities(theta):
    return torch.softmax(torch.cat([theta, theta.new_zeros(1)]), 0)


def divergence(theta):
    return (OPTIMUM * (OPTIMUM.log() - probabilities(theta).log())).sum()


def fisher(theta):
    p = probabilities(theta)[:-1]
    return torch.diag(p) - p[:, None] * p


def runaway(theta):
    return -theta.exp().sum()


def root(theta):
    """Its flow reaches zero, where the gradient is infinite, at t = 4/3 from theta = 1."""
    return theta.sqrt().sum()


def objectives():
    natural = gflow.Objective(divergence, 2, metric=fisher)
    return [gflow.Objective(network, 2), gflow.Objective(divergence, 2), natural]


def differences(function, theta, step=1e-6):
    """Central differences along the last dimension of theta (..., P)."""
    moves = step * torch.eye(theta.shape[-1], dtype=theta.dtype)
    return torch.stack(
        [(function(theta + e) - function(theta - e)) / (2 * step) for e in moves], -1
    )


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("theta", [START, torch.from_numpy(STARTS)], ids=["one", "rows"])
def test_derivatives_against_central_differences(which, theta):
    problem = objectives()[which]
    exact = problem.gradient(theta, "exact")
    torch.testing.assert_close(exact, differences(problem.loss, theta), rtol=1e-7, atol=1e-8)
    for jacobian, gradient in (
        (problem.jacobian, problem.gradient),
        (problem.hessian, lambda at: problem.gradient(at, "exact")),
    ):
        expected = differences(gradient, theta)
        torch.testing.assert_close(jacobian(theta), expected, rtol=1e-6, atol=1e-7)
    vector = torch.ones_like(theta)
    for product, matrix in ((problem.jvp, problem.jacobian), (problem.hvp, problem.hessian)):
        expected = (matrix(theta) @ vector[..., None])[..., 0]
        torch.testing.assert_close(product(theta, vector), expected, rtol=1e-12, atol=1e-12)


def test_derivatives_against_closed_forms():
    u, v = 1.5, -0.4
    problem, theta = gflow.Objective(network, ["u", "v"]), [u, v]
    f = u * v
    assert float(problem.loss(theta)) == pytest.approx((f - 1) ** 2 / 2, rel=1e-15)
    np.testing.assert_allclose(problem.gradient(theta), [(f - 1) * v, (f - 1) * u], rtol=1e-14)
    hessian = [[v * v, 2 * f - 1], [2 * f - 1, u * u]]
    np.testing.assert_allclose(problem.hessian(theta), hessian, rtol=1e-14)


def test_the_natural_gradient_of_the_divergence_is_the_difference_of_the_means():
    """In exponential coordinates grad KL = p - q on the first states, and G is Fisher's matrix."""
    problem = objectives()[2]
    gap = (probabilities(START) - OPTIMUM)[:-1]
    expected = torch.linalg.solve(fisher(START), gap)
    torch.testing.assert_close(problem.gradient(START, "exact"), gap, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(problem.gradient(START), expected, rtol=1e-12, atol=1e-13)
    dissipation = row_dissipation(GradientFlow(), problem, START[None], torch.zeros(1, dtype=int))
    torch.testing.assert_close(dissipation, (gap @ expected)[None], rtol=1e-12, atol=1e-13)


def test_linear_and_partly_constant_functions_have_zero_hessians():
    linear = gflow.Objective(lambda w: 2 * w[0], 3)
    assert torch.equal(linear.hessian([1.0, 2.0, 3.0]), torch.zeros(3, 3, dtype=torch.float64))
    np.testing.assert_array_equal(linear.gradient([[1.0, 2.0, 3.0]]), [[2.0, 0.0, 0.0]])
    slid = gflow.Objective(lambda w: 2 * w[0], 2, metric=lambda w: torch.eye(2, dtype=w.dtype))
    assert not slid.jacobian([1.0, 2.0]).any()
    assert not slid.jvp([1.0, 2.0], [1.0, 1.0]).any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("natural", [False, True], ids=["gradient", "natural"])
def test_the_flow_of_a_quadratic_is_an_exponential(method, natural):
    metric = (lambda theta: METRIC) if natural else None
    problem = gflow.Objective(quadratic, ["a", "b"], metric=metric)
    rtol = tolerance(method)
    tree = gflow.integrate(problem, START, 3.0, method=method, rtol=rtol, atol=rtol, times=7)
    flow = tree["flow"]
    rate = torch.linalg.solve(METRIC, CURVATURE) if natural else CURVATURE
    expected = [expm(-float(t) * rate.numpy()) @ START.numpy() for t in flow.time]
    assert flow.status.item() == "t_end"
    np.testing.assert_allclose(flow.theta, expected, rtol=0, atol=20 * rtol)
    assert abs(float(flow.energy_residual[-1])) < 100 * rtol
    np.testing.assert_allclose(flow.sharpness, np.linalg.eigvalsh(CURVATURE)[-1], rtol=1e-12)


def test_the_field_says_what_its_jacobian_is():
    plain, _, natural = objectives()
    assert gradient_flow(plain).symmetric
    assert not gradient_flow(natural).symmetric
    jagged = gflow.Objective(lambda w: (w**2).sum() + w.abs().sum(), 2, smooth=False)
    assert gradient_flow(plain).smooth
    assert not gradient_flow(jagged).smooth


def test_nothing_stale_is_used():
    problem, at = objectives()[2], torch.from_numpy(STARTS)
    field = gradient_flow(problem)
    for theta in (START, at, at[1], START):
        value, jacobian = field(0.0, theta), field.jacobian(0.0, theta)
        torch.testing.assert_close(value, -problem.gradient(theta), rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(jacobian, -problem.jacobian(theta), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("method", ["auto", "expcol8", "rkc2"])
def test_a_row_of_an_ensemble_is_its_lone_run(method):
    for problem in objectives():
        options = {"t_end": 2.0, "method": method, "rtol": tolerance(method), "times": 5}
        rows = gflow.integrate(problem, STARTS, **options)["flow"]
        assert (rows.status == "t_end").all()
        for start, row in zip(STARTS, rows.theta.values, strict=True):
            lone = gflow.integrate(problem, start, **options)["flow"]
            np.testing.assert_allclose(row, lone.theta, rtol=0, atol=20 * tolerance(method))


def test_a_list_of_objectives_and_a_deq_are_an_ensemble():
    model = gflow.LinearDEQ(dim=1)
    mixed = [
        gflow.Objective(network, model.parameter_names),
        gflow.Objective(divergence, model.parameter_names),
        gflow.Problem(model, [[0.5], [1.0]], [1.0, 2.0]),
    ]
    tree = gflow.integrate(mixed, [0.5, -0.3], 1.0, times=3)
    gflow.validate(tree)
    for problem, row in zip(mixed, tree["flow"].theta.values, strict=True):
        lone = gflow.integrate(problem, [0.5, -0.3], 1.0, times=3)["flow"].theta
        np.testing.assert_allclose(row, lone, rtol=1e-5)
    assert list(tree["problem"].samples.values) == [0, 0, 2]
    assert np.isfinite(tree["flow"].sphere_radius.values).all(1).tolist() == [False, False, True]
    pure = gflow.integrate(mixed[:2], [0.5, -0.3], 1.0, times=3)
    assert "samples" not in pure["problem"]
    assert "sphere_radius" not in pure["flow"]
    assert pure.attrs["data_sha256"] == "" != tree.attrs["data_sha256"]


@pytest.mark.parametrize("which", range(3))
def test_descent_is_the_loop_that_one_would_write(which):
    problem, eta, theta = objectives()[which], 0.05, torch.tensor([0.7, 1.3], dtype=torch.float64)
    tree = gflow.descend(problem, theta, [eta], 1.0, records=21)
    expected = [theta]
    for _ in range(20):
        point = expected[-1].clone().requires_grad_()
        slope = torch.autograd.grad(network(point) if which == 0 else divergence(point), point)[0]
        if which == 2:
            slope = torch.linalg.solve(fisher(point.detach()), slope)
        expected.append(expected[-1] - eta * slope)
    found = tree["descent"].theta.values[0]
    if which == 2:
        np.testing.assert_allclose(found, torch.stack(expected), rtol=1e-13)
    else:
        np.testing.assert_array_equal(found, torch.stack(expected))


def test_a_comparison_goes_to_disk_and_back(tmp_path):
    problem = gflow.Objective(network, ["u", "v"], theta_target=[1.0, 1.0])
    observables = {"balance": lambda w: w[0] ** 2 - w[1] ** 2}
    tree = gflow.compare(
        problem, [2.0, 0.1], [0.02, 0.1], 6.0, rtol=1e-8, times=20, observables=observables
    )
    gflow.save(tree, tmp_path / "run.nc")
    assert gflow.open(tmp_path / "run.nc").identical(tree)
    flow, stored = tree["flow"], tree["problem"]
    np.testing.assert_allclose(flow.balance, 2.0**2 - 0.1**2, rtol=1e-7)
    wanted = {"theta", "loss", "gradient_norm", "sharpness", "energy_residual", "balance"}
    assert {str(n) for n in flow.data_vars if "time" in flow[n].dims} == wanted
    assert not {"sphere_radius", "conditioning", "drift_identity_residual"} & set(tree["descent"])
    assert set(stored.data_vars) == {"theta_target"}
    assert "samples" not in stored.attrs
    assert stored.attrs["model"] == "Objective(network, P=2)"
    assert tree.attrs["data_sha256"] == ""
    told = dict(dict(summary(tree))["Problem"])
    assert told["data"] == "no data: the loss is a function of theta, given in Python"
    figure = gflow.plot_run(tree, tmp_path / "run.png")
    panels = {ax.get_label(): ax for ax in figure.axes}
    assert set(panels) == {"loss", "conservation", "distance", "sharpness", "steps"}
    assert panels["loss"].get_ylabel() == "loss L"


def test_single_precision():
    problem = gflow.Objective(quadratic, 2, metric=lambda t: METRIC.to(t), dtype="float32")
    assert problem.gradient(START).dtype == problem.hessian(START).dtype == torch.float32
    tree = gflow.compare(problem, START, [0.01], 1.0, rtol=1e-4, atol=1e-6, times=3)
    expected = expm(-np.linalg.solve(METRIC, CURVATURE)) @ START.numpy()
    np.testing.assert_allclose(tree["flow"].theta[-1], expected, rtol=1e-3)


def test_more_digits_than_theta_has_and_whole_numbers_are_taken():
    def precise(theta):
        return quadratic(theta.double())

    problem = gflow.Objective(precise, 2, metric=lambda t: METRIC, dtype="float32")
    for theta in (START, torch.stack([START, START])):
        assert problem.gradient(theta).dtype == problem.loss(theta).dtype == torch.float32
    whole = gflow.Objective(quadratic, 2, metric=lambda t: torch.eye(2, dtype=torch.int64))
    torch.testing.assert_close(whole.gradient(START), whole.gradient(START, "exact"))


@pytest.mark.parametrize("method", ["auto", "expcol8", "exprb43", "rkc4", "LSODA", "dopri5"])
def test_a_flow_that_comes_where_the_loss_has_no_gradient_ends_there(method):
    flow = gflow.integrate(gflow.Objective(root, 2), [1.0, 2.0], 8.0, method=method)["flow"]
    assert flow.status.item() == "nonfinite"
    assert float(flow.time[-1]) == pytest.approx(4 / 3, rel=1e-4)
    assert "the loss is nan" in flow.status_message.item()


@pytest.mark.parametrize("method", ["expcol8", "exprb43", "rkc4", "tsit5"])
def test_a_flow_that_runs_away_in_finite_time_is_not_told_as_one_without_a_value(method):
    """theta = -log(1 - t): steps underflow at t = 1, where the loss is -4e14, not infinite."""
    flow = gflow.integrate(gflow.Objective(runaway, 1), [0.0], 8.0, method=method)["flow"]
    assert flow.status.item() == "step_underflow"
    assert float(flow.time[-1]) == pytest.approx(1.0, rel=1e-4)


def test_what_is_not_finite_ends_what_it_concerns_alone():
    problem = gflow.Objective(root, 2)
    flow = gflow.integrate(problem, [[1.0, 2.0], [-1.0, 1.0], [9.0, 9.0]], 2.0, times=3)["flow"]
    assert flow.status.values.tolist() == ["nonfinite", "nonfinite_start", "t_end"]
    tree = gflow.compare(problem, [1.0, 2.0], [0.1, 0.7], 4.0)
    assert tree["descent"].status.values.tolist() == ["nonfinite", "nonfinite"]
    assert "update 15" in tree["descent"].status_message.values[0]
    steep = gflow.descend(problem, [0.0, 1.0], [0.1], 2.0)["descent"]
    assert "its derivative in theta[0] is inf" in steep.status_message.item()
    assert problem.loss([[0.0, 1.0], [4.0, 1.0]]).tolist() == [1.0, 3.0]


def test_a_metric_that_is_not_positive_definite_ends_the_flow():
    problem = gflow.Objective(lambda w: (w**2).sum(), 2, metric=torch.diag)
    flow = gflow.integrate(problem, [1.0, 2.0], 1.0)["flow"]  # dw/dt = -2
    assert flow.status.item() == "nonfinite"
    assert float(flow.time[-1]) == pytest.approx(0.5)
    assert "the metric is not positive definite" in flow.status_message.item()
    assert torch.isnan(problem.jacobian([[-1.0, 1.0], [1.0, 1.0]])).any(-1).any(-1).tolist() == [
        True,
        False,
    ]


def test_a_matrix_without_a_factor_is_no_value():
    """A LinAlgError concerns its row, not the batch and not the run."""

    def barrier(theta):
        matrix = torch.stack([theta[:2], theta[1:]])
        return 3 * theta[1] - 2 * torch.linalg.cholesky(matrix).diagonal().log().sum()

    problem = gflow.Objective(barrier, 3)
    flow = gflow.integrate(problem, [[1.0, 0.0, 1.0], [1.0, 2.0, 1.0]], 0.5)["flow"]
    assert flow.status.values.tolist() == ["t_end", "nonfinite_start"]


def test_a_function_that_vmap_cannot_take_is_evaluated_one_by_one():
    def branching(theta):
        return (theta**2).sum() if bool(theta[0] > 0) else (theta**4).sum()

    problem = gflow.Objective(branching, 2)
    theta = torch.tensor([[1.0, 2.0], [-1.0, 2.0]], dtype=torch.float64)
    expected = torch.stack([2 * theta[0], 4 * theta[1] ** 3])
    torch.testing.assert_close(problem.gradient(theta), expected)
    torch.testing.assert_close(problem.hessian(theta)[1], torch.diag(12 * theta[1] ** 2))
    assert (gflow.integrate(problem, theta, 1.0, times=2)["flow"].status == "t_end").all()


def fails(theta):
    raise ValueError("no such thing")


@pytest.mark.parametrize("theta", [[1.0, 2.0], [[1.0, 2.0], [3.0, 4.0]]], ids=["one", "rows"])
@pytest.mark.parametrize(
    ("function", "metric", "words"),
    [
        (fails, None, r"function fails failed at theta = \[1, 2\]: ValueError: no such thing"),
        (lambda w: w**2, None, r"returned a torch.float64 of shape \(2,\)"),
        (lambda w: 1.0, None, "returned a float"),
        (lambda w: w.detach().sum(), None, "does not depend on theta"),
        (quadratic, fails, "the metric fails failed"),
        (quadratic, lambda w: w, r"the metric <lambda> returned .* of shape \(2, 2\)"),
        (quadratic, lambda w: w[:, None] * w**2, "the metric is not symmetric"),
        (
            lambda w: quadratic(w.float()),
            None,
            "function <lambda> returned float32 for a theta of float64; .* dtype=theta.dtype",
        ),
        (quadratic, lambda w: torch.eye(2), "metric <lambda> returned float32 for a theta of flo"),
    ],
)
def test_wrong_functions_get_sentences(theta, function, metric, words):
    problem = gflow.Objective(function, 2, metric=metric)
    with pytest.raises(ProblemError, match=words):
        problem.gradient(theta)
    with pytest.raises(ProblemError, match=words):
        gflow.integrate(problem, theta, 1.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"function": 3}, "function is 3"),
        ({"metric": METRIC}, "metric is tensor"),
        ({"names": 0}, "names is 0"),
        ({"names": "ab"}, "names is 'ab'"),
        ({"names": 2.5}, "names is 2.5"),
        ({"names": ["a", 2]}, "names is "),
        ({"names": ["a", "a"]}, "each must occur once"),
        ({"dtype": "int32"}, "dtype is int32"),
        ({"theta_target": [1.0]}, r"Objective\(quadratic, P=2\) needs"),
    ],
)
def test_wrong_arguments_get_sentences(wrong, words):
    with pytest.raises(ProblemError, match=words):
        gflow.Objective(**{"function": quadratic, "names": 2, **wrong})


def test_what_only_data_give_is_refused():
    problem = gflow.Objective(quadratic, 2)
    with pytest.raises(ProblemError, match="no data and so no evaluation set"):
        gflow.integrate(problem, START, 1.0, evaluation=([[1.0]], [1.0]))
    with pytest.raises(ProblemError, match="predicts nothing"):
        problem.predict(START)
    with pytest.raises(ProblemError, match='an objective has no backward "jfb"'):
        problem.gradient(START, "jfb")


def test_a_batch_is_evaluated_in_parts_of_bounded_size():
    sizes = []

    def counted(theta):
        sizes.append(theta.shape)
        return quadratic(theta)

    problem, theta = gflow.Objective(counted, 2), torch.ones(20_000, 2, dtype=torch.float64)
    assert problem.gradient(theta).shape == theta.shape
    assert len(sizes) == 3
    assert problem.hessian(theta).shape == (20_000, 2, 2)
    assert len(sizes) > 3 + 2 * 3


def test_the_example_runs():
    failures, tried = doctest.testmod(gflow.objective)
    assert tried > 0
    assert failures == 0
