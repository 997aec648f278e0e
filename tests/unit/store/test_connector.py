"""The user's URL, service and environment take precedence over our settings, also with a pooler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import Engine

from fedsweep import errors, queue
from fedsweep.plans import read_plan
from fedsweep.store import connector, outage, planning, transactions
from fedsweep.store.dialects import postgres_engine
from fedsweep.store.engine import make_engine, parse_url
from fedsweep.store.readonly import open_to_read
from fedsweep.store.schema import open_store
from fedsweep.store.sql import ask
from fedsweep.store.transactions import shown_url
from fedsweep.store.wakeup import Wakeup


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGOPTIONS", "PGAPPNAME", "PGSERVICE", "PGHOST", "PGCONNECT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://u:p@h1,h2:5433/db", {"host": "h1,h2", "port": ",5433", "dbname": "db"}),
        ("postgres://h/db?target_session_attrs=read-write", {"target_session_attrs": "read-write"}),
        ("postgresql://%2Ftmp%2Fsock/db", {"host": "/tmp/sock"}),
        ("postgresql:///db?host=%2Fvar%2Frun", {"host": "/var/run", "dbname": "db"}),
        ("postgresql://?service=lab", {"service": "lab"}),
        ("postgresql://u:p%40%2F%3Aw@h/db", {"user": "u", "password": "p@/:w", "host": "h"}),
        ("postgresql://h/db?user=u&password=p", {"user": "u", "password": "p"}),
        ("postgresql+psycopg://[::1]:55/db", {"host": "::1", "port": 55}),
        ("postgresql://h/d?options=-c%20a.b%3D1%20-cc%3D2", {"options": "-c a.b=1 -cc=2"}),
        ("postgresql://h/db?sslmode=verify-full", {"sslmode": "verify-full"}),
        ("postgresql://", {}),
    ],
)
def test_every_form_of_libpq_s_urls_reaches_libpq(text: str, expected: dict[str, Any]) -> None:
    url = parse_url(text)
    parameters = connector._parameters(url)
    assert parameters.items() >= expected.items()
    make_conninfo(**parameters)  # libpq knows all of them
    assert ":p" not in shown_url(url)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:se@cret@h/n",
        "postgresql://u:sec/ret@h/n",
        "postgresql://u:secret@h/n?foo=bar",
        "postgresql://u:%zzsecret@h/n",
        "postgresql://u:sec ret@h/n",
        "host=h password='secret' dbname=n",
    ],
)
def test_a_url_that_libpq_cannot_read_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(errors.RequestError) as caught:
        parse_url(text)
    assert "ret" not in str(caught.value).replace("secret:", "")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect to host=h password=hunter2 dbname=n",
        "cannot connect to host=h password = hunter2",
        "password='hunter2'",
        r"password='a \' hunter2'",
        "sslpassword='hunter2 hunter2'",
        'PGPASSWORD="hunter2"',
        "postgresql://u:hunter2@h1,h2:5433/db",
        "postgresql://u@h/db?password=hunter2&sslmode=require",
    ],
)
def test_a_password_is_hidden_in_every_form(text: str) -> None:
    assert "hunter2" not in errors.hide_secrets(text)


def settings(url: str, *names: str) -> dict[str, str]:
    engine = make_engine(url)
    with transactions.reading(engine) as c:
        values = {n: c.execute(sa.text(f"SHOW {n}")).scalar_one() for n in names}
    engine.dispose()
    return values


def with_options(url: str, options: str) -> str:
    return (
        sa.make_url(url)
        .update_query_dict({"options": options})
        .render_as_string(hide_password=False)
        .replace("+", "%20")
    )


SHOWN = ("statement_timeout", "lock_timeout", "search_path", "application_name")


@pytest.mark.parametrize("by", ["url", "environment", "service"])
def test_each_setting_of_the_user_overrides_ours(
    by: str, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of the user are kept, and ours are added for the rest."""
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute("CREATE SCHEMA lab")
    options = "-c statement_timeout=7s --search-path=lab"
    url = postgres_url
    if by == "url":
        url = with_options(postgres_url, options) + "&application_name=mine"
    elif by == "environment":
        monkeypatch.setenv("PGOPTIONS", options)
        monkeypatch.setenv("PGAPPNAME", "mine")
    else:
        file = tmp_path / "service.conf"
        file.write_text(f"[lab]\noptions={options}\napplication_name=mine\n")
        monkeypatch.setenv("PGSERVICEFILE", str(file))
        url = (
            sa.make_url(postgres_url)
            .update_query_dict({"service": "lab"})
            .render_as_string(hide_password=False)
        )
    assert settings(url, *SHOWN) == {
        "statement_timeout": "7s",
        "lock_timeout": "1min",
        "search_path": "lab",
        "application_name": "mine",
    }


def test_our_settings_are_added_if_the_user_gives_none(postgres_url: str) -> None:
    values = settings(postgres_url, "statement_timeout", "application_name")
    assert values == {"statement_timeout": "10min", "application_name": "fedsweep"}
    opener = connector.Connector(parse_url("postgresql://h/d?connect_timeout=3"), {})
    assert opener._more.keys() >= {"keepalives_idle"}
    assert "connect_timeout" not in opener._more


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every connection look like one through a pooler."""
    monkeypatch.setattr(connector.Connector, "_known", True, raising=False)
    begin = connector.Connector.__init__

    def through_a_pooler(self: connector.Connector, *args: Any, **named: Any) -> None:
        begin(self, *args, **named)
        self.pooled = True

    monkeypatch.setattr(connector.Connector, "__init__", through_a_pooler)


@pytest.mark.parametrize("direct", [True, False])
def test_tables_are_created_in_the_user_s_search_path(
    direct: bool, empty_postgres: str, request: pytest.FixtureRequest
) -> None:
    """A startup option sets it directly. Through a pooler, each transaction sets it."""
    if not direct:
        request.getfixturevalue("pooled")
    with psycopg.connect(empty_postgres, autocommit=True) as admin:
        admin.execute("CREATE SCHEMA lab")
        url = with_options(empty_postgres, "-csearch_path=lab")
        open_store(url, create=True).dispose()
        open_store(url).dispose()
        query = "SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname IN ('lab', 'public')"
        assert admin.execute(query).fetchall() == [("lab",)]


@pytest.mark.usefixtures("pooled")
def test_a_pooled_store_works_without_prepared_statements(postgres_url: str, tiny: Path) -> None:
    """Trials are claimed, read and finished. No setting stays in the server's process."""
    store = open_store(postgres_url)
    with transactions.transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
        for _ in range(8):  # more often than psycopg waits before it prepares
            assert queue.outstanding(c)
    answer = "SELECT count(*) AS n FROM results WHERE clients = :n"
    assert ask.ask(store, answer, {"n": "4"}).rows == [(6,)]
    assert ask.ask(store, "SELECT 1", room=1000).rows == [(1,)]
    with pytest.raises(errors.SqlRefused):
        ask.ask(store, "SELECT 1; DROP TABLE trials")
    with transactions.reading(store) as c:
        left = "SELECT count(*) FROM pg_prepared_statements"
        assert c.execute(sa.text(left)).scalar_one() == 0
        assert c.execute(sa.text("SHOW statement_timeout")).scalar_one() == "10min"
        driver = c.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    assert driver.execute("SHOW statement_timeout").fetchone() != ("10min",)
    driver.rollback()
    bell = Wakeup(store, queue.CHANNEL)
    bell.wait(0.0, lambda: True)
    assert bell.listening is None
    store.dispose()


@pytest.mark.parametrize("direct", [True, False])
def test_a_page_cannot_write_and_changes_no_connection_of_a_pool(
    direct: bool, postgres_url: str, request: pytest.FixtureRequest
) -> None:
    """It cannot write after a read either. The next user of a pooled connection can write."""
    if not direct:
        request.getfixturevalue("pooled")
    store = open_to_read(postgres_url, page=True)
    with transactions.reading(store) as c:
        assert c.execute(sa.text("SHOW statement_timeout")).scalar_one() == "20s"
    with pytest.raises(errors.StoreReadOnly), transactions.transaction(store) as c:
        c.execute(sa.text("DELETE FROM sweeps"))
    with store.connect() as c:
        driver = c.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        read_only = driver.execute("SHOW default_transaction_read_only").fetchone()
        assert read_only == ("on" if direct else "off",)
    store.dispose()


@pytest.mark.parametrize("attributes", ["read-write", "primary", "any"])
def test_reading_commands_accept_the_server_that_the_user_requests(
    attributes: str, postgres_url: str
) -> None:
    """A primary is not rejected because of the read-only session, which cannot write."""
    url = sa.make_url(postgres_url).update_query_dict({"target_session_attrs": attributes})
    store = open_to_read(url.render_as_string(hide_password=False))
    assert ask.ask(store, "SELECT 1").rows == [(1,)]
    with pytest.raises(errors.StoreReadOnly), transactions.transaction(store) as c:
        c.execute(sa.text("DELETE FROM sweeps"))
    store.dispose()


def test_prepared_statements_end_if_a_pooler_appears_later(
    postgres_url: str,
) -> None:
    """The first error of a lost prepared statement is an outage, and no second one follows."""
    store = make_engine(postgres_url)
    tries: list[Any] = []

    def work(c: sa.Connection) -> None:
        driver: Any = c.connection.driver_connection
        tries.append(driver.prepare_threshold)
        if len(tries) == 1:
            c.execute(sa.text("EXECUTE nothing"))

    transactions.patiently(store, work)
    assert tries == [5, None]
    store.dispose()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("-c a=1", {"a": "1"}),
        ("-ca=1 --b-c=2", {"a": "1", "b_c": "2"}),
        (r"-c search_path=a,\ b", {"search_path": "a, b"}),
        ("", {}),
    ],
)
def test_options_are_read_as_libpq_reads_them(options: str, expected: dict[str, str]) -> None:
    assert connector.settings_of(options) == expected


@pytest.mark.parametrize("options", ["-d 5", "-c", "-cfoo", "search_path=lab"])
def test_other_options_are_refused_through_a_pooler(options: str) -> None:
    with pytest.raises(errors.RequestError, match="cannot be set through a connection pooler"):
        connector.settings_of(options)


def test_startup_options_are_omitted_if_a_pooler_refuses_them(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has no SQLSTATE, because the connection was never established."""
    real = psycopg.connect

    def refusing(**parameters: Any) -> Any:
        if parameters.get("options"):
            raise psycopg.OperationalError("FATAL:  unsupported startup parameter: options")
        return real(**parameters)

    monkeypatch.setattr(psycopg, "connect", refusing)
    store: Engine = make_engine(postgres_url)
    assert postgres_engine.connector_of(store).pooled
    with transactions.reading(store) as c:
        assert c.execute(sa.text("SHOW lock_timeout")).scalar_one() == "1min"
    store.dispose()


def test_statement_pooling_is_refused_in_one_sentence(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No command opens such a store, so that no trial is claimed."""

    def refusing(_self: connector.Connector, _driver: object) -> None:
        text = "transaction blocks not allowed in statement pooling mode"
        raise psycopg.errors.ProtocolViolation(text)

    monkeypatch.setattr(connector.Connector, "begin", refusing)
    with pytest.raises(errors.StoreError, match="set its pool_mode to transaction") as caught:
        make_engine(postgres_url)
    assert not isinstance(caught.value, outage.OUTAGE)


@pytest.mark.parametrize("direct", [True, False])
def test_a_float_keeps_its_bits_if_a_database_writes_few_digits(
    direct: bool, postgres_url: str, request: pytest.FixtureRequest
) -> None:
    if not direct:
        request.getfixturevalue("pooled")
    name = sa.make_url(postgres_url).database
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} SET extra_float_digits = -15")
    store = make_engine(postgres_url)
    with transactions.reading(store) as c:
        number = sa.text("SELECT CAST('0.30000000000000004' AS double precision)")
        assert c.execute(number).scalar_one() == 0.1 + 0.2
    store.dispose()
