"""Parts of a job on several threads."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
import weakref

import pytest
import torch

from gflow.compiled.threads import divided


class _Nothing(ctypes.Structure):
    pass


@pytest.mark.parametrize(
    ("threads", "parts", "share"), [(1, 7, 1), (3, 7, 1), (3, 7, 4), (9, 2, 1)]
)
def test_every_part_is_done_once(monkeypatch, threads, parts, share):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    done, used = [], set()

    def function(job, first, last):
        done.extend(range(first, last))
        used.add(threading.get_ident())

    divided(function, _Nothing(), None, parts, share)
    assert sorted(done) == list(range(parts))
    assert (threading.get_ident() in used) == (min(threads, parts // share) <= 1)


class _Memory:
    pass


def test_an_interrupt_leaves_the_memory_to_the_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    alive, memory = [], _Memory()
    known = weakref.ref(memory)

    def function(job, first, last):
        if first == 0:
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.2)
        alive.append(known() is not None)

    before, threads = (
        signal.signal(signal.SIGINT, signal.default_int_handler),
        threading.enumerate(),
    )
    try:
        with pytest.raises(KeyboardInterrupt):
            divided(function, _Nothing(), memory, 2, 1)
    finally:
        signal.signal(signal.SIGINT, before)
    del memory
    for each in set(threading.enumerate()) - set(threads):
        each.join()
    assert alive
    assert all(alive)


def test_an_error_is_told(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def function(job, first, last):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        divided(function, _Nothing(), None, 2, 1)
