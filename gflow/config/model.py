"""The table [model] of a configuration."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from gflow.config.table import Table, raise_if
from gflow.config.values import WEAK, Activation, Backward, Blocks, Count, Digest, Positive, Text


class Model(Table):
    """The deep equilibrium model."""

    kind: Literal["linear", "single_index", "vector", "module"] = Field(
        default="single_index", description="family of the model"
    )
    dim: Count | None = Field(
        default=None, description="number of inputs d (none: that of the data)"
    )
    activation: Activation = Field(default="tanh", description="activation of the fixed point")
    epsilon: Positive | None = Field(
        default=None, description="epsilon of the activation weak-tanh, u + epsilon tanh u"
    )
    backward: Backward = Field(default="exact", description="how the implicit gradient is formed")
    loss: Literal["mse", "cross_entropy", "logistic"] = Field(
        default="mse", description="loss of outputs and targets"
    )
    width: Count | None = Field(default=None, description="length m of a vector DEQ's fixed point")
    train: Blocks = Field(
        default=("W", "U", "b", "C", "c"), description="blocks of a vector DEQ that are trained"
    )
    factory: Text | None = Field(
        default=None, description="file.py:function that makes a module, relative to this file"
    )
    factory_sha256: Digest | None = Field(
        default=None, description="SHA-256 of the factory's files, not run if they have another"
    )
    chunk: Count | None = Field(
        default=None, description="samples that a module takes at once (none: its own choice)"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        own = {"vector": ("width", "train"), "module": ("factory", "factory_sha256", "chunk")}
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        idle = [
            (name, kind)
            for kind, names in own.items()
            for name in names
            if kind != self.kind and getattr(self, name) != defaults[name]
        ]
        odd = self.kind == "linear" and self.activation not in ("tanh", "identity")
        odd |= self.kind == "module" and self.activation != "tanh"
        raise_if(
            (
                odd,
                f'model.activation has no meaning with model.kind = "{self.kind}"; leave it out.',
            ),
            *self._epsilon_checks(),
            *(
                (True, f'model.{name} has no meaning but with model.kind = "{kind}"; leave it out.')
                for name, kind in idle
            ),
            (
                self.kind == "vector" and self.width is None,
                "model.width is missing; a vector DEQ needs it.",
            ),
            (
                self.kind == "vector" and not {"W", "U", "C"} <= set(self.train),
                "model.train must hold W, U and C; in Python VectorDEQ takes the values of blocks "
                "that are not trained.",
            ),
            (
                self.kind == "module" and self.factory is None,
                'model.factory is missing; a module needs it, such as "my_file.py:make".',
            ),
        )
        return self

    def _epsilon_checks(self) -> list[tuple[bool, str]]:
        weak, given = self.activation.startswith(WEAK), self.epsilon is not None
        return [
            (
                self.activation == WEAK and not given,
                f'model.activation is "{WEAK}" without an epsilon; give model.epsilon, such as '
                "0.25.",
            ),
            (
                self.activation != WEAK and weak and given,
                f'model.activation is "{self.activation}" and model.epsilon is {self.epsilon}; '
                f'write "{WEAK}" beside model.epsilon, or leave that out.',
            ),
            (
                given and not weak,
                f'model.epsilon needs model.activation = "{WEAK}"; leave it out.',
            ),
        ]

    @property
    def sigma(self) -> str:
        """The activation with its epsilon, in one word."""
        return self.activation if self.epsilon is None else f"{WEAK}:{float(self.epsilon)!r}"
