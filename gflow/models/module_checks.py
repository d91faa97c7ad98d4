"""Modules that are no function of theta and one sample, refused in a sentence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gflow.equilibrium.layer import Pass
from gflow.errors import ProblemError
from gflow.models.module_function import ModuleFunction

DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
KINKED = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Threshold,
    nn.SELU,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
)


def is_kinked(module: nn.Module) -> bool:
    """Whether a part of the module is known to have kinks."""
    return any(isinstance(part, KINKED) for part in module.modules())


def check_module(module: nn.Module) -> None:
    """Refuse what can be told from a module's parts.

    Raises
    ------
    ProblemError
        That names the part and what to do.
    """
    if not isinstance(module, nn.Module):
        raise ProblemError(f"module is {module!r}; it must be a torch.nn.Module.")
    for name, value in module.named_parameters():
        if isinstance(value, nn.parameter.UninitializedParameter):
            raise ProblemError(f"{name} has no shape yet; call the module once on its inputs.")
        if value.is_complex():
            raise ProblemError(f"{name} is complex; gflow integrates real parameters.")
    if not any(value.requires_grad for value in module.parameters()):
        raise ProblemError(
            f"{type(module).__name__} has no trainable parameter, so no theta; check requires_grad."
        )
    for name, part in module.named_modules():
        reason = _randomness(part) or _coupling(part)
        if reason:
            raise ProblemError(f"{name or 'the module'} ({type(part).__name__}) {reason}.")


def _randomness(part: nn.Module) -> str:
    if isinstance(part, DROPOUTS):
        share = part.p
    elif isinstance(part, nn.MultiheadAttention | nn.RNNBase):
        share = part.dropout
    else:
        return ""
    if not part.training or share == 0:
        return ""
    return (
        f"drops out a random share of {share:g}, and a flow follows one function; call .eval(), or "
        "set the share to 0"
    )


def _coupling(part: nn.Module) -> str:
    if isinstance(part, BATCH_NORMS) and (part.training or part.running_mean is None):
        return (
            "takes its mean and variance from the samples that go through it together, and a flow "
            "needs each sample's output alone; call .eval() after it has seen data, or take "
            "GroupNorm or LayerNorm"
        )
    if isinstance(part, INSTANCE_NORMS) and part.training and part.track_running_stats:
        return "changes its running statistics with every call; call .eval()"
    return ""


def check_outputs(function: ModuleFunction, x: Tensor) -> int:
    """Try a module on its first samples; the number of its outputs.

    Raises
    ------
    ProblemError
        If a second call gives something else, a buffer changes, samples depend on each other, or
        outputs do not depend on theta differentiably.
    """
    theta = function.initial.to(x)[None].requires_grad_()
    buffers = {name: value.clone() for name, value in function.at(x).named_buffers()}
    pair = x[:2]
    with torch.enable_grad():
        first, again, alone = (_called(function, theta, some) for some in (pair, pair, pair[:1]))
    for name, value in function.at(x).named_buffers():
        if not torch.equal(value, buffers[name]):
            raise ProblemError(
                f"calling the module {function.title} changes its buffer {name}, and a flow "
                "follows one function; call .eval(), or freeze what changes it."
            )
    if _differ(first, again):
        raise ProblemError(
            f"the module {function.title} gives another output when it is called again, and a flow "
            "follows one function; call .eval(), or take what is random out of it."
        )
    if _differ(first[:, :1], alone):
        raise ProblemError(
            f"the module {function.title} gives a sample another output when it is alone; each "
            "must be a function of its own sample."
        )
    if not first.requires_grad:
        raise ProblemError(
            f"the outputs of the module {function.title} do not depend on its parameters by "
            "differentiable torch operations; write it with them, without detach, item or numpy."
        )
    return int(first.shape[-1])


def _called(function: ModuleFunction, theta: Tensor, x: Tensor) -> Tensor:
    with Pass():
        return function(theta, x)


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether finite numbers are farther apart than rounding can bring them."""
    apart = (one - other).detach().abs()
    size = 1.0 + one.detach().abs()
    limit = torch.finfo(one.dtype).eps ** 0.5
    return bool((torch.where(torch.isfinite(apart), apart / size, 0.0) > limit).any())
