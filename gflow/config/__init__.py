"""The configuration of a run: a TOML file, checked, with every error told in a sentence.

:mod:`gflow.config.model` and :mod:`gflow.config.tables` hold one class a table and
:mod:`gflow.config.values` the types of their values; :func:`describe_keys` lists every key.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from types import MappingProxyType
from typing import Annotated, Any, Self

import tomli_w
from pydantic import Field, ValidationError, model_validator

from gflow.config.keys import KeyInfo, keys_of, sentences
from gflow.config.model import Model
from gflow.config.table import Table, raise_if
from gflow.config.tables import (
    Descent,
    Diagnostics,
    FileData,
    Flow,
    Run,
    Start,
    Stop,
    TeacherData,
)
from gflow.errors import ConfigError
from gflow.wording import show, similar_files

__all__ = [
    "Config",
    "Descent",
    "Diagnostics",
    "FileData",
    "Flow",
    "KeyInfo",
    "Model",
    "Run",
    "Start",
    "Stop",
    "TeacherData",
    "config_from_dict",
    "describe_keys",
    "load_config",
    "parse_override",
    "read_tables",
    "with_values",
]

_DEEP = re.compile(r"""(?<![\w"'-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){50}""")
_LARGEST = 2**24
"""Bytes of a configuration, at most."""


class Config(Table):
    """A whole configuration: one attribute per table."""

    model: Model = Field(default=Model(), description="the model")
    data: Annotated[TeacherData | FileData, Field(discriminator="source")] = Field(
        description="the data"
    )
    start: Start | None = Field(
        default=None, description="the initial parameters; a module may leave it to its own"
    )
    flow: Flow | None = Field(default=None, description="the gradient flow")
    descent: Descent | None = Field(default=None, description="gradient descent beside the flow")
    diagnostics: Diagnostics = Field(
        default=Diagnostics(), description="what is stored at every save"
    )
    run: Run = Field(default=Run(), description="how and where to compute")

    @model_validator(mode="after")
    def _check(self) -> Self:
        classes = self.model.loss != "mse" and isinstance(self.data, FileData)
        scaled = classes and getattr(self.data, "target_scaling", "none") != "none"
        told = f'data.target_scaling must be "none" with model.loss = "{self.model.loss}": '
        scaling = (scaled, f"{told}the targets are classes.")
        raise_if(scaling, *self._start_checks(), *self._size_checks())
        return self

    def _start_checks(self) -> list[tuple[bool, str]]:
        start, kind = self.start, self.model.kind
        if start is None:
            missing = "[start] is missing; give it start.theta or start.seed."
            return [(kind != "module", missing)]
        vector = (start.scheme, start.radius) != ("spectral", 0.5)
        idle = vector and (kind != "vector" or start.seed is None)
        offset = kind in ("vector", "module") and start.offset is not None
        return [
            (idle, 'start.scheme and start.radius need model.kind = "vector" and start.seed.'),
            (offset, f'start.offset has no meaning with model.kind = "{kind}"; leave it out.'),
        ]

    def _size_checks(self) -> list[tuple[bool, str]]:
        dim, theta = self.model.dim, None
        scalar = self.model.kind in ("linear", "single_index")
        if isinstance(self.data, TeacherData):
            theta = self.data.theta
            if dim is None and theta is None:
                return [
                    (True, "model.dim is missing; a teacher needs it unless data.theta is given.")
                ]
        size = dim + 1 if dim is not None else len(theta or ())
        given = {"data.theta": theta}
        if scalar and self.start is not None:
            given |= {"start.theta": self.start.theta, "start.offset": self.start.offset}
        return [
            (True, f"{key} has {len(values)} values; with {size - 1} inputs it needs {size}.")
            for key, values in given.items()
            if size and values is not None and len(values) != size
        ]

    def to_toml(self) -> str:
        """Return the configuration as TOML text; keys that are None are left out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def describe_keys() -> dict[str, KeyInfo]:
    """Return every dotted key with its type, default and description."""
    return keys_of(Config)


def config_from_dict(raw: Mapping[str, Any]) -> Config:
    """Check a parsed configuration.

    Raises
    ------
    ConfigError
        With one sentence for each wrong key.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        text = "\n".join(sentences(error, raw, describe_keys()))
        raise ConfigError(text.encode("utf-8", "backslashreplace").decode()) from None


def load_config(path: str | Path, overrides: Mapping[str, object] = MappingProxyType({})) -> Config:
    """Read and check a TOML file.

    Parameters
    ----------
    path
        The file, UTF-8.
    overrides
        Dotted keys to values, such as ``{"flow.rtol": 1e-8}``; they win over the file.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not TOML, or holds a wrong key or value.
    """
    return config_from_dict(read_tables(path, overrides))


def read_tables(
    path: str | Path, overrides: Mapping[str, object] = MappingProxyType({})
) -> dict[str, Any]:
    """Read a TOML file as :func:`load_config` does, without a check of its keys and values."""
    return with_values(_parse(Path(path)), overrides)


def with_values(raw: Mapping[str, Any], values: Mapping[str, object]) -> dict[str, Any]:
    """A copy of a parsed configuration with the values of some dotted keys."""
    changed = copy.deepcopy(dict(raw))
    for key, value in values.items():
        _set(changed, key.split("."), value)
    return changed


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``key=value``; the value is TOML, or else a bare string.

    Raises
    ------
    ConfigError
        If there is no key or no "=".
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{show(text)} sets nothing; write key=value, such as flow.rtol=1e-8.")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return key.strip(), value.strip()
    return key.strip(), parsed["value"] if len(parsed) == 1 else value.strip()


def _parse(path: Path) -> dict[str, Any]:
    text = _read(path)
    if re.search(_DEEP, text):  # which takes the square of its depth to parse
        raise ConfigError(f"{path} nests tables too deeply.")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{path} nests lists or tables too deeply.") from None
    except ValueError as error:
        end = f"at line {len(text.splitlines())}, the last one"
        reason = str(error).replace("at end of document", end)
        raise ConfigError(f"{path} is not valid TOML: {reason}.") from None


def _read(path: Path) -> str:
    try:
        status = path.stat()
        if not (S_ISREG(status.st_mode) or S_ISDIR(status.st_mode)):
            raise ConfigError(f"{path} is a device or a pipe; give an ordinary file.")
        if status.st_size > _LARGEST:
            raise ConfigError(f"{path} has {status.st_size / 1e6:.0f} MB; is it a configuration?")
        return path.read_bytes().decode("utf-8-sig")
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; give the TOML file in it.") from None
    except FileNotFoundError:
        hint = similar_files(path, (".toml",))
        raise ConfigError(f"{path} does not exist.{hint}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path} is not UTF-8 text (line {line}); is it TOML?") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None


def _set(raw: dict[str, Any], parts: list[str], value: object) -> None:
    *tables, leaf = parts
    for name in tables:
        if not isinstance(raw.get(name), dict):
            raw[name] = {}
        raw = raw[name]
    raw[leaf] = value
