"""Modules made by a function of the user's file."""

from __future__ import annotations

import pytest
from torch import nn

from gflow.errors import ConfigError
from gflow.models.factory import load_factory

HEAD = "from torch import nn\n"


@pytest.fixture
def made(tmp_path):
    """What a factory in a file of this text makes, for 3 inputs and 2 outputs."""

    def load(text: str, factory: str = "net.py:make") -> nn.Module:
        (tmp_path / "net.py").write_text(HEAD + text)
        return load_factory(factory, tmp_path, 3, 2)

    return load


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("def make(): return nn.Linear(5, 4)", (5, 4)),
        ("def make(inputs, outputs): return nn.Linear(inputs, outputs)", (3, 2)),
        ("def make(*, outputs, width=7): return nn.Linear(width, outputs)", (7, 2)),
        ("def make(**sizes): return nn.Linear(sizes['inputs'], sizes['outputs'])", (3, 2)),
        ("class make(nn.Linear):\n  def __init__(self): super().__init__(6, 1)", (6, 1)),
    ],
)
def test_a_factory_is_given_what_it_takes(made, text, shape):
    module = made(text)
    assert (module.in_features, module.out_features) == shape


def test_a_file_is_read_again_when_it_or_its_neighbour_changes(made, tmp_path):
    assert made("def make(): return nn.Linear(1, 1)").in_features == 1
    (tmp_path / "sizes.py").write_text("WIDTH = 4\n")
    text = "from .sizes import WIDTH\ndef make(): return nn.Linear(WIDTH, 1)"
    assert made(text).in_features == 4
    (tmp_path / "sizes.py").write_text("WIDTH = 50\n")
    assert made(text).in_features == 50


def test_a_file_may_be_in_a_folder_below(tmp_path):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "one.py").write_text(HEAD + "def make(): return nn.Linear(2, 2)")
    assert load_factory("nets/one.py:make", tmp_path, 2, 2).in_features == 2


@pytest.mark.parametrize(
    ("text", "factory", "sentence"),
    [
        ("", "net.py", 'is "net.py"; it must name a file and a function in it'),
        ("", "net:make", 'is "net:make"; it must name a file'),
        ("", "nett.py:make", "nett.py does not exist. Did you mean net.py?"),
        ("def made(): pass", "net.py:make", 'has no function make; did you mean "made"?'),
        ("def make(): return 3", "net.py:make", "returned a int; it must return a torch.nn"),
        ("def make(width): pass", "net.py:make", "needs width; a factory is called with inputs"),
        ("def make():\n    return 1 / 0", "net.py:make", "(line 3) failed: ZeroDivisionError"),
        ("1 / 0\ndef make(): pass", "net.py:make", "(line 2) failed: ZeroDivisionError"),
        ("def make(: pass", "net.py:make", "failed: SyntaxError: "),
    ],
)
def test_failures_are_sentences(made, text, factory, sentence):
    with pytest.raises(ConfigError) as caught:
        made(text, factory)
    assert str(caught.value).startswith("model.factory")
    assert sentence in str(caught.value)
