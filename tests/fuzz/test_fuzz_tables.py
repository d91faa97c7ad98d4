"""Data files: the very numbers they hold, or a sentence."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from hostile import Rng, generators, inputs, mutated, outcome, pick

from gflow import inspection
from gflow.data import read_table

CELLS = (
    *("", " ", "1_000", "1,000", "0x1F", "1e400", "-1e400", "nan", "inf", "-Infinity", "true"),
    *("1.5e", "--1", "1 2", "1.5.2", "2020-01-01", "1e-400", "NULL", "é", "１", "+.5", "1d3"),
    *('"', '""', "'1'", "\x00", "1\x00", "\ufeff1", "1\n2", "9" * 400, "0." + "1" * 5000, "=1+1"),
)
WRONG = {"1_000", "1e400", "nan", "inf", "0x1F", "2020-01-01", "true", "-Infinity", "1d3"}


def table(rng: Rng) -> tuple[str, list[list[str]], str]:
    """The text of a table, its cells, and its separator."""
    width, separator = int(rng.integers(3, 8)), pick(rng, ",;\t")
    header = ["a", "b", "c", *(f"x{i}" for i in range(width - 3))]
    if rng.random() < 0.2:
        header[int(rng.integers(width))] = pick(rng, ("a", "", "é", "a b", 'q"q', "a*"))
    cells = [[repr(float(one)) for one in row] for row in rng.normal(size=(4, width))]
    for _ in range(int(rng.integers(3))):
        cells[int(rng.integers(4))][int(rng.integers(width))] = pick(rng, CELLS)
    if rng.random() < 0.1:
        cells[1] = cells[1][: int(rng.integers(1, width + 1))]
    if rng.random() < 0.1:
        cells[2] = cells[2] + [pick(rng, CELLS)]
    text = io.StringIO(newline="")
    end, quoting = pick(rng, ("\n", "\r\n")), pick(rng, (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting).writerows(
        [header, *cells]
    )
    return text.getvalue(), cells, separator


@inputs("table text")
def test_odd_tables(tmp_path: Path, seeds: range) -> None:
    path = tmp_path / "odd.csv"
    for seed, rng in generators(seeds):
        text, cells, _ = table(rng)
        data = text.encode(
            pick(rng, ("utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252")), "replace"
        )
        damaged = rng.random() < 0.4
        path.write_bytes(mutated(data, rng) if damaged else data)
        found = []
        said = outcome(seed, lambda found=found: found.append(read_table(path, ["a", "b"], "c")))
        if found:
            assert np.isfinite(found[0].x).all()
            assert np.isfinite(found[0].y).all()
        if found and not damaged:
            read = np.column_stack([found[0].x, found[0].y])
            assert read.tolist() == [[float(cell) for cell in row[:3]] for row in cells], seed
        assert said or not {cell for row in cells for cell in row[:3]} & WRONG or damaged


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n\n",
        b"a,b,c",
        b"a,b,c\n" + b"1,2," + b"9" * 1_000_000,
        b'a,b,c\n"' + b"x" * 300_000 + b'",1,2\n',
        b'a,b,c\n1,2,"3',
        ",".join(f"x{i}" for i in range(50_000)).encode() + b"\n" + b"1," * 49_999 + b"1\n",
        b"a,b,c\n1,2,3\n" + b"\x00" * 10_000,
        b"a,b,c,a\n1,2,3,4\n5,6,7,8\n",
        b"\xff\xfea\x00,\x00b\x00",
        b"a,b,c\n1,2,3\r4,5,x",
        b"a;b,c\n1;2,3\n4;5,6",
        b'"' * 100_001,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_extreme_tables(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "extreme.csv"
    path.write_bytes(text)
    assert outcome(0, lambda: read_table(path, ["a", "b"], "c"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "PATIENCE", 2)


def netcdf(path: Path) -> bytes:
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("row", 6)
        file.title = "rows"
        for i, name in enumerate("abc"):
            variable = file.createVariable(name, "f8", ("row",), zlib=i == 0)
            variable[:] = np.arange(6.0) + i
        label = file.createVariable("label", str, ("row",))
        label[:] = np.array(["x", "yy", "z", "", "é", "w"], dtype=object)
    return path.read_bytes()


@inputs("table netcdf")
def test_damaged_netcdf(tmp_path: Path, seeds: range) -> None:
    whole = netcdf(tmp_path / "whole.nc")
    for seed, rng in generators(seeds):
        path = tmp_path / f"damaged-{seed}.nc"
        path.write_bytes(mutated(whole, rng))

        def check(path: Path = path) -> None:
            x, y, _ = read_table(path, ["a", "b"], "c")
            assert math.isfinite(x.sum() + y.sum())

        outcome(seed, check)
        path.unlink()
