"""A flag for every key of the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from gflow.wording import show

if TYPE_CHECKING:
    from gflow.config.keys import KeyInfo

_COMMON = ("model.activation", "model.backward", "run.device", "run.dtype", "run.threads")
_FLOW = (
    "flow.t_end",
    "flow.method",
    "flow.rtol",
    "flow.atol",
    "flow.times",
    "flow.spacing",
    "flow.step_size",
    "flow.stop.steady_state",
    "flow.stop.max_steps",
    "flow.stop.wall_seconds",
)
_DESCENT = ("descent.step_sizes", "descent.records")

SHORT: dict[str, tuple[str, ...]] = {
    "integrate": (*_COMMON, *_FLOW),
    "descend": (
        *_COMMON,
        *_DESCENT,
        "descent.t_end",
        "descent.spacing",
        "descent.wall_seconds",
    ),
    "compare": (*_COMMON, *_FLOW, *_DESCENT),
}
"""Keys whose last part alone is a flag too, per command."""

_OBVIOUS = ("a number", "a non-empty string")
"""Expectations that the flag's metavar tells already."""


class KeyOption(click.Option):
    """The flag of one key.

    Parameters
    ----------
    key : str
        Dotted, such as ``flow.t_end``.
    info : KeyInfo
    short : bool
        Whether ``--t-end`` stands beside ``--flow-t-end``.
    """

    def __init__(self, key: str, info: KeyInfo, short: bool) -> None:
        names = [key.rpartition(".")[2], key] if short else [key]
        flags = [name.replace(".", "-").replace("_", "-") for name in names]
        is_switch = info.type == "boolean"
        super().__init__(
            [
                key.replace(".", "__"),
                *(f"--{flag}/--no-{flag}" if is_switch else f"--{flag}" for flag in flags),
            ],
            default=None,
            metavar=None if is_switch else _metavar(info.type),
            callback=None if is_switch else self._read,
            help=_help(info),
        )
        self.key, self.info = key, info
        self.table = key.partition(".")[0]

    def _read(self, ctx: click.Context, option: click.Parameter, text: str | None) -> Any:
        return None if text is None else read_value(self.info.type, text)


def _metavar(kind: str) -> str:
    """The type in words; alternatives of a choice stay as they are."""
    is_choice = "|" in kind
    return kind if is_choice else kind.replace("list of ", "").replace(" or ", "|").upper()


def read_value(kind: str, text: str) -> Any:
    """Read a flag's text for a key whose TOML type is `kind`; a list's commas need no brackets."""
    if "list" in kind and (kind.startswith("list") or "," in text or text.startswith("[")):
        return _read_list(kind, text)
    return _read_scalar(kind, text)


def _read_list(kind: str, text: str) -> Any:
    if text.startswith("["):
        from gflow.config import parse_override

        return parse_override(f"list={text}")[1]
    parts = (part.strip() for part in text.split(","))
    return [_read_scalar(kind, part) for part in parts if part]


def _read_scalar(kind: str, text: str) -> Any:
    if "boolean" in kind and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if "number" in kind or "integer" in kind:
        for number in (int, float):
            try:
                return number(text)
            except ValueError:
                continue
    return text


def key_options(kind: str) -> list[KeyOption]:
    """The flags of every key, for one of the commands of :data:`SHORT`."""
    from gflow.config import describe_keys

    return [KeyOption(key, info, key in SHORT[kind]) for key, info in describe_keys().items()]


def overrides(
    assignments: Iterable[str], options: Iterable[KeyOption], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Dotted keys to values: of ``--set``, then of the flags, which win."""
    from gflow.config import parse_override

    given = dict(parse_override(text) for text in assignments)
    for option in options:
        if values[option.name or ""] is not None:
            given.pop(option.key, None)  # the flag comes last, after a --set of its whole table
            given[option.key] = values[option.name or ""]
    return given


def _help(info: KeyInfo) -> str:
    return " ".join(f"{sentence}." for sentence in _sentences(info))


def _sentences(info: KeyInfo) -> Iterator[str]:
    yield info.description[0].upper() + info.description[1:]
    if info.type != "boolean" and "|" not in info.type and info.expects not in _OBVIOUS:
        yield f"It must be {info.expects}"
    if info.required:
        yield "No default"
    elif info.default is not None:
        yield f"Default: {info.default if isinstance(info.default, str) else show(info.default)}"
    elif "(none:" not in info.description:
        yield "Default: none"
