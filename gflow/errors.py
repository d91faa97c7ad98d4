"""Every error that gflow raises on purpose.

The tree (indentation is inheritance), with the exit code that the command line gives it::

    GflowError               1
        UsageError           2   the request itself is wrong
            ConfigError      2   a key or value of the configuration
            DataError        2   the input data
            MethodError      2   the integrator's name or options
            ProblemError     2   shapes, dtypes or non-finite values given to a problem
            StudyError       2   a study's folder, or what its own code does
            StoreError       2   a file that cannot be read or written
                SchemaError  2   a file or tree that does not follow the schema
                WriteError   1   a run's file that could no longer be written
                LockedError  1   a file that another process is writing
        EquilibriumError     1   the fixed point of a DEQ does not exist or is not unique

A run that ends early raises none of these: it returns its partial trajectory with a
:class:`gflow.status.Status`.
"""

from __future__ import annotations


class GflowError(Exception):
    """Base class. The message is one sentence or more: what, where, what to try."""

    exit_code = 1


class UsageError(GflowError):
    """The request is wrong; nothing was computed."""

    exit_code = 2


class ConfigError(UsageError):
    """A key or a value of the configuration is wrong."""


class DataError(UsageError):
    """The input data cannot be used."""


class MethodError(UsageError):
    """The integrator's name, options or tolerances are wrong."""


class ProblemError(UsageError):
    """Arguments of a problem, model, flow or descent are wrong."""


class StudyError(UsageError):
    """A study cannot be found or read, or its own code fails."""


class StoreError(UsageError):
    """A file cannot be read or written."""


class SchemaError(StoreError):
    """A dataset does not follow the schema of :mod:`gflow.schema`."""


class WriteError(StoreError):
    """A run's file could be written when it began, and no longer."""

    exit_code = 1


class LockedError(StoreError):
    """A file is being written by another process."""

    exit_code = 1


class EquilibriumError(GflowError):
    """The fixed point of a DEQ does not exist, is not unique, or was not reached."""
