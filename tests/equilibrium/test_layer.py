"""DEQLayer against closed forms, unrolled autograd and central differences."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gflow import DEQLayer
from gflow.equilibrium.adjoint import parse_backward
from gflow.equilibrium.iteration import METHODS as SOLVERS
from gflow.equilibrium.layer import Pass
from gflow.equilibrium.linear import METHODS as ADJOINTS
from gflow.errors import EquilibriumError, ProblemError

WIDTH, INPUTS, SAMPLES = 4, 3, 5


class Cell(nn.Module):
    """z -> tanh(A z + B x + b), or without tanh."""

    def __init__(self, bend: bool = True, gain: float = 0.7, seed: int = 0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        inner = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=rng))[0]
        self.inner = nn.Parameter(gain * inner.double())
        self.outer = nn.Parameter(torch.randn(WIDTH, INPUTS, generator=rng).double())
        self.shift = nn.Parameter(torch.randn(WIDTH, generator=rng).double())
        self.bend = bend

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        value = z @ self.inner.T + x @ self.outer.T + self.shift
        return torch.tanh(value) if self.bend else value


class Plain(nn.Module):
    """A map without parameters."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.function(z, x)


def inputs(samples: int = SAMPLES) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(samples, INPUTS, generator=rng).double().requires_grad_()


def unrolled(cell: Cell, x: Tensor, steps: int = 150) -> Tensor:
    z = x.new_zeros(len(x), WIDTH)
    for _ in range(steps):
        z = cell(z, x)
    return z


def derivatives(output: Tensor, leaves: list[Tensor], orders: int) -> list[Tensor]:
    """A scalar of the output and its derivatives, each contracted to a scalar for the next."""
    weights = torch.arange(output.numel(), dtype=output.dtype).reshape(output.shape).cos()
    found = [(weights * output.sin()).sum()]
    for order in range(orders):
        parts = torch.autograd.grad(
            found[-1] if order == 0 else found[-1].sin().sum(), leaves, create_graph=True
        )
        found.append(torch.cat([part.reshape(-1) for part in parts]))
    return [one.detach() for one in found]


def largest_gap(ones: list[Tensor], others: list[Tensor]) -> float:
    """Relative to the largest entry of each derivative."""
    pairs = zip(ones, others, strict=True)
    return max(float((a - b).abs().max() / (1 + b.abs().max())) for a, b in pairs)


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_an_affine_layer_is_its_closed_form_to_third_order(solver, adjoint):
    cell, x = Cell(bend=False), inputs()
    leaves = [x, *cell.parameters()]
    inverse = torch.linalg.inv(torch.eye(WIDTH) - cell.inner)
    closed = (x @ cell.outer.T + cell.shift) @ inverse.T
    layer = DEQLayer(cell, width=WIDTH, solver=solver, adjoint=adjoint)
    found, expected = derivatives(layer(x), leaves, 3), derivatives(closed, leaves, 3)
    assert largest_gap(found[:3], expected[:3]) < 1e-10
    assert largest_gap(found[3:], expected[3:]) < 1e-7


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_a_bent_layer_is_its_unrolled_iteration_to_third_order(adjoint):
    cell, x = Cell(), inputs()
    leaves = [x, *cell.parameters()]
    layer = DEQLayer(cell, width=WIDTH, adjoint=adjoint)
    found = derivatives(layer(x), leaves, 3)
    assert largest_gap(found, derivatives(unrolled(cell, x), leaves, 3)) < 1e-11
    assert bool(layer.last.converged.all())
    assert float(layer.last.residual.max()) < 1e-13
    assert float(layer.last.adjoint_residual.max()) < 1e-12


def test_first_and_second_derivatives_are_central_differences():
    cell = Cell()
    names = [name for name, _ in cell.named_parameters()]
    layer = DEQLayer(cell, width=WIDTH)

    def function(x, *parameters):
        given = {f"f.{name}": one for name, one in zip(names, parameters, strict=True)}
        return torch.func.functional_call(layer, given, (x,))

    leaves = [inputs(2), *(one.detach().clone().requires_grad_() for one in cell.parameters())]
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7, 1e-9])
def test_errors_of_derivatives_are_proportional_to_the_tolerance(tolerance):
    cell, x = Cell(), inputs()
    leaves = [x, *cell.parameters()]
    expected = derivatives(unrolled(cell, x), leaves, 2)
    layer = DEQLayer(cell, width=WIDTH, solver="damped", adjoint="fixed_point", tolerance=tolerance)
    found = derivatives(layer(x), leaves, 2)
    for one, other in zip(found, expected, strict=True):
        assert tolerance / 10 < largest_gap([one], [other]) < 10 * tolerance


@pytest.mark.parametrize(
    ("backward", "terms", "weight"),
    [("jfb", 1, 1.0), ("neumann:3", 3, 1.0), ("damped:4:0.6", 4, 0.6), ("phantom:4:0.6", 4, 0.6)],
)
def test_approximate_backwards_are_steps_from_the_detached_fixed_point(backward, terms, weight):
    cell, x = Cell(), inputs()
    leaves = [x, *cell.parameters()]
    z = unrolled(cell, x.detach()).detach()
    for _ in range(terms):
        z = weight * cell(z, x) + (1 - weight) * z
    found = derivatives(DEQLayer(cell, width=WIDTH, backward=backward)(x), leaves, 1)
    exact = derivatives(unrolled(cell, x), leaves, 1)
    assert largest_gap(found, derivatives(z, leaves, 1)) < 1e-12
    assert largest_gap(found, exact) > 1e-3


@pytest.mark.parametrize("backward", ["jfb", "neumann:3", "damped:4:0.6", "phantom:4:0.6"])
def test_the_derivative_of_an_approximate_gradient_is_the_true_one(backward):
    """By central differences: z within the series moves with x and the parameters."""
    cell, x = Cell(), inputs()
    layer, step = DEQLayer(cell, width=WIDTH, backward=backward), 1e-4

    def gradient(point: Tensor, create_graph: bool = False) -> Tensor:
        total = layer(point).sum()
        return torch.autograd.grad(total, cell.inner, create_graph=create_graph)[0]

    direction = torch.arange(x.numel(), dtype=x.dtype).reshape(x.shape).sin()
    weights = torch.arange(WIDTH**2, dtype=x.dtype).reshape(WIDTH, WIDTH).cos()
    (slope,) = torch.autograd.grad((weights * gradient(x, create_graph=True)).sum(), x)
    with torch.no_grad():
        ends = [x + step * direction, x - step * direction]
    ahead, behind = (gradient(end.requires_grad_()) for end in ends)
    expected = (weights * (ahead - behind)).sum() / (2 * step)
    assert float((slope * direction).sum()) == pytest.approx(float(expected), rel=1e-6)


def test_no_sample_drives_the_others():
    layer, x = DEQLayer(Cell(), width=WIDTH), inputs()
    together = layer(x).detach()
    for index in range(SAMPLES):
        alone = layer(x[index : index + 1]).detach()[0]
        assert torch.allclose(alone, together[index], rtol=0, atol=1e-14)


def test_fixed_points_may_have_any_shape_and_default_to_that_of_x():
    smooth = Plain(lambda z, x: torch.tanh(0.5 * z.mean((-1, -2), keepdim=True) + x))
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    z = DEQLayer(smooth)(x)
    assert z.shape == x.shape
    assert torch.allclose(z, smooth(z, x), atol=1e-13)
    wide = DEQLayer(Plain(lambda z, x: 0.5 * z + x.sum((1, 2))[:, None]), width=3)
    assert torch.allclose(wide(x), 2 * x.sum((1, 2))[:, None].expand(3, 3))


def test_a_constant_map_is_a_layer_too():
    x = inputs()
    z = DEQLayer(Plain(lambda z, x: x.sin()))(x)
    (slope,) = torch.autograd.grad(z.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert torch.allclose(slope, x.cos())
    assert torch.allclose(bend, -x.sin())


def test_it_trains_in_an_ordinary_loop_in_float32():
    torch.manual_seed(0)
    net = nn.Sequential(DEQLayer(Cell(gain=0.4), width=WIDTH), nn.Linear(WIDTH, 1)).float()
    x = inputs(32).detach().float()
    y = (x[:, :1] * x[:, 1:2]).tanh()
    losses = []
    for _ in range(60):
        net.zero_grad()
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        with torch.no_grad():
            for one in net.parameters():
                one -= 0.2 * one.grad
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_a_layer_can_be_copied_after_use():
    layer, x = DEQLayer(Cell(), width=WIDTH), inputs()
    expected = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), expected)


def test_samples_without_a_fixed_point_are_named():
    layer = DEQLayer(Plain(lambda z, x: z + x))
    with pytest.raises(EquilibriumError) as caught:
        layer(torch.tensor([[0.0], [1.0], [0.0], [2.0]]).double())
    assert "2 of 4 samples (index 1, 3) have residuals" in str(caught.value)
    assert layer.last.converged.tolist() == [True, False, True, False]


def test_a_singular_backward_pass_is_told():
    x = torch.tensor([[0.0], [0.0]]).double().requires_grad_()
    z = DEQLayer(Plain(lambda z, x: z - z**3 + x))(x)
    with pytest.raises(EquilibriumError, match=r"for 2 of 2 samples.*I - J is close to singular"):
        torch.autograd.grad(z.sum(), x)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"solver": "newtn"}, 'solver is "newtn"; did you mean "newton"'),
        ({"adjoint": "lu"}, 'adjoint is "lu"'),
        ({"backward": "jfbb"}, 'backward is "jfbb"'),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"max_iterations": 0}, "max_iterations is 0"),
    ],
)
def test_wrong_arguments_are_told(arguments, sentence):
    with pytest.raises(ProblemError) as caught:
        DEQLayer(Cell(), width=WIDTH, **arguments)
    assert sentence in str(caught.value)


def test_a_map_of_another_shape_is_told():
    with pytest.raises(ProblemError, match=r"needs a torch.nn.Module with forward\(z, x\)"):
        DEQLayer(lambda z, x: z)
    with pytest.raises(ProblemError, match=r"returned \(5, 4\) for z of shape \(5, 7\)"):
        DEQLayer(Plain(lambda z, x: z[:, :4]), width=7)(inputs())


def test_a_pass_gives_starts_and_the_backward_and_hears_of_failures():
    cell, x = Cell(), inputs()
    layer = DEQLayer(cell, width=WIDTH)
    with Pass() as first:
        z = layer(x)
    with Pass(starts=torch.cat(first.points, -1)) as second:
        again = layer(x)
    assert torch.allclose(again, z, atol=1e-13)
    assert int(second.solves[0][1].iterations.max()) == 1
    first.backward = parse_backward("jfb")
    (approximate,) = torch.autograd.grad(z.sum(), cell.shift)
    (exact,) = torch.autograd.grad(again.sum(), cell.shift)
    assert not torch.allclose(approximate, exact, atol=1e-3)
    with Pass() as broken:
        DEQLayer(Plain(lambda z, x: z + 1))(x)
    assert not bool(broken.solves[0][1].converged.any())


@pytest.mark.parametrize("width", ["4", 0, 2.5, True, (), (2, "a")])
def test_a_width_that_is_none_is_told(width):
    with pytest.raises(ProblemError, match=r"width is .*; it must be a positive integer"):
        DEQLayer(torch.nn.Identity(), width=width)


def test_a_width_that_f_cannot_take_is_told():
    class Cell(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.state = torch.nn.Linear(4, 4)

        def forward(self, z, x):
            return self.state(z)

    with pytest.raises(ProblemError, match=r"f failed for z of shape \(3, 5\) .* as width"):
        DEQLayer(Cell(), width=5)(torch.ones(3, 2))
