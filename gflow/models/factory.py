"""Modules of a configuration: ``factory = "my_file.py:make"``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from gflow import user_code
from gflow.errors import ConfigError, GflowError
from gflow.wording import did_you_mean, similar_files


def split_factory(text: str) -> tuple[str, str]:
    """File and function of a factory's name.

    Raises
    ------
    ConfigError
        If it is none.
    """
    file, _, name = text.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ConfigError(
            f'model.factory is "{text}"; it must name a file and a function in it, such as '
            '"my_file.py:make".'
        )
    return file, name


def load_factory(
    text: str, folder: Path, inputs: int, outputs: int, sha256: str | None = None
) -> nn.Module:
    """The module that a function of the user's file makes.

    The function is called with those of ``inputs`` and ``outputs`` that it takes by name.

    Parameters
    ----------
    text : str
        ``"my_file.py:make"``, the file relative to `folder`.
    folder : Path
        Of the configuration.
    inputs, outputs : int
        Numbers of one sample's input, and the number of outputs that the targets ask for.
    sha256 : str, optional
        Digest of the file and those that it imports, none of which is run if it is another.

    Raises
    ------
    ConfigError
        If there is no such file or function, it fails, or returns no :class:`torch.nn.Module`.
    """
    file, name = split_factory(text)
    path = folder / file
    if not path.is_file():
        raise ConfigError(f"model.factory: {path} does not exist.{similar_files(path, ('.py',))}")
    try:
        _check_digest(path, sha256)
        module = _made(path, name, {"inputs": inputs, "outputs": outputs})
    except GflowError:
        raise
    except Exception as error:
        raise ConfigError(f"model.factory: {user_code.failure(name, path, error)}") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"model.factory: {name} in {path} returned a {type(module).__name__}; it must return a "
            "torch.nn.Module."
        )
    return module


def _check_digest(path: Path, sha256: str | None) -> None:
    if sha256 not in (None, user_code.digest(path)):
        raise ConfigError(
            f"{path} or a file that it imports is not what model.factory_sha256 tells of: it has "
            "changed, and was not run. Restore it, or leave model.factory_sha256 out."
        )


def _made(path: Path, name: str, known: dict[str, int]) -> Any:
    found = user_code.load(path)
    function = getattr(found, name, None)
    if not callable(function):
        own = [
            key
            for key, value in vars(found).items()
            if inspect.isfunction(value) and value.__module__ == found.__name__
        ]
        raise ConfigError(f"model.factory: {path} has no function {name}{did_you_mean(name, own)}")
    return function(**_arguments(path, name, function, known))


def _arguments(
    path: Path, name: str, function: Callable[..., Any], known: dict[str, int]
) -> dict[str, int]:
    """Those of the known arguments that the function takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return known
    needed = [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind is not one.VAR_POSITIONAL and one.name not in known
    ]
    if needed:
        raise ConfigError(
            f"model.factory: {name} in {path} needs {', '.join(needed)}; a factory is called with "
            "inputs and outputs at most, so give its other arguments defaults."
        )
    return {one.name: known[one.name] for one in parameters if one.name in known}
