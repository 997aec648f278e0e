"""Every error that fedsweep raises on purpose. A class's docstring is its default message.

FedsweepError
├── RequestError              exit 2: the request was wrong, nothing was written
│   ├── PlanError             the plan file
│   ├── DeviceError           the device asked for
│   ├── MachineError          a setting of this machine
│   ├── PackageMissing        a package that a trial needs is not installed here
│   ├── NotFound              a sweep or trial that is not there
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
├── StoreBusy                 exit 1: another process held the database too long
├── OutputLost                exit 1: standard output cannot be written
├── ReaderGone                exit 141: the reader of the output has ended; nothing is said
├── LeaseLost                 the attempt no longer holds its trial; its writes are refused
└── TrialFailed               a trial ended without a result; carries the failure kind
"""

from __future__ import annotations

import re


class FedsweepError(Exception):
    """Something went wrong."""

    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(visible(hide_secrets(message or type(self).__doc__ or "")))


class RequestError(FedsweepError):
    """The request was wrong."""

    exit_code = 2


class PlanError(RequestError):
    """The plan file is wrong."""


class DeviceError(RequestError):
    """There is no such device: choose --device cpu."""


class MachineError(RequestError):
    """A setting of this machine does not allow that."""


class PackageMissing(RequestError):
    """A package that the trial needs is not installed here."""


class NotFound(RequestError):
    """There is no such sweep or trial: `fedsweep status` and `fedsweep trial list` name them."""


class Refused(RequestError):
    """The state of the trial forbids that."""


class SqlRefused(RequestError):
    """Only one reading statement is allowed: SELECT, WITH … SELECT or VALUES."""


class StoreError(RequestError):
    """The database cannot be used."""


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
    """The database server accepts no writes at the moment, which a running worker waits out."""


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
    """The reader of the output has ended."""

    exit_code = 128 + 13  # a shell's status for SIGPIPE, as of other programs in a pipe


class LeaseLost(FedsweepError):
    """The attempt no longer holds its trial."""


class TrialFailed(FedsweepError):
    """The trial ended without a result."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def legible(text: str) -> str:
    """The text without what a database or a terminal would stumble over: control characters, and
    what is not Unicode.
    """
    return _CONTROL.sub("\ufffd", text.encode(errors="replace").decode())


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # but tabs and ends of lines
_PASSWORD_IN_URL = re.compile(r"(?P<head>\w[\w+.-]*://[^\s/:@]*):\S*@")
_PASSWORD_KEY = re.compile(
    r"""(?ix) (\w*(?:password|passwd|token|secret)) \s?=\s?
    (?: '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | [^\s&'"]+ )"""
)


def hide_secrets(text: str) -> str:
    """The text with every password and token of a URL replaced by ***."""
    return _PASSWORD_KEY.sub(r"\1=***", _PASSWORD_IN_URL.sub(r"\g<head>:***@", text))


def visible(text: str) -> str:
    """Text without what a terminal would obey, which others may have put there."""
    return _OBEYED.sub("\N{REPLACEMENT CHARACTER}", text)


_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls but tab and line feed, separators of lines, what turns the direction of writing, and
halves of characters."""
