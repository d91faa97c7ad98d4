"""Parts run by processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for

from gflow.errors import UsageError
from gflow.sweeps.parts import Part
from gflow.sweeps.work import Outcome, run_part

DIED = (
    "The worker process died twice while it ran this cell, killed or out of memory; the same "
    "command tries it again."
)

MOST_DEATHS = 2
"""Workers that a part may kill; by then it has run alone."""


class LocalPool:
    """Worker processes, started afresh where one of them dies.

    A death breaks the whole pool. The parts that were running then are suspects, and are run one at
    a time, so that the next death tells which one it is: a part that has killed two workers is
    split into its cells, and a cell that has killed two fails.

    Parameters
    ----------
    workers : int

    Attributes
    ----------
    running : list of Part
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.running: list[Part] = []

    def run(self, parts: Sequence[Part]) -> Generator[Outcome]:
        """Run the parts; what became of each, in the order of their ends.

        Closing the iterator, or an exception in it, ends the workers at once.
        """
        waiting, suspects = deque(parts), deque[Part]()
        while waiting or suspects:
            queue, width = (suspects, 1) if suspects else (waiting, self.workers)
            yield from self._until_a_death(queue, width, suspects)

    def _until_a_death(
        self, queue: deque[Part], width: int, suspects: deque[Part]
    ) -> Generator[Outcome]:
        """Run a queue until it is empty or a worker dies."""
        context = multiprocessing.get_context("spawn")
        leash, held = context.Pipe(duplex=False)
        workers = min(width, len(queue))
        pool = ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(leash,))
        tasks: dict[Future[Outcome], Part] = {}
        ended: list[Outcome] = []
        try:
            _check(pool)
            while queue or tasks or ended:
                while queue and len(tasks) < workers:
                    tasks[pool.submit(run_part, queue[0])] = queue[0]
                    queue.popleft()
                self.running = list(tasks.values())
                if ended:
                    yield ended.pop()
                    continue
                for task in wait(tasks, return_when=FIRST_COMPLETED).done:
                    ended.append(task.result())
                    del tasks[task]
        except BrokenProcessPool:
            yield from ended
            yield from self._sort_out(list(tasks.items()), suspects)
        finally:
            self.running = []
            if tasks:
                held.close()
            pool.shutdown(wait=True, cancel_futures=True)
            held.close()
            leash.close()

    def _sort_out(
        self, tasks: Sequence[tuple[Future[Outcome], Part]], suspects: deque[Part]
    ) -> Generator[Outcome]:
        """What is to become of the parts that were running when a worker died."""
        for task, part in tasks:
            if task.done() and task.exception() is None:
                yield task.result()
            elif part.deaths + 1 < MOST_DEATHS:
                suspects.append(replace(part, deaths=part.deaths + 1))
            elif len(part.keys) > 1:
                suspects.extend(part.split())
            else:
                yield Outcome(failed={part.keys[0]: DIED})


def _check(pool: ProcessPoolExecutor) -> None:
    """Find out whether workers start at all."""
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool:
        raise UsageError(
            "Worker processes cannot be started. A script that calls gflow.sweep needs "
            'if __name__ == "__main__": around that, in a file of its own.'
        ) from None


def _prepare(leash: Connection) -> None:
    """Make a worker leave Ctrl-C to its parent, and end with it or when it lets go of the leash."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with, args=(leash,), daemon=True).start()


def _leave_with(leash: Connection) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([leash, parent.sentinel])
    os._exit(1)
