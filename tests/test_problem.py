"""A problem's loss, gradient, Hessian and products, for one theta and for a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gflow.diagnostics.rows import row_dissipation
from gflow.errors import EquilibriumError
from gflow.flows import GradientFlow
from gflow.models import LinearDEQ, SingleIndexDEQ
from gflow.problem import Problem

BACKWARDS = ["exact", "jfb", "neumann:3", "damped:2:0.5"]
NAMES = ["identity", "tanh", "sigmoid", "relu", "leaky-relu", "gelu", "softplus", "weak-tanh:0.25"]
LOST = 3  # row of _batch whose fixed point is not unique


def _problem(name="tanh", n=5, d=2, backward="exact", **options):
    rng = np.random.default_rng(n + 10 * d)
    x, y = rng.normal(size=(n, d)), rng.normal(size=n)
    model = LinearDEQ(d) if name == "linear" else SingleIndexDEQ(d, name)
    return Problem(model, x, y, backward=backward, **options)


def _batch(size, d=2, seed=0):
    rng = np.random.default_rng(seed)
    return torch.tensor(np.column_stack([rng.normal(size=(size, d)), rng.uniform(-2, 0.7, size)]))


def _everything(problem, theta, vector):
    """Each public method at theta, (P,) or (B, P), under its name."""
    loss, gradient = problem.loss_and_gradient(theta)
    found = {"predict": problem.predict(theta), "loss": loss, "gradient": gradient}
    found |= {"loss alone": problem.loss(theta), "gradient alone": problem.gradient(theta)}
    found |= {"hessian": problem.hessian(theta), "hvp": problem.hvp(theta, vector)}
    for backward in BACKWARDS:
        found[f"gradient {backward}"] = problem.gradient(theta, backward)
        found[f"jacobian {backward}"] = problem.jacobian(theta, backward)
        found[f"jvp {backward}"] = problem.jvp(theta, vector, backward)
    return found


def test_the_loss_is_the_mean_square_without_a_half():
    problem = Problem(LinearDEQ(1), [1.0, 2.0, 4.0], [0.0, 1.0, 2.0])
    assert problem.predict([1.0, 0.5]).tolist() == [2.0, 4.0, 8.0]
    assert float(problem.loss([1.0, 0.5])) == (4 + 9 + 36) / 3
    assert problem.predict([1.0, 0.5], x=[[3.0]]).tolist() == [6.0]
    assert (problem.n_parameters, problem.n_samples) == (2, 3)


@pytest.mark.parametrize("name", ["linear", *NAMES])
def test_loss_and_gradient_is_both_at_once(name):
    problem, theta = _problem(name), _batch(4)
    for at in (theta, theta[0]):
        loss, gradient = problem.loss_and_gradient(at)
        assert torch.equal(loss, problem.loss(at))
        assert torch.equal(gradient, problem.gradient(at))


@pytest.mark.parametrize("chunk", [1, 14, 15, 16, 30, 2**21])
@pytest.mark.parametrize("size", [1, 2, 3, 6, 7])
def test_a_batch_equals_a_loop_across_chunk_boundaries(monkeypatch, size, chunk):
    """n = 5 samples: 15 elements hold 3 rows, and one row of Jacobians."""
    monkeypatch.setattr("gflow.problem.CHUNK", chunk)
    problem, theta, vector = _problem(), _batch(size), _batch(size, seed=1)
    together = _everything(problem, theta, vector)
    for row in range(size):
        alone = _everything(problem, theta[row], vector[row])
        for key, value in alone.items():
            assert together[key].shape == (size, *value.shape)
            assert torch.allclose(together[key][row], value, rtol=1e-12, atol=1e-12), key


@pytest.mark.parametrize("name", ["linear", *NAMES])
def test_a_batch_equals_a_loop_for_every_model(name):
    problem, theta, vector = _problem(name, n=7, d=3), _batch(5, d=3), _batch(5, d=3, seed=1)
    together = _everything(problem, theta, vector)
    for row in range(5):
        for key, value in _everything(problem, theta[row], vector[row]).items():
            assert torch.allclose(together[key][row], value, rtol=1e-12, atol=1e-12), key


def _dissipation(problem, theta):
    return row_dissipation(GradientFlow(), problem, theta, torch.zeros(len(theta), dtype=int))


def test_a_chunk_bounds_what_is_solved_at_once(monkeypatch):
    monkeypatch.setattr("gflow.problem.CHUNK", 15)
    problem, solved = _problem(), []
    solve = problem.model.equilibrium
    monkeypatch.setattr(
        problem.model, "equilibrium", lambda t, *rest: solved.append(len(t)) or solve(t, *rest)
    )
    problem.loss(_batch(7))
    problem.hessian(_batch(4))
    problem.hvp(_batch(4), _batch(4))
    assert solved == [3, 3, 1] + [1] * 4 + [3, 1]


seeds = st.integers(0, 10**6)


@given(name=st.sampled_from(["linear", *NAMES]), backward=st.sampled_from(BACKWARDS), seed=seeds)
def test_the_product_is_that_of_the_jacobian(name, backward, seed):
    problem, theta, vector = _problem(name), _batch(3, seed=seed), _batch(3, seed=seed + 1)
    jacobian = problem.jacobian(theta, backward)
    expected = (jacobian @ vector[..., None])[..., 0]
    scale = 1 + float(jacobian.abs().max())
    assert torch.allclose(problem.jvp(theta, vector, backward), expected, atol=1e-12 * scale)
    exact = problem.hessian(theta)
    assert torch.equal(exact, problem.jacobian(theta, "exact"))
    assert torch.allclose(exact, exact.mT, rtol=0, atol=1e-13 * (1 + float(exact.abs().max())))
    assert torch.equal(problem.hvp(theta, vector), problem.jvp(theta, vector, "exact"))


@pytest.mark.parametrize("backward", BACKWARDS[1:])
def test_the_jacobian_of_an_approximate_backward_is_not_symmetric(backward):
    jacobian = _problem().jacobian(_batch(1)[0], backward)
    assert float((jacobian - jacobian.mT).abs().max()) > 1e-3


@given(name=st.sampled_from(["linear", *NAMES]), backward=st.sampled_from(BACKWARDS), seed=seeds)
def test_dissipation_is_the_loss_gradient_along_the_field(name, backward, seed):
    problem, theta = _problem(name, backward=backward), _batch(4, seed=seed)
    product = problem.gradient(theta, "exact") * problem.gradient(theta)
    rounding = 1e-13 * float(product.abs().sum())
    assert torch.allclose(_dissipation(problem, theta), product.sum(-1), rtol=0, atol=rounding)


def test_the_problems_backward_is_the_default_of_gradients_but_not_of_hessians():
    problem, theta = _problem(backward="neumann:3"), _batch(1)[0]
    assert torch.equal(problem.gradient(theta), problem.gradient(theta, "neumann:3"))
    assert torch.equal(problem.jacobian(theta), problem.jacobian(theta, "neumann:3"))
    assert torch.equal(problem.jvp(theta, theta), problem.jvp(theta, theta, "neumann:3"))
    assert torch.equal(problem.evaluate(theta).gradient, problem.gradient(theta))
    assert torch.equal(problem.hessian(theta), _problem().hessian(theta))
    assert torch.equal(problem.hvp(theta, theta), _problem().hvp(theta, theta))
    assert not torch.allclose(problem.gradient(theta), _problem().gradient(theta))


@pytest.mark.parametrize("shape", ["one", "batch"])
def test_evaluate_goes_on_from_the_last_equilibrium(shape):
    problem, theta = _problem(n=9), 0.2 * _batch(4)
    theta = theta if shape == "batch" else theta[0]
    cold = problem.evaluate(theta)
    warm = problem.evaluate(theta + 1e-6, cold.equilibrium.preactivation)
    fresh = problem.evaluate(theta + 1e-6)
    assert torch.allclose(warm.gradient, fresh.gradient, rtol=1e-12, atol=1e-13)
    assert cold.equilibrium.preactivation.shape == (*theta.shape[:-1], 9)
    # A root within the tolerance is kept as it is, so that the start can be seen in the result.
    settled = problem.evaluate(theta, cold.equilibrium.preactivation).equilibrium.preactivation
    near = settled + 4e-16
    kept = problem.evaluate(theta, near).equilibrium.preactivation
    assert torch.equal(kept, near)
    assert not torch.equal(near, settled)


def _lost_batch():
    theta = _batch(6)
    theta[LOST, -1] = 1.3
    return theta


def test_in_a_batch_a_lost_equilibrium_is_nan_and_harms_no_other_row():
    problem, theta, vector = _problem(), _lost_batch(), _batch(6, seed=1)
    rows = [row for row in range(6) if row != LOST]
    fine = _everything(problem, theta[rows], vector[rows])
    for key, value in _everything(problem, theta, vector).items():
        assert value[LOST].isnan().all(), key
        assert torch.allclose(value[rows], fine[key], rtol=1e-12, atol=1e-12), key
    assert _dissipation(problem, theta).isnan().tolist() == [row == LOST for row in range(6)]
    evaluation = problem.evaluate(theta)
    assert evaluation.equilibrium.valid.tolist() == [row != LOST for row in range(6)]
    assert evaluation.gradient[LOST].isnan().all()


@pytest.mark.parametrize(
    "method", ["predict", "loss", "gradient", "loss_and_gradient", "hessian", "jacobian"]
)
def test_alone_a_lost_equilibrium_is_an_error(method):
    with pytest.raises(EquilibriumError) as error:
        getattr(_problem(), method)(_lost_batch()[LOST])
    assert str(error.value) == (
        "No equilibrium: at theta2 = 1.3 the slope 1 - theta2 sigma' of the fixed-point equation "
        "runs from -0.3 to 1, so the tanh DEQ has no unique fixed point. Choose a theta inside "
        "the region where it is unique."
    )


def test_alone_a_product_at_a_lost_equilibrium_is_an_error_and_evaluate_never_raises():
    problem, lost = _problem(), _lost_batch()[LOST]
    for product in (problem.hvp, problem.jvp):
        with pytest.raises(EquilibriumError, match=r"No equilibrium: at theta2 = 1\.3"):
            product(lost, lost)
    with pytest.raises(EquilibriumError, match="theta is not finite"):
        problem.loss([np.nan, 0.0, 0.0])
    evaluation = problem.evaluate(lost)
    assert evaluation.gradient.isnan().all()
    assert not bool(evaluation.equilibrium.valid)


@pytest.mark.parametrize("name", ["linear", *NAMES])
def test_float32_stays_float32_and_agrees(name):
    single, double = _problem(name, dtype="float32"), _problem(name)
    theta, vector = _batch(3), _batch(3, seed=1)
    expected = _everything(double, theta, vector)
    for key, value in _everything(single, theta, vector).items():
        assert value.dtype == torch.float32
        scale = 1 + float(expected[key].abs().max())
        assert torch.allclose(value.double(), expected[key], rtol=0, atol=3e-5 * scale), key
    assert single.evaluate(theta.float()).gradient.dtype == torch.float32
    assert _dissipation(single, theta.float()).dtype == torch.float32


def test_other_data_keep_everything_else():
    problem = _problem(backward="jfb", dtype="float32")
    other = problem.on([[1.0, 2.0]], [3.0])
    assert (other.n_samples, other.dtype, other.backward) == (1, torch.float32, problem.backward)
    assert other.model is problem.model
    theta = _batch(1)[0]
    assert torch.equal(other.predict(theta), problem.predict(theta, [[1.0, 2.0]]))


@pytest.mark.cuda
def test_on_a_cuda_device_the_results_are_those_of_the_cpu():
    theta, vector = _batch(3), _batch(3, seed=1)
    expected = _everything(_problem(), theta, vector)
    for key, value in _everything(_problem(device="cuda"), theta, vector).items():
        assert value.is_cuda
        assert torch.allclose(value.cpu(), expected[key], rtol=1e-11, atol=1e-11), key
