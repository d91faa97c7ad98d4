"""The sums of exprb43 in C are those by the propagator."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gflow
from gflow.compiled import compiler
from gflow.integrators import exponential, exponential_compiled
from gflow.integrators.exponential_compiled import LARGEST, in_c
from gflow.integrators.exponential_sums import NODES, PropagatedSums
from gflow.integrators.propagators import dense_propagator
from gflow.integrators.system import column

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, compiler.COMPILERS)), reason="there is no C compiler"
)


def _problem(rows, size, scale=1.0, seed=0):
    """A point's field and Jacobian, times, steps and rows, one component after the other."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, size, size))
    matrix = scale * (0.2 * (matrix + matrix.swapaxes(1, 2)) - matrix @ matrix.swapaxes(1, 2))
    values, vectors = torch.linalg.eigh(torch.from_numpy(matrix / size))
    field, theta = map(torch.from_numpy, rng.normal(size=(2, rows, size)))
    cache = {"value": field, "eigenvalues": values, "eigenvectors": vectors}
    theta = theta.mT.contiguous().mT
    return cache, 3 * rng.uniform(size=rows), 5 * rng.uniform(size=rows), theta


def _results(sums, found):
    rows = torch.tensor([0, 1, 1, -1])
    x = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)
    middle, whole = sums.middle(), sums.whole(found[0])
    end = sums.end(found[1])
    return middle, whole, end, sums.error(found[2]), sums.dense(rows, x)


def _compared(cache, t, dt, theta, found):
    width = column(dt, theta)
    by = PropagatedSums(dense_propagator(cache, width, NODES), cache, t, dt, theta)
    compiled = in_c(cache, t, dt, theta)
    assert compiled is not None
    with np.errstate(over="ignore", invalid="ignore"):  # as a step is made
        return zip(_results(compiled, found), _results(by, found), strict=True)


@given(
    st.integers(2, 9),
    st.sampled_from([1, 2, 11, LARGEST]),
    st.floats(-4, 4),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_they_are_those_by_the_propagator(rows, size, power, seed):
    """Steps from those in which nothing happens to those beyond all that is stiff."""
    problem = _problem(rows, size, 10.0**power, seed)
    found = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, rows, size)))
    for one, other in _compared(*problem, found):
        whole = other.isfinite().all(-1)  # elsewhere an exponential grew beyond all numbers
        assert torch.equal(one.isfinite().all(-1), whole)
        gap, size_of_row = (one - other)[whole].abs(), other[whole].abs().amax(-1, keepdim=True)
        assert bool((gap <= 1e-11 * size_of_row).all())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", [0, 1, 2, "value", "eigenvalues"])
def test_what_is_not_finite_is_so_in_its_row_alone(bad, where):
    cache, t, dt, theta = _problem(4, 3)
    found = torch.ones(3, 4, 3, dtype=torch.float64)
    (cache if isinstance(where, str) else found)[where][2, 1] = bad
    for one, other in _compared(cache, t, dt, theta, found):
        assert torch.equal(one.isfinite().all(-1), other.isfinite().all(-1))


def test_a_row_that_has_come_to_its_end_makes_a_step_of_length_zero():
    cache, t, dt, theta = _problem(3, 4)
    dt[1] = 0.0
    found = cache["value"].expand(3, 3, 4)
    for one, other in _compared(cache, t, dt, theta, found):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_a_field_that_is_as_it_was_taken_to_be_has_rounding_for_an_error():
    cache, t, dt, theta = _problem(3, 4)
    sums = in_c(cache, t, dt, theta)
    jacobian = (cache["eigenvectors"] * cache["eigenvalues"][:, None]) @ cache["eigenvectors"].mT

    def linear(point):
        return cache["value"] + (jacobian @ (point - theta)[..., None])[..., 0]

    far = linear(sums.whole(linear(sums.middle())))
    error = sums.error(linear(sums.end(far)))
    assert float(error.abs().max()) < 1e-13


def test_threads_share_the_rows(monkeypatch):
    problem = _problem(40, 5)
    found = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 40, 5)))
    whole = _results(in_c(*problem), found)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(exponential_compiled, "THREAD", 1)
    for one, other in zip(whole, _results(in_c(*problem), found), strict=True):
        assert torch.equal(one, other)


def test_what_c_does_not_serve(monkeypatch):
    cache, t, dt, theta = _problem(4, 3)
    assert in_c(cache, t, dt, theta) is not None
    assert in_c(cache | {"change": theta}, t, dt, theta) is None
    assert in_c({"value": theta, "jacobian": theta}, t, dt, theta) is None
    assert in_c({name: each.float() for name, each in cache.items()}, t, dt, theta.float()) is None
    assert in_c(*_problem(1, 3)) is None
    assert in_c(*_problem(2, LARGEST + 1)) is None
    monkeypatch.setenv(compiler.SWITCH, "0")
    assert in_c(cache, t, dt, theta) is None


def test_an_ensemble_takes_the_same_steps(monkeypatch):
    """Rejected ones, saves within steps and rows that leave early among them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    problem = gflow.Problem(gflow.SingleIndexDEQ(3, "tanh"), x, y)
    start = np.concatenate([0.1 * rng.normal(size=(6, 4)), [[9.0, 9.0, 9.0, 0.9]]])
    used = []
    monkeypatch.setattr(
        exponential, "in_c", lambda *given: used.append(in_c(*given)) or used[-1]
    )  # fmt: skip

    def flows():
        options = {"method": "exprb43", "rtol": 1e-6, "t_end": 40.0, "times": 60}
        return gflow.integrate(problem, start, **options)["flow"]

    compiled = flows()
    assert any(used)
    monkeypatch.setenv(compiler.SWITCH, "0")
    by_numpy = flows()
    assert used[-1] is None
    assert set(compiled.status.values) == {"t_end"}
    np.testing.assert_array_equal(compiled.nfe, by_numpy.nfe)
    np.testing.assert_allclose(compiled.theta, by_numpy.theta, rtol=1e-10, atol=1e-11)
