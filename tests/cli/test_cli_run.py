from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import gflow as package
from gflow.cli.run import conclusion, is_success

USAGE = "Usage: gflow integrate [OPTIONS] CONFIG\nTry 'gflow integrate --help' for help.\n\n"


MORE = " --max-steps NUMBER"


def tail(name: str, more: str | None = None) -> str:
    way_on = "" if more is None else f", go on with `gflow resume {name}{more}`"
    return f"{name}; see it with `gflow show {name}` or `gflow plot {name}`{way_on}.\n"


@pytest.mark.parametrize(
    ("kind", "groups"),
    [
        ("integrate", {"problem", "flow", "flow_steps", "reference"}),
        ("descend", {"problem", "descent", "reference"}),
        ("compare", {"problem", "flow", "flow_steps", "descent", "comparison", "reference"}),
    ],
)
def test_a_run_writes_its_dataset(gflow, config: str, kind: str, groups: set[str]) -> None:
    Path("out.nc").write_text("worthless")
    result = gflow(kind, config, "--overwrite", "-o", "out.nc", "--set", "flow.rtol=1e-4")
    assert (result.exit_code, result.stderr) == (0, "")
    tree = package.open("out.nc")
    assert set(tree.children) == groups | {"checkpoint"}
    typed = f"gflow {kind} tiny.toml --overwrite -o out.nc --set flow.rtol=1e-4"
    assert tree.attrs["command"] == typed
    assert "rtol = 0.0001" in tree.attrs["config"]


def test_the_conclusion_of_a_success(gflow, config: str) -> None:
    result = gflow("compare", config)
    assert result.exit_code == 0
    flow, descent, file = result.stdout.splitlines(keepends=True)
    message = package.open("tiny.nc")["flow"].status_message.item()
    assert message.startswith("The run reached t_end.")
    assert flow == f"Flow: {message}\n"
    assert descent == "Gradient descent: 2 of 2 step sizes reached t_end.\n"
    assert file == "Wrote " + tail("tiny.nc")


def test_quiet_is_silent_on_success_alone(gflow, config: str) -> None:
    result = gflow("compare", config, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    result = gflow("integrate", config, "-q", "-o", "failed.nc", "--max-steps", 2)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("The partial run is kept in " + tail("failed.nc", MORE))


def test_a_failed_run_keeps_what_there_is(gflow, config: str) -> None:
    result = gflow("integrate", config, "--max-steps", 2, "-o", "a b.nc")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Flow: The step limit does not suffice to reach the end; ")
    assert result.stderr.endswith("The partial run is kept in " + tail("'a b.nc'", MORE))
    flow = package.open("a b.nc")["flow"]
    assert str(flow.status.values) == "step_limit"
    assert 0 < flow.time.values[-1] < 1
    assert np.isfinite(flow.loss.values).all()


def test_a_lost_equilibrium_at_the_start_exits_with_1(gflow, config: str) -> None:
    result = gflow("integrate", config, "--set", "start={theta=[1, 1]}")
    assert result.exit_code == 1
    assert "The equilibrium is lost" in result.stderr
    assert str(package.open("tiny.nc")["flow"].status.values) == "equilibrium_lost"


def statuses(*descent: str, flow: str = "t_end") -> xr.DataTree:
    """A tree with nothing but verdicts."""
    groups = {
        "flow": xr.Dataset({"status": ((), flow), "status_message": ((), "It did.")}),
        "descent": xr.Dataset(
            {"status": ("step_size", list(descent))},
            coords={"step_size": 0.1 * (1 + np.arange(len(descent)))},
        ),
    }
    return xr.DataTree.from_dict(groups)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (statuses("t_end", "t_end"), True),
        (statuses("diverged", "t_end"), True),
        (statuses("diverged", "equilibrium_lost"), False),
        (statuses("t_end", "interrupted"), False),
        (statuses("t_end", "wall_limit"), False),
        (statuses("t_end", flow="steady_state"), True),
        (statuses("t_end", flow="diverged"), False),
    ],
)
def test_a_divergence_at_one_step_size_is_no_failure(tree: xr.DataTree, expected: bool) -> None:
    assert is_success(tree) is expected


def test_the_conclusion_names_the_step_sizes_that_failed() -> None:
    lines = conclusion(statuses("diverged", "t_end", "equilibrium_lost"), Path("x.nc"), True)
    assert lines[:2] == [
        "Flow: It did.",
        "Gradient descent: 1 of 3 step sizes reached t_end; not 0.1 (diverged), "
        "0.3 (equilibrium_lost).",
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tini.toml"], "Error: tini.toml does not exist. Did you mean tiny.toml?\n"),
        (
            ["tiny.toml", "--set", "flow.rtoll=1e-3"],
            "Error: flow.rtoll is unknown; did you mean flow.rtol?\n",
        ),
        (
            ["tiny.toml", "--set", "flow.rtol"],
            'Error: "flow.rtol" sets nothing; write key=value, such as flow.rtol=1e-8.\n',
        ),
        (
            ["tiny.toml", "--rtol", "small", "--times", "1"],
            'Error: flow.rtol is "small"; it must be a number between 0 and 1.\n'
            "       flow.times is 1; it must be an integer from 2 to 10,000,000, or an increasing "
            "list of numbers, none negative.\n",
        ),
        (
            ["tiny.toml", "--method", "dopr5"],
            'Error: method "dopr5" is unknown; did you mean "dopri5" or "dopri8"? Choose from '
            '"auto", "exprb43", "expcol8", "tsit5", "rkc2", "rkc4", "RK23", "RK45", "DOP853", '
            '"Radau", "BDF", "LSODA", "dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun", '
            '"euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams".\n',
        ),
        (
            ["tiny.toml", "-o", "no/run.nc"],
            "Error: The folder no does not exist; create it first.\n",
        ),
        ([], f"{USAGE}Error: Missing argument 'CONFIG'.\n"),
    ],
)
def test_a_wrong_request_is_told_and_exits_with_2(
    gflow, config: str, arguments: list[str], told: str
) -> None:
    result = gflow("integrate", *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", told)
    assert not Path("tiny.nc").exists()


def test_a_wrong_flag_is_told_with_the_one_that_was_meant(gflow, config: str) -> None:
    result = gflow("integrate", config, "--rtoll", "1e-3")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{USAGE}Error: No such option")
    assert "--rtol" in result.stderr.removeprefix(USAGE).replace("--rtoll", "")


def test_an_existing_output_is_refused_before_anything_is_computed(
    gflow, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tiny.nc").write_text("precious")
    monkeypatch.setattr("gflow.configured.run_config", lambda *_, **__: pytest.fail("it ran"))
    result = gflow("integrate", config)
    assert (result.exit_code, result.stdout) == (2, "")
    told = "Error: tiny.nc exists and is no run of gflow's; choose another name, or pass --over"
    assert result.stderr.startswith(told)
    assert Path("tiny.nc").read_text() == "precious"


def test_nan_in_the_data_is_told_with_its_place(gflow, config: str) -> None:
    Path("data.csv").write_text("a,y\n1,2\n2,nan\n3,4\n")
    table = 'data={source="file", path="data.csv", inputs=["a"], target="y"}'
    result = gflow("integrate", config, "--set", table)
    assert result.exit_code == 2
    assert re.fullmatch(
        r'Error: data\.csv, line 3: column "y" holds "nan"; it must be a finite number.*\n',
        result.stderr,
    )


def test_data_is_found_beside_the_configuration(
    gflow, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("data.csv").write_text("a,y\n1,2\n2,4\n3,5\n")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    table = 'data={source="file", path="data.csv", inputs=["a"], target="y"}'
    result = gflow("integrate", "../tiny.toml", "--set", table)
    assert result.exit_code == 0, result.stderr
    assert package.open("tiny.nc")["problem"].attrs["samples"] == 3


def test_the_help_has_a_section_for_every_table(gflow) -> None:
    result = gflow("compare", "--help")
    assert result.exit_code == 0
    titles = re.findall(r"^(\S+):$", result.stdout, re.MULTILINE)
    tables = ["model", "data", "start", "flow", "descent", "diagnostics", "run"]
    assert titles == ["Options", *(f"[{table}]" for table in tables)]
    assert "--rtol, --flow-rtol NUMBER" in result.stdout
