"""A factory of modules that records the cells it is called for and may kill its process."""

import os
import signal
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent


def make(inputs, outputs):
    cell = torch.initial_seed()
    with (HERE / "ran").open("a") as file:
        file.write(f"{cell} {os.getpid()}\n")
    deadly = HERE / f"deadly{cell}"
    if deadly.exists():
        left = int(deadly.read_text()) - 1
        deadly.write_text(str(left))
        if left >= 0:
            os.kill(os.getpid(), signal.SIGKILL)
    slow = HERE / "slow"
    if slow.exists():
        time.sleep(float(slow.read_text()))
    return torch.nn.Linear(inputs, outputs).double()
