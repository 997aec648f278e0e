"""The SQL box refuses harmful statements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from fedsweep.errors import SqlRefused
from fedsweep.serve import sql
from fedsweep.serve.read_cache import ReadCache
from fedsweep.store.transactions import reading
from tests.unit.serve.pages import text

BOTH = [
    "DELETE FROM trials",
    "UPDATE trials SET state = 'finished'",
    "INSERT INTO sweeps (name, created_at) VALUES ('x', 0)",
    "DROP TABLE trials",
    "CREATE TABLE x (y integer)",
    "SELECT 1; DROP TABLE trials",
    "SELECT 1; SELECT 2",
    "WITH gone AS (DELETE FROM trials RETURNING *) SELECT * FROM gone",
    "EXPLAIN ANALYZE DELETE FROM trials",
    "BEGIN",
    "COMMIT",
    "-- a comment",
    "",
    "\0",
    "(",
]
SQLITE = [
    "PRAGMA query_only = OFF",
    "PRAGMA journal_mode = DELETE",
    "ATTACH DATABASE '/tmp/other.db' AS other",
    "SELECT load_extension('/tmp/evil')",
    "VACUUM INTO '/tmp/copy.db'",
    "SELECT * FROM pragma_query_only(0)",
    "SELECT writefile('/tmp/x', 'y')",
    "SELECT readfile('/etc/passwd')",
    "SELECT zeroblob(100000000)",
    "SELECT hex(zeroblob(1000000))",
    "SELECT fts3_tokenizer('x')",
    "SELECT hex(fts3_tokenizer('simple'))",
    "REPLACE INTO sweeps (name, created_at) VALUES ('x', 0)",
]
POSTGRES = [
    "SELECT 1) AS x, (SELECT 2",
    "SELECT rolname, rolpassword FROM pg_authid",
    "SELECT * FROM pg_shadow",
    "SELECT pg_logical_emit_message(false, 'x', 'y')",
    "COPY trials TO '/tmp/x'",
    "COPY (SELECT 1) TO PROGRAM 'touch /tmp/x'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT * FROM dblink('', 'DELETE FROM trials') AS t(x text)",
    "SET ROLE postgres",
    "SELECT set_config('role', 'postgres', false)",
    "SELECT set_config('default_transaction_read_only', 'off', false)",
    "SELECT query_to_xml('DELETE FROM trials', true, true, '')",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity",
    "SELECT pg_advisory_lock(1)",
    "SELECT nextval(pg_get_serial_sequence('trials', 'id'))",
    "SELECT lo_create(0)",
    "DO $$ BEGIN DELETE FROM trials; END $$",
    "SELECT 1) AS x; DELETE FROM trials; --",
    "SELECT * FROM trials FOR UPDATE",
    "SELECT repeat('x', 100000000)",
    "SELECT repeat('x', 1073741823)",
    "SELECT pg_reload_conf()",
    "SELECT pg_switch_wal()",
]
ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT max(i) FROM n",
    "postgresql": "SELECT pg_sleep(3600)",
}


COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"


def content(store: Engine) -> list[object]:
    tables = ("trials", "sweeps", "attempts", "rounds", "sweep_members", "plans", "logs")
    with reading(store) as connection:
        return [
            [tuple(row) for row in connection.execute(sa.text(f"SELECT * FROM {t} ORDER BY 1, 2"))]
            for t in tables
        ]


def attacks() -> Iterator[Any]:
    """Yield each database with each attack. The attacks on the other database are slow."""
    for database, known, others in (("sqlite", SQLITE, POSTGRES), ("postgres", POSTGRES, SQLITE)):
        for attack in BOTH + known:
            yield pytest.param(database, attack)
        for attack in others:
            yield pytest.param(database, attack, marks=pytest.mark.slow)


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("store_url", "attack"), list(attacks()), indirect=["store_url"])
def test_harmful_statements_are_refused_and_change_nothing(
    client: TestClient, worked: Engine, attack: str
) -> None:
    """Each is tried on both databases, also if only the other one knows its functions."""
    before = content(worked)
    answer = client.get(f"/sql?q={quote(attack)}")
    assert answer.status_code == (400 if attack.strip() else 200)
    assert 'class="wrong said" role="alert"' in answer.text or not attack.strip()
    assert "Traceback" not in answer.text
    assert content(worked) == before
    assert client.get("/sql?q=SELECT+1").status_code == 200


def test_an_endless_statement_is_stopped(
    read_cache: ReadCache, worked: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit stops it."""
    monkeypatch.setattr(sql, "SECONDS", 0.2)
    with pytest.raises(SqlRefused, match="took longer than 0.2 s"):
        sql.answer_statement(read_cache, ENDLESS[worked.dialect.name])


def test_a_pattern_with_exponential_backtracking_is_answered(
    read_cache: ReadCache, worked: Engine
) -> None:
    """The time limit cannot interrupt one call of a function."""
    pattern = "%a" * 30 + "%b"
    assert sql.answer_statement(
        read_cache, f"SELECT '{'a' * 9000}' LIKE '{pattern}' AS x"
    ).columns == ["x"]


def test_an_answer_has_at_most_a_thousand_rows(client: TestClient, worked: Engine) -> None:
    """The page says that there are more."""
    many = f"{COUNT.format(5000)} SELECT i FROM n"
    page = client.get(f"/sql?q={quote(many)}").text
    assert "1,000 rows, the first ones: there are more than fit" in text(page)
    assert page.count("<td") == 1000


def test_an_answer_has_at_most_a_megabyte(read_cache: ReadCache, worked: Engine) -> None:
    """Ten of twenty rows with 100,000 characters are returned."""
    wide = {"sqlite": "hex(zeroblob(50000))", "postgresql": "repeat('0', 100000)"}
    many = f"{COUNT.format(20)} SELECT {wide[worked.dialect.name]} AS x FROM n"
    answer = sql.answer_statement(read_cache, many)
    assert (len(answer.rows), answer.cut) == (10, True)


def test_a_long_value_is_shortened(client: TestClient, worked: Engine) -> None:
    """Its cell shows how long it is."""
    page = client.get(f"/sql?q={quote('SELECT ' + repr('x' * 5000))}").text
    assert "… (5,000 characters)" in page


def test_many_columns_are_refused_or_shown(client: TestClient, worked: Engine) -> None:
    """The server has no internal error."""
    columns = ", ".join(f"{n} AS c{n}" for n in range(1500))
    assert client.get(f"/sql?q={quote('SELECT ' + columns)}").status_code in (200, 400)


def test_a_statement_that_is_too_long_is_refused(read_cache: ReadCache, worked: Engine) -> None:
    """The message names the limit."""
    with pytest.raises(SqlRefused, match="more than 20,000 characters"):
        sql.answer_statement(read_cache, f"SELECT '{'x' * 20_000}'")


def test_two_statements_may_run_at_once(
    read_cache: ReadCache, worked: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third one waits for a moment and is then refused."""
    monkeypatch.setattr(sql, "WAIT_SECONDS", 0.01)
    for _ in range(2):
        assert sql._TWO_AT_A_TIME.acquire(blocking=False)
    try:
        with pytest.raises(SqlRefused, match="try again"):
            sql.answer_statement(read_cache, "SELECT 1")
    finally:
        for _ in range(2):
            sql._TWO_AT_A_TIME.release()
    assert sql.answer_statement(read_cache, "SELECT 1").rows == [(1,)]
