"""The dataset, schema version 1: which variables a run may hold, and what each one means.

A file is a tree of groups. Every dimension has a coordinate; every variable has ``long_name``,
``units`` ("1" if none) and ``formula``. Times are on the clock t = eta k. A variable is absent if
it does not apply or was switched off; if it is present, it means what stands here.
"""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 1

ROOT_ATTRIBUTES = (
    "schema_version",
    "gflow_version",
    "created_at",
    "command",
    "config",
    "wall_seconds",
    "versions",
    "device",
    "dtype",
    "threads",
    "git_revision",
    "data_sha256",
)


LATER_ATTRIBUTES = ("kind", "started_at", "finished_at", "seeds")
"""Further ones of the root, which older files lack; ``run_key`` and ``resumed`` are some files'."""


@dataclass(frozen=True)
class Variable:
    """What a variable of a group means.

    Attributes
    ----------
    dims : tuple of str
        Without the leading ``trajectory`` that an ensemble adds; one in brackets may be missing.
    long_name, formula : str
    units : str
    required : bool
        Whether the group is incomplete without it.
    """

    dims: tuple[str, ...]
    long_name: str
    formula: str
    units: str = "1"
    required: bool = False

    @property
    def layouts(self) -> tuple[tuple[str, ...], ...]:
        """The dimensions it may have: those in brackets may be missing."""
        whole = tuple(dim.strip("[]") for dim in self.dims)
        bare = tuple(dim for dim in self.dims if not dim.startswith("["))
        return (whole,) if whole == bare else (whole, bare)


_TIME = ("time",)
_RECORD = ("step_size", "record")
_STEP = ("step",)
_OUTPUT = ("[output]",)
_EVENT = ("event",)

_POINTWISE = {
    "loss": (
        "loss",
        "as /problem says: mse is (1/n) sum_i |y(x_i) - y_i|^2, no 1/2; of an objective its"
        " function",
    ),
    "evaluation_loss": ("loss on the evaluation set", "as loss"),
    "accuracy": ("share of the samples whose class is the most probable one", "hits / n"),
    "evaluation_accuracy": ("accuracy on the evaluation set", "hits / n"),
    "gradient_norm": ("norm of the gradient that the backward gives", "|g(theta)|"),
    "sphere_radius": (
        "distance to (0, 1), conserved by the linear DEQ's flow",
        "R = sqrt(|theta1|^2 + (1 - theta2)^2), [DR] Thm 3.1",
    ),
    "singular_distance": (
        "distance to the nearest theta at which the equilibrium may be lost",
        "linear: R; single-index: distance in theta2 to where 1 - theta2 sigma' can vanish; vector:"
        " 1/L - lambda_max((W + W^T)/2) for slopes in [0, L], positive where uniqueness is certain",
    ),
    "conditioning": (
        "smallest slope of the fixed-point equation",
        "min_i |1 - theta2 sigma'(s_i)|; vector: min_i sigma_min(I - diag(sigma'(s_i)) W)",
    ),
    "equilibrium_residual": (
        "largest residual of the fixed point",
        "max_i |y_i - sigma(theta1 . x_i + theta2 y_i)|; vector: max_i |z_i - f(z_i, x_i)|",
    ),
    "adjoint_residual": (
        "largest relative residual of the adjoint equation that the exact gradient solves",
        "max_i |a_i - J_i^T a_i - q_i| / |q_i|",
    ),
    "sharpness": (
        "largest eigenvalue of the loss's Hessian; NaN at saves where it was not computed",
        "lambda_max(Hessian of loss)",
    ),
    "eigenvalue_products": (
        "Hessian-vector products that the eigenvalues took; NaN where they were not computed",
        "count; 0 where the Hessian was formed",
    ),
}
_SPECTRAL = {
    "eigenvalues": (
        "largest eigenvalues of the loss's Hessian, descending; NaN where they were not computed",
        "lambda_1 >= lambda_2 >= ...; of a descent more than asked for while the last exceeds"
        " 2 / eta, up to 64",
    ),
    "eigenvalue_residual": (
        "residual of each: an eigenvalue is at most this far away",
        "|H v - lambda v|, |v| = 1",
    ),
}


def _pointwise(dims: tuple[str, ...], *without: str) -> dict[str, Variable]:
    pointwise = {
        name: Variable(dims, long_name, formula, required=name == "loss")
        for name, (long_name, formula) in _POINTWISE.items()
        if name not in without
    }
    spectral = {name: Variable((*dims, "mode"), *told) for name, told in _SPECTRAL.items()}
    return pointwise | spectral


_DRIFT = "relative change of what the exact flow conserves"
_DRIFT_FORMULA = "|Q - Q(0)| / |Q(0)| in the Frobenius norm, Q as the coordinate says"
_STATUS_FORMULA = "gflow's own verdict, see gflow.status"
_COUNT = "count; in a batch, of the evaluations made while the trajectory was in it"
FINAL = ("t_final", "theta_final", "loss_final")
"""Where the trajectories of an ensemble ended: its time axis holds the saves alone."""

GROUPS: dict[str, dict[str, Variable]] = {
    "problem": {
        "theta_target": Variable(("parameter",), "parameters that generated the data", "given"),
        "inputs": Variable(("sample", "feature"), "inputs", "x"),
        "target": Variable(("sample", *_OUTPUT), "targets: numbers, vectors or classes", "y"),
        "evaluation_inputs": Variable(("evaluation_sample", "feature"), "evaluation inputs", "x"),
        "evaluation_target": Variable(
            ("evaluation_sample", *_OUTPUT), "evaluation targets: as target", "y"
        ),
        "model": Variable((), "model of each trajectory, where problems differ", "as written"),
        "loss": Variable((), "loss of each trajectory, where problems differ", "as named"),
        "backward": Variable((), "backward of each trajectory, where problems differ", "B(J)"),
        "samples": Variable((), "samples of each trajectory, where problems differ", "n"),
        "data_source": Variable((), "source of its data, where problems differ", "as read"),
    },
    "flow": {
        "theta": Variable(
            (*_TIME, "parameter"),
            "parameters; NaN at saves where they were not stored",
            "dtheta/dt = -g(theta), or the flow that the attribute kind of /flow names, see"
            " gflow.flows",
            required=True,
        ),
        "velocity": Variable(
            (*_TIME, "parameter"), "velocity, of a flow of second order", "dtheta/dt"
        ),
        **_pointwise(_TIME),
        "invariant_drift": Variable((*_TIME, "invariant"), _DRIFT, _DRIFT_FORMULA),
        "energy_residual": Variable(
            _TIME,
            "audit of the flow: energy balance",
            "L(0) - L(t) + int_0^t grad L . dtheta, by quadrature on the dense output: 7 points in"
            " steps, several together where they are small, parts of large ones; 4 in a batch's",
        ),
        "error_estimate": Variable(
            _TIME,
            "estimated error of theta, |theta - exact theta|; NaN beyond the end of a second run",
            "difference to a second run at tighter tolerances, see gflow.error_estimate",
        ),
        "status": Variable((), "why the flow ended", _STATUS_FORMULA, required=True),
        "status_message": Variable((), "the verdict in sentences", _STATUS_FORMULA, required=True),
        "diagnosis": Variable((), "why it did not end well, in a word", "see gflow.diagnosis"),
        "method": Variable((), "integrator", "see gflow methods", required=True),
        "method_reason": Variable((), "why this integrator", "see gflow methods", required=True),
        "nfe": Variable((), "field evaluations", _COUNT, required=True),
        "wall_seconds": Variable((), "wall-clock time of the integration", "measured", "s"),
        "t_final": Variable((), "time where the trajectory of an ensemble ended", "t"),
        "theta_final": Variable(("parameter",), "parameters there", "theta(t_final)"),
        "loss_final": Variable((), "loss there", "as loss"),
        "event_kind": Variable(
            _EVENT, "measure that crosses a value there; padding is empty", "name"
        ),
        "event_value": Variable(
            _EVENT, "value that it crosses", "as asked for; sharpness: 2 / eta of a step size eta"
        ),
        "event_direction": Variable(_EVENT, "whether it rises or falls", "1 or -1"),
        "event_time": Variable(
            _EVENT, "time of the event", "located on the dense output, see gflow.diagnostics"
        ),
        "event_loss": Variable(_EVENT, "loss there", "as loss"),
        "event_count": Variable((), "number of events, those beyond 1000 of a kind too", "count"),
        "gradient_norm_final": Variable((), "norm of the gradient there", "as gradient_norm"),
        "sharpness_final": Variable((), "sharpness there", "as sharpness"),
    },
    "flow_steps": {
        "t": Variable(_STEP, "start of the attempted step", "t", required=True),
        "dt": Variable(_STEP, "attempted step size", "dt", required=True),
        "error_ratio": Variable(
            _STEP,
            "estimated error over tolerance; NaN where the back-end does not tell it",
            "RMS of error / (atol + rtol |theta|)",
        ),
        "accepted": Variable(_STEP, "1 if accepted, 0 if rejected, -1 padding", "flag", "1", True),
        "nfe": Variable(_STEP, "field evaluations so far", _COUNT, required=True),
        "hessians": Variable(_STEP, "Jacobians of the field so far", _COUNT),
        "linear_solves": Variable(_STEP, "matrix factorisations so far", _COUNT),
        "jvps": Variable(_STEP, "Jacobian-vector products so far", _COUNT),
    },
    "descent": {
        "theta": Variable(
            (*_RECORD, "parameter"),
            "parameters; NaN at saves where they were not stored",
            "theta - eta g(theta), k times, or the updates that the attribute kind of /descent"
            " names, see gflow.flows",
            required=True,
        ),
        "update": Variable(_RECORD, "number of updates; -1 pads", "k", required=True),
        "time": Variable(
            _RECORD,
            "time on the flow's clock",
            "t = eta k, the sum of the step sizes where they vary; k sqrt(eta) for nesterov",
            required=True,
        ),
        **_pointwise(_RECORD),
        "invariant_drift": Variable((*_RECORD, "invariant"), _DRIFT, _DRIFT_FORMULA),
        "wall_seconds": Variable((), "wall-clock time of all step sizes", "measured", "s"),
        "drift_identity_residual": Variable(
            _RECORD,
            "audit of the drift off the sphere, summed over the updates (linear DEQ)",
            "R_k^2 - R_0^2 - sum_{j<k} |eta_j g_j|^2, g_j the vector that update j used",
        ),
        "status": Variable(("step_size",), "why the descent ended", _STATUS_FORMULA, required=True),
        "status_message": Variable(
            ("step_size",), "the verdict in sentences", _STATUS_FORMULA, required=True
        ),
    },
    "comparison": {
        "time": Variable(_RECORD, "time of the record", "as /descent/time", required=True),
        "distance": Variable(
            _RECORD,
            "distance of descent and flow at equal time",
            "|theta_k - theta(t)|, the flow from its dense output",
            required=True,
        ),
        "path_distance": Variable(
            _RECORD, "distance of descent to the flow's path", "min_s |theta_k - theta(s)|"
        ),
        "lag": Variable(
            _RECORD, "time of the nearest point of the path minus the clock", "argmin_s - t"
        ),
        "loss_difference": Variable(
            _RECORD, "loss of descent minus loss of the flow", "L(theta_k) - L(theta(t))"
        ),
    },
    "reference": {
        "theta_limit": Variable(
            ("parameter",), "limit of the flow", "c +- R / sqrt(1 + |xi|^2) (xi, -1), c = (0, 1)"
        ),
        "theta_exact": Variable(
            (*_TIME, "parameter"), "exact flow in one dimension", "inverse of t(phi), closed form"
        ),
        "loss_bound": Variable(
            _TIME, "upper bound of the loss", "L* + (L(0) - L*) exp(-4 lambda_min t / R^2)"
        ),
        "sphere_radius": Variable((), "radius of the sphere", "R(theta(0))", required=True),
        "rate": Variable((), "rate of the bound", "4 lambda_min(Sigma) / R^2"),
        "minimal_loss": Variable((), "smallest loss of a linear predictor", "L* = min over xi"),
        "sharpness_limit": Variable(
            (),
            "sharpness at the flow's limit",
            "(2 (1 + |xi|^2) / R^2) lambda_max(Sigma^1/2 (I + xi xi^T) Sigma^1/2)",
        ),
        "critical_radius": Variable(
            ("step_size",),
            "radius below which gradient descent cannot settle",
            "sqrt(eta (1 + |xi|^2) lambda_max(Sigma^1/2 (I + xi xi^T) Sigma^1/2))",
        ),
    },
    "sweep": {
        "status": Variable((), "how each cell ended", _STATUS_FORMULA, required=True),
        "status_message": Variable((), "the verdict in sentences", _STATUS_FORMULA, required=True),
        "wall_seconds": Variable((), "wall-clock time, of an ensemble a share", "measured", "s"),
        "key": Variable((), "digest of all that decides the cell", "SHA-256", required=True),
        "data_sha256": Variable((), "digest of the cell's data", "SHA-256"),
    },
    "checkpoint": {
        "state": Variable(
            ("byte",), "what the run needs to go on", "see gflow.store.codec", required=True
        ),
    },
}

COORDINATES = {
    "time": ("time on the clock t = eta k", "1"),
    "parameter": ("name of the parameter", "1"),
    "step": ("attempted step of the integrator", "1"),
    "event": ("event of a flow, in the order of time", "1"),
    "mode": ("place among the Hessian's eigenvalues, the largest first", "1"),
    "step_size": ("step size eta of gradient descent", "1"),
    "record": ("stored iterate", "1"),
    "sample": ("training sample", "1"),
    "evaluation_sample": ("evaluation sample", "1"),
    "feature": ("name of the input", "1"),
    "invariant": ("what the exact flow conserves", "1"),
    "output": ("output of the model", "1"),
    "trajectory": ("member of an ensemble", "1"),
    "save": ("save of a flow, where the times of the saves differ", "1"),
}


def attributes(group: str, name: str) -> dict[str, str]:
    """The attributes that every variable of a group carries."""
    if name in GROUPS[group]:
        variable = GROUPS[group][name]
        return {
            "long_name": variable.long_name,
            "units": variable.units,
            "formula": variable.formula,
        }
    return {"long_name": name, "units": "1", "formula": "user's observable"}
