"""Transactions, and the driver's errors as fedsweep's."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep.errors import (
    FedsweepError,
    StoreStandby,
)
from fedsweep.store import driver_errors, identity
from fedsweep.store.access import access_of
from fedsweep.store.dialects import dialect_of, sqlite_file
from fedsweep.store.dialects.postgres_engine import connector_of
from fedsweep.store.location import shown
from fedsweep.store.outage import OUTAGE, OUTAGE_SECONDS, note_outage, note_served
from fedsweep.store.write_lock import hold_write_lock

T = TypeVar("T")


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that may write. All of it is committed, or none.

    Raises:
        StoreBusy: SQLite stayed locked for LOCK_WAIT_SECONDS.
        StoreReplaced: the database is no longer the one that was opened.
        StoreError: the database is read-only or out of reach.

    """
    file = sqlite_file(engine.url)
    identity.require_file(engine)
    with (
        translated(engine),
        engine.connect().execution_options(writes=True) as connection,
        nullcontext() if file is None else hold_write_lock(file),
        connection.begin(),
    ):
        identity.require_store(connection)
        yield connection
    identity.require_file(engine)
    note_served()


def patiently(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Do work in a transaction. If the database does not answer, retry for a while.

    The work may be done twice, because an answer can be lost after the commit.
    """

    def once() -> T:
        with transaction(engine) as connection:
            return work(connection)

    return through_an_outage(once)


def through_an_outage(work: Callable[[], T]) -> T:
    """Do work. If the database does not answer, retry for a while."""
    deadline, wait = time.monotonic() + OUTAGE_SECONDS, 0.2
    while True:
        try:
            return work()
        except OUTAGE:
            if time.monotonic() + wait > deadline:
                raise
            time.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, 5.0)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that only reads one consistent state of the whole database."""
    options = dialect_of(engine).read_options
    with translated(engine), engine.connect().execution_options(**options) as connection:
        access = access_of(engine)
        before = access.file_states() if access is not None else ()
        yield connection
        if access is not None and access.without_locks:
            access.require_unchanged(before)


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """Turn the driver's errors into fedsweep's. This is the only place that does it."""
    try:
        yield
    except Exception as error:
        wrapped = driver_errors.wrapped(error, engine)
        ours = error if wrapped is None else _domain_error(engine, wrapped)
        note_outage(ours)
        if wrapped is None:
            raise
        raise ours or wrapped from error


ARGUMENT = "fedsweep_argument"
"""The execution option with the name of the argument that gave the URL, if it is not --db."""


def _domain_error(
    engine: Engine, error: SQLAlchemyError | UnicodeEncodeError
) -> FedsweepError | None:
    ours = _in_our_words(engine, error)
    name = engine.get_execution_options().get(ARGUMENT)
    if ours is None or name is None:
        return ours
    return type(ours)(str(ours).replace("--db", name))


def _in_our_words(
    engine: Engine, error: SQLAlchemyError | UnicodeEncodeError
) -> FedsweepError | None:
    code = driver_errors.sqlstate(error)
    ours = driver_errors.translate(shown_url(engine.url), error)
    if code in driver_errors.RECOVERY:
        ours = _on_a_standby(engine, error) or ours
    if code in driver_errors.POOLED:
        connector_of(engine).pooled = True  # the next connection has no prepared statements
    if code in driver_errors.POOLED | driver_errors.RECOVERY:
        engine.dispose()  # after a failover another host may be the primary
    return ours


def _on_a_standby(
    engine: Engine, error: SQLAlchemyError | UnicodeEncodeError
) -> FedsweepError | None:
    """Return StoreStandby if the server is, or just was, a standby; None if it is not."""
    options = dialect_of(engine).read_options  # all that a standby grants
    try:
        with engine.connect().execution_options(**options) as connection:
            recovers, reads = connection.execute(sa.text(_ROLE)).one()
    except SQLAlchemyError as gone:
        return driver_errors.translate(shown_url(engine.url), gone)
    writable = reads == "off" and not connector_of(engine).read_only
    promoted = driver_errors.sqlstate(error) == "25006" and writable
    if not recovers and not promoted:
        return None
    return StoreStandby(
        f"{shown_url(engine.url)} is a standby, which only reads: name the primary in --db, or "
        "several hosts with target_session_attrs=read-write"
    )


_ROLE = "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')"


def shown_url(url: URL) -> str:
    """Return the URL for a message, as it was written, without its password."""
    if (file := sqlite_file(url)) is not None:
        return f"sqlite:///{shown(file)}"
    text = url.set(drivername=url.drivername.partition("+")[0]).render_as_string()
    place, mark, query = text.partition("?")
    for coded, plain in (("+", "%20"), ("%2C", ","), ("%2F", "/")):
        query = query.replace(coded, plain)
    return place + mark + query
