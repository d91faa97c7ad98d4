"""Many parameters without a dense Hessian: the tanh MLP of :mod:`mlp`, P = 10,273, to t = 300.

The path error is the largest of |theta - reference| / |reference| over 31 equally spaced times from
0 to 300, by each method's own dense output or saves, and the worst of three seeds. Each contender
climbs down its ladder of tolerances to the loosest one that brings it to 1e-4, then to 1e-6 (rtol;
atol = rtol / 10, the size of a weight). A gradient counts 1, a Hessian-vector product 2. The
reference is SciPy's DOP853 at rtol 1e-10, checked against torchdiffeq's dopri5 at the same
tolerance (they agree to 3e-9), and kept in benchmarks/.cache.

Usage: python benchmarks/many_parameters.py [--only gflow] [--quick]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from harness import OURS, Measurement, Options, clocked, options, report, timed, winners
from mlp import MLP, SEEDS, T_END, WIDTHS, Exhausted, mlp
from peers.rules import exponential_euler, runge_kutta
from scipy.integrate import solve_ivp
from torch import Tensor
from torchdiffeq import odeint

from gflow.errors import MethodError
from gflow.integrators.base import Settings
from gflow.integrators.driver import integrate_field
from gflow.integrators.registry import resolve

TARGETS = (1e-4, 1e-6)
SAVES = 31
NATIVE = ("rkc2", "rkc4", "exprb43")
BUDGET = 100_000
"""Gradient equivalents after which a run is given up: three times what dopri5 needs."""
BRIEF = 10.0
"""Seconds up to which a run that meets the target is timed several times."""
RTOLS = tuple(float(rtol) for rtol in np.geomspace(1e-2, 1e-10, 49))
CACHE = Path(__file__).parent / ".cache"

Integrate = Callable[[MLP, Tensor, float], Tensor]
"""``(problem, times, setting) -> theta (T, P)``; NaN where it did not get."""


@dataclass(frozen=True)
class Contender:
    """A method and its ladder of settings, loose to tight."""

    integrate: Integrate
    ladder: Sequence[float] = RTOLS
    label: str = "rtol"


def dopri5(problem: MLP, times: Tensor, rtol: float) -> Tensor:
    """torchdiffeq's."""
    choices = {"method": "dopri5", "rtol": rtol, "atol": rtol / 10}
    with torch.no_grad():
        return odeint(lambda t, theta: -problem.gradient(theta), problem.theta0, times, **choices)


def scipy(problem: MLP, times: Tensor, rtol: float, method: str) -> Tensor:
    """One of SciPy's explicit methods."""
    saves = times.numpy()
    solution = solve_ivp(
        lambda t, theta: -problem.gradient(torch.from_numpy(theta)).numpy(),
        (0.0, saves[-1]),
        problem.theta0.numpy(),
        method=method,
        t_eval=saves,
        rtol=rtol,
        atol=rtol / 10,
    )
    return _padded(torch.from_numpy(solution.y.T), times)


def native(problem: MLP, times: Tensor, rtol: float, method: str) -> Tensor:
    """One of gflow's."""
    settings = Settings(float(times[-1]), rtol, rtol / 10)
    run = integrate_field(problem.field(), problem.theta0, resolve(method), settings, times)
    return _padded(run.theta[:-1] if not run.status.ok else run.theta, times)


def _padded(theta: Tensor, times: Tensor) -> Tensor:
    full = theta.new_full((len(times), theta.shape[1]), torch.nan)
    full[: len(theta)] = theta
    return full


def gflow_contenders(omissions: dict[str, str]) -> dict[str, Contender]:
    """Those of gflow's methods for many parameters that the registry knows."""
    found = {}
    for name in NATIVE:
        try:
            resolve(name)
        except MethodError:
            omissions[f"{OURS} {name}"] = "The registry does not have it."
            continue
        found[f"{OURS} {name}"] = Contender(partial(native, method=name))
    return found


def peers() -> dict[str, Contender]:
    """The others."""
    coarse = RTOLS[12::6]  # At 1e-3 dopri5 leaves the valley and is not back in 100,000 gradients.
    caps = tuple(0.2 / 4**k for k in range(5))
    courants = (2.5, 2.0, 1.5, 1.0, 0.5, 0.25)
    return {
        "torchdiffeq dopri5": Contender(dopri5, coarse),
        "scipy RK45": Contender(partial(scipy, method="RK45"), coarse),
        "scipy DOP853": Contender(partial(scipy, method="DOP853"), coarse),
        "RK4 at c / sharpness": Contender(runge_kutta, courants, "c"),
        "exponential Euler, k = 1": Contender(partial(exponential_euler, stiff=1), caps, "cap"),
        "exponential Euler, k = 8": Contender(partial(exponential_euler, stiff=8), caps, "cap"),
    }


OMISSIONS = {
    "SciPy LSODA, Radau and BDF": "They need the dense Jacobian, 844 MB and 10,273^3 operations.",
    "diffrax and torchode": "Their explicit pairs meet the limit that dopri5 meets.",
    "Stable-Solvers": "Its idea is timed in peers/rules.py, with fewer products.",
}


class Trial:
    """The problems of all seeds, their references, and every run made so far."""

    def __init__(self, quick: bool, repeats: int) -> None:
        self.seeds, self.repeats = (SEEDS[:1] if quick else SEEDS), repeats
        self.widths = (8, 24, 24, 1) if quick else WIDTHS
        self.times = torch.linspace(0, T_END / 10 if quick else T_END, SAVES, dtype=torch.float64)
        self.problems = {seed: mlp(seed, self.widths) for seed in self.seeds}
        self.references = {seed: self._reference(seed) for seed in self.seeds}
        self.one = cache(self._one)

    def _reference(self, seed: int) -> Tensor:
        name = "-".join(map(str, (*self.widths, seed, float(self.times[-1]))))
        file = CACHE / f"{name}.npy"
        if not file.exists():
            problem = self.problems[seed]
            theta = scipy(problem, self.times, 1e-10, "DOP853")
            other = dopri5(problem, self.times, 1e-10)
            apart = distance(other, theta)
            print(f"seed {seed}: the references are {apart:.1e} apart", flush=True)
            if not apart < 1e-2 * min(TARGETS):
                raise RuntimeError(f"the references of seed {seed} disagree")
            CACHE.mkdir(exist_ok=True)
            (CACHE / ".gitignore").write_text("*\n")
            np.save(file, theta.numpy())
        return torch.from_numpy(np.load(file))

    def _one(self, contender: Contender, setting: float, seed: int) -> tuple[float, float, int]:
        """Error, seconds and gradient equivalents of one run."""
        problem = self.problems[seed]

        def run() -> Tensor:
            problem.reset()
            problem.budget = BUDGET
            try:
                return contender.integrate(problem, self.times, setting)
            except Exhausted:
                return torch.full_like(self.references[seed], torch.nan)

        theta, seconds = clocked(run)
        error = distance(theta, self.references[seed])
        if error <= max(TARGETS) and seconds < BRIEF:
            seconds = timed(run, self.repeats, warm_up=False)[1]
        return error, seconds, problem.equivalents

    def measure(
        self, name: str, contender: Contender, setting: float, target: float
    ) -> Measurement:
        """The worst of the seeds, up to the first that misses; means of time and work."""
        runs = []
        for seed in self.seeds:
            runs.append(self.one(contender, setting, seed))
            if not runs[-1][0] <= target:
                break
        errors, seconds, equivalents = zip(*runs, strict=True)
        mean = round(sum(equivalents) / len(runs))
        return Measurement(
            contender=name,
            setting=f"{contender.label}={setting:.2g}",
            tolerance=setting,
            error=max(errors),
            seconds=sum(seconds) / len(runs),
            work={"gradient_equivalents": mean, "flows": len(runs)},
            meets=max(errors) <= target,
            note="given up" if equivalents[-1] >= BUDGET else "",
        )

    def climb(self, name: str, contender: Contender, target: float) -> list[Measurement]:
        """From loose to tight until all seeds meet the target; a rule, until it is given up."""
        found: list[Measurement] = []
        for setting in contender.ladder:
            found.append(self.measure(name, contender, setting, target))
            last = found[-1]
            work = f"{last.work['gradient_equivalents']} equivalents, {last.seconds:.3g} s"
            print(f"{name}: {last.setting}, error {last.error:.2g}, {work}", flush=True)
            if last.meets or (last.note and contender.label != "rtol"):
                break
        return found


def distance(theta: Tensor, reference: Tensor) -> float:
    """Largest relative distance over the times; infinite where theta is not finite."""
    apart = ((theta - reference).norm(dim=1) / reference.norm(dim=1)).max()
    return float(torch.where(apart.isfinite(), apart, torch.inf))


def ratios(measurements: Sequence[Measurement]) -> Mapping[str, Mapping[str, float]]:
    """How many times the work and the time of dopri5 is that of gflow's methods."""
    best = winners(measurements)
    base = best.get("torchdiffeq dopri5")
    if base is None:
        return {}
    return {
        name: {
            "fewer_gradients": base.work["gradient_equivalents"]
            / each.work["gradient_equivalents"],
            "less_time": base.seconds / each.seconds,
        }
        for name, each in best.items()
    }


def main() -> None:
    """Both targets, one report each."""
    given: Options = options(__doc__ or "")
    torch.set_num_threads(1)
    omissions = dict(OMISSIONS)
    contenders = {**gflow_contenders(omissions), **peers()}
    chosen = {
        name: each
        for name, each in contenders.items()
        if not given.only or any(part in name for part in given.only)
    }
    trial = Trial(given.quick, given.repeats)
    for target in TARGETS:
        found: list[Measurement] = []
        for name, contender in chosen.items():
            found += trial.climb(name, contender, target)
        for name, ratio in ratios(found).items():
            print(
                f"{name}: {ratio['fewer_gradients']:.1f} times fewer gradients and "
                f"{ratio['less_time']:.1f} times less time than dopri5"
            )
        title = f"Tanh MLP, P = {len(trial.problems[0].theta0):,}, path error {target:g}"
        extra = {"ratios_to_dopri5": ratios(found), "seeds": trial.seeds, "target": target}
        name = f"many_parameters_{target:.0e}".replace("e-0", "e-")
        report(name, title, found, omissions, extra, given.output)


if __name__ == "__main__":
    main()
