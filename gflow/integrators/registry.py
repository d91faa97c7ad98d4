"""The methods by name: a new method is one file and one line here."""

from __future__ import annotations

import difflib

from gflow.errors import MethodError
from gflow.integrators.base import Method
from gflow.integrators.scipy_backend import SCIPY_METHODS
from gflow.integrators.torchdiffeq_backend import TORCHDIFFEQ_METHODS

METHODS: dict[str, Method] = {
    method.info.name: method for method in (*SCIPY_METHODS, *TORCHDIFFEQ_METHODS)
}


def resolve(name: str) -> Method:
    """Find a method by its full name or, where unambiguous, its short one, in any case.

    Raises
    ------
    MethodError
        If no method or more than one has the name.
    """
    wanted = name.lower()
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
    short = {key.lower(): full for full in METHODS for key in (full, full.partition(":")[2])}
    short["auto"] = "auto"
    close = difflib.get_close_matches(wanted, short, n=1)
    hint = f"did you mean {short[close[0]]}?" if close else "take auto."
    raise MethodError(f'method "{name}" is unknown; {hint} `gflow methods` lists all of them.')
