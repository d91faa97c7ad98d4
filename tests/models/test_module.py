"""ModuleModel against hand-written formulas, automatic derivatives and central differences."""

from __future__ import annotations

import copy
import doctest
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import gflow
import gflow.equilibrium.layer
import gflow.models.module
from gflow import DEQLayer, ModuleModel, Objective, Problem
from gflow.errors import EquilibriumError, MethodError, ProblemError

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from mlp import mlp

LOSSES = ("mse", "cross_entropy", "quartic")
BACKWARDS = ("exact", "jfb", "neumann:3", "damped:3:0.6", "phantom:3:0.6")


class Spy(nn.Module):
    """Passes its input on and notes how many samples came."""

    seen: list[int] = []  # noqa: RUF012

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return x


class Cell(nn.Module):
    """z -> tanh(A z + B x)."""

    def __init__(self, width: int = 3, inputs: int = 2) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width, bias=False), nn.Linear(inputs, width)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(z) + self.outer(x))


class Plain(nn.Module):
    """A function of the inputs and of one parameter, a scalar."""

    def __init__(self, function, start: float = 0.5):
        super().__init__()
        self.function, self.scale = function, nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.scale)


class Counter(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x)


def quartic(output: Tensor, target: Tensor) -> Tensor:
    """A loss that couples the samples."""
    return ((output - target) ** 2).mean() ** 2


def network(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), Spy(), nn.Tanh(), nn.Linear(4, outputs))


def implicit(outputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(DEQLayer(Cell(), width=3), nn.Linear(3, outputs))


def data(samples: int, outputs: int, classes: bool = False) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(samples)
    x = torch.randn(samples, 2, generator=rng).double()
    if classes:
        return x, torch.randint(outputs, (samples,), generator=rng)
    return x, torch.randn(samples, outputs, generator=rng).double()


def problem_of(loss: str, samples: int = 7, chunk: int | None = None) -> Problem:
    x, y = data(samples, 3, loss == "cross_entropy")
    model = ModuleModel(network(), chunk=chunk)
    return Problem(model, x, y, loss=quartic if loss == "quartic" else loss)


def plain_loss(problem: Problem, theta: Tensor) -> Tensor:
    """The network and the loss written out."""
    first, shift, second, offset = theta.split([8, 4, 12, 3])
    hidden = torch.tanh(problem.x @ first.view(4, 2).T + shift)
    output = hidden @ second.view(3, 4).T + offset
    if problem.loss_function.name == "cross_entropy":
        logs = output - output.exp().sum(-1, keepdim=True).log()
        return -torch.stack([row[k] for row, k in zip(logs, problem.y, strict=True)]).mean()
    square = ((output - problem.y) ** 2).sum() / len(output)
    return (square / 3) ** 2 if problem.loss_function.name == "quartic" else square


def wave(size: int, phase: float = 0.0) -> Tensor:
    return torch.sin(torch.arange(size, dtype=torch.float64) + phase)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> bool:
    return float((one - other).abs().max()) <= tolerance * (1 + float(other.abs().max()))


@pytest.mark.parametrize("loss", LOSSES)
@given(samples=st.integers(1, 9), chunk=st.sampled_from([None, 1, 2, 3, 8]))
def test_derivatives_are_those_of_the_network_written_out(loss, samples, chunk):
    problem = problem_of(loss, samples, chunk)
    theta = problem.model.initial() + 0.3 * wave(27)
    plain = lambda point: plain_loss(problem, point)  # noqa: E731
    gradient = torch.autograd.functional.jacobian(plain, theta)
    hessian = torch.autograd.functional.hessian(plain, theta)
    assert close(problem.loss(theta), plain(theta))
    assert close(problem.gradient(theta), gradient)
    assert close(problem.hvp(theta, wave(27, 1.0)), hessian @ wave(27, 1.0))
    assert close(problem.hessian(theta), hessian)


@pytest.mark.parametrize("loss", LOSSES)
@given(samples=st.integers(1, 7), chunk=st.sampled_from([None, 2, 10]))
def test_a_batch_of_thetas_is_its_rows(loss, samples, chunk):
    problem = problem_of(loss, samples, chunk)
    thetas = problem.model.initial() * torch.tensor([[1.0], [-0.5], [2.0]]).double()
    vectors = torch.stack([wave(27, phase) for phase in range(3)])
    rows = list(zip(thetas, vectors, strict=True))
    assert close(problem.predict(thetas), torch.stack([problem.predict(t) for t, _ in rows]))
    assert close(problem.gradient(thetas), torch.stack([problem.gradient(t) for t, _ in rows]))
    assert close(problem.hvp(thetas, vectors), torch.stack([problem.hvp(*row) for row in rows]))
    assert close(problem.hessian(thetas), torch.stack([problem.hessian(t) for t, _ in rows]))


def test_the_benchmarks_mlp_has_its_hand_written_derivatives():
    known = mlp(0)
    widths = [(8, 96), (96, 96), (96, 1)]
    layers = [nn.Linear(*one) for one in widths]
    net = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
    problem = Problem(ModuleModel(net, chunk=100), known.x, known.y)
    theta = known.theta0 + 0.1 * wave(10273)
    assert problem.n_parameters == 10273
    assert close(problem.gradient(theta), known.gradient(theta))
    assert close(problem.hvp(theta, wave(10273)), known.product(theta, wave(10273)))


def test_the_flow_of_a_module_is_that_of_its_loss():
    """The same integrator on the benchmark's MLP: by a module, and as an objective."""
    known = mlp(1, widths=(8, 12, 12, 1), samples=64)
    layers = [nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1)]
    problem = Problem(ModuleModel(nn.Sequential(*layers), chunk=24), known.x, known.y[:, 0])
    size = problem.n_parameters
    arguments = {"t_end": 0.5, "method": "rkc2", "times": 3, "rtol": 1e-4, "atol": 1e-7}
    ours = gflow.integrate(problem, known.theta0, **arguments)["flow"]
    other = gflow.integrate(Objective(known.loss, names=size), known.theta0, **arguments)["flow"]
    assert ours.nfe.item() == other.nfe.item()
    assert abs(ours.theta.values - other.theta.values).max() < 1e-9
    assert abs(ours.energy_residual.values).max() < 1e-3
    assert "equilibrium_residual" not in ours


def test_no_more_samples_than_a_chunk_reach_the_module_together():
    problem = problem_of("mse", samples=23, chunk=5)
    theta = problem.model.initial()
    thetas = torch.stack([theta, 2 * theta, 3 * theta])
    Spy.seen.clear()
    problem.gradient(theta)
    assert max(Spy.seen) == 5
    assert sum(Spy.seen) == 2 * 23  # one pass forward, and one for the backward pass
    problem.hessian(theta)
    problem.hvp(thetas, thetas)
    assert max(Spy.seen) == 5
    whole = problem_of("mse", samples=23)
    Spy.seen.clear()
    whole.gradient(theta)
    assert Spy.seen == [23]


def test_rows_of_a_batch_count_as_samples():
    problem = problem_of("mse", samples=4, chunk=9)
    theta = problem.model.initial()
    Spy.seen.clear()
    problem.gradient(theta.expand(5, -1))
    assert Spy.seen == [4] * 6  # pairs of rows by vmap, each once forward and once more


def test_what_vmap_cannot_do_goes_row_by_row():
    branching = Plain(lambda x, scale: x[:, 0] * (scale if scale > 0 else -scale))
    problem = Problem(ModuleModel(branching), [[1.0], [2.0]], [0.0, 0.0])
    assert problem.gradient([[1.0], [-2.0]]).flatten().tolist() == [5.0, -10.0]
    assert problem.hessian([1.0]).item() == 5.0


def test_each_row_may_have_inputs_of_its_own():
    model = ModuleModel(network(1), chunk=8)
    pairs = [data(samples=5, outputs=1), data(samples=5, outputs=1)]
    problems = [Problem(model, x + shift, y) for shift, (x, y) in enumerate(pairs)]
    starts = torch.stack([model.initial(), 0.5 * model.initial()])
    flows = gflow.integrate(problems, starts, t_end=0.5, times=3)["flow"]
    for index, (problem, start) in enumerate(zip(problems, starts, strict=True)):
        alone = gflow.integrate(problem, start, t_end=0.5, times=3)["flow"]
        assert abs(flows.theta[index].values - alone.theta.values).max() < 1e-5


def test_labels_and_the_start_follow_the_modules_parameters():
    net = nn.Sequential(nn.Linear(2, 3), Plain(lambda x, scale: scale * x.sum(-1)))
    model = ModuleModel(net)
    assert model.parameter_names[:2] == ("0.weight[0,0]", "0.weight[0,1]")
    assert model.parameter_names[-2:] == ("0.bias[2]", "1.scale")
    parts = [one.detach().double().flatten() for one in net.parameters()]
    assert torch.equal(model.initial(), torch.cat(parts))
    assert model.n_parameters == len(model.parameter_names) == 10
    assert repr(model) == "ModuleModel(Sequential, P=10)"


def test_the_users_module_is_left_alone_and_its_later_changes_do_not_matter():
    net = network(1)
    before = copy.deepcopy(net.state_dict())
    model = ModuleModel(net)
    x, y = data(5, 1)
    problem = Problem(model, x, y)
    gradient = problem.gradient(model.initial())
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    with torch.no_grad():
        for one in net.parameters():
            one.zero_()
    assert torch.equal(problem.gradient(model.initial()), gradient)
    assert float(model.initial().abs().min()) > 0


def test_frozen_parameters_are_kept_and_tied_ones_counted_once():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    net[2].weight = net[0].weight
    net[4].requires_grad_(False)
    model = ModuleModel(net)
    assert model.n_parameters == 4 + 2 + 2
    x, y = data(5, 1)
    problem, theta = Problem(model, x, y), model.initial()
    weight, first, second = theta[:4].view(2, 2), theta[4:6], theta[6:]

    def loss(weight, first, second):
        hidden = torch.tanh(torch.tanh(x @ weight.T + first) @ weight.T + second)
        return ((net[4].double()(hidden) - y) ** 2).mean()

    parts = torch.autograd.functional.jacobian(loss, (weight, first, second))
    expected = torch.cat([part.flatten() for part in parts])
    assert close(problem.gradient(theta), expected)


def test_inputs_may_have_any_shape():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(8, 3))
    x = torch.randn(6, 1, 4, 4).double()
    model = ModuleModel(net, chunk=4)
    problem = Problem(model, x, [0, 1, 2, 0, 1, 2], loss="cross_entropy")
    theta = model.initial()
    expected = torch.nn.functional.cross_entropy(net.double()(x), problem.y)
    parts = torch.autograd.grad(expected, list(net.parameters()))
    assert close(problem.gradient(theta), torch.cat([part.flatten() for part in parts]))
    tree = gflow.integrate(problem, theta, t_end=0.5, times=3)
    assert tree["flow"].loss.values[-1] < tree["flow"].loss.values[0]
    assert tree["problem"].inputs.shape == (6, 16)
    with pytest.raises(ProblemError, match=r"x has samples of shape \(1, 5, 5\)"):
        problem.on(torch.randn(2, 1, 5, 5), [0, 1])


def test_classification_flows_downhill():
    x, y = data(30, 3)
    problem = Problem(ModuleModel(network()), x, y.argmax(-1), loss="cross_entropy")
    tree = gflow.integrate(problem, problem.model.initial(), t_end=20.0, times=10)
    flow = tree["flow"]
    assert bool((flow.loss.diff("time") < 0).all())
    assert abs(flow.energy_residual.values).max() < 1e-5


def test_float32_has_a_floor_of_tolerance():
    x, y = data(10, 1)
    problem = Problem(ModuleModel(network(1)), x, y, dtype="float32")
    start = problem.model.initial()
    with pytest.raises(MethodError, match="rtol is 1e-08; in float32 it must be at least 1e-05"):
        gflow.integrate(problem, start, t_end=1.0, rtol=1e-8)
    double = gflow.integrate(Problem(problem.model, x, y), start, t_end=1.0, times=2)["flow"]
    single = gflow.integrate(problem, start, t_end=1.0, times=2, rtol=1e-4, atol=1e-6)["flow"]
    assert str(single.status.values) == "t_end"
    assert abs(single.theta.values[-1] - double.theta.values[-1]).max() < 1e-3


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("chunk", [None, 2])
def test_a_deq_layer_has_its_true_jacobian_for_every_backward(backward, chunk):
    """By central differences of order 4 along some directions."""
    x, y = data(3, 2)
    problem = Problem(ModuleModel(implicit(), chunk=chunk), x, y, backward=backward)
    theta, step = problem.model.initial(), 1e-3
    along = torch.stack([wave(len(theta), phase) for phase in (0.0, 1.0)])

    def slope(function):
        one, two = (
            function(theta + k * step * along) - function(theta - k * step * along) for k in (1, 2)
        )
        return (8 * one - two) / (12 * step)

    jacobian, exact = problem.jacobian(theta), problem.gradient(theta, "exact")
    assert close(along @ exact, slope(problem.loss), 1e-9)
    assert close(along @ jacobian.T, slope(problem.gradient), 1e-9)
    assert close(problem.jvp(theta, along[0]), jacobian @ along[0], 1e-12)
    product = problem.hvp(theta, along[0])
    assert close(product @ along[1], problem.hvp(theta, along[1]) @ along[0], 1e-11)
    assert close(jacobian @ along[0], product, 1e-11) == (backward == "exact")


def test_fixed_points_start_from_the_last_ones():
    x, y = data(5, 2)
    problem = Problem(ModuleModel(implicit()), x, y)
    theta = problem.model.initial()
    first = problem.model.equilibrium(theta, problem.x)
    again = problem.model.equilibrium(theta, problem.x, first.preactivation)
    assert first.preactivation.shape == (5, 3)
    for piece, least in ((first.kept[0], 3), (again.kept[0], 1)):
        assert int(piece.inner.solves[0][1].iterations.max()) >= least
    assert int(again.kept[0].inner.solves[0][1].iterations.max()) == 1
    assert close(again.output, first.output)


def test_a_flow_with_a_deq_layer_reports_residuals_and_keeps_its_energy():
    x, y = data(5, 2)
    problem = Problem(ModuleModel(implicit()), x, y)
    tree = gflow.integrate(problem, problem.model.initial(), t_end=0.5, times=3, rtol=1e-4)
    assert float(tree["flow"].equilibrium_residual.max()) < 1e-13
    assert abs(tree["flow"].energy_residual.values).max() < 1e-4
    descent = gflow.descend(problem, problem.model.initial(), [0.1], t_end=1.0)["descent"]
    assert bool((descent.loss[:, -1] < descent.loss[:, 0]).all())


class Fold(nn.Module):
    """z -> a z^2 + x, which has a fixed point where 4 a x <= 1."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.1))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.a * z**2 + x


def test_a_lost_fixed_point_ends_the_run_with_its_samples_named():
    layer = DEQLayer(Fold(), max_iterations=30)
    problem = Problem(ModuleModel(nn.Sequential(layer)), [[0.5], [1.0]], [1.0, 3.0])
    with pytest.raises(EquilibriumError) as caught:
        problem.loss([0.3])
    assert "the DEQLayer 0 missed its fixed point: 1 of 2 samples (index 1)" in str(caught.value)
    batch = problem.gradient([[0.1], [0.3]])
    assert torch.isfinite(batch).flatten().tolist() == [True, False]
    flow = gflow.integrate(
        problem,
        [0.1],
        t_end=1.0,
        method="tsit5",
        rtol=1e-3,
        times=2,
        diagnostics={"energy_residual": False},
    )["flow"]
    assert str(flow.status.values) == "equilibrium_lost"
    assert "missed its fixed point" in str(flow.status_message.values)
    assert float(flow.theta[-1, 0]) == pytest.approx(0.25, abs=1e-6)


def test_outputs_that_are_not_finite_are_told():
    problem = Problem(ModuleModel(Plain(lambda x, scale: x * scale.log())), [[1.0]], [0.0])
    with pytest.raises(
        EquilibriumError, match="No finite value: the output of the module Plain is"
    ):
        problem.gradient([-1.0])
    flow = gflow.integrate(problem, [-1.0], t_end=1.0)["flow"]
    assert str(flow.status.values) == "nonfinite_start"


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2)), "1 (Dropout) drops out a random share"),
        (nn.GRU(2, 2, num_layers=2, dropout=0.1), "the module (GRU) drops out a random share"),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "1 (BatchNorm1d) takes its mean"),
        (
            nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)).eval(),
            "1 (BatchNorm1d) takes its mean",
        ),
        (nn.Tanh(), "Tanh has no trainable parameter"),
        (nn.LazyLinear(2), "weight has no shape yet; call the module once"),
        (lambda x: x, "it must be a torch.nn.Module"),
    ],
)
def test_modules_in_a_state_of_no_one_function_are_refused(module, sentence):
    with pytest.raises(ProblemError) as caught:
        ModuleModel(module)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (Counter(), "calling the module Counter changes its buffer calls"),
        (
            Plain(lambda x, s: s * x[:, 0] + torch.rand(())),
            "gives another output when it is called",
        ),
        (Plain(lambda x, s: s * (x - x.mean(0))), "gives a sample another output when it is alone"),
        (Plain(lambda x, s: s.detach() * x), "do not depend on its parameters by differentiable"),
        (Plain(lambda x, s: s * x.sum()), "returned () for inputs of shape (2, 2); it must return"),
        (Plain(lambda x, s: [s * x]), "returned a list for inputs"),
        (Plain(lambda x, s: (s * x).float()), "returned float32 for inputs of float64"),
        (Plain(lambda x, s: s * x @ torch.ones(3)), "failed on inputs of shape (2, 2) in float64"),
    ],
)
def test_what_shows_in_outputs_is_refused_when_a_problem_is_made(module, sentence):
    with pytest.raises(ProblemError) as caught:
        Problem(ModuleModel(module), [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], torch.ones(3, 2))
    assert sentence in str(caught.value)


def test_evaluation_mode_is_accepted():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 1))
    x, y = data(4, 1)
    problem = Problem(ModuleModel(net.eval()), x, y)
    expected = ((net.double()(x) - y) ** 2).mean()
    assert close(problem.loss(problem.model.initial()), expected.detach())


def test_a_backward_is_for_deq_layers_and_governs_them_all():
    x, y = data(4, 2)
    with pytest.raises(ProblemError, match="has no DEQLayer; its gradient is exact"):
        Problem(ModuleModel(network(2)), x, y, backward="jfb")
    net = nn.Sequential(DEQLayer(Cell(), width=3, backward="jfb"), nn.Linear(3, 2))
    with pytest.raises(ProblemError, match='DEQLayer 0 has backward "jfb" but the problem "exact"'):
        Problem(ModuleModel(net), x, y)
    same = Problem(ModuleModel(net), x, y, backward="jfb")
    assert same.hessian(same.model.initial()).shape == (26, 26)


def test_kinks_are_told_by_the_parts():
    assert ModuleModel(nn.Sequential(nn.Linear(2, 2), nn.Tanh())).smooth
    assert not ModuleModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU())).smooth
    assert ModuleModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), smooth=True).smooth


@pytest.mark.cuda
@pytest.mark.parametrize("net", [network, implicit])
def test_devices_agree(net):
    x, y = data(50, 2)
    theta = ModuleModel(net(2)).initial()
    vector = wave(len(theta))
    here, there = (
        Problem(ModuleModel(net(2), chunk=20), x, y, device=one) for one in ("cpu", "cuda")
    )
    for one, other in zip(
        (there.gradient(theta), there.hvp(theta, vector), there.hessian(theta)),
        (here.gradient(theta), here.hvp(theta, vector), here.hessian(theta)),
        strict=True,
    ):
        assert one.device.type == "cuda"
        assert close(one.cpu(), other, 1e-10)


def test_descents_of_several_lengths_go_together():
    x, y = data(5, 2)
    for net in (network(2), implicit()):
        problem = Problem(ModuleModel(net), x, y)
        start, arguments = problem.model.initial(), {"t_end": 0.4, "records": 2}
        both = gflow.descend(problem, start, [0.05, 0.1], **arguments)["descent"]
        alone = gflow.descend(problem, start, [0.05], **arguments)["descent"]
        assert abs(both.theta[0].values - alone.theta[0].values).max() < 1e-12


def test_the_docstrings_examples_run():
    for module in (gflow.models.module, gflow.equilibrium.layer):
        failures, tried = doctest.testmod(module)
        assert (failures, tried > 0) == (0, True)


def test_a_chunk_is_a_positive_number():
    with pytest.raises(ProblemError, match="chunk is 0"):
        ModuleModel(network(), chunk=0)
