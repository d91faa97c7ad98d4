"""Why a run ended: one enum, one sentence each."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """The verdict on a trajectory, given by gflow and never by a back-end."""

    T_END = "t_end"
    LOSS = "loss"
    GRADIENT_NORM = "gradient_norm"
    STEADY_STATE = "steady_state"
    STALLED = "stalled"
    STEP_LIMIT = "step_limit"
    WALL_LIMIT = "wall_limit"
    INTERRUPTED = "interrupted"
    RUNNING = "running"
    NOT_RUN = "not_run"
    NONFINITE_START = "nonfinite_start"
    NONFINITE = "nonfinite"
    DIVERGED = "diverged"
    EQUILIBRIUM_LOST = "equilibrium_lost"
    STEP_UNDERFLOW = "step_underflow"
    ROUNDING = "rounding_limit"
    METHOD_FAILED = "method_failed"

    @property
    def ok(self) -> bool:
        """Whether the run ended where it was asked to."""
        return self in (Status.T_END, Status.LOSS, Status.GRADIENT_NORM, Status.STEADY_STATE)

    @property
    def sentence(self) -> str:
        """What happened and what to try."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.T_END: "The run reached t_end.",
    Status.LOSS: "The loss reached its stopping value.",
    Status.GRADIENT_NORM: "The gradient norm reached its stopping value.",
    Status.STEADY_STATE: "The trajectory reached a steady state.",
    Status.STALLED: "The trajectory no longer moves, and no stopping rule is met; loosen the rule, "
    "or stop at steady_state.",
    Status.STEP_LIMIT: "The step limit does not suffice to reach the end; raise max_steps, if the "
    "steps cannot be longer.",
    Status.WALL_LIMIT: "The wall-clock limit was reached before the end; raise wall_seconds, or "
    "make the run cheaper (a descent: larger steps).",
    Status.INTERRUPTED: "The run was interrupted; everything up to then is kept.",
    Status.RUNNING: "The run goes on, or was killed: this is what it had come to. After a kill, "
    "gflow resume goes on from here.",
    Status.NOT_RUN: "The run was not made: its configuration or data were refused, or it failed.",
    Status.NONFINITE_START: "The field or the loss is not finite at the start; check the data, "
    "the start and the loss there.",
    Status.NONFINITE: "The field or the loss is not finite; what came before is kept. Check the "
    "model and the data there.",
    Status.DIVERGED: "The trajectory diverged: theta grows without bound. Lower the step size if "
    "it is given, or scale the data.",
    Status.EQUILIBRIUM_LOST: "The equilibrium is lost: beyond this point the fixed point does not "
    "exist or is not unique. Start elsewhere, end the run before, or lower the step size if it is "
    "given.",
    Status.STEP_UNDERFLOW: "The step size fell below rounding: the field is singular or "
    "discontinuous there, or the tolerance is below what rounding allows.",
    Status.ROUNDING: "The tolerance is below what rounding leaves of the field: steps no longer "
    "grow, and t_end is out of reach. Raise atol, or loosen rtol.",
    Status.METHOD_FAILED: "The integrator gave up; try another method or a smaller step.",
}
