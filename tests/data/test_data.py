from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gflow.config import FileData, TeacherData
from gflow.data import Dataset, load_data, shipped
from gflow.errors import DataError

COLUMNS = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")


def predict(theta, x):
    return x @ theta[:-1] / (1 - theta[-1])


def teacher(**keys):
    return TeacherData(source="teacher", **{"samples": 5, "seed": 3} | keys)


def diabetes(**keys):
    keys = {"path": "gflow:diabetes.csv", "inputs": COLUMNS, "target": "progression"} | keys
    return FileData(source="file", **keys)


def table(folder, x, y, **keys):
    lines = [",".join(map(repr, row)) for row in np.column_stack([x, y]).tolist()]
    names = [f"c{i}" for i in range(np.shape(x)[1])]
    (folder / "t.csv").write_text("\n".join([",".join([*names, "y"]), *lines]))
    return FileData(source="file", path="t.csv", inputs=tuple(names), target="y", **keys)


def test_the_teachers_draws_come_in_the_documented_order():
    data = load_data(teacher(noise=0.5, evaluation_samples=4), predict, 2, None)
    rng = np.random.default_rng(3)
    theta1 = rng.normal(size=2)
    x, x_evaluation, noise = (rng.normal(size=size) for size in ((5, 2), (4, 2), 5))
    theta = np.array([*theta1 / np.linalg.norm(theta1), 0])
    np.testing.assert_array_equal(data.theta_target, theta)
    np.testing.assert_array_equal(data.x, x)
    np.testing.assert_array_equal(data.x_evaluation, x_evaluation)
    np.testing.assert_array_equal(data.y, x @ theta[:2] + 0.5 * noise)
    np.testing.assert_array_equal(data.y_evaluation, x_evaluation @ theta[:2])
    assert data.feature_names == ("x[0]", "x[1]")
    assert "default_rng(3)" in data.source
    assert "\n" not in data.source


def test_a_given_teacher_draws_inputs_first():
    """The protocol of [DR] experiment A.1: x uniform from seed 42, targets 2x."""
    config = teacher(distribution="uniform", samples=1000, seed=42, theta=(2, 0))
    data = load_data(config, predict, None, None)
    x = np.random.default_rng(42).uniform(0, 1, 1000)
    np.testing.assert_array_equal(data.x[:, 0], x)
    np.testing.assert_array_equal(data.y, 2 * x)
    assert data.x_evaluation is None
    assert data.y_evaluation is None


def test_uniform_inputs_fill_their_interval():
    x = load_data(teacher(distribution="uniform", low=-3, high=-1, samples=99), predict, 1, None).x
    assert -3 <= x.min() < -2.8
    assert -1.2 < x.max() < -1


@pytest.mark.parametrize(
    ("keys", "model", "dim", "message"),
    [
        ({}, predict, None, r"needs a model, and its model.dim or data.theta"),
        ({}, None, 2, r"needs a model"),
        ({"theta": (1, 2, 0)}, predict, 3, r"have 2 inputs, but model.dim is 3"),
        ({"samples": 10**17}, predict, 2, r"would take 4,000,000,000 GB of memory"),
        ({}, predict, 10**17, r"GB of memory; at most"),
        ({"distribution": "uniform", "low": -1e308, "high": 1e308}, predict, 1, r"cannot be drawn"),
        ({}, lambda theta, x: x[:, 0] * np.nan, 2, r"targets are not all finite"),
    ],
)
def test_what_is_wrong_with_a_teacher(keys, model, dim, message):
    with pytest.raises(DataError, match=message):
        load_data(teacher(**keys), model, dim, None)


def test_the_diabetes_data():
    data = load_data(diabetes(), None, 10, None)
    assert data.x.shape == (442, 10)
    assert data.feature_names == COLUMNS
    np.testing.assert_array_equal(data.x[0], [59, 2, 32.1, 101, 157, 93.2, 38, 4, 4.8598, 87])
    sums = dict(zip(COLUMNS, data.x.sum(axis=0), strict=True))
    assert sums["age"] == 21445
    assert sums["sex"] == 649
    assert sums["bmi"] == pytest.approx(11658.1, abs=1e-9)
    assert sums["s5"] == pytest.approx(2051.5036, abs=1e-9)
    assert (data.y.sum(), data.y.min(), data.y.max()) == (67243, 25, 346)
    assert data.source.startswith('gflow:diabetes.csv: ["age", "sex", ')
    assert data.theta_target is None


def test_scalings_are_fitted_on_the_training_rows_only():
    scalings = {"input_scaling": "standard", "target_scaling": "range"}
    plain = load_data(diabetes(holdout=0.25, seed=1), None, None, None)
    data = load_data(diabetes(holdout=0.25, seed=1, **scalings), None, None, None)
    assert (len(data.y), len(data.y_evaluation)) == (442 - 110, 110)
    np.testing.assert_allclose(data.x.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(data.x.std(axis=0), 1)
    assert (data.y.min(), data.y.max()) == pytest.approx((-0.9, 0.9))
    expected = (plain.x_evaluation - plain.x.mean(axis=0)) / plain.x.std(axis=0)
    np.testing.assert_allclose(data.x_evaluation, expected, atol=1e-12)
    slope, offset = np.polyfit(plain.y, data.y, 1)
    np.testing.assert_allclose(data.y_evaluation, slope * plain.y_evaluation + offset, atol=1e-9)


def test_the_holdout_is_the_head_of_a_permutation_in_the_files_order(tmp_path):
    config = table(tmp_path, np.arange(10.0)[:, None], np.arange(10.0), holdout=0.3, seed=7)
    data = load_data(config, None, 1, tmp_path)
    aside = np.random.default_rng(7).permutation(10)[:3]
    np.testing.assert_array_equal(data.y_evaluation, np.sort(aside))
    np.testing.assert_array_equal(data.y, np.setdiff1d(np.arange(10), aside))


def test_a_target_can_be_standardised(tmp_path):
    config = table(tmp_path, [[0.0], [1.0]], [5, 9], target_scaling="standard")
    np.testing.assert_array_equal(load_data(config, None, 1, tmp_path).y, [-1, 1])


@pytest.mark.parametrize(
    ("x", "keys", "message"),
    [
        ([[1, 2], [1, 3], [1, 4]], {"input_scaling": "standard"}, r'Column "c0" is constant'),
        ([[1, 2], [5, 3], [7, 4]], {"target_scaling": "range"}, r'Column "y" is constant'),
        ([[1e308], [-1e308], [1e308]], {"input_scaling": "standard"}, r"Scaling overflows"),
        ([[0], [5e-324], [0]], {"input_scaling": "standard"}, r"Scaling overflows"),
        ([[1], [2], [3]], {"holdout": 0.5}, r"sets 2 of 3 rows aside"),
        ([[1], [2], [3]], {"holdout": 0.01}, r"sets 0 of 3 rows aside"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, x, keys, message):
    with pytest.raises(DataError, match=message):
        load_data(table(tmp_path, x, [6] * 3, **keys), None, None, tmp_path)


def test_the_number_of_inputs_must_be_the_models(tmp_path):
    with pytest.raises(DataError, match=r"The data have 10 inputs, but model.dim is 3"):
        load_data(diabetes(), None, 3, tmp_path)


@given(st.binary(max_size=200), st.sampled_from(["none", "standard", "range"]))
def test_any_bytes_give_a_dataset_or_a_data_error(tmp_path_factory, content, scaling):
    folder = tmp_path_factory.getbasetemp()
    (folder / "t.csv").write_bytes(b"a,y\n1,2\n3,4\n" + content)
    config = FileData(
        source="file", path="t.csv", inputs=("a",), target="y", target_scaling=scaling
    )
    try:
        data = load_data(config, None, 1, folder)
    except DataError as error:
        data = error
    assert "\n" not in str(data) if isinstance(data, DataError) else np.isfinite(data.y).all()


def test_shipped_lists_what_there_is():
    assert shipped("diabetes.csv").is_file()
    for name in ("diabets.csv", "../data.py", "README.md"):
        with pytest.raises(DataError, match=r'no data set .* Choose from "diabetes.csv"'):
            shipped(name)


def test_the_digest_sees_shape_and_values():
    data = Dataset(np.zeros((2, 3)), np.zeros(2), None, None, ("a",) * 3, "zeros")
    others = [
        dataclasses.replace(data, x=np.zeros((3, 2))),
        dataclasses.replace(data, y=np.array([0.0, 5e-324])),
        dataclasses.replace(data, x=np.zeros((2, 2)), y=np.zeros(4)),
    ]
    assert len({data.sha256, *(other.sha256 for other in others)}) == 4
    assert data.sha256 == dataclasses.replace(data, x=np.zeros((3, 2)).T, source="").sha256
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.x = None
