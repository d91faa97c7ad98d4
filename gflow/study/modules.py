"""The functions of a study's own files, and what goes wrong in them told in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gflow import user_code
from gflow.errors import GflowError, StudyError


def call(path: Path, name: str, use: Callable[[Any], Any]) -> Any:
    """What ``use(function)`` returns, for the function of that name in a file.

    Raises
    ------
    StudyError
        If there is no such file or function, or anything fails in it.
    """
    if not path.is_file():
        raise StudyError(f"{path} does not exist; a study needs it.")
    try:
        function = getattr(user_code.load(path), name, None)
        if function is not None:
            return use(function)
    except GflowError:
        raise
    except Exception as error:
        raise StudyError(user_code.failure(name, path, error)) from error
    raise StudyError(f"{path} has no function {name}.")
