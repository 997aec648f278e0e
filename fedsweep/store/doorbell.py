"""What an idle worker waits at: woken when there is something to claim, else after a while.

SQLite has no such thing: there a wait is a short sleep, and the file is on the same machine. On
Postgres it is LISTEN, on a connection of its own, as long as the server has many left: listeners
must never take the last ones from those that work.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import psycopg.sql
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep.store.engine import connector_of

POLL_SECONDS = (0.2, 1.0)
"""An idle worker looks again after a random wait between these, where nothing wakes it."""
JITTER_SECONDS = 0.5
"""So that not all of them come at the same moment."""
SLICE_SECONDS = 0.1
"""How soon it notices that it is to stop."""


class Doorbell:
    """One worker's, on one channel of a store."""

    def __init__(self, engine: Engine, channel: str) -> None:
        self.engine = engine
        self.channel = channel
        self.listening: psycopg.Connection[Any] | None = None

    def wait(self, seconds: float, stopping: Callable[[], bool]) -> None:
        """Wait for a ring; for `seconds` and a little at most, for less where none can come."""
        if self.listening is None and _LISTEN[self.engine.dialect.name](self):
            return  # what happened before it listened made no sound
        if self.listening is None:
            _sleep(random.uniform(*POLL_SECONDS), stopping)
            return
        until = time.monotonic() + max(seconds, 0.0) + random.uniform(0.0, JITTER_SECONDS)
        try:
            while time.monotonic() < until and not stopping():
                if list(self.listening.notifies(timeout=SLICE_SECONDS, stop_after=1)):
                    return
        except psycopg.Error:  # the server is gone: poll until it is back
            self.close()

    def close(self) -> None:
        """Listen no longer; the next wait does again."""
        if self.listening is not None:
            with suppress(psycopg.Error):
                self.listening.close()
            self.listening = None


def _listen_sqlite(_bell: Doorbell) -> bool:
    return False


def _listen_postgres(bell: Doorbell) -> bool:
    """Listen, where that is possible: on a connection that no pool knows.

    Through a connection pooler a notification reaches nobody: the worker polls.
    """
    try:
        with bell.engine.connect() as connection:
            if connector_of(bell.engine).pooled:
                return False
            if not connection.execute(_FEW_CONNECTIONS).scalar_one():
                return False
        raw = bell.engine.raw_connection()
        driver = raw.driver_connection  # before it leaves the pool: then it is forgotten
        raw.detach()
        assert isinstance(driver, psycopg.Connection)
        driver.autocommit = True
        driver.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(bell.channel)))
    except (SQLAlchemyError, psycopg.Error):
        return False
    bell.listening = driver
    return True


_LISTEN = {"sqlite": _listen_sqlite, "postgresql": _listen_postgres}
_FEW_CONNECTIONS = sa.text(
    "SELECT count(*) * 2 < current_setting('max_connections')::int FROM pg_stat_activity"
)


def _sleep(seconds: float, stopping: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stopping():
        time.sleep(SLICE_SECONDS / 2)
