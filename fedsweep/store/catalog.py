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
"""Maximum number of another application's tables that a message lists."""


@dataclass(frozen=True)
class Contents:
    """The names in a SQLite file, or in the Postgres schema that new tables would go to."""

    names: frozenset[str]
    """Tables, views, sequences and types, without those that belong to an extension."""
    application: int = 0
    """The application_id in the header of a SQLite file."""
    impostors: frozenset[str] = frozenset()
    """Names of our tables that are not tables here.

    A view may execute any function, and a foreign table queries another server."""

    @property
    def ours(self) -> bool:
        """Return True if fedsweep made the tables."""
        return self.names >= SIGNATURE and not self.impostors

    @property
    def empty(self) -> bool:
        """Return True if fedsweep may create its tables here."""
        return not self.names and not self.application


def contents(connection: Connection) -> Contents:
    """Return the names in a database."""
    listing = dialect_of(connection).listing(connection)
    return Contents(listing.names, listing.application, _TABLES & listing.not_tables)


def require_empty(connection: Connection) -> None:
    """Refuse to create fedsweep's tables among those of another application.

    Raises:
        StoreForeign: The database has tables of another application.
        StoreError: The database cannot store every text.

    """
    content = contents(connection)
    if not content.empty:
        raise StoreForeign(foreign(connection, content))
    dialect_of(connection).require_every_text(connection)


def foreign(connection: Connection, content: Contents) -> str:
    """Return the message that refuses a database of another application, with its remedy."""
    remedy = dialect_of(connection).foreign_remedy
    if content.impostors:
        return (
            f"the database is not a fedsweep database: {min(content.impostors)} in it is not a "
            f"table; {remedy}"
        )
    names = sorted(content.names)
    more = ", …" if len(names) > NAMED else ""
    verb = f"holds {', '.join(names[:NAMED])}{more}" if names else "belongs"
    return f"the database is not a fedsweep database: it {verb} of another application; {remedy}"
