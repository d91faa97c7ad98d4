"""Runs that are kept on disk, stopped, and gone on with."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
import xarray as xr
from same_data import assert_same_data

import gflow
from gflow import resuming
from gflow.diagnostics import energy
from gflow.errors import LockedError, ProblemError, StoreError
from gflow.extending import extended_times
from gflow.store.checkpoint import checkpoint_group, read_checkpoint
from gflow.store.output import Output
from gflow.times import Grid

T_END = 8.0


@pytest.fixture(autouse=True)
def often_clean(monkeypatch):
    """The audit of a small problem evaluates 64 panels together, and a run goes on between."""
    monkeypatch.setattr(energy, "BATCH", 2)


def _data(dim=2, n=30, seed=9):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim))
    return x, np.tanh(x @ np.linspace(1, -0.7, dim))


def _problem(seed=9):
    return gflow.Problem(gflow.SingleIndexDEQ(2, "tanh"), *_data(seed=seed))


START = [0.3, 0.4, 0.2]


def _integrate(output=None, problem=None, **further):
    arguments = {"t_end": T_END, "times": 41, "rtol": 1e-5, "checkpoint_seconds": 0.0, **further}
    return gflow.integrate(problem or _problem(), START, output=output, **arguments)


def _interrupt_at(monkeypatch, count):
    """Ctrl-C right after the checkpoint of this number."""
    write = Output.checkpoint

    def interrupted(self, tree):
        write(self, tree)
        if self.written == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(Output, "checkpoint", interrupted)


def _plainly(path):
    with xr.open_datatree(path) as tree:
        return tree.load()


def _extended(count, before, t_end, spacing="linear"):
    return extended_times(count, Grid(count, spacing, before), before, t_end)


METHODS = ["tsit5", "exprb43", "expcol8", "rkc2", "rkc4", "auto"]


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_flow_goes_on_to_the_same_bytes(method, tmp_path, monkeypatch):
    path = tmp_path / "run.nc"
    whole = _integrate(tmp_path / "whole.nc", method=method)
    with monkeypatch.context() as patched:
        _interrupt_at(patched, 4)
        stopped = _integrate(path, method=method)
    assert str(stopped["flow"].status.values) == "interrupted"
    assert 0 < float(stopped["flow"].time[-1]) < T_END
    found = gflow.resume(path, _problem(), checkpoint_seconds=10)
    assert_same_data(found, whole)
    assert_same_data(found, _plainly(path))
    assert "bit for bit" in found.attrs["resumed"]
    assert "resumed" not in whole.attrs
    assert found.attrs["started_at"] == stopped.attrs["started_at"]
    assert found.attrs["wall_seconds"] > stopped.attrs["wall_seconds"]


def test_keeping_a_flow_changes_no_byte_of_it(tmp_path):
    assert_same_data(_integrate(), _integrate(tmp_path / "run.nc"))


def test_a_flow_is_interrupted_again_and_again(tmp_path, monkeypatch):
    path, whole = tmp_path / "run.nc", _integrate(method="tsit5")
    with monkeypatch.context() as patched:
        _interrupt_at(patched, 3)
        found = _integrate(path, method="tsit5")
        stops = 0
        while str(found["flow"].status.values) == "interrupted":
            found = gflow.resume(path, _problem(), checkpoint_seconds=0.0)
            stops += 1
            assert stops < 50
    assert stops >= 2
    assert_same_data(found, whole)
    told = found.attrs["resumed"]
    assert told.count("bit for bit") + told.count("from its start") == stops


def test_a_wrapped_flow_goes_on_to_tolerance_and_says_so(tmp_path, monkeypatch):
    path, whole = tmp_path / "run.nc", _integrate(method="LSODA")
    with monkeypatch.context() as patched:
        _interrupt_at(patched, 4)
        _integrate(path, method="LSODA")
    found = gflow.resume(path, _problem(), checkpoint_seconds=10)
    assert "to its tolerance" in found.attrs["resumed"]
    np.testing.assert_array_equal(found["flow"].time, whole["flow"].time)
    np.testing.assert_allclose(found["flow"].theta, whole["flow"].theta, rtol=1e-4, atol=1e-4)
    assert float(found["flow"].nfe) < 1.5 * float(whole["flow"].nfe)


@pytest.mark.parametrize("method", ["tsit5", "expcol8", "rkc2"])
@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_a_flow_is_extended_as_if_it_had_never_ended(method, spacing, tmp_path):
    path = tmp_path / "run.nc"
    _integrate(path, method=method, spacing=spacing, checkpoint_seconds=10)
    found = gflow.resume(path, _problem(), t_end=3 * T_END)
    times = _extended(41, T_END, 3 * T_END, spacing)
    whole = _integrate(method=method, t_end=3 * T_END, times=times)
    assert_same_data(found, whole)
    assert float(found["flow"].time[-1]) == 3 * T_END
    again = gflow.resume(path, _problem())
    assert_same_data(found, again)


def test_the_diagnostics_of_an_interrupted_flow_are_complete(tmp_path, monkeypatch):
    further = {
        "evaluation": _data(seed=10),
        "observables": {"norm": lambda theta: theta.norm()},
        "diagnostics": {"eigenvalues": 2, "error_estimate": True},
        "events": {"loss": [0.1, 0.05]},
        "method": "tsit5",
    }
    path, whole = tmp_path / "run.nc", _integrate(**further)
    with monkeypatch.context() as patched:
        _interrupt_at(patched, 4)
        _integrate(path, **further)
    given = {key: further[key] for key in ("evaluation", "observables")}
    with pytest.raises(StoreError, match="evaluation and observables"):
        gflow.resume(path, _problem())
    assert_same_data(gflow.resume(path, _problem(), checkpoint_seconds=10, **given), whole)


def test_a_running_file_says_so_and_holds_its_saves(tmp_path, monkeypatch):
    path, seen = tmp_path / "run.nc", []
    write = Output.checkpoint

    def noted(self, tree):
        write(self, tree)
        seen.append(_plainly(path))
        gflow.validate(seen[-1])

    monkeypatch.setattr(Output, "checkpoint", noted)
    whole = _integrate(path, method="tsit5")
    assert len(seen) > 3
    for tree in seen:
        flow = tree["flow"]
        assert str(flow.status.values) == "running"
        before = flow.sizes["time"] - 1
        assert np.isfinite(flow.loss).all()
        np.testing.assert_array_equal(flow.theta[:before], whole["flow"].theta[:before])
        np.testing.assert_allclose(flow.loss[:before], whole["flow"].loss[:before], rtol=1e-12)
        if "energy_residual" in flow:  # the audit waits for a batch of panels
            assert np.isfinite(flow.energy_residual).all()
    assert any("energy_residual" in tree["flow"] for tree in seen)
    ends = [float(tree["flow"].time[-1]) for tree in seen]
    assert ends == sorted(ends)


def _descend(output=None, **further):
    arguments = {"step_sizes": [0.05, 0.1, 40.0], "t_end": 60.0, "records": 21, **further}
    return gflow.descend(_problem(), START, output=output, **arguments)


KINDS = [{}, {"flow": "heavy_ball:0.5"}, {"schedule": "cosine", "step_sizes": [0.05, 0.1]}]


@pytest.mark.parametrize("further", KINDS)
def test_interrupted_descents_go_on_to_the_same_bytes(further, tmp_path, monkeypatch):
    path, whole = tmp_path / "run.nc", _descend(**further)
    monkeypatch.setattr("gflow.descent.run.REPORT", 0.0)
    with monkeypatch.context() as patched:
        _interrupt_at(patched, 100)
        stopped = _descend(path, checkpoint_seconds=0.0, **further)
    assert "interrupted" in stopped["descent"].status.values
    assert_same_data(gflow.resume(path, _problem(), checkpoint_seconds=10), whole)


def _compare(output=None, **further):
    arguments = {"step_sizes": [0.05, 0.1], "t_end": T_END, "records": 21, "times": 41, **further}
    return gflow.compare(_problem(), START, output=output, method="tsit5", **arguments)


@pytest.mark.parametrize("count", [2, 60])
def test_an_interrupted_comparison_goes_on_to_the_same_bytes(count, tmp_path, monkeypatch):
    path, whole = tmp_path / "run.nc", _compare()
    monkeypatch.setattr("gflow.descent.run.REPORT", 0.0)
    with monkeypatch.context() as patched:
        _interrupt_at(patched, count)
        stopped = _compare(path, checkpoint_seconds=0.0)
    assert "comparison" not in stopped.children or count == 60
    assert_same_data(gflow.resume(path, _problem(), checkpoint_seconds=10), whole)


def test_a_flow_begun_anew_takes_nothing_away(tmp_path, monkeypatch):
    """A comparison's flow is integrated again; its file keeps what it holds until there is more."""
    path = tmp_path / "run.nc"
    monkeypatch.setattr("gflow.descent.run.REPORT", 0.0)
    with monkeypatch.context() as patched:
        _interrupt_at(patched, 60)
        _compare(path, checkpoint_seconds=0.0)
    before = _plainly(path)
    with monkeypatch.context() as patched:
        patched.setattr(Output, "postpone", _raise_interrupt)
        gflow.resume(path, _problem(), checkpoint_seconds=0.0)
    assert_same_data(_plainly(path), before)
    assert_same_data(gflow.resume(path, _problem(), checkpoint_seconds=10), _compare())


def _raise_interrupt(_):
    raise KeyboardInterrupt


def test_a_budget_is_raised(tmp_path):
    path, whole = tmp_path / "run.nc", _integrate(method="tsit5")
    stopped = _integrate(path, method="tsit5", stop={"max_steps": 20})
    assert str(stopped["flow"].status.values) == "step_limit"
    with pytest.raises(StoreError, match="give a larger one"):
        gflow.resume(path, _problem())
    assert_same_data(gflow.resume(path, _problem(), checkpoint_seconds=10, max_steps=10_000), whole)


def test_another_problem_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run.nc"
    _interrupt_at(monkeypatch, 2)
    _integrate(path)
    with pytest.raises(StoreError, match="another data"):
        gflow.resume(path, _problem(seed=3))
    other = gflow.Problem(gflow.SingleIndexDEQ(2, "gelu"), *_data(), backward="jfb")
    with pytest.raises(StoreError, match="another model and another backward"):
        gflow.resume(path, other)
    with pytest.raises(StoreError, match=r"made in Python: go on there, with gflow\.resume"):
        gflow.resume(path)


def test_a_complete_run_is_left_alone(tmp_path):
    path = tmp_path / "run.nc"
    whole = _integrate(path)
    before = path.stat().st_mtime_ns
    assert_same_data(gflow.resume(path, _problem()), whole)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("t_end", [T_END, 1.0, math.inf, math.nan])
def test_an_end_that_is_no_later_is_refused(t_end, tmp_path):
    path = tmp_path / "run.nc"
    _integrate(path)
    with pytest.raises(StoreError, match="must lie beyond"):
        gflow.resume(path, _problem(), t_end=t_end)


@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_descents_are_extended_as_if_they_had_never_ended(spacing, tmp_path):
    path = tmp_path / "run.nc"
    _descend(path, spacing=spacing)
    found = gflow.resume(path, _problem(), t_end=150.0)
    records = _extended(21, 60.0, 150.0, spacing)
    assert_same_data(found, _descend(t_end=150.0, records=records))
    assert_same_data(gflow.resume(path, _problem()), found)


def test_a_comparison_is_extended_as_if_it_had_never_ended(tmp_path):
    path = tmp_path / "run.nc"
    _compare(path)
    found = gflow.resume(path, _problem(), t_end=2 * T_END)
    times, records = (_extended(n, T_END, 2 * T_END) for n in (41, 21))
    assert_same_data(found, _compare(t_end=2 * T_END, times=times, records=records))


@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_a_run_is_extended_again_as_if_it_had_never_ended(spacing, tmp_path):
    path = tmp_path / "run.nc"
    _compare(path, spacing=spacing)
    gflow.resume(path, _problem(), t_end=1.31 * T_END)
    found = gflow.resume(path, _problem(), t_end=2 * T_END)
    ends = (1.31 * T_END, 2 * T_END)
    times, records = (
        extended_times(_extended(n, T_END, ends[0], spacing), Grid(n, spacing, T_END), *ends)
        for n in (41, 21)
    )
    assert_same_data(found, _compare(t_end=ends[1], times=times, records=records))
    assert len(found["flow"].time) == {"linear": 82, "log": 45}[spacing]


def test_a_run_goes_on_with_its_pause_between_checkpoints(tmp_path, monkeypatch):
    path = tmp_path / "run.nc"
    with monkeypatch.context() as patch:
        _interrupt_at(patch, 2)
        _integrate(path)
    made = []
    monkeypatch.setattr(Output, "__enter__", lambda self: made.append(self) or 1 / 0)
    for asked, seconds in ((None, 0.0), (3, 3)):
        with pytest.raises(ZeroDivisionError):
            gflow.resume(path, _problem(), checkpoint_seconds=asked)
        assert made.pop().seconds == seconds


def test_a_damaged_checkpoint_is_told(tmp_path):
    tree = _integrate(tmp_path / "run.nc")
    state = tree["checkpoint"]["state"].values.copy()
    state[-1] ^= 1
    tree["checkpoint"]["state"] = ("byte", state)
    with pytest.raises(StoreError, match="The checkpoint is damaged"):
        read_checkpoint(tree)


def test_what_cannot_be_extended_is_refused(tmp_path):
    _descend(tmp_path / "cosine.nc", schedule="cosine", step_sizes=[0.05])
    with pytest.raises(StoreError, match="depend on the whole length"):
        gflow.resume(tmp_path / "cosine.nc", _problem(), t_end=100.0)
    _compare(tmp_path / "compare.nc", descent_t_end=2.0)
    with pytest.raises(StoreError, match="descents that end at 2, the flow at 8"):
        gflow.resume(tmp_path / "compare.nc", _problem(), t_end=100.0)
    _integrate(tmp_path / "loss.nc", stop={"loss": 0.1})
    with pytest.raises(StoreError, match="The loss reached"):
        gflow.resume(tmp_path / "loss.nc", _problem(), t_end=100.0)


def test_a_file_without_a_checkpoint_is_told(tmp_path):
    path = tmp_path / "run.nc"
    gflow.save(_integrate(), path)
    with pytest.raises(StoreError, match="no checkpoint"):
        gflow.resume(path, _problem())


def test_the_checkpoint_of_another_version_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run.nc"
    _integrate(path)
    monkeypatch.setattr(gflow, "__version__", "9.9")
    with pytest.raises(StoreError, match=r"of gflow 0\.1\.0, and this is gflow 9\.9"):
        gflow.resume(path, _problem())


def test_an_ensemble_is_written_when_it_has_ended(tmp_path):
    path = tmp_path / "run.nc"
    found = gflow.integrate(_problem(), [START, [0.1, 0.2, 0.3]], t_end=2.0, output=path)
    assert_same_data(found, _plainly(path))


def test_a_full_disk_is_told_once_and_the_run_goes_on(tmp_path, monkeypatch):
    path, failures = tmp_path / "run.nc", []

    def full(tree, target):
        failures.append(target)
        raise StoreError("No space left on device.")

    with monkeypatch.context() as patched:
        patched.setattr("gflow.store.output.replace_file", full)
        with (
            pytest.warns(RuntimeWarning, match="No space left on device") as told,
            pytest.raises(StoreError, match="Nothing of the run is kept") as caught,
        ):
            _integrate(path, method="tsit5")
    assert len(failures) > 3
    assert len(told) == 1
    assert caught.value.exit_code == 1


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.nc"
    from gflow.store.output import replace_file

    def filling(tree, target):
        if float(tree["flow"].time[-1]) > 2:
            raise StoreError("No space left on device.")
        replace_file(tree, target)

    with monkeypatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patched.setattr("gflow.store.output.replace_file", filling)
        with pytest.raises(StoreError, match="last checkpoint is kept"):
            _integrate(path, method="tsit5")
    assert_same_data(gflow.resume(path, _problem()), _integrate(method="tsit5"))


@pytest.mark.parametrize(
    ("times", "spacing", "expected"),
    [
        (3, "linear", [0, 1, 2, 3, 4, 5]),
        (5, "linear", [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5]),
        ([0.5, 1.5], "linear", [0.5, 1.5, 2, 5]),
        (2, "log", [0, 2, 5]),
    ],
)
def test_saves_go_on_as_they_were_spaced(times, spacing, expected):
    grid = Grid(times, spacing, 2.0) if isinstance(times, int) else None
    assert extended_times(times, grid, 2.0, 5.0) == pytest.approx(expected)


def test_saves_keep_their_spacing_when_they_go_on_again():
    once = _extended(5, 2.0, 3.2)
    twice = extended_times(once, Grid(5, "linear", 2.0), 3.2, 4.0)
    assert twice == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.2, 3.5, 4])


def test_an_end_that_asks_for_countless_saves_is_refused():
    with pytest.raises(ProblemError, match="would add 1e\\+12 saves"):
        _extended(5, 2.0, 5e11)


def test_saves_in_the_logarithm_go_on_at_their_ratio():
    found = np.array(_extended(10, 2.0, 500.0, "log"))
    ratio = found[2:-1] / found[1:-2]
    assert ratio == pytest.approx(ratio[0])
    assert found[-1] == 500.0


def test_a_run_that_another_process_extended_meanwhile_is_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "run.nc"
    _integrate(path, method="tsit5")
    found = resuming.changes

    def slowly(*given):
        monkeypatch.setattr(resuming, "changes", found)
        gflow.resume(path, _problem(), t_end=3 * T_END)
        return found(*given)

    monkeypatch.setattr(resuming, "changes", slowly)
    with pytest.raises(LockedError, match="written by another process meanwhile"):
        gflow.resume(path, _problem(), t_end=2 * T_END)
    assert float(gflow.open(path)["flow"].time[-1]) == 3 * T_END


@pytest.mark.parametrize(("ends", "begun"), [((2.0, 3.3), "start"), ((2.0, 4.0), "t = ")])
def test_fixed_steps_are_those_of_the_later_end(ends, begun, tmp_path):
    path, size = tmp_path / "run.nc", 0.03 if begun == "start" else 0.02
    fixed = {"method": "rk4", "step_size": size}
    _integrate(path, t_end=ends[0], times=[1.0], **fixed)
    found = gflow.resume(path, _problem(), t_end=ends[1])
    whole = _integrate(t_end=ends[1], times=[1.0, ends[0]], **fixed)
    assert found["flow"].method_reason.item() == whole["flow"].method_reason.item()
    assert np.array_equal(found["flow"].theta, whole["flow"].theta)
    assert begun in found.attrs["resumed"]


def test_descents_that_went_on_say_so(tmp_path, monkeypatch):
    path = tmp_path / "run.nc"
    with monkeypatch.context() as patch:
        patch.setattr("gflow.descent.run.REPORT", 0.0)
        _interrupt_at(patch, 2)
        _descend(path, checkpoint_seconds=0.0)
    found = gflow.resume(path, _problem())
    assert re.fullmatch(r"the descents at update \d+, bit for bit", found.attrs["resumed"])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("flow", "observers", 0, "seen"), None),
        (("flow", "counts"), []),
        (("flow", "state", "theta"), {}),
        (("flow", "saved_t"), 0),
        (("flow", "log"), 3),
        (("arguments",), {}),
        (("arguments", "t_end"), ""),
        (("method", "names"), 3),
        (("wall_seconds",), None),
    ],
)
def test_a_checkpoint_of_odd_parts_is_told_in_a_sentence(place, value, tmp_path, monkeypatch):
    path = tmp_path / "run.nc"
    with monkeypatch.context() as patch:
        _interrupt_at(patch, 6)
        tree = _integrate(path, method="tsit5")
    payload = read_checkpoint(tree)
    *way, last = place
    part = payload
    for name in way:
        part = part[name]
    part[last] = value
    tree["checkpoint"] = xr.DataTree(checkpoint_group(payload))
    gflow.save(tree, path, overwrite=True)
    with pytest.raises(StoreError, match=r"checkpoint"):
        gflow.resume(path, _problem(), t_end=2 * T_END)


def test_an_error_of_the_callers_own_passes(tmp_path, monkeypatch):
    path = tmp_path / "run.nc"
    with monkeypatch.context() as patch:
        _interrupt_at(patch, 6)
        _integrate(path, method="tsit5")

    def fail(_):
        raise ValueError("my own")

    with pytest.raises(ValueError, match="my own"):
        gflow.resume(path, _problem(), progress=fail)
