"""SQL from a person only reads, with any text."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep.errors import SqlRefused
from fedsweep.plans import read_plan
from fedsweep.store import planning
from fedsweep.store.engine import make_engine
from fedsweep.store.sql.ask import ask
from fedsweep.store.transactions import reading, transaction
from trainers import memory

EVERYWHERE = [
    "DELETE FROM trials",
    "UPDATE trials SET state = 'finished'",
    "INSERT INTO sweeps (name, created_at) VALUES ('x', 0)",
    "CREATE TABLE x (y INTEGER)",
    "DROP VIEW results",
    "SELECT 1; DELETE FROM trials",
    "SELECT 1; SELECT 2",
    "; commit; DELETE FROM trials",
    "COMMIT",
    "BEGIN",
    "VACUUM",
    "WITH gone AS (SELECT 1) DELETE FROM trials",
    "SELECT * FROM no_such_table",
    "",
    "-- nothing",
]
ON_SQLITE = [
    "PRAGMA query_only = OFF",
    "PRAGMA journal_mode = DELETE",
    "SELECT * FROM pragma_table_info('trials')",
    "ATTACH '{tmp}/stolen.db' AS s",
    "VACUUM INTO '{tmp}/stolen.db'",
    "SELECT load_extension('x')",
    "SELECT writefile('{tmp}/stolen.db', 'x')",
    "SELECT zeroblob(1000000000)",
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
]
ON_POSTGRES = [
    "WITH gone AS (DELETE FROM trials RETURNING 1) SELECT * FROM gone",
    "COPY trials TO PROGRAM 'cat > {tmp}/stolen.db'",
    "COPY (SELECT 1) TO '{tmp}/stolen.db'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(1, '{tmp}/stolen.db')",
    "SELECT pg_sleep(60)",
    "SELECT set_config('role', 'none', false)",
    "SELECT U&\"\\0073et_config\"('role', 'none', false)",
    "SELECT query_to_xml('SELECT pg_read_file(''/etc/passwd'')', true, true, '')",
    "SELECT * FROM ts_stat('SELECT to_tsvector(set_config(''role'', ''none'', false))')",
    "SELECT nextval('trials_id_seq')",
    "SELECT 1 LIMIT length(set_config('role', 'none', true)) + length(pg_read_file('/etc/passwd'))",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_terminate_backend(pg_backend_pid())",
    "SELECT 1) x; DROP TABLE rounds; --",
    "SELECT * FROM trials FOR UPDATE",
    "SET TRANSACTION READ WRITE",
    "DO $$ BEGIN DELETE FROM trials; END $$",
    "EXPLAIN ANALYZE DELETE FROM trials",
]


def attacks() -> list[object]:
    each = {"sqlite": EVERYWHERE + ON_SQLITE, "postgres": EVERYWHERE + ON_POSTGRES}
    return [pytest.param(db, text, id=f"{db}: {text}") for db in each for text in each[db]]


@pytest.mark.parametrize(("database", "text"), attacks())
def test_nothing_but_reading_gets_through(
    database: str, text: str, tiny: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Refused in one sentence; every row, table and file is as before."""
    from fedsweep.store.schema import open_store

    store = open_store(request.getfixturevalue(f"{database}_url"))
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
    with pytest.raises(SqlRefused) as caught:
        ask(store, text.replace("{tmp}", str(tmp_path)), seconds=0.5)
    assert "\n" not in str(caught.value)
    with reading(store) as c:
        assert c.execute(sa.text("SELECT count(*) FROM trials")).scalar_one() == 6
        assert (
            c.execute(sa.text("SELECT count(*) FROM results WHERE state = 'queued'")).scalar() == 6
        )
        assert c.execute(sa.text("SELECT count(*) FROM sweeps")).scalar_one() == 1
    assert not (tmp_path / "stolen.db").exists()
    store.dispose()


def test_reading_gives_columns_and_plain_rows(store: Engine, tiny: Path) -> None:
    """Sums are numbers, not decimals; comments and a last semicolon do no harm."""
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
    answer = ask(
        store,
        "-- how many\nSELECT normalizer, sum(rounds) AS rounds, avg(lr) AS lr FROM results "
        "GROUP BY normalizer ORDER BY normalizer; ",
    )
    assert answer.columns == ["normalizer", "rounds", "lr"]
    assert answer.rows == [("bn", 6, 0.05), ("fixbn", 6, 0.05), ("gn", 6, 0.05)]
    assert not answer.cut


def test_rows_are_bounded_and_the_cut_is_told(store: Engine, tiny: Path) -> None:
    """Exactly the limit is not cut."""
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
    cut = ask(store, "SELECT trial_id FROM results", limit=5)
    assert (len(cut.rows), cut.cut) == (5, True)
    whole = ask(store, "SELECT trial_id FROM results", limit=6)
    assert (len(whole.rows), whole.cut) == (6, False)


def test_asking_sees_what_others_write_and_leaves_the_pool_as_it_was(
    store: Engine, tiny: Path
) -> None:
    """A connection that asked is not handed to a writer in its read-only state."""
    ask(store, "SELECT 1")
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
    assert ask(store, "SELECT count(*) FROM results").rows == [(6,)]


def test_a_plan_that_would_take_gigabytes_is_refused(sqlite_url: str) -> None:
    """A kilobyte of SQL whose plan doubles 24 times, before SQLite's first step."""
    twice = "SELECT x FROM a{0} UNION ALL SELECT x FROM a{0}"
    doubled = ", ".join(f"a{i} AS ({twice.format(i - 1)})" for i in range(1, 25))
    greedy = f"WITH a0 AS (SELECT 1 AS x), {doubled} SELECT count(*) FROM a24"
    store = make_engine(sqlite_url)
    with pytest.raises(SqlRefused, match=r"takes too much memory|took longer than"):
        ask(store, greedy, seconds=10, room=2**20)
    store.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 AS n WHERE repeat('a', 100000000) = current_user",
        "SELECT length(repeat('a', 100000000)) AS n, repeat('a', 100000000) AS a",
    ],
)
def test_a_plan_of_gigabytes_is_measured_where_it_is_made(
    postgres_url: str, statement: str
) -> None:
    """Postgres works constants out before it runs anything; their text is not sent."""
    store = make_engine(postgres_url)
    memory.begin("cpu")
    before = memory.taken("cpu")
    with pytest.raises(SqlRefused, match="a row is larger than the whole answer may be"):
        ask(store, statement, room=2**20)
    assert memory.taken("cpu") - before < 50_000_000
    store.dispose()


def test_a_statement_that_outgrows_its_temporary_file_is_refused(sqlite_url: str) -> None:
    """A sort that spills is told as such, not as a broken disk."""
    store = make_engine(sqlite_url)
    statement = (
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 400) "
        "SELECT hex(zeroblob(500000)) || x AS a FROM n ORDER BY a"
    )
    with pytest.raises(SqlRefused, match="takes too much memory: narrow it"):
        ask(store, statement, room=2**21)
    store.dispose()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("SELECT 1 AS a INTO x", "cannot be run: SELECT ... INTO is not allowed here"),
        ("WITH d AS (DELETE FROM trials RETURNING id) SELECT * FROM d", "permission denied"),
        ("SELECT * FROM trails WHERE error LIKE '%interrupted%'", '"trails" does not exist'),
    ],
)
def test_a_refusal_names_the_fault_and_not_the_statement(
    postgres_url: str, statement: str, says: str
) -> None:
    """Postgres repeats the statement in its error."""
    store = make_engine(postgres_url)
    with pytest.raises(SqlRefused, match=says):
        ask(store, statement, room=2**20)
    store.dispose()
