"""Connections to a Postgres server. The user's settings take precedence over ours.

libpq reads the URL, the service file and the environment. A connection pooler (pgbouncer) hands
each transaction to any server process: a setting must not outlive its transaction there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import Any

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import URL

from fedsweep.errors import RequestError

_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "fallback_application_name": "fedsweep",
}
"""Our libpq parameters. libpq itself uses any application_name instead of the fallback."""

_REFUSED = re.compile(r"startup parameter|command.line options", re.IGNORECASE)
"""The text of a pooler's error about startup parameters, which is never localized."""

_LATER_READ_ONLY = "default_transaction_read_only"
"""A setting that applies to later transactions, but not to the current one."""


def parse(text: str) -> URL:
    """Return SQLAlchemy's form of a libpq URL. Several hosts, and socket folders, are in its query.

    Raises:
        RequestError: libpq cannot read the URL. The message repeats no part that may be a password.

    """
    try:
        parameters = conninfo_to_dict("postgresql://" + text.partition("://")[2])
    except (psycopg.Error, UnicodeError) as error:
        unknown = re.search(r'invalid URI query parameter: "(\w+)"', str(error))
        if unknown is None:
            raise RequestError(_WRITE_A_URL) from error
        raise RequestError(
            f"--db cannot be opened: libpq has no parameter {unknown[1]}, correct the URL"
        ) from error
    parts = {name: str(value) for name, value in parameters.items() if value is not None}
    host, port = parts.get("host", ""), parts.get("port", "")
    if "@" in host:
        raise RequestError("--db has an @ in its user or password: write it as %40")
    if not re.fullmatch(r"[\d,]*", port):
        raise RequestError(_WRITE_A_URL)
    plain = host and not re.search(r"[,/]|^@", host) and "," not in port
    return URL.create(
        "postgresql+psycopg",
        username=parts.pop("user", None),
        password=parts.pop("password", None),
        host=parts.pop("host") if plain else None,
        port=int(parts.pop("port")) if plain and port else None,
        database=parts.pop("dbname", None),
        query=parts,
    )


_WRITE_A_URL = (
    "--db is not a database URL: write postgresql://user:password@host/name, "
    "with %40, %3A and %2F for an @, a colon and a slash in the password"
)


class Connector:
    """Opens the connections of one engine, and detects a connection pooler in between."""

    def __init__(self, url: URL, settings: Mapping[str, str], *, read_only: bool = False) -> None:
        """Take `settings`, which the user's settings override; nothing overrides `read_only`."""
        self.read_only = read_only
        self.pooled = False
        self._known = False
        self._parameters = _parameters(url)
        given = effective(self._parameters)
        self._users_options = given.get("options", "")
        self._ours = dict(settings)
        patience = given.get("connect_timeout") or _DEFAULTS["connect_timeout"]
        self._patience = int(patience) if patience.isdecimal() and int(patience) else inf
        self._more = {name: value for name, value in _DEFAULTS.items() if not given.get(name)}

    def __call__(self) -> psycopg.Connection[Any]:
        """Open a connection. If a pooler refuses startup options, connect without them."""
        return self.connected()

    def connected(self, seconds: float | None = None) -> psycopg.Connection[Any]:
        """Open a connection, and wait at most `seconds` for each host, if that is given."""
        if not self.pooled:
            try:
                driver = self._connect(self._options(), seconds)
            except psycopg.OperationalError as error:
                if not _REFUSED.search(str(error)):
                    raise
                self.pooled = True
        if self.pooled:
            settings_of(self._users_options)  # refuse wrong options before a transaction begins
            driver = self._connect("", seconds)
        try:
            self._detect_pooler(driver)
        except BaseException:
            driver.close()
            raise
        return driver

    def begin(self, driver: psycopg.Connection[Any], *, writes: bool = False) -> None:
        """Apply the settings to a transaction that has just begun, if a pooler is in between.

        A transaction that `writes` makes itself read-only later.
        """
        if not self.pooled:
            return
        local = self._ours | settings_of(self._users_options)
        local |= {_LATER_READ_ONLY: "on"} if self.read_only and not writes else {}
        if _LATER_READ_ONLY in local:
            local["transaction_read_only"] = local[_LATER_READ_ONLY]
        calls = [sql.SQL("set_config({}, {}, true)").format(*pair) for pair in local.items()]
        driver.execute(sql.SQL("SELECT {}").format(sql.SQL(", ").join(calls)))

    def _options(self) -> str:
        """Return the startup options. The server uses the last value of a setting."""
        ours = [f"-c {name}={value}" for name, value in self._ours.items()]
        return " ".join([*ours, *filter(None, [self._users_options])])

    def _connect(self, options: str, seconds: float | None) -> psycopg.Connection[Any]:
        # All texts are read and written as UTF-8; the server converts them to its own encoding.
        ours = {"options": options, "client_encoding": "utf8"}
        if seconds is not None:
            ours["connect_timeout"] = str(max(1, round(min(seconds, self._patience))))
        return psycopg.connect(**{**self._parameters, **self._more, **ours})

    def _detect_pooler(self, driver: psycopg.Connection[Any]) -> None:
        """Detect a pooler on the first connection: its process number is not the server's.

        An engine that only reads checks each connection, before it makes the session read-only.
        It does not use a startup option for that: then target_session_attrs=read-write would
        accept no server.
        """
        if not self.pooled and (self.read_only or not self._known):
            driver.autocommit = True
            backend = driver.execute("SELECT pg_backend_pid()").fetchone()
            self.pooled = backend != (driver.info.backend_pid,)
            if self.read_only and not self.pooled:
                driver.execute(f"SET {_LATER_READ_ONLY} = on")
            driver.autocommit = False
        self._known = True
        if self.pooled:
            driver.prepare_threshold = None


def _parameters(url: URL) -> dict[str, Any]:
    """Return libpq's parameters of a URL."""
    named = {
        "user": url.username,
        "password": url.password,
        "host": url.host,
        "port": url.port,
        "dbname": url.database,
    }
    return {name: value for name, value in named.items() if value is not None} | dict(url.query)


def effective(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters that libpq uses: from the URL, its service and the environment."""
    with _environment("PGSERVICE", parameters.get("service")):
        defaults = pq.Conninfo.get_defaults()
    values = {o.keyword.decode(): o.val.decode() for o in defaults if o.val is not None}
    return values | {name: str(value) for name, value in parameters.items()}


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable for the duration of the context.

    libpq returns the settings of a service only if its variable names the service.
    """
    before = os.environ.get(name)
    if value is None or value == before:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def settings_of(options: str) -> dict[str, str]:
    """Return the settings in libpq's `options`: `-c name=value` and `--name=value`.

    Raises:
        RequestError: an option has another form, which only the start of a session accepts.

    """
    words = [re.sub(r"\\(.)", r"\1", w) for w in re.findall(r"(?:\\.|[^\s\\]++)++", options)]
    settings: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word = f"-c{words.pop(0)}"
        name, equals, value = word[2:].partition("=")
        if word[:2] not in ("-c", "--") or not equals:
            raise RequestError(
                f"{word} in the URL's options or PGOPTIONS cannot be set through a connection "
                "pooler: write -c name=value, or name the server's own port in --db"
            )
        settings[name.replace("-", "_")] = value
    return settings
