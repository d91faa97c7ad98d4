from __future__ import annotations

import time
from collections import Counter

import pytest
import xarray as xr

import gflow
from gflow.errors import UsageError
from gflow.sweeps import run_sweep, sweep

distributed = pytest.importorskip("distributed")

OVER = {"start.seed": range(8)}


@pytest.fixture
def cluster():
    # A worker that is started again on a busy machine takes its time.
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        death_timeout=300,
        silence_logs=True,
    ) as made:
        yield made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_is_killed_on_the_way_and_nothing_is_missing_or_doubled(watched, cluster):
    (watched / "deadly3").write_text("1")
    folder = watched / "killed.nc.parts"
    address = cluster.scheduler_address
    done = run_sweep("module.toml", OVER, watched / "killed.nc", scheduler=address, command="")
    assert (done.well, done.reused) == (8, 0)
    lines = [line.split() for line in (watched / "ran").read_text().splitlines()]
    killed = [pid for cell, pid in lines if cell == "3"]
    assert len(killed) == 2
    assert len(set(killed)) == 2
    assert set(Counter(cell for cell, _ in lines)) == {str(cell) for cell in range(8)}
    assert len(list(folder.iterdir())) == 8
    whole = sweep("module.toml", OVER, watched / "whole.nc", workers=2)
    found = gflow.open(watched / "killed.nc")
    for name in whole.children:
        one, two = (tree[name].to_dataset().drop_attrs() for tree in (whole, found))
        times = [key for key in one.data_vars if key == "wall_seconds"]
        xr.testing.assert_identical(one.drop_vars(times), two.drop_vars(times))
    again = run_sweep(
        "module.toml", OVER, watched / "killed.nc", scheduler=address, overwrite=True, command=""
    )
    assert again.reused == 8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cell_that_kills_every_worker_fails_alone(watched, cluster):
    (watched / "deadly1").write_text("99")
    distributed.Client(cluster).run_on_scheduler(
        lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 0)
    )
    over = {"start.seed": range(4)}
    tree = sweep("module.toml", over, "s.nc", scheduler=cluster.scheduler_address)
    assert tree["sweep"].status.values.tolist() == ["t_end", "not_run", "t_end", "t_end"]
    assert "Several workers of the cluster died" in tree["sweep"].status_message.values[1]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "tcp://no-such-host.test:1"])
def test_a_scheduler_that_does_not_answer_is_told(watched, address, monkeypatch):
    monkeypatch.setattr("gflow.sweeps.cluster.TIMEOUT", 1)
    began = time.monotonic()
    with pytest.raises(UsageError) as caught:
        sweep("module.toml", OVER, "s.nc", scheduler=address)
    assert f"No Dask scheduler answers at {address} within" in str(caught.value)
    assert time.monotonic() - began < 20
