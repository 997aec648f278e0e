"""The tables of a database: fedsweep's own, or those of another application."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import Connection

from fedsweep.errors import StoreForeign
from fedsweep.store.dialects import dialect_of
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
    listing = dialect_of(connection).listing(connection)
    return Contents(listing.names, listing.application, _TABLES & listing.not_tables)


def require_empty(connection: Connection) -> None:
    """Refuse to make fedsweep's tables among those of another application.

    Raises:
        StoreForeign: Something else lies here.
        StoreError: The database cannot store every text.

    """
    found = contents(connection)
    if not found.empty:
        raise StoreForeign(foreign(connection, found))
    dialect_of(connection).require_every_text(connection)


def foreign(connection: Connection, found: Contents) -> str:
    """Return the refusal of a database that is not fedsweep's, with its remedy."""
    remedy = dialect_of(connection).foreign_remedy
    if found.impostors:
        return (
            f"the database is not a fedsweep database: {min(found.impostors)} in it is not a "
            f"table; {remedy}"
        )
    names = sorted(found.names)
    more = ", …" if len(names) > NAMED else ""
    held = f"holds {', '.join(names[:NAMED])}{more}" if names else "belongs"
    return f"the database is not a fedsweep database: it {held} of another application; {remedy}"
