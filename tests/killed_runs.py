"""Runs in processes of their own, to be killed: a parent that forks one for every line it reads.

A line is ``KIND METHOD PATH LOG``: begin or go on with that run in that file; after every
checkpoint its time is appended to LOG. The answer is the process's number, then how it ended.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import numpy as np
import torch

import gflow
import gflow.store.output
from gflow.diagnostics import energy
from gflow.store.output import Output

START = [0.3, 0.4, 0.2, 0.1, 0.0]
T_END = {"native:tsit5": 60.0, "native:rkc2": 40.0, "native:expcol8": 400.0}


def make_problem():
    rng = np.random.default_rng(9)
    x = rng.normal(size=(400, 4)) * [1.0, 2.0, 0.5, 1.5]
    model = gflow.SingleIndexDEQ(4, "tanh")
    return gflow.Problem(model, x, np.tanh(x @ [1.0, -0.7, 0.3, 0.2]))


def run(kind, method, **further):
    """One of the runs, about a second long."""
    problem = make_problem()
    descents = {"step_sizes": [0.01, 0.02], "records": 31}
    flow = {"method": method, "times": 61, "rtol": 1e-7, "atol": 1e-10}
    if kind == "integrate":
        return gflow.integrate(problem, START, T_END.get(method, 60.0), **flow, **further)
    if kind == "forever":
        return gflow.integrate(problem, START, 1e7, **flow, **further)
    if kind == "descend":
        return gflow.descend(problem, START, t_end=20.0, **descents, **further)
    return gflow.compare(problem, START, t_end=10.0, **descents, **flow, **further)


def watch(log):
    """Note every checkpoint that is complete."""
    write = Output.checkpoint

    def noted(self, tree):
        write(self, tree)
        group = tree["descent" if "descent" in tree.children else "flow"]
        with open(log, "a") as file:
            file.write(f"{float(np.nanmax(group['time'].values))!r}\n")

    Output.checkpoint = noted


def work(kind, method, path, log):
    watch(log)
    if Path(path).exists():
        gflow.resume(path, make_problem(), checkpoint_seconds=0.01)
    else:
        run(kind, method, output=path, checkpoint_seconds=0.01)


def main():
    torch.set_num_threads(1)
    energy.BATCH = 4
    gflow.store.output.SHARE = 0.5  # or a run of a second would have but one checkpoint
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                work(*line.split())
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        _, ended = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)


if __name__ == "__main__":
    main()
