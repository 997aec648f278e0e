"""The messages between a slot and its watch, and the options of the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from fedsweep import machine, queue
from fedsweep.errors import (
    FedsweepError,
    MachineError,
)
from fedsweep.plan import Round
from fedsweep.states import Outcome
from fedsweep.store import (
    driver_errors,
)
from fedsweep.store.claim import Claim
from fedsweep.store.identity import Identity
from fedsweep.store.stops import Lack


@dataclass(frozen=True)
class Options:
    """What `fedsweep work` was asked for."""

    url: str
    devices: tuple[str, ...] = ("cpu",)
    slots: int = 1
    threads: int = 1
    sweep: str | None = None
    until_empty: bool = False
    max_trials: int | None = None
    max_hours: float | None = None
    max_attempts: int = queue.MAX_ATTEMPTS
    data: Path | None = None
    lease: float = queue.LEASE_SECONDS
    grace: float = 20.0
    """Seconds that a stopping slot gets to finish its round."""
    artifacts: tuple[str, ...] = ()
    """Places for files that the user has approved for this worker."""
    identity: Identity | None = None
    """The store that the watching process has opened: its slots open no other one."""
    notify: tuple[str, ...] = field(default=(), repr=False)
    """Webhooks that are told of ends, failures and stalls: secrets."""


@dataclass(frozen=True)
class Broken:
    """Why a slot's process ends for good, in one sentence."""

    why: str
    blameless: bool
    """True if the store or the machine is at fault. The trial that it held is then given back."""
    replaced: bool = False
    """True if the store is no longer the one that was opened: nothing else can be said."""


@dataclass(frozen=True)
class Lacking:
    """Trials that a slot passes over, because its machine lacks what they need."""

    why: str
    lack: Lack


class Ask(Enum):
    """What a slot asks of its watch where --max-trials limits it."""

    TRIAL = 1
    BACK = 2


@dataclass(frozen=True)
class Ended:
    """One attempt's end, as its slot reported it; no outcome where the claim was lost."""

    slot: int
    claim: Claim
    outcome: Outcome | None
    last: Round | None
    seconds: float
    error: str | None = None
    """Why it failed: the kind, and the first line of what was said."""
    again: float | None = None
    """Seconds until a failed trial is tried again, None for never."""


@contextmanager
def machine_faults() -> Iterator[None]:
    """Turn an error that a setting of this machine caused into one sentence."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if (sentence := machine.fault(error)) is None:
            raise
        raise MachineError(sentence) from error


def sentence(error: FedsweepError | SQLAlchemyError) -> str:
    """Return an error of ours, or of the database's driver, as one sentence."""
    if isinstance(error, FedsweepError):
        return str(error)
    return driver_errors.refusal(error)
