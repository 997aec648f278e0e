"""Statements that the driver executes directly, without SQLAlchemy's work on each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from fedsweep.store import driver_errors

T = TypeVar("T")


def executed(connection: Connection, text: str, execute: Callable[[Any], T]) -> T:
    """Execute a statement with the driver's cursor, and return the result.

    The driver's errors become SQLAlchemy's errors. A dead connection is invalidated.
    """
    if not connection.in_transaction():
        connection.begin()
    driver = connection.connection
    cursor = driver.cursor()
    dialect = connection.dialect
    try:
        return execute(cursor)
    except dialect.loaded_dbapi.Error as error:
        dead = dialect.is_disconnect(error, driver, cursor)
        if dead:
            connection.invalidate(error)
        driver_errors.note_engine(error, connection.engine)
        raise DBAPIError.instance(
            text,
            None,
            error,
            dialect.loaded_dbapi.Error,
            connection_invalidated=dead,
            dialect=dialect,
        ) from error
    except BaseException as error:
        if not isinstance(error, Exception):  # the state of the connection is unknown
            connection.invalidate(error)
        raise
    finally:
        cursor.close()
