"""Vector DEQs: layout, starts, certificates, conservation, and equilibria that are lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gflow
from gflow.errors import EquilibriumError, ProblemError
from gflow.models import MODELS, VectorDEQ
from gflow.models.vector_theory import regular_at
from gflow.problem import Problem

F64 = torch.float64


def _normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _weights(model, theta):
    return theta[: model.width**2].reshape(model.width, model.width)


def test_theta_lies_as_its_names_say():
    model = VectorDEQ(2, 3, 2)
    names = model.parameter_names
    assert model.n_parameters == 9 + 6 + 3 + 6 + 2 == len(set(names))
    assert names[:4] == ("W[0,0]", "W[0,1]", "W[0,2]", "W[1,0]")
    assert [names[k] for k in (9, 14, 15, 18, 24, 25)] == [
        "U[0,0]",
        "U[2,1]",
        "b[0]",
        "C[0,0]",
        "c[0]",
        "c[1]",
    ]
    theta = _normal(0, model.n_parameters) * 0.3
    x = _normal(1, 5, 2)
    solved = model.equilibrium(theta, x)
    value = dict(zip(names, theta.tolist(), strict=True))
    z = solved.z[3]
    for i in range(3):
        s = sum(value[f"W[{i},{j}]"] * z[j] for j in range(3)) + value[f"b[{i}]"]
        s = s + sum(value[f"U[{i},{j}]"] * x[3, j] for j in range(2))
        assert float(z[i]) == pytest.approx(float(torch.tanh(s)), abs=1e-12)
    for k in range(2):
        expected = sum(value[f"C[{k},{j}]"] * z[j] for j in range(3)) + value[f"c[{k}]"]
        assert float(solved.output[3, k]) == pytest.approx(float(expected), abs=1e-14)


def test_blocks_have_defaults_where_there_is_a_natural_one():
    model = VectorDEQ(2, 3, 3, train=("U", "W"))
    assert model.parameter_names[0] == "W[0,0]"  # the order is W, U, b, C, c whatever is asked for
    assert model.n_parameters == 15
    solved = model.equilibrium(0.2 * _normal(0, 15), _normal(1, 4, 2))
    assert torch.equal(solved.output, solved.z)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "width is 0"),
        ({"dim": True}, "dim is True"),
        ({"outputs": -1}, "outputs is -1"),
        ({"train": ("W", "V")}, 'block "V" is unknown'),
        ({"train": ()}, "train is empty"),
        ({"train": ("W", "b")}, r"block U is neither trained nor fixed.*\(3, 2\)"),
        ({"train": ("W", "U")}, "block C is neither"),
        ({"fixed": {"W": np.eye(3)}}, "block W is both"),
        ({"train": ("W", "C"), "fixed": {"U": np.ones(3)}}, r"U has shape \(3,\)"),
        ({"train": ("W", "C"), "fixed": {"U": np.full((3, 2), np.nan)}}, "finite"),
        ({"train": ("W", "C"), "fixed": {"U": "ones"}}, "U is no array of numbers"),
        ({"fixed": {"w": np.eye(3)}}, 'block "w" is unknown'),
        ({"activation": "tan"}, "tan"),
        ({"solver": "halley"}, "solver is"),
        ({"adjoint": "qr"}, "adjoint is"),
    ],
)
def test_wrong_requests_are_sentences(options, words):
    with pytest.raises(ProblemError, match=words):
        VectorDEQ(**{"dim": 2, "width": 3, **options})


def test_it_is_in_the_registry_and_public():
    assert MODELS["vector"] is gflow.VectorDEQ is VectorDEQ
    assert VectorDEQ(2, 3).family == VectorDEQ(2, 3).family
    assert VectorDEQ(2, 3).family != VectorDEQ(2, 3, activation="relu").family
    train = ("W", "U", "C")
    ones = VectorDEQ(2, 3, train=train, fixed={"b": np.ones(3)})
    assert ones.family != VectorDEQ(2, 3, train=train).family


@given(size=st.integers(1, 12), radius=st.floats(0.05, 0.95), seed=st.integers(0, 999))
def test_starts_have_their_guarantee(size, radius, seed):
    model = VectorDEQ(2, size)
    weights = {
        scheme: _weights(model, model.initial(seed, scheme, radius))
        for scheme in ("spectral", "norm", "monotone")
    }
    largest = np.abs(np.linalg.eigvals(weights["spectral"])).max()
    assert largest == pytest.approx(radius, rel=1e-9)
    assert np.linalg.norm(weights["norm"], 2) == pytest.approx(radius, rel=1e-12)
    monotone = weights["monotone"]
    assert np.linalg.eigvalsh((monotone + monotone.T) / 2)[-1] <= radius + 1e-12
    theta = torch.tensor(model.initial(seed, "monotone", radius))
    solved = model.equilibrium(theta, 3 * _normal(seed, 6, 2))
    assert bool(solved.valid)
    assert float(model.singular_distance(theta)) >= 1 - radius - 1e-12
    assert float(model.conditioning(solved)) > 0


def test_starts_scale_repeat_and_refuse():
    model = VectorDEQ(50, 40)
    theta = model.initial(3, scale=2.0)
    inner = theta[1600:3600]
    assert np.std(inner) == pytest.approx(2 / np.sqrt(50), rel=0.1)
    assert (theta[3600:3640] == 0).all()
    assert (theta == model.initial(3, scale=2.0)).all()
    assert (theta != model.initial(4, scale=2.0))[:1600].all()
    with pytest.raises(ProblemError, match="scheme is"):
        model.initial(0, "orthogonal")
    with pytest.raises(ProblemError, match="below 1"):
        model.initial(0, "monotone", 1.0)
    with pytest.raises(ProblemError, match="radius is -1"):
        model.initial(0, "norm", -1)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "gelu", "weak-tanh:0.5"])
@given(seed=st.integers(0, 999), size=st.integers(1, 6))
def test_the_certificate_means_one_equilibrium_and_no_singularity(activation, seed, size):
    """From many starts, and at any slopes of the activation's range."""
    model = VectorDEQ(1, size, activation=activation)
    theta = 0.5 * _normal(seed, model.n_parameters)
    bound = float(model.singular_distance(theta))
    if bound <= 0.02:
        return
    x = _normal(seed + 1, 3, 1)
    reference = model.equilibrium(theta, x).z
    for start in (5 * _normal(seed + 2, 3, size), torch.full((3, size), -4.0, dtype=F64)):
        other = model.equilibrium(theta, x, start)
        assert bool(other.valid)
        assert torch.allclose(other.z, reference, rtol=1e-9, atol=1e-9)
    shape = model.activation
    slopes = shape.slope_min + (shape.steepest - shape.slope_min) * torch.rand(
        200, size, generator=torch.Generator().manual_seed(seed), dtype=F64
    ).round(decimals=1)
    matrices = torch.eye(size, dtype=F64) - slopes[..., None] * _weights(model, theta)
    assert (torch.linalg.det(matrices) > 0).all()


def test_margins_are_those_of_their_definition():
    theta = 0.4 * _normal(0, 2, VectorDEQ(1, 3).n_parameters)
    weights = [row[:9].reshape(3, 3) for row in theta]
    largest = torch.stack([torch.linalg.eigvalsh((w + w.T) / 2)[-1] for w in weights])
    norm = torch.stack([torch.linalg.matrix_norm(w, 2) for w in weights])
    smallest = torch.stack([torch.linalg.svdvals(torch.eye(3) - w)[-1] for w in weights])
    gelu = VectorDEQ(1, 3, activation="gelu")
    for activation, expected in (
        ("tanh", 1 - largest),
        ("sigmoid", 4 - largest),
        ("gelu", 1 / gelu.activation.steepest - norm),
        ("identity", smallest),
    ):
        model = VectorDEQ(1, 3, activation=activation)
        assert torch.allclose(model.singular_distance(theta), expected, rtol=1e-12)
        assert torch.allclose(model.singular_distance(theta[0]), expected[0], rtol=1e-12)
    assert VectorDEQ(1, 3).singular_distance(torch.full_like(theta, torch.nan)).isnan().all()


def test_diagnostics_are_those_of_their_definition():
    model = VectorDEQ(2, 5)
    theta, x = 0.4 * _normal(0, 3, model.n_parameters), _normal(1, 7, 2)
    solved = model.equilibrium(theta, x)
    for row in range(3):
        weights = _weights(model, theta[row])
        slope = 1 - solved.z[row] ** 2
        matrices = torch.eye(5) - slope[..., None] * weights
        expected = torch.linalg.svdvals(matrices)[:, -1].min()
        assert float(model.conditioning(solved)[row]) == pytest.approx(float(expected), rel=1e-9)
    u, b = theta[:, 25:35].reshape(3, 5, 2), theta[:, 35:40]
    weights = theta[:, :25].reshape(3, 5, 5)
    moved = torch.tanh(solved.z @ weights.mT + x @ u.mT + b[:, None])
    expected = (solved.z - moved).abs().amax((-1, -2))
    assert torch.allclose(model.residual(solved, x), expected, rtol=0, atol=1e-15)
    assert (expected <= 2e-13).all()
    assert model.adjoint_residual(solved).isnan().all()


def test_a_warm_start_finds_the_same_and_less_work_than_a_cold_one():
    model = VectorDEQ(2, 6)
    theta, x = torch.tensor(model.initial(0)), _normal(1, 9, 2)
    solved = model.equilibrium(theta, x)
    near = theta + 1e-4 * _normal(2, len(theta))
    cold, warm = model.equilibrium(near, x), model.equilibrium(near, x, solved.preactivation)
    assert torch.allclose(cold.z, warm.z, rtol=0, atol=1e-12)
    assert torch.equal(model.equilibrium(near, x, solved).z, warm.z)
    spoiled = solved.preactivation.clone()
    spoiled[2] = torch.nan
    assert torch.allclose(model.equilibrium(near, x, spoiled).z, cold.z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", ["damped", "anderson", "broyden", "newton", "newton-krylov"])
def test_every_solver_gives_the_equilibrium(solver):
    theta, x = torch.tensor(VectorDEQ(2, 6).initial(0)), _normal(1, 9, 2)
    expected = VectorDEQ(2, 6).equilibrium(theta, x).z
    found = VectorDEQ(2, 6, solver=solver).equilibrium(theta, x)
    assert bool(found.valid)
    assert torch.allclose(found.z, expected, rtol=0, atol=1e-12)


def test_single_precision():
    model = VectorDEQ(2, 40, 2)
    theta, x, y = model.initial(0, radius=0.8), _normal(1, 30, 2), _normal(2, 30, 2)
    double, single = Problem(model, x, y), Problem(model, x, y, dtype="float32")
    found = single.gradient(theta)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), double.gradient(theta), rtol=0, atol=1e-4)
    warm = single.evaluate(single.theta(theta)).equilibrium.preactivation
    assert bool(single.evaluate(single.theta(theta), warm).equilibrium.valid)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "logistic"])
def test_the_loss_of_one_output_or_many(loss):
    outputs = 3 if loss == "cross_entropy" else 1
    model = VectorDEQ(2, 4, outputs)
    y = torch.tensor([0.0, 1.0, 1.0, 0.0])
    problem = Problem(model, _normal(1, 4, 2), y, loss=loss)
    assert problem.predict(model.initial(0)).shape == (4, outputs)
    assert torch.isfinite(problem.gradient(model.initial(0))).all()


def test_what_reached_no_fixed_point_is_named():
    """relu(z + x + 1) has none for x > -1."""
    model = VectorDEQ(1, 1, activation="relu")
    theta = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0], dtype=F64)
    x = torch.tensor([[-2.0], [-3.0], [0.5]], dtype=F64)
    solved = model.equilibrium(torch.stack([theta, 0.5 * theta]), x)
    assert solved.valid.tolist() == [False, True]
    assert solved.output[0].isnan().all()
    assert torch.isfinite(solved.output[1]).all()
    assert model.conditioning(solved).isnan().tolist() == [True, False]
    sentence = model.explain_loss_of_equilibrium(theta)
    assert sentence.startswith("1 of 3 samples did not reach a fixed point, the worst sample 2")
    with pytest.raises(EquilibriumError, match="worst sample 2"):
        Problem(model, x, torch.zeros(3)).loss(theta)


def test_the_wrong_branch_is_no_equilibrium():
    """tanh(3 z) has the root 0, where 1 - J = -2, and two others beyond the fold at W = 1."""
    model = VectorDEQ(1, 1)
    theta = torch.tensor([3.0, 1.0, 0.0, 1.0, 0.0], dtype=F64)
    solved = model.equilibrium(theta, torch.zeros(1, 1, dtype=F64))
    assert not bool(solved.valid)
    assert "det(I - J) is negative" in model.explain_loss_of_equilibrium(theta)
    far = model.equilibrium(theta, torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64))
    assert bool(far.valid)  # 1 - J > 0 there
    assert float(model.singular_distance(theta)) == pytest.approx(-2.0)
    unseen = torch.tensor([2.0, 1.0, 0.0, 1.0, 0.0], dtype=F64)
    assert "margin -1" in model.explain_loss_of_equilibrium(unseen)


@pytest.mark.parametrize("numbers", [2**23, 50])
def test_signs_of_determinants_need_no_memory(numbers, monkeypatch):
    model = VectorDEQ(1, 4, solver="newton")  # which, alone, ends on branches of any sign
    theta = torch.stack([1.2 * _normal(k, model.n_parameters) for k in range(40)])
    x = _normal(99, 5, 1)
    monkeypatch.setattr("gflow.models.vector_branch.NUMBERS", numbers)
    monkeypatch.setattr("gflow.models.vector_adjoint.NUMBERS", numbers)
    solved = model.equilibrium(theta, x)
    slope = 1 - torch.tanh(solved.activated) ** 2
    weights = theta[:, None, :16].reshape(40, 1, 4, 4)
    signs = torch.linalg.det(torch.eye(4) - slope[..., None] * weights)
    positive = (signs > 0).all(-1)
    reached = (solved.gap <= 1e-12 * (1 + solved.z.abs().amax(-1))).all(-1)
    assert torch.equal(solved.valid, positive & reached)
    assert 0 < int((positive & reached).sum()) < 40


def test_a_theta_that_is_not_finite_is_marked_and_leaves_the_others():
    for activation in ("tanh", "identity", "gelu"):
        model = VectorDEQ(2, 4, activation=activation)
        theta = torch.tensor(model.initial(0)).repeat(3, 1)
        theta[1, 5] = torch.nan
        problem = Problem(model, _normal(1, 6, 2), _normal(2, 6, 1))
        gradient = problem.gradient(theta)
        assert gradient.isnan().all(-1).tolist() == [False, True, False]
        assert torch.allclose(gradient[0], problem.gradient(theta[0]), rtol=0, atol=1e-13)
        assert model.explain_loss_of_equilibrium(theta[1]) == "theta is not finite"


def test_the_linear_one_is_solved_in_closed_form_on_both_branches():
    model = VectorDEQ(2, 3, 3, "identity", train=("W", "U"))
    x, theta = _normal(1, 5, 2), _normal(0, 6, 15)
    solved = model.equilibrium(theta, x)
    assert solved.valid.all()
    for row in range(6):
        gap = torch.eye(3) - theta[row, :9].reshape(3, 3)
        expected = torch.linalg.solve(gap, theta[row, 9:].reshape(3, 2) @ x.T).T
        assert torch.allclose(solved.output[row], expected, rtol=1e-10)
        assert float(model.branch(theta)[row]) == float(torch.linalg.det(gap).sign())
    assert set(model.branch(theta).tolist()) == {1.0, -1.0}
    singular = torch.cat([torch.eye(3).flatten(), torch.ones(6)]).to(F64)
    assert not bool(model.equilibrium(singular, x).valid)
    assert VectorDEQ(2, 3).branch(theta[:, :1]).tolist() == [0.0] * 6


@pytest.mark.parametrize(
    ("train", "fixed", "kept"),
    [
        (("W", "U", "b", "C", "c"), {}, {"Q", "K"}),
        (("W", "U", "c"), {"C": np.ones((2, 3))}, {"Q"}),
        (("W", "C"), {"U": np.ones((3, 2)), "b": np.ones(3)}, {"K"}),
        (("W", "U", "C"), {"b": np.ones(3)}, {"K"}),
        (("U", "C"), {"W": np.zeros((3, 3))}, set()),
    ],
)
def test_the_linear_flow_conserves_what_it_says_and_nothing_else(train, fixed, kept):
    model = VectorDEQ(2, 3, 2, "identity", train=train, fixed=fixed)
    problem = Problem(model, _normal(1, 9, 2), _normal(2, 9, 2))
    theta0 = torch.tensor(model.initial(0))
    tree = gflow.integrate(
        problem, theta0, t_end=2.0, method="auto", rtol=1e-9, atol=1e-12, times=9
    )
    theta = torch.from_numpy(tree["flow"].theta.values)
    assert float((theta[-1] - theta[0]).norm()) > 0.1
    found = model.invariants(theta)
    assert set(found) == kept
    for values in found.values():
        assert values.shape == (len(theta), 9)
        assert torch.allclose(values, values[:1].expand_as(values), rtol=0, atol=1e-7)
    whole = VectorDEQ(2, 3, 2, "identity")
    blocks = model.layout.split(theta)
    wide = [
        value.expand(len(theta), *model.layout.shapes[name]) for name, value in vars(blocks).items()
    ]
    every = whole.invariants(torch.cat([value.flatten(1) for value in wide], 1))
    for name in {"Q", "K"} - kept:
        assert float((every[name] - every[name][:1]).abs().max()) > 1e-3
    assert VectorDEQ(2, 3).invariants(theta) == {}


def test_a_flow_of_one_runs_to_its_end():
    x = _normal(0, 20, 2)
    model = VectorDEQ(2, 4)
    problem = Problem(model, x, torch.sin(2 * x[:, 0]) * x[:, 1])
    tree = gflow.integrate(problem, model.initial(0), t_end=3.0, rtol=1e-6, times=5)
    flow = tree["flow"]
    assert "t_end" in str(flow.status_message.values)
    assert (np.diff(flow.loss.values) < 0).all()
    assert float(flow.equilibrium_residual.max()) < 1e-12
    assert (flow.conditioning.values > 0).all()
    assert float(abs(flow.energy_residual).max()) < 1e-5


@given(seed=st.integers(0, 999), size=st.integers(1, 20), scale=st.floats(0.3, 2.0))
def test_what_is_shown_regular_has_a_positive_determinant(seed, size, scale):
    """And with symmetric weights everything that is positive definite is shown."""
    tanh = VectorDEQ(1, size).activation
    weights = scale * _normal(seed, 2, size, size) / np.sqrt(size)
    slope = torch.rand(2, 30, size, generator=torch.Generator().manual_seed(seed), dtype=F64)
    slope = torch.where(slope < 0.1, 0.0, slope)
    shown = regular_at(weights, slope, tanh)
    signs = torch.linalg.det(torch.eye(size) - slope[..., None] * weights[:, None])
    assert (signs[shown] > 0).all()
    if size <= 12:
        symmetric = 0.5 * (weights + weights.mT)
        root = slope.sqrt()
        scaled = root[..., :, None] * symmetric[:, None] * root[..., None, :]
        largest = torch.linalg.eigvalsh(scaled)[..., -1]
        rest = torch.linalg.eigvalsh(symmetric)[:, 0]
        certain = (largest < 1 - 1e-6) & (rest * slope.amax((-1, -2)) < 1)[:, None]
        assert shown[certain].all()
    assert not regular_at(weights, slope, VectorDEQ(1, size, activation="gelu").activation).any()


def test_a_large_one_far_from_its_certificate_is_solved_sample_by_sample():
    """Weights that certify nothing: some samples need more than the shared matrix, and LU signs."""
    model = VectorDEQ(4, 40, 2)
    theta = torch.tensor(model.initial(1, radius=1.1))
    assert float(model.singular_distance(theta)) < 0
    x = 2 * _normal(3, 60, 4)
    cold = model.equilibrium(theta, x)
    near = theta + 1e-3 * _normal(4, len(theta))
    solved, other = model.equilibrium(near, x, cold.z), model.equilibrium(near, x)
    assert bool(solved.valid)
    assert torch.allclose(solved.z, other.z, rtol=0, atol=1e-11)
    slope = 1 - torch.tanh(solved.activated) ** 2
    matrices = torch.eye(40) - slope[..., None] * _weights(model, near)
    assert (torch.linalg.det(matrices) > 0).all()


@pytest.mark.parametrize("seed", [-1, "a", 1.5, True])
def test_a_seed_that_is_none_is_told(seed):
    with pytest.raises(ProblemError, match=r"seed is .*; it must be an integer of at least 0"):
        VectorDEQ(1, 2).initial(seed)


def test_classes_that_are_no_numbers_are_told():
    with pytest.raises(ProblemError, match="number them from 0 on"):
        Problem(VectorDEQ(1, 2, 2), [[1.0], [2.0]], ["cat", "dog"], loss="cross_entropy")
