from __future__ import annotations

import itertools

import numpy as np
import pytest

from gflow.errors import ConfigError
from gflow.sweeps.over import MOST_CELLS, read_axes


@pytest.mark.parametrize(
    ("text", "values", "labels"),
    [
        ("data.seed=0:3", (0, 1, 2), [0, 1, 2]),
        ("data.seed=5:0:-2", (5, 3, 1), [5, 3, 1]),
        ("flow.rtol=1e-3, 1e-6", (1e-3, 1e-6), [1e-3, 1e-6]),
        ("flow.t_end=1,inf", (1, np.inf), [1.0, np.inf]),
        ("model.activation=tanh,gelu", ("tanh", "gelu"), ["tanh", "gelu"]),
        ("flow.kind=gradient,'scaled:theta1=2'", ("gradient", "scaled:theta1=2"), None),
        ('flow.kind="scaled:a=1,b=2",nesterov', ("scaled:a=1,b=2", "nesterov"), None),
        ("descent.step_sizes=0.1,0.05", ([0.1], [0.05]), [0.1, 0.05]),
        ("descent.step_sizes=[0.1,0.2],[0.3]", ([0.1, 0.2], [0.3]), ["[0.1, 0.2]", "0.3"]),
        ("flow.times=5,[0.0,0.5]", (5, [0.0, 0.5]), ["5", "[0.0, 0.5]"]),
        ("diagnostics.reference=true,false", (True, False), ["true", "false"]),
        ("model.dim=99999999999999999999,1", (99999999999999999999, 1), [1e20, 1.0]),
    ],
)
def test_values_and_coordinates(text, values, labels):
    (axis,) = read_axes([text])
    assert axis.values == values
    assert axis.text == text
    assert axis.labels.tolist() == (list(values) if labels is None else labels)


def test_values_given_in_python():
    axes = read_axes(
        {
            "data.seed": range(2),
            "flow.rtol": np.array([1e-3, 1e-6]),
            "descent.step_sizes": [(0.1, 0.2), 0.3],
            "start.seed": "0:4",
        }
    )
    assert [axis.values for axis in axes[:3]] == [(0, 1), (1e-3, 1e-6), ([0.1, 0.2], [0.3])]
    assert axes[3].values == (0, 1, 2, 3)
    assert [axis.text for axis in axes[:2]] == ["data.seed=0,1", "flow.rtol=0.001,1e-06"]
    assert [axis.single for axis in axes] == [True, True, False, True]


@pytest.mark.parametrize(
    ("over", "sentence"),
    [
        ([], "A sweep goes over something: give --over KEY=VALUES once at least."),
        (["data.seed"], "--over data.seed: write KEY=VALUES, such as data.seed=0:20"),
        (["data.sed=1"], "--over data.sed: there is no such key; did you mean data.seed?"),
        (["start=1"], "--over start: there is no such key; "),
        (["data.seed=3:3"], "--over data.seed=3:3: the range is empty; 3:3 goes from 3 on"),
        (["data.seed=1:2:0"], "the step of a range must not be 0."),
        (["flow.rtol=1e-3,"], "a value is missing; separate values by commas."),
        (["flow.rtol=1e-3,0.001"], "--over flow.rtol: 0.001 is there twice."),
        (["descent.step_sizes=0.1,[0.1]"], "--over descent.step_sizes: [0.1] is there twice."),
        (["data.seed=0:2", "data.seed=5"], "--over data.seed is given twice;"),
        (["data.seed=0:1000001"], "The sweep has 1,000,001 cells, more than 1,000,000;"),
        (["data.seed=0:999999999999999999"], "The sweep has 999,999,999,999,999,999 cells"),
        (["data.seed=0:2000", "start.seed=0:2000"], "The sweep has 4,000,000 cells"),
        ({"data.seed": 3}, "over: data.seed is 3; it must be a list of values."),
        ({"data.seed": itertools.count()}, "The sweep has 1,000,001 cells"),
        ({"data.seed": []}, "there is no value in it."),
    ],
)
def test_what_is_wrong_is_told(over, sentence):
    with pytest.raises(ConfigError) as caught:
        read_axes(over)
    assert sentence in str(caught.value)


def test_a_key_is_not_set_beside():
    for given in ({"start.seed": 1}, {"start": {"seed": 1}}):
        with pytest.raises(ConfigError, match="given by --over and by --set"):
            read_axes(["start.seed=0:2"], given)
    assert read_axes(["start.seed=0:2"], {"start": {"scale": 1.0}, "data.seed": 1})


def test_the_limit_is_a_number_of_cells():
    assert len(read_axes([f"data.seed=0:{MOST_CELLS}"])[0].values) == MOST_CELLS
