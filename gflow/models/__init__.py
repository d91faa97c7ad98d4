"""The models, and the registry that the configuration looks them up in."""

from __future__ import annotations

from gflow.models.base import Equilibrium, Model
from gflow.models.linear import LinearDEQ
from gflow.models.module import ModuleModel
from gflow.models.single_index import SingleIndexDEQ
from gflow.models.vector import VectorDEQ

MODELS: dict[str, type[Model]] = {
    "linear": LinearDEQ,
    "module": ModuleModel,
    "single_index": SingleIndexDEQ,
    "vector": VectorDEQ,
}

__all__ = [
    "MODELS",
    "Equilibrium",
    "LinearDEQ",
    "Model",
    "ModuleModel",
    "SingleIndexDEQ",
    "VectorDEQ",
]
