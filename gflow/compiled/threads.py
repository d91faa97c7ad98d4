"""Parts of a job on PyTorch's number of threads: C called by ctypes holds no lock."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch


def divided(
    function: Callable[..., Any], job: ctypes.Structure, held: object, parts: int, share: int
) -> None:
    """Call ``function(job, next, last)`` for parts 0 to `parts`, at least `share` a thread.

    `held` owns the memory that the job points to, and lives as long as a thread works there: an
    interrupt waits for those that it can see, but one that is just being started may go on.
    """
    threads = max(1, min(torch.get_num_threads(), parts // share))
    if threads == 1:
        function(ctypes.byref(job), 0, parts)
        return

    def part(first: int, last: int, _owner: object) -> None:
        function(ctypes.byref(job), first, last)

    edges = np.linspace(0, parts, threads + 1).astype(int).tolist()
    pool, done, interrupt = ThreadPoolExecutor(threads), [], None
    try:
        for first, last in pairwise(edges):
            done.append(pool.submit(part, first, last, held))
    except KeyboardInterrupt as raised:
        interrupt = raised
    while True:
        try:
            pool.shutdown(wait=True)
            break
        except KeyboardInterrupt as raised:
            interrupt = raised
    if interrupt is not None:
        raise interrupt
    for each in done:
        each.result()
