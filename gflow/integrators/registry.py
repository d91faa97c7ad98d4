"""The methods by name: a new method is one file and one line here."""

from __future__ import annotations

from gflow.errors import MethodError
from gflow.integrators.base import Method
from gflow.integrators.collocation import EXPCOL8
from gflow.integrators.explicit import TSIT5_METHOD
from gflow.integrators.exponential import EXPRB43
from gflow.integrators.rkc4 import RKC4_METHOD
from gflow.integrators.scipy_backend import SCIPY_METHODS
from gflow.integrators.stabilized import RKC2_METHOD
from gflow.integrators.torchdiffeq_backend import TORCHDIFFEQ_METHODS
from gflow.wording import did_you_mean

METHODS: dict[str, Method] = {
    method.info.name: method
    for method in (
        EXPRB43,
        EXPCOL8,
        TSIT5_METHOD,
        RKC2_METHOD,
        RKC4_METHOD,
        *SCIPY_METHODS,
        *TORCHDIFFEQ_METHODS,
    )
}


def resolve(name: str) -> Method:
    """Find a method by its full name or, where unambiguous, its short one, in any case.

    Raises
    ------
    MethodError
        If no method or more than one has the name.
    """
    wanted = str(name).lower()
    found = [
        method
        for full, method in METHODS.items()
        if wanted in (full.lower(), full.lower().partition(":")[2])
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = " or ".join(method.info.name for method in found)
        raise MethodError(f'method "{name}" is ambiguous; write {names}.')
    short = ["auto", *(full.partition(":")[2] for full in METHODS)]
    hint = did_you_mean(wanted.rpartition(":")[2], short)
    raise MethodError(f'method "{name}" is unknown{hint}')
