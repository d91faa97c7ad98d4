"""gflow: the gradient-flow workbench for deep equilibrium models.

Everything public is importable from here; heavy packages are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "DEQLayer": "gflow.equilibrium.layer",
    "LinearDEQ": "gflow.models",
    "ModuleModel": "gflow.models",
    "SingleIndexDEQ": "gflow.models",
    "VectorDEQ": "gflow.models",
    "Problem": "gflow.problem",
    "Objective": "gflow.objective",
    "Status": "gflow.status",
    "GflowError": "gflow.errors",
    "UsageError": "gflow.errors",
    "advise": "gflow.advice",
    "integrate": "gflow.workbench",
    "descend": "gflow.workbench",
    "compare": "gflow.workbench",
    "open": "gflow.store.files",
    "resume": "gflow.resuming",
    "save": "gflow.store.files",
    "state_dict": "gflow.store.states",
    "sweep": "gflow.sweeps",
    "validate": "gflow.validation",
    "plot_run": "gflow.plot",
}
_ORIGINAL_NAMES = {"open": "open_tree"}

__all__ = [
    "DEQLayer",
    "GflowError",
    "LinearDEQ",
    "ModuleModel",
    "Objective",
    "Problem",
    "SingleIndexDEQ",
    "Status",
    "UsageError",
    "VectorDEQ",
    "__version__",
    "advise",
    "compare",
    "descend",
    "integrate",
    "open",
    "plot_run",
    "resume",
    "save",
    "state_dict",
    "sweep",
    "validate",
]

if TYPE_CHECKING:
    from gflow.advice import advise
    from gflow.equilibrium.layer import DEQLayer
    from gflow.errors import GflowError, UsageError
    from gflow.models import LinearDEQ, ModuleModel, SingleIndexDEQ, VectorDEQ
    from gflow.objective import Objective
    from gflow.plot import plot_run
    from gflow.problem import Problem
    from gflow.resuming import resume
    from gflow.status import Status
    from gflow.store.files import open_tree as open
    from gflow.store.files import save
    from gflow.store.states import state_dict
    from gflow.sweeps import sweep
    from gflow.validation import validate
    from gflow.workbench import compare, descend, integrate


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gflow' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), _ORIGINAL_NAMES.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
