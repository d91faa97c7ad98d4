from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gflow.config import config_from_dict, load_config, parse_override
from gflow.errors import ConfigError

TEACHER = {
    "model": {"dim": 2},
    "data": {"source": "teacher", "samples": 10, "seed": 1},
    "start": {"seed": 1},
    "flow": {"t_end": 3.0},
}


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_file_gives_a_config_or_a_config_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    with pytest.raises(ConfigError):  # no text this short is a whole configuration
        load_config(path)


@given(st.text(max_size=300))
def test_any_path_gives_a_config_error(path):
    with pytest.raises(ConfigError, match=r"does not exist|cannot be read|folder|TOML"):
        load_config(f"no-such-folder/{path}")


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(config_from_dict(TEACHER).to_toml())
    config = load_config(
        path, {"flow.rtol": 1e-8, "flow.stop.loss": 0.5, "descent.step_sizes": [1]}
    )
    assert config.flow.rtol == 1e-8
    assert config.flow.stop.loss == 0.5
    assert config.descent.step_sizes == (1.0,)
    with pytest.raises(ConfigError, match=r"^rtol is unknown; did you mean flow.rtol\?$"):
        load_config(path, {"rtol": 1e-8})
    with pytest.raises(ConfigError, match=r"^flow.rtol is a table; it must be a number"):
        load_config(path, {"flow.rtol.x": 1e-8})


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(config_from_dict(TEACHER).to_toml().replace("\n", "\r\n").encode("utf-8-sig"))
    assert load_config(path) == config_from_dict(TEACHER)


def test_unreadable_files(tmp_path):
    (tmp_path / "study.toml").write_text("[flow]\nrtol = \n")
    (tmp_path / "stud.toml").write_text('a = 1\nb = """')
    (tmp_path / "latin.toml").write_bytes("a = 1\nb = 'é'".encode("latin-1"))
    (tmp_path / "deep.toml").write_text("a = " + "[" * 10_000)
    cases = {
        "studdy.toml": r"studdy.toml does not exist. Did you mean stud.toml or study.toml\?$",
        "none/a.toml": r"does not exist. Its folder .*none cannot be read.$",
        "study.toml": r"study.toml is not valid TOML: .*line 2, column 8\).$",
        "stud.toml": r"is not valid TOML: .*line 2, the last one",
        "latin.toml": r"latin.toml is not UTF-8 text \(line 2\)",
        "deep.toml": r"nests lists or tables too deeply",
        ".": r"is a folder; give the TOML file in it",
    }
    for name, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            load_config(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1e-8", 1e-8),
        (" a.b = [1, 2]", [1, 2]),
        ("a.b=true", True),
        ("a.b=inf", math.inf),
        ("a.b=dopri5", "dopri5"),
        ("a.b='x=y'", "x=y"),
        ("a.b=x=y", "x=y"),
        ("a.b=", ""),
        ("a.b=1\nc=2", "1\nc=2"),
        ("a.b=" + "[" * 10_000, "[" * 10_000),
    ],
)
def test_overrides_are_toml_or_bare_strings(text, value):
    assert parse_override(text) == ("a.b", value)


@pytest.mark.parametrize("text", ["flow.rtol", "", "=3"])
def test_an_override_needs_a_key_and_a_sign(text):
    with pytest.raises(ConfigError, match=r"sets nothing; write key=value, such as flow.rtol=1e-8"):
        parse_override(text)


@given(st.text(st.characters(exclude_characters="="), min_size=1).filter(str.strip), st.text())
def test_any_override_is_split_at_its_first_sign(key, value):
    assert parse_override(f"{key}={value}")[0] == key.strip()
