"""A module of 10^5 parameters: its flow by the methods for many, in memory that is bounded."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

CODE = dedent(
    """
    import resource, sys
    import numpy as np, torch
    import gflow

    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers = [torch.nn.Linear(20, 305), torch.nn.Tanh(), torch.nn.Linear(305, 305)]
    net = torch.nn.Sequential(*layers, torch.nn.Tanh(), torch.nn.Linear(305, 1))
    model = gflow.ModuleModel(net, chunk=1000)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 20))
    problem = gflow.Problem(model, x, np.sin(x[:, 0]) * x[:, 1])
    assert problem.n_parameters == 100_041
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tree = gflow.integrate(
        problem, model.initial(), 0.5, method=sys.argv[1], rtol=1e-3, atol=1e-5, times=5,
        store_theta="ends", diagnostics={"sharpness": False},
    )
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flow = tree["flow"]
    residual = np.abs(flow.energy_residual).max() / flow.loss[0]
    print(str(flow.status.values), float(residual), float(flow.loss[-1] / flow.loss[0]))
    print((after - before) / 1024)
    """
)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rkc2", "auto"])
def test_the_flow_of_many_parameters_is_bounded_in_memory(method):
    run = subprocess.run(
        [sys.executable, "-c", CODE, method], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    (status, residual, fall), (megabytes,) = (line.split() for line in run.stdout.splitlines())
    assert status == "t_end"
    assert float(residual) < 1e-2
    assert float(fall) < 0.96
    # One sample forms 611 numbers going forward, a chunk of 1,000 some 40 MB with its graph; all
    # 4,000 at once would take 160 MB, a dense Hessian 80 GB.
    assert float(megabytes) < 400
