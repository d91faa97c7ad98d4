"""The tables of a configuration, each a class, each key a field with the command line's help."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from gflow.config.table import Table, raise_if
from gflow.config.values import (
    Columns,
    Count,
    CountOrZero,
    Digest,
    EndTime,
    FlowKind,
    Fraction,
    NonNegative,
    Parameters,
    Positive,
    Schedule,
    Seed,
    Several,
    Spacing,
    StepSizes,
    Text,
    Threads,
    Times,
    Tolerance,
)


class TeacherData(Table):
    """Inputs drawn at random, targets predicted by the model at known parameters."""

    source: Literal["teacher"] = Field(description="where the data come from")
    distribution: Literal["normal", "uniform"] = Field(
        default="normal", description="distribution of each input: standard normal, or uniform"
    )
    low: float = Field(
        default=0.0, description="lower end of the uniform distribution (input units)"
    )
    high: float = Field(
        default=1.0, description="upper end of the uniform distribution (input units)"
    )
    samples: Count = Field(description="number of training samples")
    seed: Seed = Field(description="seed of the teacher's draws, or of a file's hold-out")
    theta: Parameters | None = Field(
        None,
        description="the teacher's dim + 1 parameters (none: a random unit theta1, theta2 = 0)",
    )
    noise: NonNegative = Field(
        default=0.0,
        description="standard deviation of noise on the training targets (target units)",
    )
    evaluation_samples: CountOrZero = Field(
        default=0, description="number of samples drawn for evaluation"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        uniform = self.distribution == "uniform"
        idle = not uniform and (self.low, self.high) != (0, 1)
        raise_if(
            (idle, 'data.low and data.high need data.distribution = "uniform"; leave them out.'),
            (uniform and not self.low < self.high, "data.low must lie below data.high."),
        )
        return self


class FileData(Table):
    """Columns of a CSV or netCDF file."""

    source: Literal["file"] = Field(description="where the data come from")
    path: Text = Field(
        description="file, relative to the configuration's folder; gflow:NAME is a shipped data set"
    )
    sha256: Digest | None = Field(
        default=None, description="SHA-256 of the file, which is refused if it has another"
    )
    inputs: Columns = Field(description='columns used as inputs, or patterns such as "p*"')
    target: Text | Columns = Field(
        description="column used as target; several for a model of several outputs"
    )
    input_scaling: Literal["none", "standard", "unit"] = Field(
        default="none",
        description="scaling of the inputs: none, each to mean 0 and deviation 1, all to at most 1",
    )
    target_scaling: Literal["none", "standard", "range"] = Field(
        default="none",
        description="scaling of the target: none, as for inputs, or onto [-0.9, 0.9]",
    )
    holdout: Fraction = Field(
        default=0.0, description="fraction of the rows set aside for evaluation"
    )
    seed: Seed = Field(
        default=0, description="seed of the teacher's draws, or of a file's hold-out"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        both = set(self.targets) & set(self.inputs)
        raise_if((bool(both), "data.target is also one of data.inputs."))
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """The target columns."""
        return (self.target,) if isinstance(self.target, str) else self.target


class Start(Table):
    """The initial parameters theta0, given or drawn."""

    theta: Parameters | None = Field(default=None, description="initial parameters")
    seed: Seed | None = Field(default=None, description="seed of theta0 = offset + scale * normal")
    scale: NonNegative | None = Field(
        default=None,
        description="standard deviation of a drawn theta0 (none: 0.1; 1 for a vector DEQ)",
    )
    offset: Parameters | None = Field(default=None, description="mean of a drawn theta0 (none: 0)")
    scheme: Literal["spectral", "norm", "monotone"] = Field(
        default="spectral", description="how a vector DEQ's W is drawn"
    )
    radius: Positive = Field(
        default=0.5,
        description="of a vector DEQ's W: spectral radius, norm, or bound of (W + W^T) / 2",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given, drawn = self.theta is not None, self.seed is not None
        idle = given and not drawn and (self.scale is not None or self.offset is not None)
        raise_if(
            (given and drawn, "start.theta and start.seed are both given; keep one of them."),
            (not given and not drawn, "[start] is empty; give it start.theta or start.seed."),
            (idle, "start.scale and start.offset need start.seed; start.theta is used as it is."),
        )
        return self


class Stop(Table):
    """Conditions that end a flow before t_end."""

    loss: Positive | None = Field(default=None, description="stop when the loss falls to this")
    gradient_norm: Positive | None = Field(
        default=None, description="stop when the norm of the gradient falls to this"
    )
    steady_state: bool | Positive = Field(
        default=False, description="stop at a steady state: true, or its relative threshold"
    )
    max_steps: Count | None = Field(default=None, description="stop after this many steps")
    wall_seconds: Positive | None = Field(
        default=None, description="stop after this time (seconds)"
    )

    @property
    def is_set(self) -> bool:
        """Whether any condition is given."""
        return self != Stop()


class Events(Table):
    """Values whose crossings by the flow are located and stored, without ending it."""

    loss: Positive | StepSizes | None = Field(default=None, description="values of the loss")
    gradient_norm: Positive | StepSizes | None = Field(
        default=None, description="values of the gradient's norm"
    )
    sharpness: bool | Positive | StepSizes = Field(
        default=False,
        description="step sizes eta, for the sharpness 2 / eta (true: those of the descent)",
    )
    singular_distance: Positive | StepSizes | None = Field(
        default=None, description="values of the distance to the singular point"
    )
    conditioning: Positive | StepSizes | None = Field(
        default=None, description="values of min |1 - theta2 sigma'| over the samples"
    )


class Flow(Table):
    """The gradient flow and its integrator."""

    kind: FlowKind = Field(default="gradient", description="vector field")
    t_end: EndTime = Field(description="end of the flow (flow time)")
    method: Text = Field(default="auto", description="integrator; see gflow methods")
    rtol: Tolerance = Field(default=1e-6, description="relative tolerance")
    atol: Positive = Field(default=1e-9, description="absolute tolerance (units of theta)")
    times: Several | Times = Field(
        default=200, description="number of saves, or the times (flow time)"
    )
    spacing: Spacing = Field(
        default="linear", description="spacing of the saves, where times is a number"
    )
    step_size: Positive | None = Field(
        default=None, description="step of a fixed-step integrator (flow time)"
    )
    weight_decay: NonNegative = Field(
        default=0.0, description="lambda of the term lambda/2 |theta|^2 added to the loss"
    )
    stop: Stop = Field(default=Stop(), description="conditions that end the flow early")
    events: Events = Field(
        default=Events(), description="values whose crossings are located and stored"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        endless = math.isinf(self.t_end) and not self.stop.is_set
        late = isinstance(self.times, tuple) and self.times[-1] > self.t_end
        raise_if(
            (endless, "flow.t_end is inf; add a condition to [flow.stop] or make it finite."),
            (late, "flow.times runs past flow.t_end; raise flow.t_end or drop the late times."),
        )
        return self


class Descent(Table):
    """Gradient descent beside the flow, or another flow's updates, on the flow's clock."""

    step_sizes: StepSizes = Field(description="step sizes, one run each (flow time per update)")
    t_end: Positive | None = Field(
        default=None, description="end (flow time; none: that of the flow)"
    )
    records: Several | Times = Field(
        default=200, description="number of updates stored per run, or their times (flow time)"
    )
    spacing: Spacing = Field(default="linear", description="spacing of the records")
    wall_seconds: Positive | None = Field(
        default=None, description="stop all runs after this time (seconds)"
    )
    schedule: Schedule = Field(default="constant", description="schedule of the step sizes")
    kind: FlowKind | None = Field(
        default=None, description="vector field whose updates are made (none: that of the flow)"
    )
    weight_decay: NonNegative | None = Field(
        default=None, description="as flow.weight_decay (none: that of the flow)"
    )


class Diagnostics(Table):
    """What is stored at every save besides theta and the loss."""

    evaluation_loss: bool = Field(default=True, description="store the loss on the evaluation set")
    gradient_norm: bool = Field(default=True, description="store the norm of the gradient")
    accuracy: bool = Field(
        default=True, description="store the share of samples that are classified rightly"
    )
    sphere_radius: bool = Field(
        default=True, description="store the radius about the singular point"
    )
    singular_distance: bool = Field(
        default=True, description="store the distance to the singular point"
    )
    conditioning: bool = Field(
        default=True, description="store min |1 - theta2 sigma'| over the samples"
    )
    equilibrium_residual: bool = Field(default=True, description="store the fixed points' residual")
    adjoint_residual: bool = Field(default=True, description="store the adjoints' residual")
    sharpness: bool | Literal["all"] = Field(
        default=True,
        description="store the Hessian's largest eigenvalue (all: at every save, at any cost)",
    )
    eigenvalues: CountOrZero = Field(
        default=0,
        description="store so many of the Hessian's largest eigenvalues, more while above 2 / eta",
    )
    energy_residual: bool = Field(
        default=True, description="store the residual of the energy identity"
    )
    error_estimate: bool = Field(
        default=False, description="store the estimated error of theta, by a second run"
    )
    invariant_drift: bool = Field(
        default=True, description="store the drift of what the model's flow conserves"
    )
    reference: bool = Field(default=True, description="store closed forms where the model has them")


class Run(Table):
    """How and where to compute."""

    dtype: Literal["float64", "float32"] = Field(default="float64", description="precision")
    device: Text = Field(default="cpu", description="torch device, such as cpu or cuda:0")
    threads: Threads | None = Field(
        default=None, description="number of CPU threads (none: torch's choice)"
    )
    store_data: bool | None = Field(
        default=None,
        description="store inputs and targets (none: if x has at most 200,000 numbers)",
    )
    checkpoint_seconds: NonNegative = Field(
        default=10.0,
        description="time between two checkpoints, at least (seconds; 0: at every opportunity)",
    )
    store_theta: Literal["all", "ends"] | Times = Field(
        default="all", description="saves at which theta is stored, or their times (flow time)"
    )
