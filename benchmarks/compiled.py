"""What compiled code would gain: tsit5 for linear DEQs as one loop in C, row after row.

The ensembles of :mod:`ensemble`. The loop has the stages, error estimate, step control and dense
output of gflow's ``tsit5`` and nothing else: no log, no rules, no verdicts. It is compiled at the
start by ``cc`` and is not part of gflow. Usage::

    OMP_NUM_THREADS=1 python benchmarks/compiled.py [--only NAME,..] [--repeats N] [--quick]
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ensemble import RTOL, Array, Ensemble, Solve, ensemble, gflow_contenders, judged, reference
from harness import options, race, report

from gflow.integrators.explicit import TSIT5

SOURCE = r"""
#include <math.h>
#include <string.h>

/* Minus the gradient of sum_i sigma_i (a_i - xi_i)^2 at a = theta1 / (1 - theta2). */
static inline void field(const double *sigma, const double *xi, const double *y, double *out) {
    double r = 1 / (1 - y[d]), last = 0;
    for (int i = 0; i < d; i++) {
        double a = y[i] * r, w = 2 * sigma[i] * (a - xi[i]) * r;
        out[i] = -w;
        last -= w * a;
    }
    out[d] = last;
}

static long one(const double *sigma, const double *xi, double *y, const double *times, int saves,
                double rtol, double atol, double *out) {
    double k[7][P], z[P], t = 0, h = 1e-4, before = 1, end = times[saves - 1];
    int saved = 1;
    long count = 1;
    memcpy(out, y, sizeof z);
    field(sigma, xi, y, k[0]);
    while (t < end) {
        if (t + 1.01 * h >= end) h = end - t;
        for (int j = 1; j < 7; j++) {
            for (int p = 0; p < P; p++) {
                double v = 0;
                for (int q = 0; q < j; q++) v += A[7 * j + q] * k[q][p];
                z[p] = y[p] + h * v;
            }
            field(sigma, xi, z, k[j]);
            count++;
        }
        double error = 0;
        for (int p = 0; p < P; p++) {
            double v = 0;
            for (int q = 0; q < 7; q++) v += E[q] * k[q][p];
            v *= h / (atol + rtol * fmax(fabs(y[p]), fabs(z[p])));
            error += v * v;
        }
        error = sqrt(error / P);
        double factor = fmin(5, fmax(0.2, 0.9 * pow(error + 1e-12, -0.14) * pow(before, 0.08)));
        if (error <= 1) {
            for (; saved < saves && times[saved] <= t + h * (1 + 1e-12); saved++) {
                double x = (times[saved] - t) / h, w[7];
                for (int q = 0; q < 7; q++) {
                    const double *c = D + 4 * q;
                    w[q] = h * x * (c[0] + x * (c[1] + x * (c[2] + x * c[3])));
                }
                for (int p = 0; p < P; p++) {
                    double v = y[p];
                    for (int q = 0; q < 7; q++) v += w[q] * k[q][p];
                    out[saved * P + p] = v;
                }
            }
            t += h;
            memcpy(y, z, sizeof z);
            memcpy(k[0], k[6], sizeof z);
            before = fmax(error, 1e-4);
        }
        h *= factor;
    }
    return count;
}

long run(int rows, const double *sigma, const double *xi, double *y, const double *times,
         int saves, double rtol, double atol, double *out) {
    long count = 0;
    for (long b = 0; b < rows; b++)
        count += one(sigma, xi + b * d, y + b * P, times, saves, rtol, atol, out + b * saves * P);
    return count;
}
"""


def compiled(size: int) -> ctypes.CDLL:
    """The loop for inputs of a length, with gflow's coefficients."""
    stages = np.zeros((7, 7))
    for j, row in enumerate(TSIT5.a):
        stages[j, : len(row)] = row
    tables = {"A": stages, "E": TSIT5.error, "D": TSIT5.dense}
    lines = [f"enum {{ d = {size}, P = {size + 1} }};"]
    for name, table in tables.items():
        values = ", ".join(repr(float(v)) for v in table.ravel())
        lines.append(f"static const double {name}[] = {{ {values} }};")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "tsit5.c"), Path(folder, "tsit5.so")
        source.write_text("\n".join(lines) + SOURCE)
        flags = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, str(source), "-o", str(library), "-lm"], check=True)
        return ctypes.CDLL(str(library))


def contender(flows: Ensemble) -> Solve:
    """The compiled loop as the ensembles' contenders are called."""
    loop = compiled(len(flows.sigma)).run
    loop.restype = ctypes.c_long
    number = ctypes.c_double
    rows, size = flows.start.shape
    shape = rows, len(flows.times), size

    def solve(rtol: float) -> tuple[Array, Mapping[str, float]]:
        given = [np.array(a, order="C") for a in (flows.sigma, flows.xi, flows.start, flows.times)]
        theta = np.empty(shape)
        sigma, xi, start, times, out = (
            a.ctypes.data_as(ctypes.POINTER(number)) for a in (*given, theta)
        )
        tolerances = number(rtol), number(1e-3 * rtol)
        count = loop(shape[0], sigma, xi, start, times, shape[1], *tolerances, out)
        return theta, {"gradients": float(count)}

    return solve


def main() -> None:
    """Race it with gflow's own on both ensembles."""
    asked = options(__doc__.splitlines()[0])
    if shutil.which("cc") is None:
        sys.exit("There is no C compiler named cc: install one, or leave this benchmark out.")
    size, suffix = (50, "-quick") if asked.quick else (1000, "")
    for name, scale in (("ensemble-mild", 10**-0.5), ("ensemble", 1.0)):
        flows = ensemble(size, scale)
        truth, gap = reference(flows, asked.output / f"{name}{suffix}_reference_{size}.npy")
        solves = {"C tsit5": contender(flows), **gflow_contenders(flows)}
        contenders = asked.chosen({each: judged(s, truth) for each, s in solves.items()})
        found = race(contenders, (RTOL,), float("inf"), asked.repeats)
        title = f"{name}: {size} linear DEQs, {len(flows.times)} saves, rtol 1e-8"
        extra = {"reference_gap": gap}
        report(f"compiled-{name}{suffix}", title, found, {}, extra, asked.output)


if __name__ == "__main__":
    main()
