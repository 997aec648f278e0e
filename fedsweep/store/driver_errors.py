"""Translation of the drivers' errors into fedsweep's: by SQLSTATE, by class and by text.

A server's messages are localized (lc_messages), its SQLSTATEs are not.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
from functools import cache

from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import (
    DBAPIError,
    PendingRollbackError,
    ResourceClosedError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from fedsweep import machine
from fedsweep.errors import (
    FedsweepError,
    StoreBusy,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreHeld,
    StoreReadOnly,
    StoreStandby,
    StoreUnreachable,
    hide_secrets,
)

log = logging.getLogger(__name__)

Meaning = tuple[type[FedsweepError], str]

_AWAY: Meaning = (
    StoreUnreachable,
    "{url} cannot be reached ({reason}): check the host, port, user and name in --db",
)
_DOWN: Meaning = (
    StoreUnreachable,
    "{url} does not serve at the moment ({reason}): try again when the server is up",
)
_BUSY: Meaning = (StoreBusy, "{url} was too busy ({reason}): try again")
_CROWDED: Meaning = (
    StoreBusy,
    "{url} has no connection left: try again, or raise its max_connections",
)
_FULL: Meaning = (
    StoreFull,
    "the disk of {url} is full or fails ({reason}): make room; what was committed is safe",
)
_FORBIDDEN: Meaning = (
    StoreReadOnly,
    "the user of {url} may not do that ({reason}): have it granted, or name another in --db",
)
_REFUSED: Meaning = (
    StoreUnreachable,
    "{url} refuses the user or the password: correct them in --db",
)
_POOLED: Meaning = (
    StoreUnreachable,
    "a connection pooler before {url} mixes up prepared statements ({reason}): try again",
)
_READ_ONLY: Meaning = (
    StoreHeld,
    (
        "{url} is read-only ({reason}): turn default_transaction_read_only off, "
        "or name another with --db"
    ),
)
_BROKEN: Meaning = (StoreError, "{url} is damaged ({reason}): restore a backup")

BY_CODE: dict[str, Meaning] = {
    "08": _AWAY,
    "25006": _READ_ONLY,
    "25P03": _DOWN,  # idle_in_transaction_session_timeout
    "25P04": _BUSY,  # transaction_timeout
    "26": _POOLED,
    "28": _REFUSED,
    "3D": _AWAY,
    "40": _BUSY,
    "42501": _FORBIDDEN,
    "42P05": _POOLED,
    "53": _BUSY,
    "53100": _FULL,
    "53300": _CROWDED,
    "55006": _BUSY,
    "55P03": _BUSY,
    "57": _DOWN,
    "57014": _BUSY,
    "58": _FULL,
    "72": _BUSY,
    "F0": _DOWN,
    "XX": _DOWN,
    "XX001": _BROKEN,
    "XX002": _BROKEN,
}
"""Meanings of SQLSTATEs, and of their classes (two characters).

The other classes are faults of a statement or its values: they stay errors of the driver.
"""

POOLED = frozenset({"26000", "42P05"})
"""SQLSTATEs of prepared statements that a connection pooler took to another server process."""

RECOVERY = frozenset({"25006", "0A000", "55000"})
"""SQLSTATEs of a standby that cannot execute a statement. They have other meanings, too."""

_STATEMENT_MODE: Meaning = (
    StoreError,
    (
        "{url} is a connection pooler in statement mode, which has no transactions: "
        "set its pool_mode to transaction, or name the server's own port in --db"
    ),
)

_NO_PRIMARY: Meaning = (
    StoreStandby,
    "{url} has no server that accepts writes ({reason}): try again when one of them is the primary",
)

BY_TEXT: list[tuple[tuple[str, ...], Meaning]] = [
    (("statement pooling mode",), _STATEMENT_MODE),
    (("session is read-only", "server is in hot standby mode"), _NO_PRIMARY),
    (
        ("because other objects depend on it",),
        (
            StoreError,
            (
                "{url} has other views that read fedsweep's ({reason}): "
                "drop them, upgrade, make them again"
            ),
        ),
    ),
    (
        ("readonly database",),
        (
            StoreReadOnly,
            "{url} is read-only: make its file and folder writable, or name another with --db",
        ),
    ),
    (
        ("database is locked",),
        (StoreBusy, "{url} stayed locked by another process for too long: try again"),
    ),
    (("interrupted",), (StoreBusy, "{url} took too long to answer: try again")),
    (
        ("unable to open database file",),
        (StoreError, "{url} cannot be opened: check that its folder exists and is writable"),
    ),
    (
        ("not a database", "malformed"),
        (
            StoreForeign,
            (
                "{url} is no sound SQLite database ({reason}): "
                "restore a backup, or name another with --db"
            ),
        ),
    ),
    (("disk is full", "No space left", "disk I/O error"), _FULL),
    (("too many clients", "remaining connection slots", "too many connections"), _CROWDED),
    (("password authentication failed", "no password supplied"), _REFUSED),
]
"""Meanings by parts of messages without a SQLSTATE: of SQLite, poolers and failed connections.

The first match counts."""


def sqlstate(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of a driver's error, also inside SQLAlchemy's error, or None."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlstate", None)


def lacks_table(error: DBAPIError) -> bool:
    """Return whether a statement failed because its table is missing."""
    return sqlstate(error) == "42P01" or "no such table" in str(error.orig)


def name_engine(engine: Engine) -> None:
    """Note the engine in every error of the engine's connections."""

    def note(context: ExceptionContext) -> None:
        note_engine(context.original_exception, engine)

    event.listen(engine, "handle_error", note)


def note_engine(error: BaseException, engine: Engine) -> None:
    """Note the engine of a driver's error, because the caller may work on several stores."""
    setattr(error, _ENGINE, engine)


def _engine_of(error: BaseException) -> Engine | None:
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, _ENGINE, None)


_ENGINE = "fedsweep_engine"


def wrapped(
    error: Exception, engine: Engine | None = None
) -> SQLAlchemyError | UnicodeEncodeError | None:
    """Return an error of a database or its driver as SQLAlchemy's; None for any other error.

    If an engine is given, return None for errors of other engines: a copy works on two stores.
    """
    if engine is not None and _engine_of(error) not in (None, engine):
        return None
    if isinstance(error, (SQLAlchemyError, UnicodeEncodeError)):
        return error
    psycopg = sys.modules.get("psycopg")  # SQLite does not need it, and its import takes long
    if isinstance(error, sqlite3.Error) or (psycopg and isinstance(error, psycopg.Error)):
        return DBAPIError("", {}, error)
    return None


def translate(shown: str, error: SQLAlchemyError | UnicodeEncodeError) -> FedsweepError | None:
    """Return fedsweep's error for a driver's error.

    Return None for a fault of a statement or its values.
    """
    meaning = _meaning(error)
    if meaning is None:
        return None
    ours, message = meaning
    return ours(message.format(url=shown, reason=first_line(error)))


def refusal(error: SQLAlchemyError | UnicodeEncodeError) -> str:
    """Return the message for an error that has no other meaning."""
    reason = hide_secrets(first_line(error))
    return f"the database refused a statement ({reason}): run `fedsweep db check`"


def _meaning(error: SQLAlchemyError | UnicodeEncodeError) -> Meaning | None:
    if isinstance(error, DBAPIError):
        return _driver_meaning(error)
    return next((meaning for kinds, meaning in _BY_CLASS if isinstance(error, kinds)), None)


_BY_CLASS: list[tuple[type | tuple[type, ...], Meaning]] = [
    (
        UnicodeEncodeError,
        (StoreError, "{url} cannot store a text in its encoding ({reason}): use UTF-8"),
    ),
    (PoolTimeout, _BUSY),
    ((PendingRollbackError, ResourceClosedError), _DOWN),
]


def _driver_meaning(error: DBAPIError) -> Meaning | None:
    text, code = str(error.orig), sqlstate(error)
    if any(part in text for part in _MAY_LACK_FILES) and (lack := machine.no_file_left()):
        _warn_once(lack)
        return StoreBusy, f"{{url}} cannot be opened: {lack}"
    known = BY_CODE.get(code, BY_CODE.get(code[:2])) if code else None
    by_text = next((m for parts, m in BY_TEXT if any(p in text for p in parts)), None)
    if by_text is not None and (known is None or by_text is _STATEMENT_MODE):
        known = by_text
    classes = {c.__name__ for c in type(error.orig).__mro__}
    lost = code is None and bool(classes & {"OperationalError", "InterfaceError"})
    lost = error.connection_invalidated or (lost and not isinstance(error.orig, sqlite3.Error))
    return _AWAY if known is None and lost else known


_MAY_LACK_FILES = (
    "unable to open database file",
    "disk I/O error",
    "Too many open files",
    "connection is bad",
)
"""Parts of the messages of drivers that could not open a file or a socket."""


@cache
def _warn_once(sentence: str) -> None:
    """Warn once that this process waits. A worker continues when it can open files again."""
    log.warning("the database cannot be opened: %s (trying again)", sentence)


def first_line(error: BaseException) -> str:
    """Return the first line of a driver's message."""
    text = str(error.orig if isinstance(error, DBAPIError) else error)
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
