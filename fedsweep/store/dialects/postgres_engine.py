"""Engines of Postgres: the settings of their connections, and the begin of transactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import OperationalError

from fedsweep.store import driver_errors
from fedsweep.store.texts import codec_of, storable

if TYPE_CHECKING:
    from fedsweep.store.connector import Connector

POSTGRES_SETTINGS = {
    "statement_timeout": "10min",
    "lock_timeout": "60s",
    # After its lease has expired, a stopped worker must not block the worker that takes over.
    "idle_in_transaction_session_timeout": "30s",
    # A database can be configured to write fewer digits. Floats would lose their last bits then.
    "extra_float_digits": "3",
}
"""Settings of each connection to a server. The first one is STATEMENT_SECONDS."""


def engine_of(
    url: URL, *, settings: Mapping[str, str] | None = None, read_only: bool = False
) -> Engine:
    """Return an engine for a server.

    It does not ping a connection before each use: a transaction on a dead connection is retried.
    Connections that are not used are closed (`engine.close_idle`). Few of hundreds of workers
    write at the same time, so that the server's usual hundred connections suffice.
    """
    from fedsweep.store.connector import Connector

    connector = Connector(url, {**POSTGRES_SETTINGS, **(settings or {})}, read_only=read_only)
    engine = sa.create_engine(
        url,
        creator=connector,
        pool_size=1,
        max_overflow=2,
        execution_options={_CONNECTOR: connector},
    )
    event.listen(engine, "begin", _begin)
    event.listen(engine, "connect", _adapt)
    driver_errors.name_engine(engine)
    return engine


_CONNECTOR = "fedsweep_connector"
"""The execution option under which an engine carries its connector."""


def _begin(connection: Connection) -> None:
    import psycopg

    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    if driver.read_only is False:  # SQLAlchemy resets a user's read-only default
        driver.read_only = None
    try:
        connector_of(connection.engine).begin(driver)
    except psycopg.Error as error:  # as if SQLAlchemy had raised it
        if driver.closed:
            connection.invalidate(error)
        driver_errors.note_engine(error, connection.engine)
        raise OperationalError("BEGIN", {}, error) from error


def connector_of(engine: Engine) -> Connector:
    """Return the connector of a server's engine."""
    return cast("Connector", engine.get_execution_options()[_CONNECTOR])


def _adapt(driver: Any, _record: object) -> None:
    """Make a connection escape the characters that its server cannot store."""
    from psycopg import DataError  # a command on SQLite does not need it
    from psycopg.types.string import StrDumperUnknown

    codec = codec_of(driver.info.parameter_status("server_encoding") or "UTF8")

    class Storable(StrDumperUnknown):
        def dump(self, obj: str) -> Any:
            fits = codec == "utf-8" or obj.isascii()
            try:
                return super().dump(obj if fits else storable(obj, codec))
            except (UnicodeEncodeError, DataError):
                return super().dump(storable(obj, codec))

    driver.adapters.register_dumper(str, Storable)
