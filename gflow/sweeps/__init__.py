"""Sweeps over values of configuration keys: from the request to one dataset.

:mod:`~gflow.sweeps.over` reads what a sweep goes over, :mod:`~gflow.sweeps.plan` checks its cells,
:mod:`~gflow.sweeps.parts` divides them among workers, :mod:`~gflow.sweeps.work` is what a worker
does, :mod:`~gflow.sweeps.local` and :mod:`~gflow.sweeps.cluster` have the workers,
:mod:`~gflow.sweeps.folder` keeps what is done, and :mod:`~gflow.sweeps.gathered` makes one dataset.
"""

from gflow.sweeps.run import Counts, Finished, run_sweep, sweep

__all__ = ["Counts", "Finished", "run_sweep", "sweep"]
