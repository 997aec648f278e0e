"""A store that is only read: no connection of its engine can write."""

from __future__ import annotations

from sqlalchemy.engine import Engine

from fedsweep.errors import SchemaOld, StoreEmpty
from fedsweep.store.access import writable
from fedsweep.store.dialects import DIALECTS, sqlite_file
from fedsweep.store.engine import opening, parse_url, require_readable
from fedsweep.store.location import shown
from fedsweep.store.schema import check, is_empty
from fedsweep.store.transactions import reading
from fedsweep.store.views import statements


def open_to_read(url: str, *, page: bool = False) -> Engine:
    """Return an engine for a store with the current schema, which nothing can be written through.

    A page (`page`) looks again and again: it waits less, and leaves SQLite's log as it is.

    Raises:
        StoreError: it is missing, empty, unreachable, foreign, older or newer.

    """
    parsed = parse_url(url)
    with opening(parsed):
        dialect = DIALECTS[parsed.get_backend_name()]
        engine = dialect.engine_to_read(parsed, statements(dialect), page=page)
        try:
            require_readable(engine)
            _require_current(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


def _require_current(engine: Engine) -> None:
    file = sqlite_file(engine.url)
    with reading(engine) as connection:
        if is_empty(connection):
            raise StoreEmpty
        try:
            check(connection)
        except SchemaOld as error:
            if file is None or writable(file):
                raise
            raise SchemaOld(
                f"{shown(file)} has an older schema and is read-only here: copy it to a folder of "
                "yours, and run `fedsweep db upgrade` on the copy"
            ) from error
