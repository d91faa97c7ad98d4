"""Parts run by processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

from gflow.errors import UsageError
from gflow.sweeps.parts import Part
from gflow.sweeps.work import Outcome, run_part
from gflow.worker import prepare

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
        pool = ProcessPoolExecutor(workers, context, initializer=prepare, initargs=(leash,))
        tasks: dict[Future[Outcome], Part] = {}
        ended: list[Outcome] = []
        try:
            _check(pool)
            while queue or tasks or ended:
                while queue and len(tasks) < workers:
                    with _ctrl_c_later():
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
            if queue or tasks:
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
    with _ctrl_c_later():
        first = pool.submit(os.getpid)
    try:
        first.result()
    except BrokenProcessPool:
        raise UsageError(
            "Worker processes cannot be started. A script that calls gflow.sweep needs "
            'if __name__ == "__main__": around that, in a file of its own.'
        ) from None


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Context of starting a worker, which never gets a Ctrl-C: it has the signal blocked, too."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
