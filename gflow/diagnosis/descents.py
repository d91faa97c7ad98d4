"""The verdict on descents whose loss is not finite at a record, though theta is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gflow.descent import Descent
from gflow.diagnosis.samples import at_samples
from gflow.problem import Problem
from gflow.status import Status


def judged(problem: Problem, descent: Descent, losses: np.ndarray) -> Descent:
    """Descents with another verdict where one that ended as asked has a record without a loss.

    Parameters
    ----------
    problem : Problem
    descent : Descent
    losses : array, shape (S, R)
        At its records.
    """
    status, message = list(descent.status), list(descent.message)
    for row, bad in enumerate(~np.isfinite(losses) & (descent.update >= 0)):
        if status[row].ok and bad.any():
            place = int(bad.argmax())
            told = message[row].removeprefix(status[row].sentence).removesuffix(".")
            status[row], why = _verdict(problem, descent, row, place, float(losses[row, place]))
            message[row] = f"{status[row].sentence}{told}: {why}"
    return replace(descent, status=status, message=message)


def _verdict(
    problem: Problem, descent: Descent, row: int, place: int, loss: float
) -> tuple[Status, str]:
    """What is wrong at a record, in words that go on from where the descent ended."""
    theta, when = descent.theta[row, place], f"at update {descent.update[row, place]}"
    found = problem.model.equilibrium(theta, problem.x)
    if not bool(found.valid):
        return problem.model.lost, f"{when} {problem.model.explain_loss_of_equilibrium(theta)}."
    sample = at_samples(problem, found)
    status = Status.NONFINITE if place else Status.NONFINITE_START
    return status, f"{when} the loss is {loss}." + (f" {sample[1]}" if sample else "")
