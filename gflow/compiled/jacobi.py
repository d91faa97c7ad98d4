"""Eigenvalues and eigenvectors of many small symmetric matrices, in C."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from gflow.compiled.compiler import CannotCompileError, library, source_of, switched_off
from gflow.compiled.inputs import is_plain
from gflow.compiled.threads import divided

FEWEST = 6
"""Matrices from which those beside each other are faster than LAPACK's one after the other."""
LARGEST = 16
"""Rows of a matrix up to which rotations are, with vectors of 512 bits, whatever the spectrum."""
SHARE = 2**24
"""Matrices times the cube of their rows, some milliseconds, that are worth a thread."""


class _Job(ctypes.Structure):
    """As ``jacobi.c`` has it."""

    _fields_ = (
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("matrices", "values", "vectors", "found")),
    )


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    try:
        made = library(source_of(("lanes.h", "jacobi.c"), {}, {}))
    except CannotCompileError:
        return None
    made.eigen.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    made.eigen.restype = None
    return made


def eigenpairs_in_c(matrices: Tensor) -> tuple[Tensor, Tensor] | None:
    """Eigenvalues (B, P), in no order, and eigenvectors (B, P, P) of symmetric matrices (B, P, P).

    Values are NaN where a matrix is not finite. None if C does not serve: there is no compiler, or
    the matrices are few or large, or no plain numbers on the host.
    """
    if matrices.ndim != 3 or not is_plain(matrices) or switched_off():
        return None
    rows, size, columns = matrices.shape
    suited = rows >= FEWEST and 0 < size == columns <= LARGEST
    functions = _library() if suited else None
    if functions is None:
        return None
    matrices = matrices.contiguous()
    values, vectors = torch.empty_like(matrices[..., 0]), torch.empty_like(matrices)
    found = torch.empty(rows, dtype=torch.bool)
    held = (matrices, values, vectors, found)
    job = _Job(size, *(tensor.data_ptr() for tensor in held))
    divided(functions.eigen, job, held, rows, max(1, SHARE // size**3))
    if not bool(found.all()):
        values[~found], vectors[~found] = torch.linalg.eigh(matrices[~found])
    return values, vectors
