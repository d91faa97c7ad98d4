from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result

import gflow as package
from gflow.cli.interruption import LeaveAtOnce
from gflow.errors import EquilibriumError

HEAVY = {"matplotlib", "pandas", "pydantic", "scipy", "torch", "xarray"}
USAGE = "Usage: gflow [OPTIONS] COMMAND [ARGS]...\nTry 'gflow --help' for help.\n\n"


def modules_after(*arguments: str) -> set[str]:
    """The heavy modules that a command line imports."""
    code = (
        "import sys\nfrom gflow.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print(*sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    run = [sys.executable, "-c", code, *arguments]
    return set(subprocess.run(run, capture_output=True, text=True, check=True).stderr.split())


def test_python_m_gflow_tells_its_version() -> None:
    run = [sys.executable, "-m", "gflow", "--version"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"gflow {package.__version__}\n", "")


def test_the_help_lists_the_commands_and_examples(gflow) -> None:
    result = gflow("--help")
    assert result.exit_code == 0
    commands = [
        "integrate",
        "descend",
        "compare",
        "sweep",
        "resume",
        "show",
        "plot",
        "methods",
        "advise",
        "study",
    ]
    section = result.stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in section.splitlines()] == commands
    assert all(line.endswith(".") for line in section.splitlines())
    assert "  gflow compare linear.toml -o run.nc " in result.stdout


def test_a_wrong_command_is_told_with_the_one_that_was_meant(gflow) -> None:
    result = gflow("integrat")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        f'{USAGE}Error: Command "integrat" is unknown; did you mean "integrate"? Choose from '
        '"integrate", "descend", "compare", "sweep", "resume", "show", "plot", "methods", '
        '"advise", "study".\n'
    )


def test_help_and_version_import_nothing_heavy() -> None:
    assert modules_after("--help") == set()
    assert modules_after("--version") == set()


def test_the_help_of_a_run_imports_the_configuration_alone() -> None:
    assert modules_after("integrate", "--help") <= {"pydantic"}


def test_show_imports_no_torch(saved: Path) -> None:
    loaded = modules_after("show", str(saved))
    assert "xarray" in loaded
    assert "torch" not in loaded


@pytest.fixture
def failing(gflow, config: str, monkeypatch: pytest.MonkeyPatch):
    """Run with an exception in place of the run."""

    def run_with(error: BaseException) -> Result:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("gflow.configured.run_config", fail)
        return gflow("integrate", config)

    return run_with


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (EquilibriumError("There is none."), "Error: There is none.\n"),
        (LeaveAtOnce(), "Left at once; what had been written by then is kept.\n"),
        (
            RuntimeError("boom\n  bang"),
            "Error: internal error: RuntimeError: boom bang; please report it with the traceback "
            "that GFLOW_DEBUG=1 shows.\n",
        ),
    ],
)
def test_failures_are_told_in_sentences(failing, error: BaseException, told: str) -> None:
    result = failing(error)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", told)
    assert not Path("tiny.nc").exists()


def test_an_interruption_before_the_run_is_told(failing) -> None:
    result = failing(KeyboardInterrupt())
    assert result.exit_code == 1
    assert result.stderr.strip() == "Interrupted; nothing was written."


def test_gflow_debug_shows_the_traceback(failing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GFLOW_DEBUG", "1")
    result = failing(RuntimeError("boom"))
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback")
    assert "internal error: RuntimeError: boom;" in result.stderr
