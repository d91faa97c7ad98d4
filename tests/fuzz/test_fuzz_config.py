"""Configurations: whatever the text is, a checked configuration or sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hostile import Rng, generators, inputs, mutated, outcome, pick

from gflow.config import config_from_dict, describe_keys, load_config, parse_override
from gflow.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = [
    path.read_bytes()
    for path in (*ROOT.glob("docs/examples/*.toml"), *ROOT.glob("studies/*/*.toml"))
]
KEYS = describe_keys()
BASE: dict[str, Any] = {
    "model": {"kind": "linear"},
    "data": {"source": "teacher", "samples": 5, "seed": 0, "theta": [1.0, 0.0]},
    "start": {"theta": [0.1, 0.2]},
    "flow": {"t_end": 1.0},
}
NUMBERS = (0, -1, 1, 2, 2**31, 2**63 - 1, 2**63, 10**4000, 0.0, -0.0, 1.5, 1e308, 5e-324, 1e-320)
TEXTS = ("", " ", "a" * 100_000, "é\u202e\U0001f600", "a\x00b", "../../etc/passwd", "1_000", "0x10")
WORDS = ("exact", "neumann:3", "neumann:99999999999999999999", "damped:1:nan", "weak-tanh:1e400")
MORE = ("scaled:W=1,W=2", "scaled:=", "natural:", "heavy_ball:-1", "warmup:inf", "step:1:x", "auto")


def value(rng: Rng, depth: int = 0) -> Any:
    """A value of any TOML type."""
    kind = int(rng.integers(9 if depth < 3 else 6))
    if kind == 0:
        return pick(rng, NUMBERS)
    if kind == 1:
        return pick(rng, (float("nan"), float("inf"), -float("inf"), True, False))
    if kind in (2, 3):
        return pick(rng, TEXTS + WORDS + MORE)
    if kind == 4:
        return float(rng.normal()) * 10.0 ** int(rng.integers(-20, 20))
    if kind == 5:
        return int(rng.integers(-5, 100))
    if kind == 6:
        return {pick(rng, TEXTS): value(rng, depth + 1) for _ in range(int(rng.integers(4)))}
    return [value(rng, depth + 1) for _ in range(int(rng.integers(6)))]


def configuration(rng: Rng) -> dict[str, Any]:
    """A valid configuration, in which a few keys are others or of other values."""
    tree: dict[str, Any] = {name: dict(table) for name, table in BASE.items()}
    if rng.random() < 0.1:
        tree = {}
    for _ in range(int(rng.integers(1, 6))):
        *tables, leaf = pick(rng, list(KEYS)).split(".")
        place = tree
        for name in tables:
            inner = place.setdefault(name, {})
            place = inner if isinstance(inner, dict) else tree
        if rng.random() < 0.1:
            leaf = pick(rng, (leaf[:-1], leaf.upper(), leaf + "\x7f", "", "é"))
        place[leaf] = value(rng)
    return tree


@inputs("config keys")
def test_odd_keys_and_values(seeds: range) -> None:
    for seed, rng in generators(seeds):
        raw = configuration(rng)
        checked = []
        outcome(seed, lambda raw=raw, checked=checked: checked.append(config_from_dict(raw)))
        for config in checked:
            again = tomli_w.dumps(config.model_dump(exclude_none=True))
            assert config.to_toml() == again


@inputs("config bytes")
def test_damaged_files(tmp_path: Path, seeds: range) -> None:
    path = tmp_path / "damaged.toml"
    for seed, rng in generators(seeds):
        path.write_bytes(mutated(pick(rng, EXAMPLES), rng))
        overrides = {pick(rng, list(KEYS)): value(rng)} if rng.random() < 0.3 else {}
        outcome(seed, lambda overrides=overrides: load_config(path, overrides))


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 10_000 + "]" * 10_000,
        "x = " + "{a=" * 10_000 + "1" + "}" * 10_000,
        "[" + ".".join("a" * 10_000) + "]",
        ".".join("a" * 10_000) + " = 1",
        "a = " + "1" * 100_000,
        "a = 1e" + "9" * 10_000,
        "[model]\n" * 2,
        "a = 1\na = 2",
        "\ufeff[model]\r\nkind = 'linear'\r\n",
        "\x00",
        "a = '\x01'",
        "[data]\ntarget = [" + "'x'," * 200_000 + "]",
        "\n" * 1_000_000 + "a",
        "# " + "é" * 1_000_000,
        "'" * 100_000,
        "".join(f"k{i} = {i}\n" for i in range(20_000)),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_extreme_texts(tmp_path: Path, text: str) -> None:
    path = tmp_path / "extreme.toml"
    path.write_text(text, encoding="utf-8", newline="")
    assert outcome(0, lambda: load_config(path))


def test_overrides_of_odd_texts() -> None:
    for seed, rng in generators(range(300)):
        text = mutated(pick(rng, (b"flow.rtol=1e-3", b"start={seed=1}", b"a.b=[1,'x']")), rng)
        outcome(seed, lambda text=text: parse_override(text.decode("utf-8", "surrogateescape")))


def test_numbers_are_read_as_they_are_written() -> None:
    rtol = np.nextafter(1e-6, 1.0)
    raw = BASE | {"flow": {"t_end": 1.0, "rtol": rtol}}
    assert config_from_dict(raw).flow.rtol == rtol  # type: ignore[union-attr]
    with pytest.raises(ConfigError):
        config_from_dict(BASE | {"flow": {"t_end": "1_0"}})
