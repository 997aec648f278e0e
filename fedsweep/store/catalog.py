"""The tables of a database: fedsweep's own, or those of another application."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import StoreError, StoreForeign
from fedsweep.store.tables import metadata

SIGNATURE = frozenset({"sweeps", "trials", "sweep_members", "attempts", "rounds"})
"""Tables that every revision of the schema has. Other applications have an alembic_version too."""

_TABLES = SIGNATURE | {"alembic_version"} | frozenset(metadata.tables)

NAMED = 3
"""Names of another application's tables that a refusal lists."""


@dataclass(frozen=True)
class Contents:
    """The names in a SQLite file, or in the schema of Postgres where new tables would go."""

    names: frozenset[str]
    """Tables, views, sequences and types, without those that belong to an extension."""
    application: int = 0
    """The application_id in the header of a SQLite file."""
    impostors: frozenset[str] = frozenset()
    """Names of our tables under which something else lies: a view may run anything, a foreign table
    asks another server."""

    @property
    def ours(self) -> bool:
        """Return if fedsweep made the tables."""
        return self.names >= SIGNATURE and not self.impostors

    @property
    def empty(self) -> bool:
        """Return if fedsweep may make its tables here."""
        return not self.names and not self.application


def contents(connection: Connection) -> Contents:
    """Return what lies in a database."""
    return _CONTENTS[connection.dialect.name](connection)


def _of_sqlite(connection: Connection) -> Contents:
    names = connection.execute(
        sa.text("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    ).scalars()
    others = connection.execute(
        sa.text("SELECT name FROM sqlite_master WHERE type = 'view' OR sql LIKE 'CREATE VIRTUAL%'")
    ).scalars()
    application = connection.execute(sa.text("PRAGMA application_id")).scalar_one()
    own = {name for name in names if not name.startswith("sqlite_")}
    return Contents(frozenset(own), application, _TABLES & set(others))


def _of_postgres(connection: Connection) -> Contents:
    others = connection.execute(sa.text(_NO_TABLES)).scalars()
    return Contents(
        frozenset(connection.execute(sa.text(_IN_SCHEMA)).scalars()),
        impostors=_TABLES & set(others),
    )


_NO_TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
  AND relkind IN ('v', 'm', 'f')
"""


_IN_SCHEMA = """
WITH target AS (SELECT oid FROM pg_namespace WHERE nspname = current_schema()),
found AS (
    SELECT 'pg_class'::regclass AS kind, oid, relname AS name FROM pg_class
    WHERE relnamespace = (SELECT oid FROM target) AND relkind IN ('r','p','v','m','S','f','c')
    UNION ALL
    SELECT 'pg_type'::regclass, oid, typname FROM pg_type
    WHERE typnamespace = (SELECT oid FROM target) AND typrelid = 0
      AND typcategory <> 'A' AND typtype <> 'm'
)
SELECT DISTINCT name FROM found
WHERE NOT EXISTS (
    SELECT 1 FROM pg_depend d WHERE d.classid = found.kind AND d.objid = found.oid
      AND (d.deptype = 'e' OR (d.deptype IN ('a', 'i') AND EXISTS (
          SELECT 1 FROM pg_depend of_owner WHERE of_owner.classid = d.refclassid
            AND of_owner.objid = d.refobjid AND of_owner.deptype = 'e')))
)
"""
"""An extension's tables, views and types belong to it; so do the sequences of its columns."""

_CONTENTS = {"sqlite": _of_sqlite, "postgresql": _of_postgres}


def require_empty(connection: Connection) -> None:
    """Refuse to make fedsweep's tables among those of another application.

    Raises:
        StoreForeign: Something else lies here.
        StoreError: The database cannot store every text.

    """
    found = contents(connection)
    if not found.empty:
        raise StoreForeign(foreign(connection, found))
    _FIT[connection.dialect.name](connection)


def foreign(connection: Connection, found: Contents) -> str:
    """Return the refusal of a database that is not fedsweep's, with its remedy."""
    if found.impostors:
        return (
            f"the database is not a fedsweep database: {min(found.impostors)} in it is not a "
            f"table; {_REMEDY[connection.dialect.name]}"
        )
    names = sorted(found.names)
    more = ", …" if len(names) > NAMED else ""
    held = f"holds {', '.join(names[:NAMED])}{more}" if names else "belongs"
    return (
        f"the database is not a fedsweep database: it {held} of another application; "
        f"{_REMEDY[connection.dialect.name]}"
    )


_REMEDY = {
    "sqlite": "name another file with --db",
    "postgresql": (
        "make a database for fedsweep, or a schema (CREATE SCHEMA fedsweep) that --db names: "
        "?options=-csearch_path%3Dfedsweep"
    ),
}


def _fit_sqlite(_connection: Connection) -> None:
    """A SQLite file stores every text."""


def _fit_postgres(connection: Connection) -> None:
    encoding = connection.execute(sa.text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise StoreError(
            f"the database has the encoding {encoding}, which cannot store every text: make one "
            "in UTF-8 (createdb -E UTF8 -T template0 NAME), and name it with --db"
        )


_FIT = {"sqlite": _fit_sqlite, "postgresql": _fit_postgres}
