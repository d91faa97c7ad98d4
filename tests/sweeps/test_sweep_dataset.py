from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import gflow
from gflow.config import config_from_dict, with_values
from gflow.configured import run_config
from gflow.errors import ConfigError, StoreError, UsageError
from gflow.plot.sweep import as_ensemble
from gflow.plot.wording import description
from gflow.sweeps import run_sweep, sweep

pytestmark = pytest.mark.usefixtures("inline")


def lone(base, kind, **changes):
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return run_config(config_from_dict(with_values(base, dotted)), kind, Path())


def test_flows_run_together_equal_their_lone_runs(base):
    tree = sweep(base, {"data.seed": range(2), "start.seed": [5, 6]}, "s.nc", kind="integrate")
    assert set(tree.children) == {"problem", "flow", "flow_steps", "reference", "sweep"}
    assert tree["flow"].loss.dims == ("data.seed", "start.seed", "time")
    assert (tree["sweep"].status == "t_end").all()
    for data in range(2):
        for start in (5, 6):
            own = lone(base, "integrate", data__seed=data, start__seed=start, flow__rtol=1e-8)
            cell = tree["flow"].to_dataset().sel({"data.seed": data, "start.seed": start})
            assert cell.time.values.tolist() == [0, 0.25, 0.5, 0.75, 1]
            np.testing.assert_allclose(cell.theta, own["flow"].theta, rtol=3e-4, atol=1e-5)
            limit = tree["reference"].theta_limit.sel({"data.seed": data, "start.seed": start})
            np.testing.assert_allclose(limit, own["reference"].theta_limit, rtol=1e-12)
            assert own.attrs["data_sha256"] == tree["sweep"].data_sha256.values[data, start - 5]


def test_a_comparison_is_bitwise_its_lone_run(base):
    over = {"flow.rtol": [1e-3, 1e-6]}
    tree = sweep(base, over, "s.nc")
    for rtol in over["flow.rtol"]:
        own = lone(base, "compare", flow__rtol=rtol)
        for group in ("flow", "flow_steps", "descent", "comparison", "reference", "problem"):
            cell = tree[group].to_dataset().sel({"flow.rtol": rtol}, drop=True)
            for name, expected in own[group].data_vars.items():
                if name == "wall_seconds" or (group == "problem" and name in ("inputs", "target")):
                    continue
                found = cell[name]
                if "step" in found.dims:
                    found = found.isel(step=slice(own["flow_steps"].sizes["step"]))
                assert found.dims == expected.dims
                np.testing.assert_array_equal(found.values, expected.values, err_msg=str(name))
    assert tree["flow"].rtol.values.tolist() == [1e-3, 1e-6]
    assert "rtol" not in tree["flow"].attrs
    assert tree["flow"].attrs["atol"] == 1e-9
    last = tree["flow"].to_dataset().isel(time=-1)
    assert (tree["flow"].t_final == 1).all()
    np.testing.assert_array_equal(tree["flow"].theta_final, last.theta)
    np.testing.assert_array_equal(tree["flow"].loss_final, last.loss)


def test_plain_xarray_opens_it_and_selects(base):
    sweep(base, {"data.seed": [3, 4]}, "s.nc", kind="integrate")
    with xr.open_datatree("s.nc") as tree:
        flow = tree["flow"].to_dataset()
        assert flow.sel({"data.seed": 3}).loss.dims == ("time",)
        assert tree.attrs["config"] == tree["sweep"].attrs["config"]
        assert tree.attrs["started_at"] < tree.attrs["finished_at"]
        assert tree["sweep"].attrs["over"] == "data.seed=3,4"
        assert tree["sweep"].attrs["dimensions"] == "data.seed"
    assert gflow.open("s.nc").attrs["wall_seconds"] > 0


def test_single_step_sizes_are_a_dimension_and_lists_are_joined(base):
    tree = sweep(base, {"descent.step_sizes": [0.05, 0.1]}, "s.nc", kind="descend")
    assert tree["descent"].loss.dims == ("descent.step_sizes", "record")
    assert tree["reference"].critical_radius.dims == ("descent.step_sizes",)
    base["descent"]["t_end"] = 1.0
    joined = sweep(base, {"descent.step_sizes": [[0.05, 0.1], [0.1]]}, "t.nc", kind="descend")
    descent = joined["descent"].to_dataset()
    assert descent.step_size.values.tolist() == [0.05, 0.1]
    assert descent.status.values.tolist() == [["t_end", "t_end"], ["not_run", "t_end"]]
    missing = descent.sel({"descent.step_sizes": "0.1", "step_size": 0.05})
    assert missing.loss.isnull().all()
    assert (missing["update"] == -1).all()
    for name in ("s.nc", "t.nc"):
        assert (gflow.open(name)["sweep"].status == "t_end").all()


def test_saves_of_their_own_make_time_a_variable(base):
    tree = sweep(base, {"flow.t_end": [1.0, 2.0], "flow.times": [3, 5]}, "s.nc", kind="integrate")
    flow = tree["flow"].to_dataset()
    assert flow.loss.dims == ("flow.t_end", "flow.times", "save")
    cell = flow.sel({"flow.t_end": 2.0, "flow.times": 3})
    np.testing.assert_array_equal(cell.time, [0, 1, 2, np.nan, np.nan])
    assert cell.loss.notnull().sum() == 3
    assert tree["reference"].loss_bound.dims == flow.loss.dims


def test_flows_whose_end_places_their_saves(base):
    base["flow"] |= {"t_end": np.inf, "stop": {"gradient_norm": 1e-3}}
    tree = sweep(base, {"start.seed": [1, 2]}, "s.nc", kind="integrate")
    own = lone(base, "integrate", start__seed=2)
    cell = tree["flow"].to_dataset().sel({"start.seed": 2})
    np.testing.assert_array_equal(cell.time, own["flow"].time)
    assert cell.t_final == own["flow"].time[-1]


def test_a_flow_that_ends_early_keeps_its_saves(base):
    base["flow"] |= {"stop": {"max_steps": 4}}
    for kind, seeds in (("integrate", [1, 2, 3]), ("compare", [1])):
        tree = sweep(base, {"start.seed": seeds}, "s.nc", kind=kind, overwrite=True)
        flow = tree["flow"].to_dataset().isel({"start.seed": 0})
        saved = flow.loss.notnull().values
        assert flow.status == "step_limit"
        assert tree["sweep"].status.values[0] == "step_limit"
        assert (flow.time.values <= flow.t_final.item()).tolist() == saved.tolist()
        assert np.isfinite(flow.theta_final).all()
        assert np.isfinite(flow.loss_final)
        assert not saved.all()


def test_models_of_different_sizes_are_joined_by_the_names_of_parameters(base):
    base["model"], base["data"] = {}, {"source": "teacher", "samples": 9, "seed": 0}
    tree = sweep(base, {"model.dim": [1, 2], "model.activation": "tanh,gelu"}, "s.nc")
    flow = tree["flow"].to_dataset()
    assert flow.parameter.values.tolist() == ["theta1[0]", "theta1[1]", "theta2"]
    lacking = flow.theta_final.isnull().sel(parameter="theta1[1]")
    assert lacking.values.tolist() == [[True, True], [False, False]]
    assert tree["problem"].attrs["model"] == "varies"
    assert "dim=2" in tree["problem"].model.sel({"model.dim": 2}).values[0]
    assert tree["problem"].attrs["backward"] == "exact"
    tree = sweep(base, {"model.backward": "exact,jfb", "model.dim": [1]}, "t.nc", kind="integrate")
    assert tree["problem"].backward.values.ravel().tolist() == ["exact", "jfb"]


def test_epsilons_go_together(base):
    base["model"] = {"activation": "weak-tanh"}
    tree = sweep(base, {"model.epsilon": [0.5, 0.25]}, "s.nc", kind="integrate")
    base["model"] = {"activation": "weak-tanh:0.25"}
    own = lone(base, "integrate", flow__rtol=1e-8)
    cell = tree["flow"].to_dataset().sel({"model.epsilon": 0.25})
    np.testing.assert_allclose(cell.theta, own["flow"].theta, rtol=3e-4, atol=1e-5)


def test_a_cell_that_fails_is_nan_with_a_sentence(base, tmp_path):
    (tmp_path / "good.csv").write_text("a,y\n1,2\n2,3\n")
    (tmp_path / "bad.csv").write_text("a,y\n1,2\n2,three\n")
    base["data"] = {"source": "file", "inputs": ["a"], "target": "y"}
    files = ["good.csv", "bad.csv", "none.csv"]
    done = run_sweep(
        base, {"data.path": files, "model.kind": "linear,vector"}, tmp_path / "s.nc", command=""
    )
    assert (done.well, done.cells) == (1, 6)
    tree = gflow.open("s.nc")
    status, message = tree["sweep"].status, tree["sweep"].status_message
    assert status.values.tolist() == [["t_end", "not_run"], ["not_run"] * 2, ["not_run"] * 2]
    assert "vector DEQ needs it" in message.values[0, 1]
    assert "three" in message.values[1, 0]
    assert "none.csv does not exist" in message.values[2, 0]
    flow = tree["flow"].to_dataset()
    assert flow.loss.isel({"data.path": 1}).isnull().all()
    assert flow.nfe.values[1, 0] == -1
    assert flow.status.values[1, 0] == "not_run"
    assert done.first_failure.startswith("data.path = good.csv, model.kind = vector (not_run)")


def test_a_sweep_of_which_no_cell_runs_is_written_too(base):
    base["data"] = {"source": "file", "inputs": ["a"], "target": "y"}
    tree = sweep(base, {"data.path": ["a.csv", "b.csv"]}, "s.nc")
    assert set(tree.children) == {"sweep"}
    assert (tree["sweep"].status == "not_run").all()


def test_data_are_stored_where_that_is_asked_for(base):
    assert "inputs" not in sweep(base, {"data.seed": [1, 2]}, "s.nc", kind="integrate")["problem"]
    base["run"] = {"store_data": True}
    tree = sweep(base, {"data.samples": [4, 6]}, "t.nc", kind="integrate")
    inputs = tree["problem"].inputs
    assert inputs.dims == ("data.samples", "sample", "feature")
    assert inputs.isnull().sum(("sample", "feature")).values.tolist() == [2, 0]


def test_large_datasets_are_read_when_they_are_used(base):
    sweep(base, {"data.seed": [3, 4]}, "s.nc", kind="integrate")
    whole = sweep(base, {"data.seed": [3, 4]}, "s.zarr", kind="integrate")
    for name in ("s.nc", "s.zarr"):
        with gflow.open(name, chunks={}) as tree:
            assert tree["flow"].theta.chunks is not None
            xr.testing.assert_identical(
                tree["flow"].theta.compute().drop_attrs(), whole["flow"].theta.drop_attrs()
            )
            assert tree["sweep"].status.values.tolist() == ["t_end", "t_end"]
    assert gflow.open("s.zarr")["flow"].theta.chunks is None


def test_a_sweep_has_no_one_state(base):
    tree = sweep(base, {"data.seed": [1, 2]}, "s.nc", kind="descend")
    with pytest.raises(StoreError, match="this is a sweep, of many runs"):
        gflow.state_dict(tree, step_size=0.05)


@pytest.mark.parametrize(
    ("over", "settings", "error", "sentence"),
    [
        ({"data.seed": [1]}, {"output": "s.txt"}, StoreError, "must end in .nc, .nc4 or .zarr"),
        ({"data.seed": [1]}, {"workers": 0}, UsageError, "workers is 0; it must be 1 at least"),
        ({"data.seed": [1]}, {"workers": 1, "scheduler": "tcp://a:1"}, UsageError, "give one"),
        ({"data.sed": [1]}, {}, ConfigError, "did you mean data.seed?"),
        ({"data.seed": [1]}, {"output": "no/s.nc"}, StoreError, "no does not exist"),
    ],
)
def test_wrong_requests_run_nothing(base, inline, over, settings, error, sentence):
    with pytest.raises(error) as caught:
        sweep(base, over, **{"output": "s.nc"} | settings)
    assert sentence in str(caught.value)
    assert inline.ran == []


def test_existing_output_is_kept_unless_asked(base, tmp_path, inline):
    (tmp_path / "s.nc").write_text("mine")
    (tmp_path / "s.zarr").mkdir()
    for name in ("s.nc", "s.zarr"):
        with pytest.raises(StoreError):
            sweep(base, {"data.seed": [1]}, name, kind="integrate")
    with pytest.raises(StoreError, match="is no Zarr store"):
        sweep(base, {"data.seed": [1]}, "s.zarr", kind="integrate", overwrite=True)
    assert (tmp_path / "s.nc").read_text() == "mine"
    assert inline.ran == []


def numbers(data):
    """Its variables of numbers, flat."""
    return {name: one.values.ravel() for name, one in data.items() if one.dtype.kind in "fi"}


@pytest.mark.parametrize(
    ("model", "theta", "status"),
    [
        ("identity", [1e300, 0.0], "nonfinite_start"),
        ("tanh", [0.5, 1.5], "equilibrium_lost"),
    ],
)
def test_a_flow_that_failed_at_its_start_is_nan(base, model, theta, status):
    base["model"] = {"activation": model}
    base["start"] = {"theta": theta}
    both = sweep(base, {"data.seed": [1, 2]}, "s.nc", kind="integrate")
    one = sweep(base, {"data.seed": [1]}, "t.nc", kind="integrate")
    for tree in (both, one):
        assert set(tree["sweep"].status.values) == set(tree["flow"].status.values) == {status}
        assert tree["flow_steps"].sizes["step"] == 0
        for group in {"flow", "reference"} & set(tree.children):
            for name, values in numbers(tree[group].to_dataset()).items():
                assert (np.isnan(values) | (values == -1)).all(), (group, name)
        assert np.isfinite(tree["sweep"].wall_seconds).all()
    messages = [tree["sweep"].status_message.values[0] for tree in (both, one)]
    assert messages[0] == messages[1] != ""


def test_a_cell_that_failed_at_its_start_leaves_the_others_as_they_are(base):
    base["start"] = {}
    over = {"start.theta": [[1.0, 0.0], [1e300, 0.0]]}
    alone = sweep(base, {"start.theta": [[1.0, 0.0]]}, "s.nc", kind="compare")
    for kind in ("integrate", "compare"):
        tree = sweep(base, over, f"{kind}.nc", kind=kind)
        assert tree["sweep"].status.values.tolist() == ["t_end", "nonfinite_start"]
        finite = np.isfinite(tree["flow"].theta).all(("time", "parameter"))
        assert finite.values.tolist() == [True, False]
        assert tree["flow"].theta.isel({"start.theta": 1}).isnull().all()
        assert np.isfinite(tree["reference"].sphere_radius).values.tolist() == [True, False]
    assert tree["comparison"].distance.isel({"start.theta": 1}).isnull().all()
    for group in ("flow", "descent", "comparison", "reference"):
        cell = tree[group].to_dataset().isel({"start.theta": 0})
        own = alone[group].to_dataset().isel({"start.theta": 0})
        for name in own.data_vars.keys() - {"wall_seconds"}:
            np.testing.assert_array_equal(cell[name].values, own[name].values, err_msg=str(name))


def test_a_figure_leaves_out_flows_that_failed_at_their_start(base):
    base["start"] = {}
    for thetas, fails in (([[1e300, 0.0], [1.0, 0.0]], False), ([[1e300, 0.0]], True)):
        over = {"start.theta": thetas}
        tree = sweep(base, over, "s.nc", kind="integrate", overwrite=True)
        if fails:
            with pytest.raises(StoreError, match="No cell of this sweep has a result"):
                as_ensemble(tree)
        else:
            drawn = as_ensemble(tree)["flow"].to_dataset()
            assert drawn.sizes["trajectory"] == 1
            assert np.isfinite(drawn.theta).all()


def test_descents_that_failed_are_kept_as_far_as_they_came(base):
    base["model"], base["start"] = {"activation": "tanh"}, {}
    base["data"]["theta"] = [2.0, 0.8]
    base["descent"] |= {"step_sizes": [0.1, 9.0], "t_end": 20.0, "records": 100}
    over = {"start.theta": [[0.3, 0.0], [0.5, 1.5]]}
    tree = sweep(base, over, "s.nc", kind="descend")
    later, begun = (tree["descent"].to_dataset().isel({"start.theta": one}) for one in (0, 1))
    assert later.status.values.tolist() == ["t_end", "equilibrium_lost"]
    lost = later.isel(step_size=1)
    assert np.isfinite(lost.loss[0])
    assert lost["update"].max() > 0
    assert set(begun.status.values) == {"equilibrium_lost"}
    for name, values in numbers(begun).items():
        assert (np.isnan(values) | (values == -1)).all(), name


def test_events_are_padded(base):
    base["flow"]["events"] = {"loss": [0.5, 0.1]}
    tree = sweep(base, {"start.scale": [0.1, 2.0]}, "s.nc", kind="integrate")
    for scale in (0.1, 2.0):
        own = lone(base, "integrate", start__scale=scale)["flow"].event_time.values
        cell = tree["flow"].event_time.sel({"start.scale": scale}).values
        np.testing.assert_allclose(cell[: len(own)], own, rtol=1e-4)
        assert np.isnan(cell[len(own) :]).all()


def test_the_root_has_the_digest_of_the_data_that_all_cells_read(base):
    for over, differ in (({"start.scale": [0.1, 0.2, 0.3]}, False), ({"data.seed": [1, 2]}, True)):
        tree = sweep(base, over, "s.nc", kind="integrate", overwrite=True, workers=1)
        digests = set(tree["sweep"].data_sha256.values.tolist())
        assert tree.attrs["data_sha256"] == ("varies" if differ else digests.pop())


def test_a_figure_tells_which_cells_it_draws_and_that_models_differ(base):
    base["model"], base["data"]["theta"] = {"activation": "weak-tanh"}, [2.0, 0.1]
    over = {"model.epsilon": [0.5, 0.25], "start.seed": range(11)}
    tree = sweep(base, over, "s.nc", kind="integrate", workers=1)
    title = description(as_ensemble(tree))
    assert title.startswith("several models  ·  backward exact")
    assert title.endswith("the first 20 of 22 flows")
    some = sweep(base, {"model.epsilon": [0.5, 20.0]}, "n.nc", kind="integrate", workers=1)
    assert description(as_ensemble(some)).endswith("those of 2 cells that ran")
    base["model"]["epsilon"] = 0.5
    all_drawn = sweep(base, {"start.seed": range(2)}, "f.nc", kind="integrate", workers=1)
    assert description(as_ensemble(all_drawn)).endswith("rtol 1e-05")
