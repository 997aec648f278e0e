"""Messages between a slot and its watch, and the options of a run."""

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
from fedsweep.plans import Round
from fedsweep.states import Outcome
from fedsweep.store import (
    driver_errors,
)
from fedsweep.store.claim import Claim
from fedsweep.store.identity import Identity
from fedsweep.store.stops import Lack


@dataclass(frozen=True)
class WorkOptions:
    """Options of one run of `fedsweep work`."""

    url: str
    devices: tuple[str, ...] = ("cpu",)
    slots: int = 1
    packed: bool = False
    """True if one process per device trains as many trials as pay. `slots` is then the number of
    its slots."""
    threads: int = 1
    sweep: str | None = None
    until_empty: bool = False
    max_trials: int | None = None
    max_hours: float | None = None
    max_attempts: int = queue.MAX_ATTEMPTS
    data: Path | None = None
    engine: str = "auto"
    """The engine that the user asks for: see `trainers.engines.WISHES`."""
    lease: float = queue.LEASE_SECONDS
    grace: float = 20.0
    """Seconds that a stopping slot has to finish its round."""
    artifacts: tuple[str, ...] = ()
    """Places for files that the user has approved for this worker."""
    identity: Identity | None = None
    """The store that the watch has opened. Its slots refuse to open another one."""
    notify: tuple[str, ...] = field(default=(), repr=False)
    """URLs of webhooks that get notices of ends, failures and stalls. They are secrets."""


@dataclass(frozen=True)
class Broken:
    """Message of a slot whose process ends for good."""

    why: str
    """The reason, in one sentence."""
    blameless: bool
    """True if the store or the machine is at fault. The trial that it held is then given back."""
    replaced: bool = False
    """True if the store is no longer the one that was opened."""


@dataclass(frozen=True)
class Lacking:
    """Message of a slot that passes over trials, because its machine lacks what they need."""

    why: str
    """The reason, in one sentence."""
    lack: Lack


@dataclass(frozen=True)
class Decided:
    """Message about how many trials a process trains at the same time."""

    decision: str
    """The decision and its reason, in one sentence."""


class Ask(Enum):
    """Request of a slot to its watch, with --max-trials."""

    TRIAL = 1
    """Grant one trial."""
    BACK = 2
    """Take back one trial that was granted and not trained."""


@dataclass(frozen=True)
class Ended:
    """Message of a slot about the end of one attempt."""

    slot: int
    claim: Claim
    outcome: Outcome | None
    """None if the claim was lost."""
    last: Round | None
    """The last round of the attempt. None if it ended before its first round."""
    seconds: float
    error: str | None = None
    """The kind of the failure, and the first line of its error."""
    again: float | None = None
    """Seconds until a failed trial is tried again. None: it is not tried again."""


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
    """Return an error of fedsweep or of the database's driver as one sentence."""
    if isinstance(error, FedsweepError):
        return str(error)
    return driver_errors.refusal(error)
