"""Files of the user's, and where in them something failed."""

from __future__ import annotations

import pytest

from gflow import user_code


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_text("from . import first, second\nfrom .first import value\n")
    (tmp_path / "first.py").write_text("from .third import value\n")
    (tmp_path / "second.py").write_text("def fail():\n    raise ValueError('no.')\n")
    (tmp_path / "third.py").write_text("value = 1\n")
    (tmp_path / "unused.py").write_text("1 / 0\n")
    return tmp_path


def test_sources_are_a_file_and_what_it_imports_from_its_folder(folder):
    names = [path.name for path in user_code.sources(folder / "main.py")]
    assert names == ["first.py", "main.py", "second.py", "third.py"]


def test_a_module_is_kept_until_a_source_changes(folder):
    loaded = user_code.load(folder / "main.py")
    assert loaded.value == 1
    assert user_code.load(folder / "main.py") is loaded
    (folder / "third.py").write_text("value = 22\n")
    assert user_code.load(folder / "main.py").value == 22
    assert not (folder / "__pycache__").exists()


def test_a_failure_is_placed_where_it_was_raised(folder):
    loaded = user_code.load(folder / "main.py")
    with pytest.raises(ValueError, match="no") as caught:
        loaded.second.fail()
    sentence = user_code.failure("fail", folder / "main.py", caught.value)
    assert "main.py (second.py, line 2) failed: ValueError: no. GFLOW_DEBUG=1 shows" in sentence
