"""Parts of a job on PyTorch's number of threads: C called by ctypes holds no lock."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch


def divided(function: Callable[..., Any], job: ctypes.Structure, parts: int, share: int) -> None:
    """Call ``function(job, next, last)`` for parts 0 to `parts`, at least `share` a thread."""
    threads = max(1, min(torch.get_num_threads(), parts // share))
    if threads == 1:
        function(ctypes.byref(job), 0, parts)
        return
    edges = np.linspace(0, parts, threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        done = [pool.submit(function, ctypes.byref(job), *each) for each in pairwise(edges)]
    for each in done:
        each.result()
