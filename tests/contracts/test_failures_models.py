"""Rule R7 on problems: every method and every kind of model ends with a verdict and a diagnosis.

Each row of the table goes over all methods, which take the row's models in turn; every model of a
row is met by three methods at least.
"""

from __future__ import annotations

import functools
import math
import pathlib
import re
import signal

import pytest
import torch
from torch import nn

import gflow
from gflow.diagnosis import Cause, diagnosed
from gflow.flow_run import FlowOptions, FlowRun
from gflow.integrators.registry import METHODS
from gflow.status import Status

SECONDS = 5
NAMES = list(METHODS)
X = [[1.0], [2.0]]
VERDICT = re.compile(
    r" It ended at t = \S+ after \d+ steps \(\d+ rejected(, last dt = \S+)?\) and \d+ field eval"
)
ITERATING = "torchdiffeq:implicit_adams"
"""Its inner iteration may fail before what is to be found."""


class Cell(nn.Module):
    """tanh(w z + x), whose fixed point is unique for w < 1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5))

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.w * z + x)


class Fold(nn.Module):
    """exp(z + b - 1) + x: two fixed points for b < 0 and x = 0, none for b > 0."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor(-0.5))

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(z + self.b - 1.0) + 0.0 * x


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))


def _layer() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(gflow.DEQLayer(Cell()), nn.Linear(1, 1))


@functools.cache
def _model(name):
    """A model and where its flows begin."""
    single = {"linear": "identity", "tanh": "tanh", "sigmoid": "sigmoid", "softplus": "softplus"}
    if name == "linear":
        return gflow.LinearDEQ(1), [1.0, 0.0]
    if name in single:
        return gflow.SingleIndexDEQ(1, single[name]), [1.0, 0.0]
    if name == "vector":
        model = gflow.VectorDEQ(1, 2)
        return model, model.initial(1)
    model = gflow.ModuleModel({"net": _net, "layer": _layer, "fold": _fold}[name]())
    return model, model.initial()


def _fold() -> nn.Module:
    return gflow.DEQLayer(Fold(), width=1)


MODELS = ["linear", "tanh", "sigmoid", "softplus", "vector", "net", "layer"]


def _table(*models):
    """Every method once, with the models in turn."""
    return [
        pytest.param(name, models[i % len(models)], id=f"{name.replace(':', '-')}-{model}")
        for i, name in enumerate(NAMES)
        for model in [models[i % len(models)]]
    ]


@pytest.fixture(autouse=True)
def watchdog():
    def bark(*_):
        raise TimeoutError(f"the run did not end within {SECONDS} s")

    previous = signal.signal(signal.SIGPROF, bark)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of this process alone, whatever else runs
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, previous)


def _run(problem, start, method, t_end, rtol=1e-3, atol=1e-6, **stop):
    """A diagnosed run, and what holds for every one that ended before its end."""
    step_size = None if METHODS[method].info.adaptive else t_end / 203
    options = FlowOptions(
        t_end=t_end,
        method=method,
        rtol=rtol,
        atol=atol,
        times=11,
        spacing="linear",
        step_size=step_size,
        stop=stop or None,
        flow="gradient",
    )
    ended = FlowRun(problem, problem.theta(start), options).run()
    found = diagnosed(problem, options, ended)
    assert found.message.startswith(ended.message)
    assert VERDICT.match(found.message.removeprefix(found.status.sentence)), found.message
    assert bool(torch.isfinite(found.theta).all())
    assert torch.equal(found.theta[0], problem.theta(start))
    assert len(found.t) == len(found.theta) <= 12
    return found


def _outputs(name):
    model, start = _model(name)
    return gflow.Problem(model, X, [0.0, 0.0]).predict(start).flatten()


def _second_sample_lost(output, target):
    """No number where an output falls below its target, else the mean square."""
    return (output**2).mean() + 0.0 * torch.sqrt(output.flatten() - target).sum()


@pytest.mark.parametrize(("method", "name"), _table(*MODELS))
def test_a_loss_that_is_nan_at_the_start(method, name):
    model, start = _model(name)
    targets = _outputs(name) + torch.tensor([-1.0, 1.0])
    problem = gflow.Problem(model, X, targets, loss=_second_sample_lost)
    found = _run(problem, start, method, 1.0)
    assert found.status is Status.NONFINITE_START
    assert found.nfe <= 3
    assert "is nan at t = 0" in found.message
    assert found.diagnosis == "nonfinite_sample"
    assert "not finite at training sample 1 (input 2)" in found.message


@pytest.mark.parametrize(("method", "name"), _table(*MODELS))
def test_a_loss_that_is_nan_later(method, name):
    model, start = _model(name)
    outputs = _outputs(name)
    targets = outputs - torch.tensor([100.0, 0.01])
    problem = gflow.Problem(model, X, targets, loss=_falling)
    found = _run(problem, start, method, 20.0)
    assert found.status is Status.NONFINITE
    assert "of the field is nan at t = " in found.message
    assert found.diagnosis == "nonfinite_sample"
    assert "not finite at training sample 1 (input 2)" in found.message


def _falling(output, target):
    """Outputs fall for good, at an even rate."""
    return output.mean() + 0.0 * torch.sqrt(output.flatten() - target).sum()


@pytest.mark.parametrize("method", NAMES)
def test_an_objective_without_a_value(method):
    at_start = gflow.Objective(lambda w: torch.sqrt(w).sum(), 2)
    found = _run(at_start, [1.0, -1.0], method, 1.0)
    assert found.status is Status.NONFINITE_START
    assert "the loss is nan" in found.message
    assert found.diagnosis == "nonfinite"
    later = gflow.Objective(lambda w: w.sum() + 0.0 * torch.sqrt(w[1] - 0.5), ["u", "w"])
    found = _run(later, [1.0, 1.0], method, 2.0)
    assert found.status is Status.NONFINITE
    assert "the loss is nan" in found.message
    assert float(found.t[-1]) == pytest.approx(0.5, abs=0.02)
    assert found.diagnosis == "nonfinite"


def _quartic(output, target):
    return -(output**4).mean()


@pytest.mark.parametrize(
    ("method", "name"), _table("objective", "objective", "vector", "objective", "net")
)
def test_a_blow_up(method, name):
    """A fixed step may outrun it."""
    if name == "objective":
        problem, start = gflow.Objective(lambda w: -(w**4).sum(), 2), [1.0, 0.5]
    else:
        model, start = _model(name)
        problem = gflow.Problem(model, X, [0.0, 0.0], loss=_quartic)
    found = _run(problem, start, method, 60.0)
    allowed = {Status.DIVERGED}
    if not METHODS[method].info.adaptive:
        allowed |= {Status.NONFINITE, Status.METHOD_FAILED, Status.EQUILIBRIUM_LOST}
    assert found.status in allowed
    if found.status is Status.DIVERGED:
        assert found.diagnosis in ("diverged", "unstable")
        assert "it has no minimum there" in found.message or found.diagnosis == "unstable"


@pytest.mark.parametrize(("method", "name"), _table("fold", "tanh", "tanh"))
def test_an_equilibrium_lost_on_the_way(method, name):
    model, start = _model(name)
    if name == "tanh":
        problem, start = gflow.Problem(model, [[0.1], [-0.1]], [0.9, -0.9]), [0.5, 0.0]
    else:
        problem = gflow.Problem(model, [[0.0]], [5.0])
    found = _run(problem, start, method, 50.0)
    assert found.status is Status.EQUILIBRIUM_LOST or method == ITERATING
    if found.status is Status.EQUILIBRIUM_LOST:
        assert found.diagnosis == "equilibrium_lost"
        assert ("smallest at training sample" in found.message) == (name == "tanh")


@pytest.mark.parametrize("method", NAMES)
def test_a_singular_point(method):
    """Outputs that rise for good drive 1 - theta2 to 0, which no trajectory passes.

    A fixed step may jump along the branch before it comes near.
    """
    model, start = _model("linear")
    problem = gflow.Problem(model, X, [0.0, 0.0], loss=_quartic)
    found = _run(problem, start, method, 0.01)
    assert bool((found.theta[:, 1] < 1).all())
    if METHODS[method].info.adaptive:
        assert found.status in (Status.EQUILIBRIUM_LOST, Status.STEP_UNDERFLOW)
        assert found.diagnosis in ("equilibrium_lost", "singular")
        assert float(found.t[-1]) == pytest.approx(0.003344, rel=0.02)
        assert "slope of the fixed-point equation is alike at all samples" in found.message


@pytest.mark.parametrize(("method", "name"), _table(*MODELS, "objective"))
def test_the_step_limit(method, name):
    if name == "objective":
        problem, start = gflow.Objective(lambda w: (w**4).sum(), 2), [1.0, 0.5]
    else:
        model, start = _model(name)
        problem = gflow.Problem(model, X, [1.0, -1.0])
    found = _run(problem, start, method, 1e4, max_steps=5)
    adaptive = METHODS[method].info.adaptive
    if found.status is not Status.STEP_LIMIT:
        assert not adaptive
        return
    assert found.accepted <= 5
    assert found.diagnosis == ("accuracy" if adaptive else "fixed_step")
    assert "and at this pace t_end is" in found.message
    assert "times the fastest rate" in found.message


@pytest.mark.parametrize(("method", "name"), _table(*MODELS, "objective"))
def test_the_wall_limit(method, name):
    if name == "objective":
        problem, start = gflow.Objective(lambda w: (w**4).sum(), 2), [1.0, 0.5]
    else:
        model, start = _model(name)
        problem = gflow.Problem(model, X, [1.0, -1.0])
    found = _run(problem, start, method, 0.5, rtol=1e-12, wall_seconds=1e-3)
    assert found.status is Status.WALL_LIMIT
    assert found.diagnosis in ("accuracy", "fixed_step", "")


EXPLICIT = [
    "native:tsit5",
    "scipy:RK23",
    "scipy:RK45",
    "torchdiffeq:dopri5",
    "torchdiffeq:bosh3",
    "torchdiffeq:fehlberg2",
]


@pytest.mark.parametrize("method", EXPLICIT)
def test_a_stiff_flow_is_told_with_its_rate(method):
    """Rates 1 and 100: at rest in the fast direction soon, where stability limits the steps."""
    problem = gflow.Objective(lambda w: w[0] ** 2 / 2 + 50 * w[1] ** 2, 2)
    found = _run(problem, [1.0, 1.0], method, 1e3, max_steps=400)
    assert found.status is Status.STEP_LIMIT
    assert found.diagnosis == "stiff"
    told = re.search(r"fastest rate (\S+) is (\S+), and \S+ is stable up to (\S+);", found.message)
    rate, reached, limit = (float(value) for value in told.groups())
    assert rate == pytest.approx(100, rel=1e-6)
    assert 0.5 * limit < reached < 1.3 * limit
    assert "Take expcol8 or auto" in found.message


@pytest.mark.parametrize("method", ["native:rkc2", "native:rkc4"])
def test_stages_that_do_not_suffice_are_told(method):
    """Both come to their most stages, where looser tolerances would not help."""
    rate = 1e9 if method == "native:rkc2" else 1e6
    problem = gflow.Objective(lambda w: w[0] ** 2 / 2 + rate / 2 * w[1] ** 2, 2)
    found = _run(problem, [1.0, 0.0], method, 1e3, max_steps=30, rtol=1e-2)
    assert (found.status, found.diagnosis) == (Status.STEP_LIMIT, "stiff")
    told = re.search(r"rate \S+ is (\S+), and \S+ is stable up to (\S+);", found.message)
    reached, limit = (float(value) for value in told.groups())
    assert reached == pytest.approx(limit, rel=0.03)
    assert "Take expcol8 or auto." in found.message


@pytest.mark.parametrize("method", ["native:exprb43", "native:expcol8", "scipy:LSODA"])
def test_what_was_advised_copes(method):
    problem = gflow.Objective(lambda w: w[0] ** 2 / 2 + 50 * w[1] ** 2, 2)
    assert _run(problem, [1.0, 1.0], method, 1e3, max_steps=400).diagnosis == ""


def test_a_step_beyond_stability_is_told():
    problem = gflow.Objective(lambda w: 50 * w**2 @ torch.ones(2, dtype=w.dtype), 2)
    found = _run(problem, [1.0, 1.0], "torchdiffeq:rk4", 203.0)
    assert (found.status, found.diagnosis) == (Status.DIVERGED, "unstable")
    assert "The step times the fastest rate 100 is 100" in found.message


@pytest.mark.parametrize("status", [Status.STEP_LIMIT, Status.METHOD_FAILED])
@pytest.mark.parametrize(
    ("method", "step_size", "limit"),
    [
        ("torchdiffeq:rk4", 0.05, 2.79),
        ("torchdiffeq:explicit_adams", 0.001, 0.0034),
        ("torchdiffeq:implicit_adams", 0.002, 0.18),
    ],
)
def test_a_fixed_step_too_long_is_told_before_it_diverges(method, step_size, limit, status):
    """Below the step that is advised, the run is well."""
    problem = gflow.Objective(lambda w: w[0] ** 2 / 2 + 50 * w[1] ** 2, 2)
    stop = {"max_steps": 5} if status is Status.STEP_LIMIT else {}
    found = _run(problem, [1.0, 1.0], method, 203 * step_size, **stop)
    if found.status is status:
        assert found.diagnosis == "unstable"
        told = re.search(r"stable up to (\S+)\. Take a step_size below (\S+), or", found.message)
        assert float(told[1]) == limit
        assert float(told[2]) == pytest.approx(limit / 100, rel=0.01)
    well = _run(problem, [1.0, 1.0], method, 203 * 0.9 * limit / 100)
    assert well.status is Status.T_END
    assert abs(float(well.theta[-1, 1])) < 1


def test_an_iteration_that_does_not_converge_wants_a_shorter_step():
    problem = gflow.Objective(lambda w: w[0] ** 2 / 2 + 50 * w[1] ** 2, 2)
    found = _run(problem, [1.0, 1.0], ITERATING, 203 * 0.0015, rtol=1e-8)
    assert (found.status, found.diagnosis) == (Status.METHOD_FAILED, "unstable")
    assert "too long for the method's iteration" in found.message
    assert "Raise" not in found.message


@pytest.mark.parametrize("method", ["native:expcol8", "native:exprb43"])
def test_a_loss_that_is_singular_is_told(method):
    """A logarithm whose argument falls to zero, where its slope has no end."""
    x, y = [[1.0], [2.0], [-1.0]], [-0.5, 0.0, -2.5]
    problem = gflow.Problem(gflow.LinearDEQ(1), x, y, loss=_logarithm)
    found = _run(problem, [0.5, 0.0], method, 2.0, 1e-6, 1e-9)
    assert (found.status, found.diagnosis) == (Status.STEP_UNDERFLOW, "singular")
    assert "A singular point of the loss is near. The fastest rate is" in found.message


def _logarithm(output, target):
    return torch.log(output - target).mean()


def test_what_is_advised_is_no_method_that_was_taken():
    problem = gflow.Objective(lambda w: w[0] ** 2 / 2 + 50 * w[1] ** 2, 2)
    found = _run(problem, [1.0, 1.0], "native:tsit5", 1e3, max_steps=400)
    advice = found.message.partition(found.status.sentence)[2]
    assert "Take expcol8 or auto" in advice
    for status in (Status.STEP_LIMIT, Status.WALL_LIMIT):
        assert "stiff" not in status.sentence
        assert "rtol" not in status.sentence


def test_an_approximate_backward_whose_loss_rises_is_no_gradient():
    """`neumann:2` multiplies the field by 1 + theta2 here, which is negative: outputs grow."""
    model = gflow.VectorDEQ(1, 1, activation="identity", train=("U",), fixed={"W": [[-3.0]]})
    problem = gflow.Problem(model, X, [1.0, 2.0], backward="neumann:2")
    found = _run(problem, [1.0], "native:tsit5", 1e3)
    assert (found.status, found.diagnosis) == (Status.DIVERGED, "diverged")
    assert 'with the backward "neumann:2" the field is no gradient of it' in found.message


def test_a_jump_of_the_field_is_told():
    problem = gflow.Objective(lambda w: torch.where(w > 0.5, w, -2 * w).sum(), 2)
    found = _run(problem, [1.0, 2.0], "native:tsit5", 10.0, max_steps=500)
    assert (found.status, found.diagnosis) == (Status.STEP_LIMIT, "discontinuous")


@pytest.mark.parametrize("method", ["native:tsit5", "scipy:LSODA"])
def test_steps_that_shrink_at_kinks_of_many_samples_are_told_so(method):
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = gflow.SingleIndexDEQ(3, activation="relu")
    problem = gflow.Problem(model, x, torch.tanh(x @ x.new_tensor([1.0, -0.5, 0.2])))
    found = _run(problem, [0.1, 0.1, -0.3, 0.2], method, 1e3, 1e-6, 1e-9, max_steps=400)
    assert (found.status, found.diagnosis) == (Status.STEP_LIMIT, "discontinuous")
    assert "% of the last attempts were rejected, though dt = " in found.message


@pytest.mark.parametrize("method", ["native:tsit5", "native:expcol8", "scipy:LSODA"])
def test_a_loss_that_overflows_at_the_start_is_told_where_steps_are_too_short(method):
    problem = gflow.Problem(gflow.LinearDEQ(1), [[1.0], [2.0]], [1e200, 2e200])
    flow = gflow.integrate(problem, [0.1, 0.2], 10.0, method=method)["flow"]
    assert (flow.status.item(), flow.diagnosis.item()) == ("nonfinite_start", "nonfinite_sample")
    assert "The loss is not finite at training sample 0 (input 1)" in flow.status_message.item()


@pytest.mark.parametrize("method", ["native:tsit5", "scipy:BDF"])
def test_an_adjoint_that_is_missed_is_an_equilibrium_lost(method):
    """Its iterations come to take more than they may as w rises to 1."""
    layer = gflow.DEQLayer(Cell(), adjoint="fixed_point", solver="newton", max_iterations=30)
    problem = gflow.Problem(gflow.ModuleModel(layer), [[0.01], [-0.01]], [0.9, -0.9])
    found = _run(problem, [0.3], method, 1e3)
    assert found.status is Status.EQUILIBRIUM_LOST
    assert "the DEQLayer the module missed its adjoint" in found.message
    assert found.diagnosis == "equilibrium_lost"


def test_rounding_is_told_of_wrapped_methods():
    """In float32 a step of 0.5 is known to 1e-7."""
    problem = gflow.Objective(lambda w: ((w - 1) ** 4 + w**2).sum(), 2, dtype="float32")
    found = _run(problem, [1.0, 0.5], "scipy:DOP853", 1e3, 1e-5, 1e-12, max_steps=300)
    assert (found.status, found.diagnosis) == (Status.STEP_LIMIT, "rounding")
    assert "which the tolerance forbids: take atol = 1e-0" in found.message


def test_every_word_is_documented():
    text = (pathlib.Path(__file__).parents[2] / "docs" / "verdicts.md").read_text()
    words = [str(word) for kind in (Status, Cause) for word in kind if word]
    assert [word for word in words if f"`{word}`" not in text] == []


def test_members_of_an_ensemble_are_diagnosed_one_by_one():
    problem = gflow.Problem(gflow.SingleIndexDEQ(1, "tanh"), [[0.1], [-0.1]], [0.9, -0.9])
    tree = gflow.integrate(problem, [[0.5, 0.0], [0.5, 1.5], [0.09, 0.0]], 1.0, times=3)
    assert tree["flow"].diagnosis.values.tolist() == ["", "equilibrium_lost", ""]
    gflow.validate(tree)


def test_a_diagnosis_never_raises_nor_replaces_the_verdict(monkeypatch):
    def broken(*_):
        raise RuntimeError

    monkeypatch.setattr("gflow.diagnosis.scene.fastest_rates", broken)
    problem = gflow.Objective(lambda w: (w**4).sum(), 2)
    found = _run(problem, [1.0, 0.5], "native:tsit5", 1e4, max_steps=5)
    assert (found.status, found.diagnosis) == (Status.STEP_LIMIT, "")
    assert math.isfinite(found.wall_seconds)
