"""Files of runs, damaged and hostile: they are read, shown and drawn, or refused in a sentence."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hostile import Rng, generators, inputs, mutated, outcome, pick

import gflow
from gflow import inspection
from gflow.plot import plot_run
from gflow.show import summary
from gflow.store.codec import pack, unpack

ODD: tuple[object, ...] = (
    "",
    "text",
    "\udc80",
    "1e400",
    -1,
    0,
    3,
    1.5,
    np.nan,
    np.inf,
    1e308,
    -1e-320,
    2**62,
)


@pytest.fixture(scope="module")
def trees() -> list[xr.DataTree]:
    linear = gflow.Problem(gflow.LinearDEQ(1), [[0.5], [1.0]], [1.0, 2.0], theta_target=[2, 0])
    single = gflow.Problem(gflow.SingleIndexDEQ(2), [[0.5, 1.0], [1.0, -1.0]], [0.1, 0.2])
    return [
        gflow.compare(
            linear, [0.1, 0.0], [0.01, 0.3], 1.0, times=5, records=5, events={"loss": [0.5, 1.0]}
        ),
        gflow.integrate(linear, [[0.1, 0.0], [0.5, 1.0], [0.3, -1.0]], 1.0, times=4),
        gflow.descend(single, [0.1, 0.0, 0.1], [0.1, 9.0], 20.0, records=4),
    ]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "PATIENCE", 2)


def look(path: Path, draws: bool) -> None:
    tree = gflow.open(path)
    for title, rows in summary(tree):
        assert title
        assert len({len(row) for row in rows}) == 1
    if draws:
        plot_run(tree)


@inputs("run bytes")
def test_damaged_files(trees: list[xr.DataTree], tmp_path: Path, seeds: range) -> None:
    whole = [
        gflow.save(tree, tmp_path / f"{i}.nc", True).read_bytes() for i, tree in enumerate(trees)
    ]
    refused = 0
    for seed, rng in generators(seeds):
        path = tmp_path / f"damaged-{seed}.nc"
        path.write_bytes(mutated(pick(rng, whole), rng))
        refused += bool(outcome(seed, lambda path=path, rng=rng: look(path, rng.random() < 0.05)))
        path.unlink()
    assert refused > len(seeds) / 4


@inputs("run values")
def test_files_of_odd_values(trees: list[xr.DataTree], tmp_path: Path, seeds: range) -> None:
    for seed, rng in generators(seeds):
        tree = pick(rng, trees).copy(deep=True)
        for _ in range(int(rng.integers(1, 4))):
            pick(rng, DAMAGES)(tree, rng)
        path = tmp_path / f"odd-{seed}.nc"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                tree.to_netcdf(path)
            except Exception:  # what cannot be written cannot be met
                continue
        outcome(seed, lambda path=path, rng=rng: look(path, rng.random() < 0.2))
        path.unlink()


@inputs("checkpoint")
def test_damaged_checkpoints(seeds: range) -> None:
    plain = {"a": np.arange(3.0), "b": [1, None, "x", {"c": torch.eye(2)}], "d": float("nan")}
    whole = pack(plain).tobytes()
    for seed, rng in generators(seeds):
        data = np.frombuffer(mutated(whole, rng), np.uint8)
        outcome(seed, lambda data=data: unpack(data))


def group(tree: xr.DataTree, rng: Rng) -> str:
    return str(pick(rng, list(tree.children)))


def change(tree: xr.DataTree, name: str, edit: Callable[[xr.Dataset], xr.Dataset]) -> None:
    # What xarray itself refuses to hold leaves the group as it was.
    try:
        tree[name] = xr.DataTree(edit(tree[name].to_dataset(inherit=False)))
    except Exception:
        return


def odd_attribute(tree: xr.DataTree, rng: Rng) -> None:
    place = tree if rng.random() < 0.4 else tree[group(tree, rng)]
    if place.attrs:
        name = pick(rng, list(place.attrs))
        value = pick(rng, (*ODD, [1.0, 2.0], ["a", "b"], [], np.array(["x"])))
        if rng.random() < 0.2:
            del place.attrs[name]
        else:
            place.attrs[name] = value


def odd_values(tree: xr.DataTree, rng: Rng) -> None:
    def edit(data: xr.Dataset) -> xr.Dataset:
        name = pick(rng, list(data.variables))
        array = data[name]
        values = array.values.astype(pick(rng, ("f8", "f4", "i4", "i8", "O", "S4", "U8", "u1")))
        if values.size and rng.random() < 0.9:
            odd = pick(rng, ODD)
            values.flat[int(rng.integers(values.size))] = odd
            if rng.random() < 0.3:
                values[...] = odd
        return data.assign({name: (array.dims, values, array.attrs)})

    change(tree, group(tree, rng), edit)


def other_shape(tree: xr.DataTree, rng: Rng) -> None:
    def edit(data: xr.Dataset) -> xr.Dataset:
        dim = pick(rng, list(data.dims))
        kind, size = int(rng.integers(4)), data.sizes[dim]
        if kind == 0:
            return data.isel({dim: slice(0, int(rng.integers(size + 1)))})
        if kind == 1:
            return data.isel({dim: rng.integers(0, size, size)})
        if kind == 2:
            return data.isel({dim: 0}, drop=bool(rng.random() < 0.5))
        return data.transpose(*reversed(list(data.dims)))

    change(tree, group(tree, rng), edit)


def drop(tree: xr.DataTree, rng: Rng) -> None:
    name = group(tree, rng)
    change(tree, name, lambda data: data.drop_vars(pick(rng, list(data.variables))))


def drop_group(tree: xr.DataTree, rng: Rng) -> None:
    if len(tree.children) > 1:
        tree[group(tree, rng)].orphan()


def extra(tree: xr.DataTree, rng: Rng) -> None:
    values = np.full((2,) * int(rng.integers(1, 4)), pick(rng, ODD[4:]))
    told = {"long_name": "own", "units": pick(rng, ("1", "days since 1970-01-01", "days"))}

    def edit(data: xr.Dataset) -> xr.Dataset:
        dims = [f"extra{i}" for i in range(values.ndim)]
        known = [dim for dim, size in data.sizes.items() if size == 2]
        if known and rng.random() < 0.5:
            dims[0] = str(known[0])
        coords = {dim: [0, 1] for dim in dims if dim not in data.coords}
        return data.assign(own=(dims, values, told | {"formula": "f"})).assign_coords(coords)

    change(tree, group(tree, rng), edit)


def packed(tree: xr.DataTree, rng: Rng) -> None:
    name = group(tree, rng)
    odd = {pick(rng, ("scale_factor", "add_offset", "_FillValue", "missing_value")): pick(rng, ODD)}

    def edit(data: xr.Dataset) -> xr.Dataset:
        variable = pick(rng, list(data.variables))
        return data.assign({variable: data[variable].assign_attrs(odd)})

    change(tree, name, edit)


DAMAGES = (odd_attribute, odd_values, other_shape, drop, drop_group, extra, packed)
