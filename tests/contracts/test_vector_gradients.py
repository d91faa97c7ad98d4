"""Rule R4 for vector DEQs: closed form, unrolled autograd, differences and every linear solver."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as torch_functions

from gflow.equilibrium.linear import METHODS as ADJOINTS
from gflow.models import VectorDEQ, vector, vector_adjoint, vector_track
from gflow.problem import Problem

F64 = torch.float64
# torch's own functions, none of gflow's code.
FUNCTIONS = {
    "identity": lambda s: s,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": torch_functions.gelu,
    "softplus": lambda s: torch_functions.softplus(s, threshold=100.0),
    "weak-tanh:0.25": lambda s: s + 0.25 * torch.tanh(s),
}
SERIES = ["jfb", "neumann:2", "neumann:5", "damped:1:0.3", "damped:4:0.5", "phantom:3:0.5"]
OFFSETS = [-3, -2, -1, 1, 2, 3]
WEIGHTS = torch.tensor([-1 / 60, 3 / 20, -3 / 4, 3 / 4, -3 / 20, 1 / 60], dtype=F64)


def _case(activation="tanh", loss="mse", seed=0, outputs=2, samples=7, width=4, **options):
    """A problem and a theta whose map contracts at a rate of about 0.6."""
    generator = torch.Generator().manual_seed(seed)
    model = VectorDEQ(3, width, outputs, activation, **options)
    x = torch.randn(samples, 3, generator=generator, dtype=F64)
    y = torch.randn(samples, outputs, generator=generator, dtype=F64)
    problem = Problem(model, x, y if loss == "mse" else y.argmax(-1), loss=loss)
    noise = torch.randn(model.n_parameters, generator=generator, dtype=F64)
    theta = torch.tensor(model.initial(seed, "norm", 0.5)) + 0.03 * noise
    return problem, theta


def _parts(model, theta):
    """The five blocks, cut out of theta again; all are trained."""
    m, d, (o,) = model.width, model.dim, model.output_shape
    parts = torch.split(theta, [m * m, m * d, m, o * m, o])
    return parts[0].view(m, m), parts[1].view(m, d), parts[2], parts[3].view(o, m), parts[4]


def _unrolled(problem, theta, count=120):
    """The loss after that many iterations, by torch alone."""
    w, u, b, c, bias = _parts(problem.model, theta)
    function = FUNCTIONS[problem.model.activation.name]
    z = torch.zeros(problem.n_samples, len(b), dtype=F64)
    for _ in range(count):
        z = function(z @ w.T + problem.x @ u.T + b)
    output = z @ c.T + bias
    if problem.loss_function.name == "mse":
        return ((output - problem.y) ** 2).sum(-1).mean()
    return torch_functions.cross_entropy(output, problem.y)


def _autograd(problem, theta, vector):
    leaf = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_unrolled(problem, leaf), leaf, create_graph=True)
    (product,) = torch.autograd.grad(gradient @ vector, leaf)
    return gradient.detach(), product


def _differences(function, theta, vector, step=2e-3):
    values = torch.stack([function(theta + k * step * vector) for k in OFFSETS])
    return torch.tensordot(WEIGHTS, values, 1) / step


def _near(found, expected, tolerance):
    return float((found - expected).abs().max()) <= tolerance * (1 + float(expected.abs().max()))


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("activation", FUNCTIONS)
def test_gradient_and_hessian_product_agree_four_ways(activation, loss):
    for adjoint in ADJOINTS:
        problem, theta = _case(activation, loss, adjoint=adjoint)
        vector = torch.randn(len(theta), generator=torch.Generator().manual_seed(9), dtype=F64)
        gradient, product = problem.gradient(theta), problem.hvp(theta, vector)
        by_autograd = _autograd(problem, theta, vector)
        assert _near(gradient, by_autograd[0], 1e-11)
        assert _near(product, by_autograd[1], 1e-10)
        assert _near(gradient @ vector, _differences(problem.loss, theta, vector), 1e-10)
        assert _near(product, _differences(problem.gradient, theta, vector), 1e-9)
        solved = problem.evaluate(theta).equilibrium
        assert float(problem.model.adjoint_residual(solved)) <= 1e-12


@given(seed=st.integers(0, 999), outputs=st.integers(1, 3), samples=st.integers(1, 9))
def test_the_affine_gradient_is_its_closed_form(seed, outputs, samples):
    problem, theta = _case("identity", seed=seed, outputs=outputs, samples=samples)
    w, u, b, c, bias = _parts(problem.model, theta)
    inverse = torch.linalg.inv(torch.eye(len(b), dtype=F64) - w)
    inputs = torch.cat([problem.x, torch.ones(samples, 1, dtype=F64)], 1)
    map_in = inverse @ torch.cat([u, b[:, None]], 1)
    error = (2 / samples) * (inputs @ (c @ map_in).T + bias - problem.y)
    moment = error.T @ inputs
    pulled = inverse.T @ c.T @ moment
    parts = (pulled @ map_in.T, pulled[:, :-1], pulled[:, -1], moment @ map_in.T, error.sum(0))
    assert _near(problem.gradient(theta), torch.cat([p.flatten() for p in parts]), 1e-11)


@pytest.mark.parametrize("backward", SERIES)
@pytest.mark.parametrize("activation", ["tanh", "gelu", "identity"])
def test_every_series_is_autograd_through_unrolled_steps(activation, backward):
    problem, theta = _case(activation)
    kind, *numbers = backward.split(":")
    count = 1 if kind == "jfb" else int(numbers[0])
    damping = float(numbers[1]) if len(numbers) == 2 else 1.0
    solved = problem.evaluate(theta).equilibrium
    leaf, z = theta.clone().requires_grad_(), solved.z
    w, u, b, c, bias = _parts(problem.model, leaf)
    for _ in range(count):
        value = FUNCTIONS[activation](z @ w.T + problem.x @ u.T + b)
        z = damping * value + (1 - damping) * z
    loss = ((z @ c.T + bias - problem.y) ** 2).sum(-1).mean()
    (expected,) = torch.autograd.grad(loss, leaf)
    assert _near(problem.gradient(theta, backward), expected, 1e-11)


@pytest.mark.parametrize("backward", ["exact", *SERIES])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_jacobian_is_that_of_the_gradient_of_each_backward(backward, loss):
    problem, theta = _case(loss=loss, seed=3)
    matrix = problem.jacobian(theta, backward)
    vector = torch.randn(len(theta), generator=torch.Generator().manual_seed(1), dtype=F64)
    assert _near(problem.jvp(theta, vector, backward), matrix @ vector, 1e-12)
    expected = _differences(lambda t: problem.gradient(t, backward), theta, vector)
    assert _near(matrix @ vector, expected, 1e-9)
    if backward == "exact":
        assert _near(matrix, matrix.T, 1e-11)


@pytest.mark.parametrize("train", [("W",), ("U", "c"), ("W", "C"), ("b", "C", "c")])
def test_fixed_blocks_leave_the_derivatives_of_the_others(train):
    whole, theta = _case()
    parts = dict(zip("WUbCc", _parts(whole.model, theta), strict=True))
    fixed = {name: value for name, value in parts.items() if name not in train}
    model = VectorDEQ(3, 4, 2, train=train, fixed=fixed)
    problem = Problem(model, whole.x, whole.y)
    kept = torch.tensor([name.split("[")[0] in train for name in whole.model.parameter_names])
    assert _near(problem.gradient(theta[kept]), whole.gradient(theta)[kept], 1e-12)
    assert _near(problem.hessian(theta[kept]), whole.hessian(theta)[kept][:, kept], 1e-12)
    rows = torch.stack([theta[kept], 0.9 * theta[kept]])
    assert _near(problem.gradient(rows)[0], problem.gradient(theta[kept]), 1e-13)
    assert _near(problem.hessian(rows)[0], problem.hessian(theta[kept]), 1e-13)


def test_the_error_falls_in_proportion_to_the_inner_tolerance():
    exact, theta = _case(seed=5)
    truth = exact.gradient(theta)
    options = {"solver": "damped", "adjoint": "fixed_point"}
    errors = []
    for tolerance in (1e-4, 1e-6, 1e-8, 1e-10, 1e-12):
        problem, _ = _case(seed=5, tolerance=tolerance, **options)
        errors.append(float((problem.gradient(theta) - truth).norm() / truth.norm()) / tolerance)
    assert max(errors) < 10
    assert min(errors) > 1e-3


@pytest.mark.parametrize("width", [4, 40])
def test_rows_samples_and_chunks_agree_to_rounding(width, monkeypatch):
    problem, theta = _case(samples=11, width=width)
    generator = torch.Generator().manual_seed(2)
    rows = theta + 0.02 * torch.randn(5, len(theta), generator=generator, dtype=F64)
    vectors = torch.randn(5, len(theta), generator=generator, dtype=F64)
    gradients, products = problem.gradient(rows), problem.hvp(rows, vectors)
    for row in range(5):
        assert _near(gradients[row], problem.gradient(rows[row]), 1e-12)
        assert _near(products[row], problem.hvp(rows[row], vectors[row]), 1e-12)
    parts = [Problem(problem.model, problem.x[k], problem.y[k]) for k in (slice(4), slice(4, 11))]
    pieces = 4 / 11 * parts[0].gradient(rows) + 7 / 11 * parts[1].gradient(rows)
    assert _near(gradients, pieces, 1e-12)
    for module in (vector_adjoint, vector):
        monkeypatch.setattr(module, "NUMBERS", 3 * width**2)
    monkeypatch.setattr("gflow.problem.CHUNK", 1)
    assert _near(problem.gradient(rows), gradients, 1e-12)
    assert _near(problem.hvp(rows, vectors), products, 1e-12)
    if width == 4:
        monkeypatch.undo()
        hessians = problem.hessian(rows)
        monkeypatch.setattr(vector_adjoint, "NUMBERS", 3 * width**2)
        assert _near(problem.hessian(rows), hessians, 1e-12)


def test_inputs_may_differ_from_row_to_row():
    problem, theta = _case()
    other, _ = _case(seed=8)
    rows, model = torch.stack([theta, 0.8 * theta]), problem.model
    solved = model.equilibrium(rows, torch.stack([problem.x, other.x]))
    for row, x in enumerate((problem.x, other.x)):
        alone = model.equilibrium(rows[row], x)
        assert _near(solved.output[row], alone.output, 1e-12)


def test_large_systems_share_a_matrix_and_fall_back_where_that_fails(monkeypatch):
    problem, theta = _case(width=40, samples=30, seed=1)
    evaluation = problem.evaluate(theta)
    near = theta + 1e-3 * torch.randn(len(theta), generator=torch.Generator().manual_seed(3))
    warm = evaluation.equilibrium.preactivation
    found = problem.evaluate(near, warm)
    expected = _autograd(problem, near, torch.zeros_like(near))[0]
    assert _near(found.gradient, expected, 1e-11)
    monkeypatch.setattr(vector_track, "LIMIT", 2)
    assert _near(problem.evaluate(near, warm).gradient, expected, 1e-11)
    assert _near(problem.evaluate(theta, warm).gradient, evaluation.gradient, 1e-11)


@pytest.mark.parametrize("train", [("W", "U", "b", "C", "c"), ("W", "C"), ("U", "b")])
@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_the_hessian_at_once_is_that_column_by_column(activation, train, monkeypatch):
    generator = torch.Generator().manual_seed(4)
    fixed = {"W": 0.1 * torch.ones(4, 4), "U": torch.ones(4, 3), "C": torch.ones(3, 4)}
    fixed = {name: value for name, value in fixed.items() if name not in train}
    model = VectorDEQ(3, 4, 3, activation, train=train, fixed=fixed)
    x = torch.randn(9, 3, generator=generator, dtype=F64)
    y = torch.randint(3, (9,), generator=generator)
    theta = torch.randn(2, model.n_parameters, generator=generator, dtype=F64) * 0.2
    for loss in ("cross_entropy", lambda output, target: (output.mean() - 1.0) ** 4):
        problem = Problem(model, x, y, loss=loss)
        at_once = problem.hessian(theta)
        with monkeypatch.context() as patch:
            patch.setattr(vector_adjoint, "loss_blocks", lambda second, first: None)
            columns = problem.hessian(theta)
        assert _near(at_once, columns, 1e-12)
        assert _near(at_once, at_once.mT, 1e-12)


def test_an_adjoint_that_was_not_solved_gives_no_gradient():
    """The equilibrium is valid, but J's spectral radius is above 1 and sweeps diverge."""
    weights = -1.5 * torch.eye(3, dtype=F64)
    for adjoint, solved in (
        ("direct", True),
        ("gmres", True),
        ("auto", True),
        ("fixed_point", False),
    ):
        model = VectorDEQ(3, 3, 3, train=("U",), fixed={"W": weights}, adjoint=adjoint)
        problem = Problem(model, 0.1 * torch.eye(3), torch.ones(3, 3))
        theta = 0.1 * torch.ones(9, dtype=F64)
        evaluation = problem.evaluate(theta)
        assert bool(evaluation.equilibrium.valid)
        assert bool(torch.isfinite(evaluation.gradient).all()) == solved
        assert (float(model.adjoint_residual(evaluation.equilibrium)) < 1e-12) == solved
