"""Every text can be stored: characters that a database cannot hold are stored as escapes.

The texts of errors, logs, host names and plans come from elsewhere. They may have NUL characters,
lone surrogates (file names that are not UTF-8), or characters outside a server's encoding.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

_CODECS = {"KOI8R": "koi8_r", "KOI8U": "koi8_u", "SQL_ASCII": "ascii"}
"""Python's names of server encodings, if they differ by more than a prefix."""


def storable(text: str, codec: str = "utf-8") -> str:
    r"""Return the text with `\x00`, `\udc80` or `\u22c6` for characters that cannot be stored."""
    return text.encode(codec, "backslashreplace").decode(codec).replace("\0", "\\x00")


def codec_of(encoding: str) -> str:
    """Return Python's codec for the encoding of a Postgres server."""
    try:
        return codecs.lookup(_CODECS.get(encoding, encoding.replace("WIN", "cp"))).name
    except LookupError:
        return "ascii"


def store_any_text(engine: Engine) -> None:
    """Let every statement through this engine store every text."""
    _STORE_ANY[engine.dialect.name](engine)


def _on_postgres(engine: Engine) -> None:
    event.listen(engine, "connect", _adapt)


def _adapt(driver: Any, _record: object) -> None:
    """Let a connection to Postgres escape what its server cannot store."""
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


def _on_sqlite(engine: Engine) -> None:
    def execute(cursor: Any, statement: str, values: Any, _context: object) -> bool:
        try:
            cursor.execute(statement, values)
        except UnicodeEncodeError:
            cursor.execute(statement, escaped(values))
        return True

    def execute_many(cursor: Any, statement: str, rows: Any, _context: object) -> bool:
        try:
            cursor.executemany(statement, rows)
        except UnicodeEncodeError:
            cursor.executemany(statement, [escaped(row) for row in rows])
        return True

    event.listen(engine, "do_execute", execute)
    event.listen(engine, "do_executemany", execute_many)


def escaped(values: Any) -> Any:
    """Return the parameters of a statement with every text as it can be stored."""
    if isinstance(values, Mapping):
        return {name: _escaped(value) for name, value in values.items()}
    return tuple(map(_escaped, values))


def _escaped(value: Any) -> Any:
    return storable(value) if isinstance(value, str) else value


_STORE_ANY = {"sqlite": _on_sqlite, "postgresql": _on_postgres}
