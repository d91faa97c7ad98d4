from __future__ import annotations

import json
import re
import sys
from types import ModuleType

import pytest

from gflow.integrators.registry import METHODS

MEASURED = {"scipy:RK45": (0.52, 1234.5)}
COSTS = {"scipy:RK45": (100, 0, 20000, 3)}


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("gflow.integrators.measured")
    monkeypatch.setattr(module, "MEASURED", MEASURED, raising=False)
    monkeypatch.setattr(module, "COSTS", COSTS, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_the_table_has_every_method(gflow) -> None:
    result = gflow("methods")
    assert (result.exit_code, result.stderr) == (0, "")
    blocks = result.stdout.split("\n\n")
    for block in (blocks[0], blocks[2]):
        assert [line.split()[0] for line in block.splitlines()[2:]] == list(METHODS)
    rows = {line.split()[0]: line.split()[1:] for line in blocks[0].splitlines()[2:]}
    info = METHODS["scipy:RK45"].info
    given = ["5", "yes", "no", "cpu", f"{info.evaluations:.3g}", "100", "20000+3"]
    assert rows["scipy:RK45"] == [*given, f"{info.tightening:.3g}", "0.52", "1.23e+03"]
    assert rows["scipy:LSODA"][-2:] == ["-", "-"]
    assert "about 1 is what was asked for" in blocks[1].replace("\n", " ")
    assert info.advice in blocks[2]
    assert info.source in blocks[2]


def test_one_method_is_told_in_detail(gflow) -> None:
    result = gflow("methods", "rk45")
    assert result.exit_code == 0
    details, legend = result.stdout.split("\n\n")
    title, *lines = details.splitlines()
    told = dict(re.split(r"  +", line, maxsplit=1) for line in lines)
    info = METHODS["scipy:RK45"].info
    assert title == "scipy:RK45"
    assert told["error at the end"] == "0.52"
    assert (told["advice"], told["source"]) == (info.advice, info.source)
    assert legend.startswith("Implicit methods suit stiff flows")


def test_json_has_the_numbers(gflow) -> None:
    every = json.loads(gflow("methods", "--json").stdout)
    assert [one["name"] for one in every] == list(METHODS)
    (one,) = json.loads(gflow("methods", "RK45", "--json").stdout)
    assert one in every
    assert (one["order"], one["error_at_end"], one["error_between"]) == (5, 0.52, 1234.5)
    (other,) = json.loads(gflow("methods", "LSODA", "--json").stdout)
    assert (other["order"], other["error_at_end"]) == (None, None)


def test_auto_is_explained(gflow) -> None:
    result = gflow("methods", "auto")
    assert result.exit_code == 0
    assert result.stdout.startswith("auto is no method: it chooses one by ")


def test_an_unknown_method_is_told(gflow) -> None:
    result = gflow("methods", "dopr5")
    assert (result.exit_code, result.stdout) == (2, "")
    sentence = 'Error: method "dopr5" is unknown; did you mean "dopri5" or "dopri8"? Choose from '
    assert result.stderr.startswith(sentence + '"auto", "exprb43"')
