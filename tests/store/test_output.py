"""A run's file: one writer, nothing left behind, and its troubles told in sentences."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

import gflow
from gflow.errors import LockedError, StoreError, WriteError
from gflow.store.files import version_of
from gflow.store.output import Output


@pytest.fixture(scope="module")
def tree():
    problem = gflow.Problem(gflow.LinearDEQ(dim=1), x=[[0.5], [1.0]], y=[1.0, 2.0])
    return gflow.integrate(problem, [0.1, 0.0], t_end=1.0, times=3)


def test_a_file_is_there_after_a_checkpoint_and_at_the_end(tree, tmp_path):
    path = tmp_path / "run.nc"
    with Output(path) as output:
        output.checkpoint(tree)
        assert gflow.open(path).identical(tree)
        output.finish(tree)
    assert [one.name for one in tmp_path.iterdir()] == ["run.nc"]


def test_two_writers_are_refused(tmp_path):
    path = tmp_path / "run.nc"
    with Output(path):
        with pytest.raises(StoreError, match="being written by another process"), Output(path):
            pass
        with Output(tmp_path / "other.nc"):
            pass
    with Output(path):
        pass
    assert not list(tmp_path.iterdir())


HOLDER = """\
import sys, time
from gflow.store.output import Output
with Output(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_holds_nothing(tree, tmp_path):
    path = tmp_path / "run.nc"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="being written by another process"), Output(path):
            pass
        holder.kill()
    (tmp_path / ".run.nc.abcdefgh.part").write_bytes(b"half a file")
    with Output(path) as output:
        output.finish(tree)
    assert [one.name for one in tmp_path.iterdir()] == ["run.nc"]


def test_an_existing_file_is_replaced_only_if_asked(tree, tmp_path):
    path = tmp_path / "run.nc"
    path.write_text("precious")
    with pytest.raises(StoreError, match="exists"), Output(path):
        pass
    with Output(path, overwrite=True) as output:
        assert path.read_text() == "precious"
        output.finish(tree)
    assert gflow.open(path).identical(tree)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="cannot be written to"), Output(tmp_path / "run.nc"):
        pass
    tmp_path.chmod(0o700)


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(StoreError, match="does not exist"), Output(tmp_path / "no" / "run.nc"):
        pass


def test_what_cannot_fit_is_refused(tmp_path):
    with Output(tmp_path / "run.nc") as output:
        output.reserve(1e6)
        with pytest.raises(StoreError, match="would take about 1e\\+03 TB"):
            output.reserve(1e15)


def test_checkpoints_keep_their_share_of_the_time(tree, tmp_path, monkeypatch):
    with Output(tmp_path / "run.nc", seconds=0.01) as output:
        time.sleep(0.02)
        assert output.due()
        monkeypatch.setattr("gflow.store.output.replace_file", lambda *_: time.sleep(0.05))
        output.checkpoint(tree)
        assert not output.due()
        time.sleep(0.1)
        assert not output.due()  # 50 times as long as it took


def test_every_opportunity_is_taken_if_asked(tree, tmp_path):
    with Output(tmp_path / "run.nc", seconds=0.0) as output:
        assert output.due()
        output.checkpoint(tree)
        assert output.due()


def test_the_end_that_cannot_be_written_is_an_error(tree, tmp_path, monkeypatch):
    def full(*_):
        raise StoreError("No space left on device.")

    with Output(tmp_path / "run.nc") as output:
        monkeypatch.setattr("gflow.store.output.replace_file", full)
        with pytest.raises(WriteError, match="Nothing of the run is kept"):
            output.finish(tree)


def test_a_wrong_pause_is_told(tmp_path):
    problem = gflow.Problem(gflow.LinearDEQ(dim=1), x=[[0.5], [1.0]], y=[1.0, 2.0])
    with pytest.raises(gflow.UsageError, match="checkpoint_seconds is -1"):
        gflow.integrate(problem, [0.1, 0.0], 1.0, output=tmp_path / "run.nc", checkpoint_seconds=-1)


def test_a_file_that_is_another_than_was_read_is_left_alone(tree, tmp_path):
    path = tmp_path / "run.nc"
    gflow.save(tree, path)
    seen = version_of(path)
    with Output(path, overwrite=True, version=seen):
        pass
    gflow.save(tree, path, overwrite=True)
    late = Output(path, overwrite=True, version=seen)
    with pytest.raises(LockedError, match="written by another process meanwhile"), late:
        pass
    with Output(path, overwrite=True):
        pass


def test_a_link_stays_one_and_its_file_has_one_writer(tree, tmp_path):
    (tmp_path / "disk").mkdir()
    file, link = tmp_path / "disk" / "run.nc", tmp_path / "run.nc"
    link.symlink_to(file)
    with Output(link) as output:
        with pytest.raises(LockedError, match="being written by another process"), Output(file):
            pass
        output.finish(tree)
    assert link.is_symlink()
    assert gflow.open(file).identical(tree)
    assert [one.name for one in file.parent.iterdir()] == ["run.nc"]
