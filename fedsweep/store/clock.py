"""The database's clock, and the times that can have been set on it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.store.dialects import dialect_of
from fedsweep.store.dialects.postgres import SERVER_TIME
from fedsweep.store.moment import Moment

LONGEST_LEASE = 6 * 3600.0
"""Seconds that a lease lasts at most."""


AHEAD_SECONDS = LONGEST_LEASE + 60.0
"""A lease or a delay that ends later than that was set on another clock: one of another time
namespace, or a server's before it was set back."""


def read_clock(connection: Connection) -> Moment:
    """Now, on the database's clock."""
    return dialect_of(connection).clock()


def as_sql(now: Moment) -> sa.ColumnElement[float]:
    """A moment's seconds, for a statement that is built for it."""
    return SERVER_TIME if now.seconds is None else sa.literal(now.seconds, sa.Double())


def is_ahead(time: sa.ColumnElement[Any], now: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    """Return the condition that a time cannot have been set on the clock of `now`."""
    return time > now + AHEAD_SECONDS
