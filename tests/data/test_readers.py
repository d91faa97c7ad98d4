from __future__ import annotations

import csv
import time

import numpy as np
import pytest
import xarray as xr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gflow.data.readers import read_table
from gflow.errors import DataError


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def complaint(path, inputs=("a", "b"), target="y"):
    with pytest.raises(DataError) as caught:
        read_table(path, inputs, target)
    return str(caught.value).removeprefix(f"{path}")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_csv_in_every_dialect(tmp_path, delimiter, newline):
    rows = [['"a,;\tb"', "b", "text", " y "], ["1", " 2 ", "x", "3"], ["4", "-5e1", "", ".6"], [""]]
    content = newline.join(delimiter.join(row) for row in rows)
    path = write(tmp_path, "t.txt", content.encode("utf-8-sig"))
    x, y, names = read_table(path, ["b", "a,;\tb"], "y")
    assert x.tolist() == [[2, 1], [-50, 4]]
    assert y.tolist() == [3, 0.6]
    assert names == ("b", "a,;\tb")


def test_patterns_and_several_targets(tmp_path):
    path = write(tmp_path, "t.csv", "p1,y,q,p0,z,p*\n1,2,3,4,5,6\n7,8,9,0,1,2\n")
    x, y, names = read_table(path, ["p?", "q"], ["z", "y"])
    assert names == ("p1", "p0", "p*", "q")
    assert x.tolist() == [[1, 4, 6, 3], [7, 0, 2, 9]]
    assert y.tolist() == [[5, 2], [1, 8]]
    assert read_table(path, ["p*"], "y").names == ("p*",)
    assert read_table(path, ["*"], ["y"]).names == ("p1", "q", "p0", "z", "p*")
    assert read_table(path, ["*"], ["y"]).y.shape == (2, 1)
    assert complaint(path, ["a*"]) == ' has no column like "a*" beside the target.'


def test_patterns_and_several_targets_of_netcdf(tmp_path):
    path = tmp_path / "t.nc"
    columns = {
        name: ("sample", [1.0 + i, 2.0 + i]) for i, name in enumerate(["a1", "a2", "y", "z"])
    }
    xr.Dataset(columns).to_netcdf(path)
    x, y, names = read_table(path, ["a*"], ["y", "z"])
    assert names == ("a1", "a2")
    assert x.tolist() == [[1, 2], [2, 3]]
    assert y.tolist() == [[3, 4], [4, 5]]


@given(st.lists(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3), min_size=2))
def test_csv_is_exact(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "exact.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "y"), *rows])
    x, y, _ = read_table(path, ["a", "b"], "y")
    table = np.array(rows)
    assert x.tobytes() == table[:, :2].tobytes()
    assert y.tobytes() == table[:, 2].tobytes()
    assert x.flags.c_contiguous


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", " is empty."),
        ("\n \n", ' has no column "a".'),
        ("a,b,y\n", " has 0 rows of data; at least 2 are needed."),
        ("a,b,y\n1,2,3\n\n", " has 1 rows of data; at least 2 are needed."),
        ("a,c,y\n1,2,3\n", ' has no column "b". Choose from "a", "c", "y".'),
        ("a,bb,y\n1,2,3\n", ' has no column "b"; did you mean "bb"? Choose from "a", "bb", "y".'),
        ("a,b,a,y\n1,2,3,4\n", ' has 2 columns named "a"; rename them.'),
        ("a,b,y\n1,2,3\n\n1,,3\n", ', line 4: column "b" is empty; it must be a finite number'),
        ('a,b,y\n"1","\n2",3\n1,2,"nan"\n', ', line 4: column "y" holds "nan"; it must be a'),
        ("a,b,y\n1,2,3\n-inf,2,3\n", ', line 3: column "a" holds "-inf"; it must be a finite'),
        ("a,b,y\n1,2,3\n1e999,2,3\n", ', line 3: column "a" holds "1e999"; it must be a finite'),
        (
            "a,b,y\n1,2 kg,3\n",
            ', line 2: column "b" holds "2 kg"; it must be a finite',
        ),
        (
            "a;b;y\n1;2,5;3\n",
            ', line 2: column "b" holds "2,5"; it must be a finite',
        ),
        (
            "a,b,y\n1,2,cat\n",
            ', line 2: column "y" holds "cat"; it must be a finite number, with a decimal point; '
            "classes that are words must be numbered, from 0 on.",
        ),
        ("a,b,y\n1,1_0,3\n", ', line 2: column "b" holds "1_0"; it must be a finite number'),
        ("a,b,y\n1,2\n", ", line 2 has 2 cells; the header has 3."),
        ("a,b,y\n1,2,3,4\n", ", line 2 has 4 cells; the header has 3."),
        ('a,b,y\n1,"2,3\n', ", line 2: unexpected end of data."),
        ("a,b,é\n1,2,3\n".encode("latin-1"), " is not UTF-8 text (line 1); save it as UTF-8."),
        (b"a,b,y\n\xff\xfe\x00", " is not UTF-8 text (line 2); save it as UTF-8."),
    ],
)
def test_what_is_wrong_in_a_csv_file(tmp_path, content, sentence):
    assert complaint(write(tmp_path, "t.csv", content)).startswith(sentence)


def test_columns_that_are_not_used_may_hold_anything(tmp_path):
    path = write(tmp_path, "t.csv", "a,b,y,z,z,\n1,2,3,nan,,\n4,5,6,x,,,,\n")
    assert read_table(path, ["a", "b"], "y").y.tolist() == [3, 6]


def test_files_that_are_none(tmp_path):
    write(tmp_path, "diabetes.csv", "a")
    (tmp_path / "folder.csv").mkdir()
    assert complaint(tmp_path / "diabets.tsv") == " does not exist. Did you mean diabetes.csv?"
    assert complaint(tmp_path / "no" / "t.csv").startswith(" does not exist. Its folder ")
    assert complaint(tmp_path / "folder.csv") == " is a folder; give the file in it."
    assert complaint(tmp_path / ("n" * 999)).startswith(" cannot be read: ")
    assert complaint(tmp_path / "n\0.csv").startswith(" cannot be read: ")
    known = ".csv, .tsv, .txt, .nc, .nc4"
    path = write(tmp_path, "t.xlsx", "a")
    assert complaint(path) == f' has the suffix ".xlsx"; gflow reads {known}.'


pieces = st.sampled_from(["a", "b", ",", ";", '"', "\n", "\r", "1", ".5", "nan", "\0"])


def outcome(path):
    try:
        return read_table(path, ["a", "b"], "y")
    except DataError as error:
        return str(error)


@settings(max_examples=200)
@given(
    st.binary(max_size=300)
    | st.lists(pieces).map(lambda parts: f"a,b,y\n{''.join(parts)}".encode())
)
@example(b'a,b,y\n"' + b'""' * 50_000)
@example(b'"' * 200_001)
@example(b"a,b,y\n" + b"1" * 200_000)
@example(b"," * 200_000)
@example(b"\n" * 200_000)
def test_any_bytes_give_columns_or_a_data_error_soon(tmp_path_factory, content):
    path = write(tmp_path_factory.getbasetemp(), "any.csv", content)
    start = time.perf_counter()
    result = outcome(path)
    assert time.perf_counter() - start < 5
    if isinstance(result, str):
        assert len(result) < 1000
    else:
        assert result.x.shape == (len(result.y), 2)
        assert np.isfinite(result.x).all()


@given(st.binary(max_size=100))
@example(b"\x89HDF\r\n\x1a\n")
@example(b"CDF\x01")
def test_any_bytes_are_no_netcdf(tmp_path_factory, content):
    path = write(tmp_path_factory.getbasetemp(), "any.nc", b"x" + content)
    assert complaint(path).startswith(" cannot be read as netCDF")


@pytest.fixture
def netcdf(tmp_path):
    def save(**variables):
        path = tmp_path / "t.nc"
        xr.Dataset(variables).to_netcdf(path, engine="netcdf4")
        return path

    return save


def test_netcdf_columns(netcdf):
    path = netcdf(
        a=("sample", np.array([1.5, 2.5], dtype="float32")),
        sample=("sample", [10, 20]),
        y=("sample", [0.1, 0.2], {"units": "days since 2000-01-01"}),
    )
    x, y, names = read_table(path, ["a", "sample"], "y")
    assert x.tolist() == [[1.5, 10], [2.5, 20]]
    assert (x.dtype, y.tolist(), names) == (np.float64, [0.1, 0.2], ("a", "sample"))


@pytest.mark.parametrize("labels", [["p", "q", "r"], [1, 2, 3], None])
@pytest.mark.parametrize("dims", [("sample", "feature"), ("feature", "sample")])
def test_netcdf_matrix(netcdf, labels, dims):
    values = np.arange(6.0).reshape(2, 3)
    variables = {"x": (dims, values if dims[0] == "sample" else values.T), "y": ("sample", [1, 2])}
    if labels:
        variables["feature"] = labels
    x, y, names = read_table(netcdf(**variables), ["x"], "y")
    assert x.tolist() == values.tolist()
    assert x.flags.c_contiguous
    assert y.tolist() == [1, 2]
    assert names == (("p", "q", "r") if labels == ["p", "q", "r"] else ("x[0]", "x[1]", "x[2]"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"b": ("other", [1, 2, 3])},
            ': "b" has dimensions (other = 3), but the target "y" has',
        ),
        ({"b": (("s", "u"), [[1], [2]])}, ': "b" has dimensions (s = 2, u = 1), but the target'),
        ({"y": (("s", "u"), [[1], [2]])}, ': target "y" has 2 dimensions; it must have 1.'),
        ({"b": ("s", [1, np.nan])}, ': variable "b" is nan at s 1 (counted from 0).'),
        ({"y": ("s", [np.inf, 0])}, ': variable "y" is inf at s 0 (counted from 0).'),
        ({"b": ("s", ["p", "q"])}, ': variable "b" is '),
    ],
)
def test_what_is_wrong_in_a_netcdf_file(netcdf, changes, sentence):
    right = {"a": ("s", [1, 2]), "b": ("s", [1.0, 2]), "y": ("s", [1, 2])}
    assert complaint(netcdf(**right | changes)).startswith(sentence)


def test_a_netcdf_variable_that_is_missing_or_too_short(netcdf):
    path = netcdf(a=("s", [1]), bb=("s", [2]), y=("s", [3]))
    assert complaint(path).startswith(' has no variable "b"; did you mean "bb"? Choose from ')
    assert complaint(path, ["a"]) == " has 1 rows of data; at least 2 are needed."


def test_a_netcdf_fill_value_is_no_number(netcdf):
    path = netcdf(a=("s", [1, 2]), y=xr.Variable("s", [1, -9], encoding={"_FillValue": -9}))
    assert complaint(path, ["a"]) == ': variable "y" is nan at s 1 (counted from 0).'
