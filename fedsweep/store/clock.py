"""The database's clock, and the check if a time can have been set on it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.store.dialects import dialect_of
from fedsweep.store.dialects.postgres import SERVER_TIME
from fedsweep.store.moment import Moment

LONGEST_LEASE = 6 * 3600.0
"""Maximum length of a lease in seconds."""


AHEAD_SECONDS = LONGEST_LEASE + 60.0
"""Maximum seconds from now to the end of a lease or a delay.

A later end was set on another clock. That is the clock of another time namespace, or the server's
clock before it was set back."""


def read_clock(connection: Connection) -> Moment:
    """Return the current time on the database's clock."""
    return dialect_of(connection).clock()


def as_sql(now: Moment) -> sa.ColumnElement[float]:
    """Return a moment's seconds as an SQL expression."""
    return SERVER_TIME if now.seconds is None else sa.literal(now.seconds, sa.Double())


def is_ahead(time: sa.ColumnElement[Any], now: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    """Return the SQL condition that a time cannot have been set on the clock of `now`."""
    return time > now + AHEAD_SECONDS
