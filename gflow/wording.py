"""Words shared by the error messages of :mod:`gflow.config` and :mod:`gflow.data`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path


def show(value: object, width: int = 60) -> str:
    """Return `value` as TOML would write it, cut to about `width` characters."""
    text = _list_text(value) if isinstance(value, list | tuple) else _scalar_text(value)
    return text if len(text) <= width else f"{text[:width]}..."


CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Letters that a terminal obeys, instead of showing them; tabs and line ends are left."""


def printable(text: str) -> str:
    """Text of unknown origin for a terminal, such letters written as TOML writes them."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _list_text(values: Sequence[object]) -> str:
    items = ["[...]" if isinstance(v, list | tuple) else _scalar_text(v) for v in values[:20]]
    return f"[{', '.join(items)}{', ...' if len(values) > 20 else ''}]"


def _scalar_text(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, int) and value.bit_length() > 64:
        return hex(value)  # Python refuses to write very long integers in decimals
    return str(value)


def any_of(names: Iterable[str]) -> str:
    """Join names as ``a, b or c``."""
    *head, last = names
    return f"{', '.join(head)} or {last}" if head else last


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return ``; did you mean "b"? Choose from "b", "c".``, the question for close names only."""
    known = list(dict.fromkeys(names))
    lowered = {one.lower(): one for one in known}
    close = [lowered[one] for one in get_close_matches(name[:80].lower(), lowered, n=2)]
    question = f"; did you mean {any_of(map(show, close))}?" if close else "."
    listed = ", ".join(map(show, known[:40])) + (", ..." if len(known) > 40 else "")
    return f"{question} Choose from {listed}." if known else question


def closest_keys(key: str, keys: Iterable[str]) -> list[str]:
    """Return the known dotted keys most like `key`, by last part or, if its table is none, in full.

    Several are returned only if they are equally close; none if nothing is.
    """
    every, table = list(keys), key.rpartition(".")[0]
    likeness = _likeness_beside if table in every else _likeness
    scores = {known: likeness(key[:80], known) for known in every}
    best = max(scores.values(), default=0.0)
    return [known for known, score in scores.items() if score == best] if best >= 0.7 else []


def _likeness(first: str, second: str) -> float:
    return max(_ratio(first, second), _ratio(first.rpartition(".")[2], second.rpartition(".")[2]))


def _likeness_beside(first: str, second: str) -> float:
    """That of the last parts, a little more within one table."""
    (table, _, leaf), (other, _, known) = first.rpartition("."), second.rpartition(".")
    return _ratio(leaf, known) + 0.01 * (table == other)


def _ratio(first: str, second: str) -> float:
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


def similar_files(path: Path, suffixes: Iterable[str]) -> str:
    """Return `` Did you mean b.toml?`` for similar names in the folder of a missing `path`."""
    try:
        beside = sorted(p for p in path.parent.iterdir() if p.suffix.lower() in suffixes)
    except (OSError, ValueError):
        return f" Its folder {path.parent} cannot be read."
    stems = get_close_matches(path.stem, {p.stem for p in beside}, n=3)
    close = [p.name for p in beside if p.stem in stems]
    return f" Did you mean {any_of(close)}?" if close else ""
