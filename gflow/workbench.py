"""The one place that knows everything: problem -> flow -> trajectory -> dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from torch import Tensor

from gflow.assemble import Observables
from gflow.assemble_comparison import comparison_group
from gflow.descent_run import DescentPlan
from gflow.flow_run import FlowOptions, ProgressCallback
from gflow.flows import Flow, parse_flow
from gflow.keeping import Keeping, call_of, concluded, kept, opened, written
from gflow.problem import ArrayLike, Problem
from gflow.recording import Recording, make_recording
from gflow.run_groups import descent_groups, ensemble_groups, flow_groups, integrate_one
from gflow.starts import one_start, pair_starts
from gflow.status import Status
from gflow.store.output import SECONDS, Output
from gflow.store.provenance import Provenance


def integrate(
    problem: Problem | Sequence[Problem],
    theta0: ArrayLike,
    t_end: float,
    *,
    method: str = "auto",
    rtol: float = 1e-6,
    atol: float = 1e-9,
    times: int | Sequence[float] = 200,
    spacing: str = "linear",
    step_size: float | None = None,
    stop: Mapping[str, Any] | None = None,
    flow: str | Flow = "gradient",
    weight_decay: float = 0.0,
    evaluation: tuple[ArrayLike, ArrayLike] | None = None,
    observables: Observables | None = None,
    diagnostics: Mapping[str, Any] | None = None,
    store_data: bool | None = None,
    events: Mapping[str, Any] | None = None,
    store_theta: str | Sequence[float] = "all",
    progress: ProgressCallback | None = None,
    provenance: Provenance | None = None,
    output: str | Path | Output | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = SECONDS,
) -> xr.DataTree:
    """Integrate the gradient flow of a problem, or another flow, with error control.

    Parameters
    ----------
    problem : Problem, or sequence of Problem
        A sequence gives an ensemble of flows of different problems of one shape.
    theta0 : array, shape (P,) or (B, P)
        Start; (B, P) gives an ensemble, one trajectory a row: together where the method is native,
        else one after another. An endless ensemble with a count of saves keeps its steps in memory.
    t_end : float
        End of the flow, on the clock t = eta k; infinite if `stop` holds something.
    method : str
        See :mod:`gflow.integrators.registry`; ``auto`` chooses and says why.
    rtol, atol : float
        Tolerances of the RMS norm of error / (atol + rtol |theta|), for every method.
    times : int or sequence of float
        How many saves, or their times; 0 and the end are always saved.
    spacing : str
        ``linear`` or ``log``, for a count.
    step_size : float, optional
        For fixed-step methods; shortened if it does not divide `t_end`, and said so.
    stop : mapping, optional
        Any of ``loss``, ``gradient_norm``, ``steady_state``, ``max_steps``, ``wall_seconds``; the
        last one is a budget of a whole ensemble.
    flow : str or Flow
        The vector field: ``gradient``, ``heavy_ball:MASS``, ``nesterov``, ``modified:ETA``,
        ``natural:LAMBDA``, ``scaled:BLOCK=RATE,...`` or an object, see :mod:`gflow.flows`.
    weight_decay : float
        lambda: the flow follows the gradient of L + (lambda / 2) |theta|^2. What is recorded stays
        that of L.
    evaluation : (x, y), optional
        Data on which the loss is recorded too.
    observables : mapping, optional
        Name to function of theta (P,), a tensor; a number or a vector, stored at every save.
    diagnostics : mapping, optional
        Name to bool, to switch diagnostics off; ``{"sharpness": "all"}`` computes the sharpness at
        every save where P is large, which may cost more than the flow. ``{"eigenvalues": 5}``
        stores the Hessian's 5 largest eigenvalues too, where the sharpness is computed, with their
        residuals; of a descent more of them while the last exceeds 2 / eta.
        ``{"error_estimate": True}`` runs the flow a second time, see :mod:`gflow.error_estimate`.
    events : mapping, optional
        Values whose crossings by the flow are located and stored, without ending it: ``loss``,
        ``gradient_norm``, ``singular_distance``, ``conditioning`` and, as step sizes eta with the
        threshold 2 / eta, ``sharpness``; a number or several of each, see
        :mod:`gflow.diagnostics.crossings`.
    store_data : bool, optional
        Store inputs and targets; by default if x has at most 200,000 numbers.
    store_theta : str or sequence of float
        For large P: ``ends`` keeps theta at the first and last save alone, times at those next to
        them too; it is NaN at the others, where everything else is stored. A projection of theta is
        one of the `observables`.
    progress : callable, optional
        Called with a :class:`gflow.flow_run.Progress` at most five times a second.
    provenance : Provenance, optional
        What the caller knows of the run's origin, :class:`gflow.store.provenance.Provenance`.
    output : str or Path, optional
        A .nc file on which the run is kept as it goes, so that :func:`gflow.resume` can go on from
        it; other processes may read it at any time. An ensemble is written when it has ended.
    overwrite : bool
        Replace an existing file.
    checkpoint_seconds : float
        Between two checkpoints, at least; they never take more than about 2 % of the time.

    Returns
    -------
    xarray.DataTree
        Groups ``/problem``, ``/flow``, ``/flow_steps`` and, for the linear DEQ, ``/reference``.
        A flow that fails on the way is returned too: see ``tree["flow"].status``. The flows of an
        ensemble share the time axis of the saves, NaN beyond a flow's end; where each ended is in
        ``t_final``, ``theta_final`` and ``loss_final``.

    Raises
    ------
    UsageError
        If an argument is wrong; the sentence says which.

    Examples
    --------
    >>> import gflow
    >>> model = gflow.LinearDEQ(dim=1)
    >>> problem = gflow.Problem(model, x=[[0.5], [1.0]], y=[1.0, 2.0])
    >>> tree = gflow.integrate(problem, [0.1, 0.0], t_end=10)
    >>> str(tree["flow"].status.values)
    't_end'
    """
    given = dict(locals())
    options = FlowOptions(
        t_end, method, rtol, atol, times, spacing, step_size, stop, flow, weight_decay
    )
    problems, starts, ensemble = pair_starts(problem, theta0)
    recording = make_recording("integrate", problems[0], starts[0], given)
    with opened(output, overwrite, checkpoint_seconds) as file:
        if ensemble:
            groups = ensemble_groups(problems, starts, options, recording)
            return written(file, recording.tree(problems, groups))
        call = call_of("integrate", starts[0], given)
        keeping = kept(file, recording, problems[0], call, options.size(starts))
        groups = flow_groups(problems[0], starts[0], options, recording, keeping)
        return concluded(keeping, recording, problems[0], groups)


def descend(
    problem: Problem,
    theta0: ArrayLike,
    step_sizes: Sequence[float],
    t_end: float,
    *,
    records: int | Sequence[float] = 200,
    spacing: str = "linear",
    wall_seconds: float = math.inf,
    flow: str | Flow = "gradient",
    weight_decay: float = 0.0,
    schedule: str = "constant",
    evaluation: tuple[ArrayLike, ArrayLike] | None = None,
    observables: Observables | None = None,
    diagnostics: Mapping[str, Any] | None = None,
    store_data: bool | None = None,
    store_theta: str | Sequence[float] = "all",
    progress: ProgressCallback | None = None,
    provenance: Provenance | None = None,
    output: str | Path | Output | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = SECONDS,
) -> xr.DataTree:
    """Run gradient descent, or another flow's updates, at several step sizes on the flow's clock.

    Parameters
    ----------
    problem : Problem
    theta0 : array, shape (P,)
    step_sizes : sequence of float
        The learning rates eta.
    t_end : float
        On the clock t = eta k: each step size makes floor(t_end / eta) updates.
    records : int or sequence of float
        Stored iterates per step size, or the times next to which they are stored.
    spacing : str
        Of a count: ``linear`` or ``log`` in t, with a schedule in the update number.
    wall_seconds : float
        Budget of wall-clock time; using it up is a failure, with the records so far.
    flow : str or Flow
        Whose discrete counterpart is run, see :mod:`gflow.flows`: ``heavy_ball:MASS`` is gradient
        descent with momentum, ``nesterov`` Nesterov's method, on the clock t = k sqrt(eta).
    weight_decay : float
        As for :func:`integrate`.
    schedule : str
        Of the step sizes: ``constant``, ``linear``, ``cosine``, ``warmup:F``, ``step:F:FACTOR`` or
        ``inverse:F``, see :mod:`gflow.descent.schedule`.
    evaluation, observables, diagnostics, store_data, store_theta, progress, provenance
        As for :func:`integrate`.
    output, overwrite, checkpoint_seconds
        As for :func:`integrate`.

    Returns
    -------
    xarray.DataTree
        Groups ``/problem``, ``/descent`` and, for the linear DEQ, ``/reference``.
    """
    given = dict(locals())
    start = one_start(problem, theta0)
    recording = make_recording("descend", problem, start, given)
    law = parse_flow(flow, weight_decay)
    plan = DescentPlan(step_sizes, t_end, records, spacing, wall_seconds, law, schedule)
    with opened(output, overwrite, checkpoint_seconds) as file:
        call = call_of("descend", start, given)
        keeping = kept(file, recording, problem, call, plan.size(start))
        _, groups = descent_groups(problem, start, plan, recording, None, keeping)
        return concluded(keeping, recording, problem, groups)


def compare(
    problem: Problem,
    theta0: ArrayLike,
    step_sizes: Sequence[float],
    t_end: float,
    *,
    records: int | Sequence[float] = 200,
    descent_t_end: float | None = None,
    descent_spacing: str | None = None,
    descent_wall_seconds: float = math.inf,
    method: str = "auto",
    rtol: float = 1e-6,
    atol: float = 1e-9,
    times: int | Sequence[float] = 200,
    spacing: str = "linear",
    step_size: float | None = None,
    stop: Mapping[str, Any] | None = None,
    flow: str | Flow = "gradient",
    weight_decay: float = 0.0,
    schedule: str = "constant",
    evaluation: tuple[ArrayLike, ArrayLike] | None = None,
    observables: Observables | None = None,
    diagnostics: Mapping[str, Any] | None = None,
    store_data: bool | None = None,
    events: Mapping[str, Any] | None = None,
    store_theta: str | Sequence[float] = "all",
    progress: ProgressCallback | None = None,
    provenance: Provenance | None = None,
    output: str | Path | Output | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = SECONDS,
) -> xr.DataTree:
    """Integrate the flow, run its discrete counterpart beside it, and compare them on one clock.

    Parameters
    ----------
    problem, theta0, step_sizes, t_end, records, spacing
        As for :func:`integrate` and :func:`descend`; both run to `t_end`.
    descent_t_end : float, optional
        End of the descents if it is not `t_end`.
    descent_spacing : str, optional
        Spacing of the descents' records if it is not `spacing`.
    descent_wall_seconds : float
        Budget of wall-clock time of the descents.
    method, rtol, atol, times, step_size, stop, flow, weight_decay
        As for :func:`integrate`.
    events : mapping, optional
        As for :func:`integrate`; ``{"sharpness": True}`` means `step_sizes`.
    schedule : str
        As for :func:`descend`.
    evaluation, observables, diagnostics, store_data, store_theta, progress, provenance
        As for :func:`integrate`.
    output, overwrite, checkpoint_seconds
        As for :func:`integrate`.

    Returns
    -------
    xarray.DataTree
        The groups of both, and ``/comparison``; those of the flow alone if it was interrupted.
    """
    given = dict(locals())
    options = FlowOptions(
        t_end, method, rtol, atol, times, spacing, step_size, stop, flow, weight_decay
    )
    start = one_start(problem, theta0)
    recording = make_recording("compare", problem, start, given)
    plan = DescentPlan(
        step_sizes,
        t_end if descent_t_end is None else descent_t_end,
        records,
        descent_spacing or spacing,
        descent_wall_seconds,
        options.law,
        schedule,
    )
    with opened(output, overwrite, checkpoint_seconds) as file:
        size = options.size([start]) + plan.size(start)
        keeping = kept(file, recording, problem, call_of("compare", start, given), size)
        groups = _compared(problem, start, options, plan, recording, keeping)
        return concluded(keeping, recording, problem, groups)


def _compared(
    problem: Problem,
    start: Tensor,
    options: FlowOptions,
    plan: DescentPlan,
    recording: Recording,
    keeping: Keeping | None,
) -> dict[str, xr.Dataset]:
    """The groups of the flow, of the descents and of the two together."""
    landings = plan.times()
    trajectory, groups = integrate_one(problem, start, options, recording, landings, keeping)
    if trajectory.status is not Status.INTERRUPTED:
        times_saved = groups["flow"].time.values
        descent, described = descent_groups(problem, start, plan, recording, times_saved, keeping)
        groups |= described
        groups["comparison"] = comparison_group(problem, trajectory, descent)
    return groups
