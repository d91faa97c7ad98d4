"""Any torch module as a model: theta is the flat concatenation of its trainable parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from gflow.equilibrium.adjoint import Backward
from gflow.equilibrium.layer import DEQLayer, tell_failures
from gflow.errors import ProblemError
from gflow.losses import Bend
from gflow.models.base import Equilibrium, Model
from gflow.models.module_checks import check_module, check_outputs, is_kinked
from gflow.models.module_function import ModuleFunction
from gflow.models.module_passes import Piece, passes
from gflow.status import Status

CHUNK = 4096
"""Samples (times rows of a batch of thetas) that go through a module together."""


@dataclass(frozen=True)
class Passed(Equilibrium):
    """Outputs of a module, its DEQ layers' residuals (...), and the graphs that were kept."""

    residual: Tensor
    kept: tuple[Piece, ...]


class ModuleModel(Model):
    """A :class:`torch.nn.Module` that maps inputs (n, ...) to outputs (n, o), each sample alone.

    theta holds the parameters that require gradients, in the order of ``named_parameters``, each
    row by row, with names such as ``"layer.weight[3,1]"``; everything else is frozen. A copy of the
    module is kept, in the problem's dtype (float64 unless it says otherwise). Derivatives are those
    of reverse mode, twice: what a module computes must be twice differentiable.

    A module may contain :class:`gflow.DEQLayer` objects: the problem's backward governs them, and a
    theta at which one does not converge ends the run with the status ``equilibrium_lost``. Without
    them the backward must be ``exact``, and ``nonfinite`` is the status where outputs are not.

    Parameters
    ----------
    module : torch.nn.Module
        Outputs of shape (n,) are read as (n, 1).
    chunk : int, optional
        Samples that go through the module at once, which bounds the memory: 4,096 unless given.
        Up to that many, a gradient costs one forward and one backward pass; beyond, a further
        forward pass. The result does not depend on it but for rounding.
    smooth : bool, optional
        False where kinks in the gradient would spoil methods of high order; told by the types of
        its parts unless given, which does not see calls such as ``torch.relu``.

    Raises
    ------
    ProblemError
        If it has no trainable parameter, or is in a state in which it is no function of theta and
        one sample: dropout or batch norm in training mode. When a problem is made, if that shows
        in its outputs, if they are not (n, o), or do not depend on theta differentiably.

    Examples
    --------
    >>> import torch, gflow
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> model = gflow.ModuleModel(net)
    >>> problem = gflow.Problem(model, x=[[0.0, 1.0], [1.0, 0.0]], y=[1.0, -1.0])
    >>> tree = gflow.integrate(problem, model.initial(), t_end=1.0)
    >>> net.load_state_dict(gflow.state_dict(tree))
    <All keys matched successfully>
    """

    name = "module"

    def __init__(
        self, module: nn.Module, *, chunk: int | None = None, smooth: bool | None = None
    ) -> None:
        check_module(module)
        whole = isinstance(chunk, int) and not isinstance(chunk, bool)
        if chunk is not None and not (whole and chunk > 0):
            raise ProblemError(f"chunk is {chunk!r}; it must be a positive number of samples.")
        self.chunk = CHUNK if chunk is None else chunk
        self.smooth = not is_kinked(module) if smooth is None else smooth
        self._function = ModuleFunction(module)
        self._layers = [
            (name, part) for name, part in module.named_modules() if isinstance(part, DEQLayer)
        ]
        self.diagnostics = ("equilibrium_residual",) if self._layers else ()
        self.lost = Status.EQUILIBRIUM_LOST if self._layers else Status.NONFINITE
        self.one_by_one = bool(self._layers)
        self.output_shape: tuple[int, ...] = ()
        self._input_shape: tuple[int, ...] = ()
        self._failure: tuple[Tensor, str] | None = None

    def __repr__(self) -> str:
        return f"ModuleModel({self._function.title}, P={self.n_parameters})"

    @cached_property
    def parameter_names(self) -> tuple[str, ...]:
        """``name[i,j]`` of every number, ``name`` alone of a scalar."""
        return self._function.labels()

    @property
    def n_parameters(self) -> int:
        """P."""
        return self._function.size

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample's input, as first seen."""
        return self._input_shape

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Numbers of one sample's input."""
        return math.prod(self._input_shape)

    @property
    def family(self) -> object:
        """Modules cannot be compared: a model goes together with itself alone."""
        return self

    def initial(self) -> Tensor:
        """The module's own parameters (P,), as they were when the model was made, float64."""
        return self._function.initial.clone()

    def read_inputs(self, x: Tensor) -> Tensor:
        """Inputs (n, ...), which the module is tried on; a vector is read as (n, 1)."""
        inputs = x[:, None] if x.ndim == 1 else x
        if inputs.ndim < 2 or not inputs.numel():
            raise ProblemError(f"x has shape {tuple(x.shape)}; a module needs inputs (n, ...).")
        shape = tuple(inputs.shape[1:])
        if self.output_shape and shape != self._input_shape:
            raise ProblemError(
                f"x has samples of shape {shape}; {self!r} was first given {self._input_shape}."
            )
        self._input_shape = shape
        self.output_shape = (check_outputs(self._function, inputs),)
        return inputs.contiguous()

    def check_backward(self, backward: Backward) -> None:
        """Refuse what the module's DEQ layers, if it has any, do not have."""
        if not self._layers and not backward.exact:
            raise ProblemError(
                f'backward is "{backward.name}", but {self!r} has no DEQLayer; its gradient is '
                "exact, leave the backward out."
            )
        for name, layer in self._layers:
            if layer.backward is not None and layer.backward != backward:
                raise ProblemError(
                    f'the DEQLayer {name or "itself"} has backward "{layer.backward.name}" but the '
                    f'problem "{backward.name}"; give it to the problem, which governs all layers.'
                )

    def equilibrium(
        self, theta: Tensor, x: Tensor, warm: Tensor | Equilibrium | None = None
    ) -> Passed:
        """Outputs; a row is valid where they are finite and its fixed points were reached."""
        rows, count = _rows(theta, 1).detach(), self._samples(x)
        keep = len(rows) * count <= self.chunk
        output = rows.new_empty(len(rows), count, *self.output_shape)
        valid, residual = torch.isfinite(rows).all(-1), rows.new_zeros(len(rows))
        kept, states = [], []
        for piece in self._passes(rows, x, self._starts(warm, len(rows), count), graph=keep):
            output[piece.rows, piece.samples] = piece.output.detach()
            for _, solve in piece.inner.solves:
                largest = torch.maximum(residual[piece.rows], solve.residual.amax())
                residual[piece.rows] = largest
                valid[piece.rows] &= solve.converged.all()
            states += [torch.cat(piece.inner.points, -1)] if self._layers else []
            kept += [piece] if keep else []
            self._note_failure(piece)
        valid &= torch.isfinite(output).flatten(1).all(-1)
        output = torch.where(valid[:, None, None], output, torch.nan)
        state = torch.cat(states) if states else rows.new_empty(len(rows) * count, 0)
        lead = theta.shape[:-1]
        return Passed(
            theta,
            output.reshape(*lead, *output.shape[1:]),
            state.reshape(*lead, count, state.shape[-1]),
            theta.new_ones(()),
            valid.reshape(lead),
            residual.reshape(lead),
            tuple(kept),
        )

    def followed(self, theta: Tensor) -> Tensor:
        """With DEQ layers everywhere: nothing is known of their equilibria's number."""
        return torch.full_like(super().followed(theta), self.one_by_one)

    def residual(self, equilibrium: Equilibrium, x: Tensor) -> Tensor:
        """Largest max |f(z) - z| / (1 + max |z|) of all samples and DEQ layers."""
        assert isinstance(equilibrium, Passed)
        return equilibrium.residual

    def pullback(
        self, equilibrium: Equilibrium, x: Tensor, cotangent: Tensor, backward: Backward
    ) -> Tensor:
        """One backward pass; after a forward pass of its own where the graphs were not kept."""
        along, total = _rows(cotangent, 2), torch.zeros_like(_rows(equilibrium.theta, 1))
        for piece in self._graphs(equilibrium, x):
            total[piece.rows] += piece.pull(along[piece.rows, piece.samples], backward)
        return _valid(equilibrium, total)

    def pullback_jacobian(
        self, equilibrium: Equilibrium, x: Tensor, first: Tensor, second: Bend, backward: Backward
    ) -> Tensor:
        """By products with the basis; for small P."""
        theta, size = equilibrium.theta, self.n_parameters
        basis = torch.eye(size, dtype=theta.dtype, device=theta.device)
        directions = basis.reshape(size, *[1] * (theta.ndim - 1), size).expand(size, *theta.shape)
        products = self._products(equilibrium, x, first, second, backward, directions)
        return products.movedim(0, -1)

    def pullback_jvp(
        self,
        equilibrium: Equilibrium,
        x: Tensor,
        first: Tensor,
        second: Bend,
        backward: Backward,
        vector: Tensor,
    ) -> Tensor:
        """One product."""
        return self._products(equilibrium, x, first, second, backward, vector[None])[0]

    def branch(self, theta: Tensor) -> Tensor:
        """One for all."""
        return torch.zeros(theta.shape[:-1], dtype=torch.int64, device=theta.device)

    def explain_loss_of_equilibrium(self, theta: Tensor) -> str:
        """Which layer or samples failed, if this theta is the last one that did."""
        if not bool(torch.isfinite(theta).all()):
            return "theta is not finite"
        if self._failure is not None and torch.equal(self._failure[0], theta):
            return self._failure[1]
        return "an output of the module is not finite, or a DEQLayer did not converge"

    def explain_loss_of_adjoint(self, equilibrium: Equilibrium) -> str:
        """Which DEQ layer did not solve its adjoint equation."""
        assert isinstance(equilibrium, Passed)
        for piece in equilibrium.kept:
            for layer, solve in piece.inner.solves:
                if solve.adjoint_failed and solve.adjoint_residual is not None:
                    return (
                        f"the DEQLayer {self._name(layer, piece)} missed its adjoint: relative "
                        f"residuals reach {float(solve.adjoint_residual.max()):.2g}, since I - J "
                        "is close to singular"
                    )
        return ""

    def _name(self, layer: DEQLayer, piece: Piece) -> str:
        module = self._function.at(piece.leaf[0].detach())
        return {id(part): name for name, part in module.named_modules()}[id(layer)] or "the module"

    def _products(
        self,
        equilibrium: Equilibrium,
        x: Tensor,
        first: Tensor,
        second: Bend,
        backward: Backward,
        directions: Tensor,
    ) -> Tensor:
        """Products (K, ..., P) of the pullback's Jacobian with directions of that shape.

        With the pullback p(theta, slope(y(theta))), they are dp/dtheta v at a fixed slope plus
        p(theta, second(dy v)): the first needs one pass over the samples, and the second another,
        since a loss may couple all of them.
        """
        slope, along = _rows(first, 2), directions.reshape(len(directions), -1, self.n_parameters)
        total, pushed = torch.zeros_like(along), slope.new_zeros(len(along), *slope.shape)
        for piece in self._graphs(equilibrium, x):
            at = piece.rows, piece.samples
            change, moved = piece.push(slope[at], backward, along[:, piece.rows])
            total[:, piece.rows] += change
            pushed[:, *at] = moved
        bent = torch.stack([_rows(second(one.reshape(first.shape)), 2) for one in pushed])
        for piece in self._graphs(equilibrium, x):
            pulled = piece.pull_each(bent[:, piece.rows, piece.samples], backward)
            total[:, piece.rows] += pulled
        return _valid(equilibrium, total)

    def _graphs(self, equilibrium: Equilibrium, x: Tensor) -> Iterator[Piece]:
        """Forward passes with their graphs: those kept, or each anew."""
        assert isinstance(equilibrium, Passed)
        rows, valid = _rows(equilibrium.theta, 1).detach(), equilibrium.valid.reshape(-1)
        starts = self._starts(equilibrium, len(rows), self._samples(x))
        pieces = equilibrium.kept or self._passes(rows, x, starts, graph=True)
        yield from (piece for piece in pieces if bool(valid[piece.rows].any()))

    def _passes(
        self, rows: Tensor, x: Tensor, starts: Tensor | None, graph: bool
    ) -> Iterator[Piece]:
        """Forward passes of bounded size over all rows (R, P) and samples."""
        own = x.ndim > 1 + len(self._input_shape)
        return passes(self._function, rows, x, own, starts, self.chunk, graph)

    def _starts(self, warm: Tensor | Equilibrium | None, rows: int, count: int) -> Tensor | None:
        """First guesses (R, n, M) of the DEQ layers' fixed points, if they fit."""
        known = warm.preactivation if isinstance(warm, Equilibrium) else warm
        if known is None or not self._layers:
            return None
        known = _rows(known, 2)
        return known if known.shape[:2] == (rows, count) else None

    def _samples(self, x: Tensor) -> int:
        return int(x.shape[-1 - len(self._input_shape)])

    def _note_failure(self, piece: Piece) -> None:
        """Remember why the first row of a pass failed."""
        theta, offset = piece.leaf[0].detach(), piece.samples.start
        bad = [one for one in piece.inner.solves if not bool(one[1].converged.all())]
        finite = torch.isfinite(piece.output.detach()).all(-1)[0]
        if bad:
            layer, solve = bad[0]
            told = tell_failures(solve, offset)
            reason = f"the DEQLayer {self._name(layer, piece)} missed its fixed point: {told}"
        elif not bool(finite.all()):
            which = int(torch.nonzero(~finite)[0])
            reason = f"the output of the module {self._function.title} is not finite at sample "
            reason += str(offset + which)
        else:
            return
        self._failure = theta.clone(), reason


def _rows(value: Tensor, trailing: int) -> Tensor:
    """With one leading dimension, whatever the batch."""
    return value.reshape(-1, *value.shape[value.ndim - trailing :])


def _valid(equilibrium: Equilibrium, found: Tensor) -> Tensor:
    """Rows (..., R, P) in the shape of theta, NaN where there is no equilibrium."""
    theta = equilibrium.theta
    shaped = found.reshape(*found.shape[:-2], *theta.shape)
    return torch.where(equilibrium.valid[..., None], shaped, torch.nan)
