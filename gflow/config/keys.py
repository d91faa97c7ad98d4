"""The keys of a configuration, and pydantic's findings about them turned into sentences."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gflow.wording import any_of, closest_keys, show

_TYPE_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string"}
_EXPECTS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
_MOST_SENTENCES = 20


@dataclass(frozen=True)
class Expects:
    """Annotation of a value type: what the value must be, as in "it must be a number"."""

    text: str


@dataclass(frozen=True)
class KeyInfo:
    """What the command line says about a key.

    Attributes
    ----------
    type
        Name of the TOML type: "boolean", "integer", "number", "string", "linear|log", "list of
        numbers", or several joined by " or ".
    default
        The default, None for a required key or where None has its own meaning.
    description
        One line, with units.
    required
        Whether its table needs it.
    expects
        What the value must be, in words.
    """

    type: str
    default: object
    description: str
    required: bool
    expects: str


def keys_of(table: type[BaseModel], prefix: str = "") -> dict[str, KeyInfo]:
    """Return the dotted keys of `table` and of its tables; variants are merged."""
    found: dict[str, KeyInfo] = {}
    for name, field in table.model_fields.items():
        key = f"{prefix}{name}"
        inner = list(_tables(field.annotation))
        for variant in inner:
            for name_in, info in keys_of(variant, f"{key}.").items():
                found[name_in] = _merged(found.get(name_in, info), info)
        if not inner:
            found[key] = KeyInfo(
                type=_type_name(field.annotation),
                default=None if field.is_required() else field.default,
                description=field.description or "",
                required=field.is_required(),
                expects=_expects(field.annotation, field.metadata),
            )
    return found


def _merged(first: KeyInfo, second: KeyInfo) -> KeyInfo:
    if first.type == second.type:
        return first
    both = f"{first.expects} or {second.expects}"
    return replace(first, type=f"{first.type}|{second.type}", expects=both)


def _tables(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, Annotated):
        for part in get_args(annotation):
            yield from _tables(part)


def _parts(union: Any) -> list[Any]:
    return [part for part in get_args(union) if part is not NoneType]


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type_name(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return " or ".join(map(_type_name, _parts(annotation)))
    if origin is Literal:
        return "|".join(get_args(annotation))
    if origin is tuple:
        return f"list of {_type_name(get_args(annotation)[0])}s"
    return _TYPE_NAMES[annotation]


def _expects(annotation: Any, metadata: Sequence[object] = ()) -> str:
    for note in metadata:
        if isinstance(note, Expects):
            return note.text
    origin = get_origin(annotation)
    if origin is Annotated:
        first, *notes = get_args(annotation)
        return _expects(first, notes)
    if origin in (Union, UnionType):
        return ", or ".join(map(_expects, _parts(annotation)))
    if origin is Literal:
        return any_of(map(show, get_args(annotation)))
    return _EXPECTS[annotation]


def sentences(
    error: ValidationError, raw: Mapping[Any, object], keys: Mapping[str, KeyInfo]
) -> list[str]:
    """Return one sentence for each wrong key, without pydantic's words, and at most 20.

    Parameters
    ----------
    error
        What pydantic found.
    raw
        The configuration it was given.
    keys
        The known keys.
    """
    told: dict[str, None] = {}
    for one in error.errors(include_url=False):
        told |= dict.fromkeys(_tell(one, raw, keys))
        if len(told) > _MOST_SENTENCES:
            return [*list(told)[:_MOST_SENTENCES], "There are more errors."]
    return list(told)


def _tell(error: ErrorDetails, raw: Mapping[Any, object], keys: Mapping[str, KeyInfo]) -> list[str]:
    parts = list(error["loc"])
    variant = parts.pop(1) if parts[:1] == ["data"] and len(parts) > 1 else None
    if error["type"] in ("extra_forbidden", "invalid_key"):
        return [_unknown(_dotted(parts), variant, keys)]
    tables = _table_keys(keys)
    known = _longest_known(parts, {*keys, *tables})
    if error["type"].startswith("union_tag"):
        known = "data.source"
    if error["type"] == "value_error" and known in tables:
        return str(error["ctx"]["error"]).split("\n")
    what = keys[known].expects if known in keys else f"a table with {', '.join(tables[known])}"
    try:
        value = _value(raw, known)
    except KeyError:
        return [f"{known} is missing; it must be {what}."]
    finite = ", and finite" if _is_unbounded(value) and "inf" not in what else ""
    return [f"{known or 'The configuration'} is {show(value)}; it must be {what}{finite}."]


def _is_unbounded(value: object) -> bool:
    """Whether it is inf or nan, or a list with either."""
    every = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(one, float) and not math.isfinite(one) for one in every)


def _unknown(key: str, variant: object, keys: Mapping[str, KeyInfo]) -> str:
    if key in keys:
        return f"{key} has no meaning with data.source = {show(variant)}; leave it out."
    tables = _table_keys(keys)
    close = closest_keys(key, [*keys, *filter(None, tables)])
    if close:
        return f"{key} is unknown; did you mean {any_of(close)}?"
    table = key.rpartition(".")[0]
    where = f"the keys of [{table}]" if table in tables and table else "the tables"
    return f"{key} is unknown; {where} are {', '.join(tables.get(table, tables['']))}."


def _table_keys(keys: Mapping[str, KeyInfo]) -> dict[str, list[str]]:
    """Return the names in each table; the file itself is the table ""."""
    found: dict[str, list[str]] = {"": []}
    for key in keys:
        parts = key.split(".")
        for depth in range(len(parts)):
            names = found.setdefault(".".join(parts[:depth]), [])
            if parts[depth] not in names:
                names.append(parts[depth])
    return found


def _dotted(parts: Sequence[object]) -> str:
    return ".".join(
        str(part) if re.fullmatch(r"[A-Za-z0-9_-]+", str(part)) else json.dumps(str(part)[:60])
        for part in parts
    )


def _longest_known(parts: Sequence[object], known: set[str]) -> str:
    names = (_dotted(parts[:depth]) for depth in range(len(parts), 0, -1))
    return next((name for name in names if name in known), "")


def _value(raw: Mapping[Any, object], key: str) -> object:
    value: Any = raw
    for part in filter(None, key.split(".")):
        value = value[part]
    return value
