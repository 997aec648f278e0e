"""Errors of a training run: the kind of failure, and the errors that the machine caused."""

from __future__ import annotations

from fedsweep import machine
from fedsweep.errors import (
    hide_secrets,
    legible,
)
from fedsweep.redaction import clipped
from fedsweep.states import FailureKind
from trainers import engines

ERROR_LENGTH = 4_000
"""Characters of an attempt's error that are stored. Pages and terminals show it as one line."""


def machine_limit(error: Exception) -> str | None:
    """Return the sentence for an error that a setting of this machine caused, None otherwise."""
    from trainers.data.errors import MachineLimit

    return str(error) if isinstance(error, MachineLimit) else machine.fault(error)


def failure_kind(error: Exception, trainer: engines.Engine) -> FailureKind:
    """Return the kind of failure that an error of the engine is."""
    full = isinstance(error, MemoryError) or trainer.is_out_of_memory(error)
    return FailureKind.OUT_OF_MEMORY if full else FailureKind.ERROR


def one_line(error: BaseException) -> str:
    """Return an error in one line, without secrets: its type and its message."""
    text = clipped(hide_secrets(legible(" ".join(str(error).split()))), ERROR_LENGTH)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
