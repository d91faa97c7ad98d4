"""The models, and the registry that the configuration looks them up in."""

from __future__ import annotations

from gflow.models.base import Equilibrium, Model
from gflow.models.linear import LinearDEQ
from gflow.models.single_index import SingleIndexDEQ

MODELS: dict[str, type[Model]] = {
    "linear": LinearDEQ,
    "single_index": SingleIndexDEQ,
}

__all__ = ["MODELS", "Equilibrium", "LinearDEQ", "Model", "SingleIndexDEQ"]
