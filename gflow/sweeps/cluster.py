"""Parts run by the workers of a Dask cluster; they write nothing, and results come back."""

from __future__ import annotations

import importlib
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from gflow.errors import GflowError, UsageError
from gflow.store.lazy import need
from gflow.sweeps.parts import Part
from gflow.sweeps.work import Outcome, run_part

TIMEOUT = 10
"""Seconds for which a scheduler is waited for."""

PATIENCE = 60
"""Seconds for which a result that is said to be there, or a first worker, is waited for."""

INTERVAL = 0.1
"""Seconds between two looks at the tasks."""

DIED = (
    "Several workers of the cluster died while they ran this cell, killed or out of memory; the "
    "same command tries it again."
)


class Cluster:
    """The workers of a scheduler.

    A part whose worker dies is run by another one. Where several die of a part, or of another
    one beside it, each of its cells is run alone in the end, and fails if several die of that.

    Parameters
    ----------
    address : str
        Such as ``tcp://node1:8786``.

    Attributes
    ----------
    workers : int
        How many there are at the start, one at least.
    running : list of Part
        Those that the workers have.

    Raises
    ------
    UsageError
        If no scheduler answers there.
    """

    def __init__(self, address: str) -> None:
        need("distributed", "distributed", "A sweep on a cluster")
        self._dask: Any = importlib.import_module("distributed")
        try:
            self._client = self._dask.Client(address, timeout=TIMEOUT, set_as_default=False)
        except (OSError, TimeoutError, ValueError, ImportError) as error:
            raise UsageError(
                f"No Dask scheduler answers at {address} within {TIMEOUT} s "
                f"({type(error).__name__}); start one by `dask scheduler`, or correct the address."
            ) from None
        self.workers = max(1, len(self._client.scheduler_info()["workers"]))
        self.running: list[Part] = []

    def run(self, parts: Sequence[Part]) -> Generator[Outcome]:
        """Run the parts; what became of each, in the order of their ends.

        One a worker is submitted at a time, and each result is fetched at once: it lies on its
        worker until then, and is lost with it. One that cannot be fetched is computed again.
        """
        waiting, suspects = deque(parts), deque[Part]()
        tasks: dict[Any, Part] = {}
        ended = self._dask.as_completed(loop=self._client.loop)
        try:
            while waiting or suspects or tasks:
                while (waiting and len(tasks) < self.workers) or (suspects and not tasks):
                    part = waiting.popleft() if waiting else suspects.popleft()
                    task = self._client.submit(run_part, part, pure=False)
                    tasks[task] = part
                    ended.add(task)
                self.running = list(tasks.values())
                self._wait(ended)
                task = next(ended)
                outcome = self._fetched(task, tasks.pop(task), waiting, suspects)
                if outcome is not None:
                    yield outcome
        finally:
            self.running = []
            self._client.close()

    def _wait(self, ended: Any) -> None:
        """Wait until a task has ended, unless there is no worker left to run it."""
        seen = time.monotonic()
        while not ended.has_ready():
            time.sleep(INTERVAL)
            if self._client.scheduler_info()["workers"]:
                seen = time.monotonic()
            elif time.monotonic() - seen > PATIENCE:
                raise GflowError(
                    f"The cluster has had no worker for {PATIENCE} s; the cells that are done are "
                    "kept, and the same command goes on from there."
                )

    def _fetched(
        self, task: Any, part: Part, waiting: deque[Part], suspects: deque[Part]
    ) -> Outcome | None:
        """The result of a task that is done; None if its cells are to be run again."""
        try:
            outcome: Outcome = task.result(timeout=PATIENCE)
        except self._dask.KilledWorker:
            if part.deaths:
                return Outcome(failed={part.keys[0]: DIED})
            suspects.extend(replace(one, deaths=1) for one in part.split())
        except (TimeoutError, self._dask.TimeoutError, self._dask.CancelledError):
            waiting.append(part)
        else:
            return outcome
        finally:
            task.release()
        return None
