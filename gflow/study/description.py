"""``study.toml``: what a study asks, and what it runs."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from gflow.config.table import Table, raise_if
from gflow.config.values import Text
from gflow.errors import StudyError
from gflow.wording import did_you_mean, show

LONGEST = 200
"""Characters of a dataset's name at most: file systems take 255."""


def _distinct(values: list[Any]) -> list[Any]:
    """Refuse what cannot tell datasets and their files apart."""
    inner = [value for value in values if not isinstance(value, bool | int | float | str)]
    twice = [
        b for k, b in enumerate(values) if any(_word(a) == _word(b) or a == b for a in values[:k])
    ]
    raise_if(
        (bool(inner), f"{show(inner)} is no number, string or boolean."),
        (bool(twice), f"{show(twice)} cannot be told from another value, or from its file's name."),
    )
    return values


Values = Annotated[list[Any], Field(min_length=1), AfterValidator(_distinct)]


class Run(Table):
    """One or more runs: one for each combination of the values of ``over``."""

    do: Literal["integrate", "descend", "compare", "make"] = Field(
        description="the function of gflow that runs it; make: the study's own returns the dataset"
    )
    make: Text | None = Field(
        default=None,
        description="function of problems.py that takes the values of over and returns arguments",
    )
    config: Text | None = Field(
        default=None, description="configuration in the study's folder; over then names its keys"
    )
    over: dict[str, Values] = Field(default={}, description="names to lists of values")
    arguments: dict[str, Any] = Field(
        default={}, description="further arguments of the function, or keys of the configuration"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [short(name) for name in self.over]
        raise_if(
            ((self.make is None) == (self.config is None), "needs either make or config."),
            (self.do == "make" and self.make is None, 'has do = "make" and needs make.'),
            (
                self.do == "make" and bool(self.arguments),
                'has do = "make", which takes no arguments.',
            ),
            (len(set(names)) < len(names), f"goes twice over the same name: {show(names)}."),
        )
        return self


class Quick(Table):
    """What the quick version changes of a run."""

    skip: bool = Field(default=False, description="leave the run out")
    over: dict[str, Values] = Field(default={}, description="other values")
    arguments: dict[str, Any] = Field(default={}, description="other arguments")


class StudyFile(Table):
    """The whole file."""

    title: Text = Field(description="a few words")
    question: Text = Field(description="what the study asks, in a sentence")
    source: Text = Field(description="the papers")
    runs: Annotated[dict[str, Run], Field(min_length=1)] = Field(description="what runs")
    quick: dict[str, Quick] = Field(default={}, description="what the quick version changes")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, change in self.quick.items():
            if name not in self.runs:
                raise ValueError(f"quick.{name} is no run{did_you_mean(name, self.runs)}")
            unknown = set(change.over) - set(self.runs[name].over)
            if unknown:
                raise ValueError(f"quick.{name}.over has {show(sorted(unknown))}, the run has not.")
        bad = [name for name in self.runs if not re.fullmatch(r"\w+", name)]
        every = [planned(self, quick).items() for quick in (False, True)]
        names = [cell.name for runs in every for name, run in runs for cell in cells(name, run)]
        long = [name for name in names if len(name) > LONGEST]
        raise_if(
            (bool(bad), f"a run is named {show(bad)}; letters, digits and _ make a name."),
            (bool(long), f"{show(long[:1])} is too long for the name of a file; shorten a value."),
        )
        return self


@dataclass(frozen=True)
class Cell:
    """One run of a grid: a name and the values that it is for."""

    run: str
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of its file, without suffix: ``gd,seed=3,eta=0.1``."""
        pairs = [f"{short(key)}={_word(value)}" for key, value in self.settings.items()]
        return ",".join([self.run, *pairs])

    def path(self, folder: Path) -> Path:
        """Its file."""
        return folder / f"{self.name}.nc"


def short(key: str) -> str:
    """The last part of a dotted key."""
    return key.rpartition(".")[2]


def planned(description: StudyFile, quick: bool) -> dict[str, Run]:
    """The runs of the full or of the quick version."""
    if not quick:
        return dict(description.runs)
    found = {}
    for name, run in description.runs.items():
        change = description.quick.get(name, Quick())
        if not change.skip:
            over, arguments = run.over | change.over, run.arguments | change.arguments
            found[name] = run.model_copy(update={"over": over, "arguments": arguments})
    return found


def cells(name: str, run: Run) -> Iterator[Cell]:
    """The runs of one entry, the last name of ``over`` varying fastest."""
    for values in itertools.product(*run.over.values()):
        yield Cell(name, dict(zip(run.over, values, strict=True)))


def read_description(path: Path) -> StudyFile:
    """Read and check ``study.toml``.

    Raises
    ------
    StudyError
        If it cannot be read, or with a sentence for each wrong key.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        return StudyFile.model_validate(raw)
    except FileNotFoundError:
        raise StudyError(f"{path.parent} has no study.toml; is it the folder of a study?") from None
    except ValidationError as error:
        told = dict.fromkeys(_sentence(one) for one in error.errors(include_url=False))
        raise StudyError("\n".join(f"{path}: {text}" for text in told)) from None
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be read as TOML: {error}.") from None


def _sentence(error: Any) -> str:
    place = ".".join(map(str, error["loc"])) or "the file"
    if error["type"] == "value_error":
        return f"{place}: {error['ctx']['error']}"
    if error["type"] == "missing":
        return f"{place} is missing."
    if error["type"] == "extra_forbidden":
        table = {1: StudyFile, 3: Run if error["loc"][0] == "runs" else Quick}
        known = table.get(len(error["loc"]), StudyFile).model_fields
        return f"{place} is unknown{did_you_mean(str(error['loc'][-1]), known)}"
    if error["type"] == "list_type" and isinstance(error["input"], dict):
        return f'{place} is a table; a dotted key is one name, in quotes: over."flow.rtol" = [...].'
    wanted = {
        "too_short": "it must not be empty",
        "literal_error": f"it must be {error.get('ctx', {}).get('expected')}",
        "list_type": "it must be a list",
        "dict_type": "it must be a table",
        "model_type": "it must be a table",
        "string_type": "it must be a string",
        "bool_type": "it must be true or false",
    }
    return f"{place} is {show(error['input'])}; {wanted.get(error['type'], error['msg'])}."


def _word(value: Any) -> str:
    return re.sub(r"[^\w.+-]", "-", str(value))
