"""The errors that fedsweep raises on purpose. The docstring of a class is its default message.

FedsweepError
├── RequestError              exit code 2: the request was wrong; nothing was written
│   ├── PlanError             the plan file
│   ├── DeviceError           the device that was requested
│   ├── MachineError          a setting of this machine
│   ├── MachineLacks          this machine lacks something that a trial needs
│   │   ├── PackageMissing
│   │   └── DataMissing
│   ├── NotFound              a sweep or trial that does not exist
│   ├── Refused               a change that the state of a trial forbids
│   ├── SqlRefused            a statement that does more than read, or reads too long
│   └── StoreError            the database
│       ├── StoreMissing
│       │   └── StoreEmpty
│       ├── StoreUnreachable
│       │   └── StoreStandby
│       ├── StoreReadOnly
│       │   └── StoreHeld        also StoreUnreachable
│       ├── StoreFull
│       ├── StoreForeign
│       ├── StoreReplaced
│       ├── SchemaOld
│       └── SchemaNew
├── StoreBusy                 exit code 1: another process locked the database for too long
├── OutputLost                exit code 1: standard output cannot be written
├── ReaderGone                exit code 141: the reader of the output has ended; no message
├── LeaseLost                 the attempt no longer holds its trial; its writes are refused
└── TrialFailed               a trial ended without a result; carries the failure kind
"""

from __future__ import annotations

from fedsweep.redaction import clipped
from fedsweep.redaction import hide_secrets as hide_secrets  # noqa: PLC0414  # re-exported
from fedsweep.redaction import legible as legible  # noqa: PLC0414  # re-exported
from fedsweep.redaction import visible as visible  # noqa: PLC0414  # re-exported

EXIT_CODES = {
    0: "The command did its work.",
    1: "The command did its work, and the result is negative, or something failed on the way: "
    "`verify` found a difference, `db check` found a fault, `work --strict` has failed trials, a "
    "worker cannot train, or the output cannot be written.",
    2: "The request was wrong, the database cannot be used, or this machine cannot do it.",
    130: "Ctrl-C ended the command.",
    141: "The reader of the command's output has ended, as in `fedsweep status | head -1`.",
}
"""Every exit code of a command, with its meaning."""

LONGEST = 10_000
"""Characters of a message. It is one sentence, but may quote a server or a request."""


class FedsweepError(Exception):
    """Something went wrong: read the message."""

    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        text = visible(hide_secrets(message or type(self).__doc__ or ""))
        super().__init__(clipped(text, LONGEST))


class RequestError(FedsweepError):
    """The request was wrong: correct it. Nothing was written."""

    exit_code = 2


class PlanError(RequestError):
    """The plan file is wrong: correct the key that the message names."""


class DeviceError(RequestError):
    """There is no such device: choose --device cpu."""


class MachineError(RequestError):
    """A setting of this machine does not allow that: change it, or use another machine."""


class MachineLacks(RequestError):
    """The machine lacks something that the trial needs: another machine may train it."""

    def __init__(
        self, message: str | None = None, lack: tuple[tuple[str, str | None], ...] | None = None
    ) -> None:
        super().__init__(message)
        self.lack = lack
        """The fields of the configurations that need it; None if only this trial needs it."""


class PackageMissing(MachineLacks):
    """A package that the trial needs is not installed here: install it."""


class DataMissing(MachineLacks):
    """The data that the trial needs are not here: name their folder with --data."""


class NotFound(RequestError):
    """There is no such sweep or trial: `fedsweep status` and `fedsweep trial list` name them."""


class Refused(RequestError):
    """The state of the trial forbids that: `fedsweep trial show` prints its state."""


class SqlRefused(RequestError):
    """Only one reading statement is allowed: SELECT, WITH … SELECT or VALUES."""


class StoreError(RequestError):
    """The database cannot be used: check --db."""


class StoreMissing(StoreError):
    """There is no database there: `fedsweep plan` makes one, or name another with --db."""


class StoreEmpty(StoreMissing):
    """The database is empty: `fedsweep plan FILE` fills it."""


class StoreUnreachable(StoreError):
    """The database server does not answer: check the host, port, user and password in --db."""


class StoreStandby(StoreUnreachable):
    """The database server is a standby, which only reads: name the primary in --db."""


class StoreReadOnly(StoreError):
    """The database is read-only: make its file and folder writable, or name another with --db."""


class StoreHeld(StoreReadOnly, StoreUnreachable):
    """The database server accepts no writes at the moment: try again. A running worker waits."""


class StoreFull(StoreError):
    """The disk of the database is full: make room; nothing that was committed is lost."""


class StoreForeign(StoreError):
    """That is not a fedsweep database: name another with --db."""


class StoreReplaced(StoreError):
    """The database was deleted or replaced while it was in use: start again."""


class SchemaOld(StoreError):
    """The database has an older schema: back it up, then run `fedsweep db upgrade`."""


class SchemaNew(StoreError):
    """The database was written by a newer fedsweep: upgrade this installation."""


class StoreBusy(FedsweepError):
    """The database stayed locked by another process: try again."""


class OutputLost(FedsweepError):
    """Standard output cannot be written: make room, or send it elsewhere."""


class ReaderGone(FedsweepError):
    """The reader of the output has ended: the command ends without a message."""

    exit_code = 128 + 13  # a shell's status for SIGPIPE, as other programs in a pipe have


class LeaseLost(FedsweepError):
    """The attempt no longer holds its trial: another attempt may train it."""


class TrialFailed(FedsweepError):
    """The trial ended without a result: `fedsweep trial logs` prints the reason."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
