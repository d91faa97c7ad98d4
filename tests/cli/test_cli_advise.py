from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

import gflow as package
from gflow.advice import Advice
from gflow.config import load_config
from gflow.configured import make_problem, make_start

DIABETES = Path(__file__).parents[2] / "docs" / "examples" / "diabetes.toml"


def blocks_of(text: str) -> dict[str, list[list[str]]]:
    """Titles and cells of the tables."""
    found = {}
    for block in text.split("\n\n")[:-1]:
        title, *lines = block.splitlines()
        found[title] = [re.split(r"  +", line.strip()) for line in lines]
    return found


def advice_of(path: str) -> Advice:
    config = load_config(path)
    problem, _ = make_problem(config, Path())
    start = make_start(config, problem.model)
    return package.advise(problem, start, t_end=1.0, step_sizes=[0.05, 0.1])


def test_the_report_is_that_of_the_advice(gflow, config: str) -> None:
    result = gflow("advise", config, "--set", "descent.step_sizes=[0.05,0.1]")
    assert (result.exit_code, result.stderr) == (0, "")
    advice = advice_of(config)
    blocks = blocks_of(result.stdout)
    assert list(blocks) == [
        "Curvature",
        "Time scales at the limit",
        "Step sizes of gradient descent",
    ]
    assert blocks["Curvature"][0] == ["at the start", "at the limit"]
    told = {name: cells for name, *cells in blocks["Curvature"][1:]}
    assert told["time"] == ["0", f"{advice.end.t:.3g}"]
    assert told["sharpness (largest eigenvalue)"] == [
        f"{advice.start.sharpness:.3g}",
        f"{advice.end.sharpness:.3g}",
    ]
    assert told["smallest eigenvalue"][1] == "0"
    assert told["zero eigenvalues (flat directions)"][1] == "1 of 2"
    scales = dict(blocks["Time scales at the limit"])
    assert scales["stiffness, their ratio"] == "1"
    header, first, _ = blocks["Step sizes of gradient descent"]
    assert header == [
        "step size",
        "stable below sharpness",
        "updates",
        "critical radius",
        "verdict",
    ]
    radius = float(advice.closed_forms["critical_radius"][0])
    updates = str(-int(-advice.end.t // 0.05))
    assert first == ["0.05", "40", updates, f"{radius:.3g}", "stable all along the flow"]
    sentences = result.stdout.split("\n\n")[-1].splitlines()
    names = ["Limit", "Theory", "Step size", "Time", "Integrator", "Cost"]
    assert [sentence.partition(":")[0] for sentence in sentences] == names
    assert sentences[4].startswith(f"Integrator: {advice.method} suits: {advice.reason}. auto ")


def test_json_has_everything(gflow, config: str) -> None:
    result = gflow("advise", config, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    told, advice = json.loads(result.stdout), advice_of(config)
    assert told["settled"] is True
    assert told["status"] == "gradient_norm"
    assert told["end"]["sharpness"] == advice.end.sharpness
    assert told["end"]["theta"] == list(advice.end.theta)
    assert told["steps"][0]["step_size"] == 0.05
    assert told["time_scales"]["stiffness"] == 1.0
    assert told["closed_forms"]["sharpness_limit"] == pytest.approx(advice.end.sharpness)


def test_flow_and_descent_are_optional(gflow, config: str) -> None:
    path = Path(config)
    path.write_text(path.read_text().partition("[flow]")[0])
    result = gflow("advise", config)
    assert (result.exit_code, result.stderr) == (0, "")
    assert list(blocks_of(result.stdout)) == ["Curvature", "Time scales at the limit"]
    assert "your t_end" not in result.stdout


def test_another_gradient_is_told(gflow, config: str) -> None:
    result = gflow("advise", config, "--set", "model.backward=jfb")
    assert result.exit_code == 0
    assert "The gradient in use is not the loss's: stable steps" in result.stdout
    header = blocks_of(result.stdout)["Step sizes of gradient descent"][0]
    assert header == ["step size", "updates", "verdict"]


def test_a_flow_that_loses_its_equilibrium_exits_with_1(gflow) -> None:
    result = gflow("advise", DIABETES)
    assert (result.exit_code, result.stderr) == (1, "")
    blocks = blocks_of(result.stdout)
    assert list(blocks) == ["Curvature", "Step sizes of gradient descent"]
    assert blocks["Curvature"][0] == ["at the start", "where it ended"]
    assert blocks["Curvature"][1] == ["time", "0", "960"]
    verdicts = [row[-1] for row in blocks["Step sizes of gradient descent"][1:]]
    assert all(told.startswith("stable to t_end = 200; too large from t = ") for told in verdicts)
    assert "\nNo limit: The equilibrium is lost: " in result.stdout
    assert "theta2 = 1" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["tini.toml"], 2, "Error: tini.toml does not exist. Did you mean tiny.toml?\n"),
        (
            ["tiny.toml", "--set", "flow.rtoll=1e-3"],
            2,
            "Error: flow.rtoll is unknown; did you mean flow.rtol?\n",
        ),
        (
            ["tiny.toml", "--set", "flow.method=foo"],
            2,
            'Error: method "foo" is unknown. Choose from "auto", ',
        ),
        (["tiny.toml", "--set", "start={theta=[1,1]}"], 1, "Error: No equilibrium: "),
    ],
)
def test_a_wrong_request_is_told(
    gflow, config: str, arguments: list[str], code: int, told: str
) -> None:
    result = gflow("advise", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(told)


def test_the_method_of_the_configuration_is_judged(gflow, config: str) -> None:
    result = gflow("advise", config, "--set", "flow.method=radau")
    assert result.exit_code == 0
    assert " You name scipy:Radau; auto would take native:tsit5.\n" in result.stdout


def test_ctrl_c_promises_only_what_is_printed(
    gflow, config: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **how: object) -> Advice:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr("gflow.cli.advise.advise_config", interrupted)
    gflow("advise", config)
    told = capfd.readouterr().err
    assert "Interrupted; what is known by now will be printed." in told
    assert "written" not in told


def test_the_budget_of_the_configuration_holds(gflow, config: str) -> None:
    result = gflow("advise", config, "--set", "flow.stop.wall_seconds=1e-4")
    assert result.exit_code == 1
    assert "\nNo limit: The wall-clock limit was reached" in result.stdout
