"""The registry: every method complete, and found by any of its names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gflow.errors import MethodError
from gflow.integrators import registry
from gflow.integrators.base import Method
from gflow.integrators.registry import METHODS, resolve

NATIVE = ["exprb43", "expcol8", "tsit5", "rkc2", "rkc4"]
SCIPY = ["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"]
ADAPTIVE = ["dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun"]
FIXED = ["euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams"]


def test_our_own_methods_and_those_of_both_back_ends_are_there():
    assert [name for name in METHODS if name.startswith("native:")] == [
        f"native:{n}" for n in NATIVE
    ]
    assert [name for name in METHODS if name.startswith("scipy:")] == [f"scipy:{n}" for n in SCIPY]
    torchdiffeq = [name for name in METHODS if name.startswith("torchdiffeq:")]
    assert torchdiffeq == [f"torchdiffeq:{name}" for name in (*ADAPTIVE, *FIXED)]
    adaptive = [name.partition(":")[2] for name, m in METHODS.items() if m.info.adaptive]
    assert set(adaptive) >= {*SCIPY, *ADAPTIVE}
    assert not set(adaptive) & set(FIXED)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_a_user_needs_to_know(name):
    method = METHODS[name]
    info = method.info
    assert isinstance(method, Method)
    assert info.name == name
    assert len(info.advice) > 5
    assert any(character.isdigit() for character in info.source), "no year in the source"
    assert info.evaluations >= 1
    assert 0 < info.tightening <= 1
    assert info.adaptive or (info.tightening == 1 and not info.lands)
    assert (info.order is None) == (info.dense_order is None)
    assert info.order is None or 1 <= info.dense_order <= info.order
    assert info.any_device == name.startswith(("native:", "torchdiffeq:"))


def test_the_implicit_methods_are_those_for_stiff_problems():
    implicit = [name for name, method in METHODS.items() if method.info.implicit]
    exponential = ["native:exprb43", "native:expcol8"]
    assert implicit == [*exponential, "scipy:Radau", "scipy:BDF", "scipy:LSODA"]


@given(name=st.sampled_from(list(METHODS)), short=st.booleans(), seed=st.randoms())
def test_full_and_short_names_resolve_in_any_case(name, short, seed):
    written = name.partition(":")[2] if short else name
    written = "".join(seed.choice([c.upper(), c.lower()]) for c in written)
    assert resolve(written) is METHODS[name]


def test_an_ambiguous_short_name_lists_the_full_ones(monkeypatch):
    known = METHODS["scipy:RK45"]
    other = replace(known, info=replace(known.info, name="other:rk45"))
    monkeypatch.setattr(registry, "METHODS", {**METHODS, "other:rk45": other})
    with pytest.raises(MethodError) as refusal:
        resolve("RK45")
    assert str(refusal.value) == 'method "RK45" is ambiguous; write scipy:RK45 or other:rk45.'
    assert resolve("Other:RK45") is other


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("dopri", "dopri8"),
        ("RK54", "rk4"),
        ("auto_", "auto"),
        ("lsoda1", "LSODA"),
        ("DOPRI-5", "dopri5"),
        ("scipy:RK54", "rk4"),
        ("torchdiffeq:rk5", "rk4"),
    ],
)
def test_an_unknown_name_gets_a_hint_in_any_case(written, meant):
    with pytest.raises(MethodError) as refusal:
        resolve(written)
    message = str(refusal.value)
    assert message.startswith(f'method "{written}" is unknown; did you mean "')
    question = message.partition("did you mean ")[2].partition("?")[0]
    assert f'"{meant}"' in question


@pytest.mark.parametrize("written", ["", "runge", "zzz"])
def test_a_hopeless_name_is_shown_what_there_is(written):
    with pytest.raises(MethodError) as refusal:
        resolve(written)
    message = str(refusal.value)
    assert message.startswith(f'method "{written}" is unknown. Choose from "auto", "exprb43", ')
    assert all(f'"{name.partition(":")[2]}"' in message for name in METHODS)
