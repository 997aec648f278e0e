"""The schema: created in an empty database, checked at every start, upgraded on request."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

import fedsweep
from fedsweep.errors import Refused, SchemaNew, SchemaOld, StoreForeign
from fedsweep.store import catalog, identity
from fedsweep.store.clock import as_sql, is_ahead, read_clock
from fedsweep.store.dialects import dialect_of
from fedsweep.store.dialects.base import Lock
from fedsweep.store.engine import make_engine
from fedsweep.store.tables import trials
from fedsweep.store.transactions import reading, transaction
from fedsweep.store.views import create_views, drop_views

if TYPE_CHECKING:
    from alembic.config import Config

REVISIONS = ("0009", "0008", "0007", "0006", "0005", "0004", "0003", "0002", "0001")
"""Every revision that this version knows, the newest first.

The list is written down because Alembic takes a fifth of a second to import. Only a migration needs
it.
"""


def open_store(url: str, *, create: bool = False) -> Engine:
    """Return an engine for a store with the current schema. An empty database gets the
    schema.

    Raises:
        StoreError: it is missing, unreachable, read-only, foreign, older or newer.

    """
    engine = make_engine(url, create=create)
    try:
        with reading(engine) as connection:
            empty = is_empty(connection)
            if not empty:
                check(connection)
                identity.remember(connection)
        if empty:
            migrate(engine)
            with reading(engine) as connection:
                identity.remember(connection)
    except BaseException:
        engine.dispose()
        raise
    return engine


def open_to_write(url: str) -> Engine:
    """Return an engine for a store that its user may change now.

    Raises:
        StoreError: It cannot be used, is read-only or a standby, or the user has no right to it.

    """
    engine = open_store(url)
    try:
        with transaction(engine) as connection:
            connection.execute(_MAY_WRITE)
    except BaseException:
        engine.dispose()
        raise
    return engine


_MAY_WRITE = sa.select(trials.c.id).where(sa.false()).with_for_update()
"""Locks no row. A server refuses it to those who cannot write; SQLite's transaction does."""


def check(connection: Connection) -> None:
    """Refuse a database that this version cannot use as it is."""
    revision = current(connection)
    if revision is None:
        raise StoreForeign(catalog.foreign(connection, catalog.contents(connection)))
    if revision not in REVISIONS:
        raise SchemaNew
    if revision != head():
        raise SchemaOld


def migrate(engine: Engine) -> tuple[str | None, str]:
    """Upgrade a store to the current schema in one transaction. Return the revisions before and
    after.

    Several processes may start it at the same time. The first one upgrades, and the others wait and
    then see that it is done.

    Raises:
        Refused: workers of the older version hold trials.
        StoreForeign, SchemaNew: it is not ours to migrate.

    """
    with transaction(engine) as connection:
        dialect = dialect_of(engine)
        dialect.lift_time_limits(connection)
        dialect.lock(connection, Lock.SCHEMA)
        before = current(connection)
        if before is None:
            catalog.require_empty(connection)
        if before is not None and before != head():
            with contextlib.suppress(SchemaOld):
                check(connection)
            _refuse_running(connection)
        if before != head():
            from alembic import command

            config = _config()
            config.attributes["connection"] = connection
            drop_views(connection)
            command.upgrade(config, "head")
            create_views(connection)
    return before, head()


def _refuse_running(connection: Connection) -> None:
    """Refuse to change the tables while workers use them."""
    now = read_clock(connection)
    leases = sa.table("trials", sa.column("lease_until"), sa.column("clock"), sa.column("state"))
    held = sa.select(sa.func.count()).where(
        leases.c.state == "running",
        leases.c.clock == now.clock,
        leases.c.lease_until >= as_sql(now),
        sa.not_(is_ahead(leases.c.lease_until, as_sql(now))),
    )
    if count := connection.execute(held).scalar_one():
        raise Refused(
            "workers of the older version are training here "
            f"({count}): stop them (SIGTERM saves and gives back what they hold), then upgrade"
        )


def current(connection: Connection) -> str | None:
    """Return the revision of a store's schema, None if fedsweep's tables are not there."""
    contents = catalog.contents(connection)
    if not contents.ours or "alembic_version" not in contents.names:
        return None
    rows = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all()
    # Another application that uses Alembic may have added its own row.
    return next((one for one in REVISIONS if one in rows), str(rows[0]) if rows else None)


def head() -> str:
    """Return the revision that this version writes."""
    return REVISIONS[0]


def is_empty(connection: Connection) -> bool:
    """Return whether nothing lies in the database: fedsweep may make its tables."""
    return catalog.contents(connection).empty


def _config() -> Config:
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)
    package = Path(fedsweep.__file__).parent
    installed = package / "migrations"
    config = Config()
    config.set_main_option(
        "script_location", str(installed if installed.is_dir() else package.parent / "migrations")
    )
    return config
