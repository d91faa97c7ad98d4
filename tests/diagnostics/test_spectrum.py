"""Eigenvalues along runs against Hessians that are known, formed, or those of an MLP."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

import gflow
from gflow.config.tables import Diagnostics
from gflow.diagnostics import spectrum
from gflow.diagnostics.spectrum import product_at, spectra_at_saves
from gflow.eigen import CAP, top_eigenpairs
from gflow.equilibrium.adjoint import parse_backward
from gflow.stacking import ProblemStack

P = 2000
GENERATOR = torch.Generator().manual_seed(5)
SLOPES = 0.5 * torch.rand(P, generator=GENERATOR, dtype=torch.float64)
SLOPES[:4] = torch.tensor([3.0, 2.5, 2.5, 2.0])
QUARTIC = torch.rand(P, generator=GENERATOR, dtype=torch.float64)


def quartic(dtype: str = "float64") -> gflow.Objective:
    """Of a diagonal Hessian a + b theta^2, whose largest eigenvalues change places."""

    def function(theta: Tensor) -> Tensor:
        a, b = SLOPES.to(theta), QUARTIC.to(theta)
        return (a * theta**2 / 2 + b * theta**4 / 12).sum()

    return gflow.Objective(function, P, dtype=dtype)


def known(theta: Tensor, k: int) -> np.ndarray:
    values = (SLOPES + QUARTIC * theta.double() ** 2).sort(-1, descending=True)[0][..., :k]
    return np.asarray(values)


def start() -> np.ndarray:
    return 3.0 * np.random.default_rng(2).normal(size=P) / (1 + np.arange(P)) ** 0.3


def mlp(dtype: torch.dtype = torch.float64) -> tuple[gflow.Objective, Tensor]:
    """Two hidden layers of 12 tanh units, P = 241, and a start."""
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    shapes = [(12, 5), (12,), (12, 12), (12,), (1, 12), (1,)]
    sizes = [int(np.prod(shape)) for shape in shapes]

    def function(theta: Tensor) -> Tensor:
        parts = torch.split(theta, sizes)
        a, b, c, d, e, f = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        hidden = torch.tanh(torch.tanh(x.to(theta) @ a.T + b) @ c.T + d)
        return ((hidden @ e.T + f - y.to(theta)) ** 2).mean()

    first = 0.4 * torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
    return gflow.Objective(function, sum(sizes), dtype=dtype), first.to(dtype)


def test_the_sharpness_of_many_parameters_is_the_largest_eigenvalue() -> None:
    flow = gflow.integrate(quartic(), start(), 1.0, times=60, rtol=1e-3)["flow"]
    expected = known(torch.from_numpy(flow.theta.values), 1)[:, 0]
    places = np.isfinite(flow.sharpness.values)
    assert places.sum() == spectrum.SHARPNESS_PRODUCTS // 10 < 60
    assert places[[0, -1]].all()
    np.testing.assert_allclose(flow.sharpness.values[places], expected[places], rtol=1e-8)


def test_it_costs_what_is_said_and_less_than_without_the_warm_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem, theta = mlp()
    assert problem.n_parameters > spectrum.SHARPNESS_LIMIT
    saves = gflow.integrate(problem, theta, 20.0, times=30, rtol=1e-4)["flow"].theta.values
    runs = torch.from_numpy(saves)[None]
    found = spectra_at_saves(problem, runs, 1, every=True)
    expected = torch.linalg.eigvalsh(problem.hessian(runs[0]))[:, -1]
    assert torch.allclose(found["sharpness"][0], expected, rtol=1e-8)
    spent = int(found["eigenvalue_products"].sum())
    assert spent <= 10 * len(saves)
    cold = partial(top_eigenpairs, k=1)
    monkeypatch.setattr(
        spectrum, "top_eigenpairs", lambda product, guess, k, above: cold(product, guess[:0])
    )
    without = spectra_at_saves(problem, runs, 1, every=True)
    assert spent < 0.8 * int(without["eigenvalue_products"].sum())


@pytest.mark.parametrize("k", [1, 3, 4])
def test_the_top_eigenvalues_have_their_copies_and_residuals(k: int) -> None:
    theta = torch.zeros(1, 2, P, dtype=torch.float64)
    theta[0, 1, 7:9] = 2.0
    found = spectra_at_saves(quartic(), theta, k)
    np.testing.assert_allclose(found["eigenvalues"], known(theta, k), atol=1e-7)
    assert found["eigenvalue_residual"].max() <= 1e-5 * known(theta, 1).max()
    assert torch.equal(found["sharpness"], found["eigenvalues"][..., 0])
    assert (found["eigenvalue_products"] < 60).all()


@pytest.mark.parametrize("step_sizes", [None, [0.5, 0.9]])
def test_with_and_without_the_hessian_the_same_is_found(
    monkeypatch: pytest.MonkeyPatch, step_sizes: list[float] | None
) -> None:
    problem, theta = mlp()
    runs = theta + 0.1 * torch.randn(2, 4, len(theta), generator=GENERATOR, dtype=theta.dtype)
    runs[1, 2:] = torch.nan
    by_products = spectra_at_saves(problem, runs, 2, True, step_sizes)
    monkeypatch.setattr(spectrum, "SHARPNESS_LIMIT", len(theta))
    formed = spectra_at_saves(problem, runs, 2, True, step_sizes)
    for name in ("sharpness", "eigenvalues"):
        assert torch.equal(by_products[name].isnan(), formed[name].isnan())
        assert torch.allclose(by_products[name], formed[name], rtol=1e-7, equal_nan=True)
    assert formed["eigenvalue_residual"].nan_to_num().max() < 1e-12
    assert formed["eigenvalue_products"][0].tolist() == [0.0] * 4
    assert by_products["eigenvalue_products"][1].isnan().tolist() == [False, False, True, True]
    alone = spectra_at_saves(problem, runs, every=True)
    assert set(alone) == {"sharpness"}
    assert torch.allclose(alone["sharpness"], formed["sharpness"], rtol=1e-12, equal_nan=True)


def test_descents_store_more_while_the_last_exceeds_two_over_eta() -> None:
    etas = [0.1, 0.9]
    tree = gflow.descend(quartic(), start(), etas, 3.6, records=4, diagnostics={"eigenvalues": 2})
    gflow.validate(tree)
    descent = tree["descent"]
    assert descent.eigenvalues.dims == ("step_size", "record", "mode")
    values, theta = descent.eigenvalues.values, torch.from_numpy(descent.theta.values)
    grown = 0
    for (run, record), products in np.ndenumerate(descent.eigenvalue_products.values):
        row = values[run, record]
        kept = row[np.isfinite(row)]
        expected = known(theta[run, record], CAP)
        counts = [count for count in (2, 4, 8, 16, 32) if expected[count - 1] <= 2 / etas[run]]
        if np.isfinite(products):
            assert len(kept) == [*counts, CAP][0]
            np.testing.assert_allclose(kept, expected[: len(kept)], atol=1e-5 * expected[0])
            grown += len(kept) > 2
    assert grown > 0


def test_flows_store_as_many_as_asked_for_and_none_by_default() -> None:
    problem = gflow.Problem(gflow.SingleIndexDEQ(2, "tanh"), [[1.0, 0.5], [0.2, -1.0]], [0.3, 0.1])
    for asked in ({}, {"eigenvalues": False}, Diagnostics().model_dump()):
        flow = gflow.integrate(problem, [0.1, 0.2, 0.3], 1.0, times=3, diagnostics=asked)["flow"]
        assert "eigenvalues" not in flow
    starts = [[0.1, 0.2, 0.3], [0.4, 0.1, -0.3]]
    tree = gflow.integrate(problem, starts, 1.0, times=3, diagnostics={"eigenvalues": 5})
    gflow.validate(tree)
    flow = tree["flow"]
    assert dict(flow.eigenvalues.sizes) == {"trajectory": 2, "time": 3, "mode": 5}
    assert flow.mode.values.tolist() == [0, 1, 2, 3, 4]
    hessians = problem.hessian(flow.theta.values.reshape(-1, 3))
    expected = torch.linalg.eigvalsh(hessians).flip(-1).reshape(2, 3, 3)
    np.testing.assert_allclose(flow.eigenvalues.values[..., :3], expected, atol=1e-12)
    assert np.isnan(flow.eigenvalues.values[..., 3:]).all()
    only = gflow.integrate(
        problem, starts[0], 1.0, times=3, diagnostics={"eigenvalues": 1, "sharpness": False}
    )["flow"]
    assert "sharpness" not in only
    np.testing.assert_allclose(only.eigenvalues[:, 0], flow.sharpness[0], rtol=1e-5)


@pytest.mark.parametrize("wrong", [True, -1, 2.5, "all", None])
def test_what_is_no_number_of_eigenvalues_is_refused(wrong: object) -> None:
    with pytest.raises(gflow.UsageError, match=r"diagnostics.eigenvalues is .* such as 5, or 0"):
        gflow.integrate(quartic(), start(), 1.0, diagnostics={"eigenvalues": wrong})


def test_a_stack_has_each_problem_s_own_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "SHARPNESS_LIMIT", 1)
    rng = np.random.default_rng(4)
    model = gflow.SingleIndexDEQ(2, "tanh")
    problems = [gflow.Problem(model, rng.normal(size=(9, 2)), rng.normal(size=9)) for _ in "abc"]
    runs = torch.tensor(0.3 * rng.normal(size=(3, 4, 3)))
    runs[1, 2, -1] = 1.5
    found = spectra_at_saves(ProblemStack(problems), runs, 2)
    for row, problem in enumerate(problems):
        valid = ~found["eigenvalues"][row].isnan().any(-1)
        assert valid.tolist() == [True, True, row != 1, True]
        expected = torch.linalg.eigvalsh(problem.hessian(runs[row, valid])).flip(-1)[:, :2]
        assert torch.allclose(found["eigenvalues"][row, valid], expected, rtol=1e-9)


def test_a_sharpness_that_was_not_found_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = partial(top_eigenpairs, most=-17)
    monkeypatch.setattr(spectrum, "top_eigenpairs", limited)
    found = spectra_at_saves(quartic(), torch.from_numpy(start())[None, None], 1)
    assert int(found["eigenvalue_products"]) == 3
    assert found["sharpness"].isnan().all()
    residual = float(found["eigenvalue_residual"])
    assert residual > 1e-2
    away = abs(float(found["eigenvalues"]) - known(torch.from_numpy(start()), P))
    assert away.min() <= residual < 10 * away[0]


def test_float32_is_kept_and_good_to_its_digits() -> None:
    problem, theta = mlp(torch.float32)
    found = spectra_at_saves(problem, theta[None, None], 3)
    assert {value.dtype for value in found.values()} == {torch.float32}
    expected = torch.linalg.eigvalsh(mlp()[0].hessian(theta.double())).flip(-1)[:3].float()
    assert torch.allclose(found["eigenvalues"][0, 0], expected, rtol=1e-4)
    assert found["sharpness"].isfinite().all()
    assert (found["eigenvalue_products"] < 60).all()


def test_products_are_those_of_the_jacobian_and_nan_without_an_equilibrium() -> None:
    problem = gflow.Problem(gflow.SingleIndexDEQ(1, "tanh"), [1.0, 0.4], [0.3, 0.9])
    theta, vector = problem.theta([0.2, 0.4]), problem.theta([1.0, -2.0])
    for backward in ("exact", "jfb"):
        product = product_at(problem, theta, parse_backward(backward))
        expected = problem.jacobian(theta, backward) @ vector
        assert torch.allclose(product(vector), expected, rtol=1e-12)
    assert product_at(problem, problem.theta([0.2, 1.5]))(vector).isnan().all()
