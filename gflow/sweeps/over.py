"""What a sweep goes over: keys of the configuration, each with its values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from gflow.config import KeyInfo, describe_keys, parse_override
from gflow.errors import ConfigError
from gflow.wording import any_of, closest_keys, show

MOST_CELLS = 1_000_000
"""Cells of a sweep at most."""

_RANGE = re.compile(r"(-?\d{1,18}):(-?\d{1,18})(?::(-?\d{1,18}))?")


@dataclass(frozen=True)
class Axis:
    """One key and its values: one dimension of the dataset.

    Attributes
    ----------
    key : str
        Dotted, such as ``data.seed``.
    values : tuple
        As the configuration takes them.
    text : str
        As it was asked for, ``data.seed=0:20``.
    """

    key: str
    values: tuple[Any, ...]
    text: str

    @property
    def labels(self) -> np.ndarray:
        """The coordinate: numbers where all values are, lists of one among them; else text."""
        single = [_single(value) for value in self.values]
        if not all(_is_number(value) for value in single):
            return np.array([_text(value) for value in single], dtype=object)
        whole = all(isinstance(value, int) and abs(value) < 2**63 for value in single)
        return np.array(single, dtype=np.int64 if whole else np.float64)

    @property
    def single(self) -> bool:
        """Whether each value is one number or word, or a list of one."""
        return not any(isinstance(_single(value), list) for value in self.values)


def read_axes(
    over: Iterable[str] | Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> list[Axis]:
    """Read what a sweep goes over.

    Parameters
    ----------
    over : texts, or mapping
        ``"data.seed=0:20"``, as ``--over`` takes it, or keys to values: such a text without its
        key, or an iterable of values.
    given : mapping, optional
        Keys that were set beside it.

    Returns
    -------
    list of Axis
        In the order given.

    Raises
    ------
    ConfigError
        With a sentence that names the ``--over`` which is wrong, or if there are more than
        :data:`MOST_CELLS` cells.
    """
    pairs = list(over.items()) if isinstance(over, Mapping) else [_split_key(one) for one in over]
    if not pairs:
        raise ConfigError("A sweep goes over something: give --over KEY=VALUES once at least.")
    known = describe_keys()
    raw = [_RawAxis.read(str(key).strip(), values, known) for key, values in pairs]
    keys = [one.key for one in raw]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"--over {key} is given twice; give all its values at once.")
        if _is_set(key, given or {}):
            raise ConfigError(f"{key} is given by --over and by --set; keep one of them.")
    cells = math.prod(one.size for one in raw)
    if cells > MOST_CELLS:
        raise ConfigError(
            f"The sweep has {cells:,} cells, more than {MOST_CELLS:,}; take fewer values."
        )
    return [one.finished(known[one.key]) for one in raw]


@dataclass(frozen=True)
class _RawAxis:
    """An axis whose values are counted, but not made yet."""

    key: str
    values: Sequence[Any]
    size: int
    text: str

    @classmethod
    def read(cls, key: str, values: Any, known: Mapping[str, KeyInfo]) -> _RawAxis:
        if key not in known:
            close = closest_keys(key, known)
            hint = f"did you mean {any_of(close)}?" if close else "the keys are those of a run."
            raise ConfigError(f"--over {key}: there is no such key; {hint}")
        if isinstance(values, str):
            found, size = _read_values(key, values)
            return cls(key, found, size, f"{key}={values}")
        if not isinstance(values, Iterable) or isinstance(values, Mapping):
            raise ConfigError(f"over: {key} is {values!r}; it must be a list of values.")
        if not isinstance(values, range):
            values = [_plain(value) for value in islice(values, MOST_CELLS + 1)]
        told = ",".join(map(_quoted, values[:MOST_CELLS]))
        return cls(key, values, len(values), f"{key}={told}")

    def finished(self, info: KeyInfo) -> Axis:
        if not self.size:
            raise ConfigError(f"--over {self.text}: there is no value in it.")
        wrapped = info.type.startswith("list")
        values = tuple([v] if wrapped and not isinstance(v, list) else v for v in self.values)
        axis = Axis(self.key, values, self.text)
        seen: set[Any] = set()
        for label, value in zip(axis.labels.tolist(), self.values, strict=True):
            if label in seen:
                raise ConfigError(f"--over {self.key}: {_text(value)} is there twice.")
            seen.add(label)
        return axis


def _split_key(text: str) -> tuple[str, str]:
    key, equals, values = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"--over {text}: write KEY=VALUES, such as data.seed=0:20 or flow.rtol=1e-6,1e-8."
        )
    return key, values


def _read_values(key: str, text: str) -> tuple[Sequence[Any], int]:
    """The values that a text tells, and how many they are."""
    bounds = _RANGE.fullmatch(text.strip())
    if bounds is None:
        values = [_read_value(key, text, item) for item in _items(text)]
        return values, len(values)
    first, end, step = int(bounds[1]), int(bounds[2]), int(bounds[3] or 1)
    if step == 0:
        raise ConfigError(f"--over {key}={text}: the step of a range must not be 0.")
    found = range(first, end, step)
    if not found:
        raise ConfigError(
            f"--over {key}={text}: the range is empty; {first}:{end} goes from {first} on and "
            f"ends before {end}."
        )
    return found, max(0, -((first - end) // step))


def _read_value(key: str, text: str, item: str) -> Any:
    if not item.strip():
        raise ConfigError(f"--over {key}={text}: a value is missing; separate values by commas.")
    return parse_override(f"value={item}")[1]


def _items(text: str) -> Iterator[str]:
    """The parts between commas that stand in no brackets and no quotes."""
    start, depth, quoted = 0, 0, False
    for place, letter in enumerate(text):
        quoted ^= letter == '"'
        depth += 0 if quoted else {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and not quoted and depth <= 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _is_set(key: str, given: Mapping[str, Any]) -> bool:
    """Whether a key was set, itself or within a table."""
    for name, value in given.items():
        if name == key:
            return True
        inner = isinstance(value, Mapping) and key.startswith(f"{name}.")
        if inner and _is_set(key[len(name) + 1 :], value):
            return True
    return False


def _plain(value: Any) -> Any:
    """A value of numpy's or a tuple as TOML has it."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    """A value in full, words without quotes."""
    if isinstance(value, list):
        return f"[{', '.join(map(_quoted, value))}]"
    return value if isinstance(value, str) else show(value)


def _quoted(value: Any) -> str:
    return show(value, 10_000) if isinstance(value, str) else _text(value)
