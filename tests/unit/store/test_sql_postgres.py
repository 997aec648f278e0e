"""A person's SQL on Postgres: what others have planted there gets no rights and no memory."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.engine import Engine

from fedsweep.errors import SqlRefused
from fedsweep.plans import read_plan
from fedsweep.store import planning
from fedsweep.store.engine import make_engine
from fedsweep.store.readonly import open_to_read
from fedsweep.store.sql.ask import ask
from fedsweep.store.transactions import transaction

REGAIN = """
CREATE FUNCTION public.regain(how text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE how;
    RETURN pg_read_file('/etc/passwd');
END $$
"""
WAYS = [
    "RESET ROLE",
    "SET ROLE none",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SELECT set_config('role', 'none', true)",
    "SELECT set_config('session_authorization', session_user, true)",
    "DEALLOCATE ALL",
    "SELECT 1",
]
"""Attempts of a planted function before it reads a file of the server's."""

PLANTED = {
    "a function": "SELECT public.regain({how})",
    "a view": "SELECT * FROM public.innocent",
    "a domain, read with the statement": "SELECT '1'::public.checked",
    "an array of it": "SELECT '{{1}}'::public.checked[]",
    "an operator": "SELECT 1::smallint OPERATOR(public.+) 'x'::text",
    "a constant": "SELECT public.stable_one()",
}


@pytest.fixture(params=WAYS)
def planted(request: pytest.FixtureRequest, postgres_url: str) -> str:
    """A store in whose schema somebody has put each way to be called."""
    how = sql.Literal(request.param)
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        for text in (
            REGAIN,
            "CREATE VIEW public.innocent AS SELECT public.regain({how}) AS x",
            (
                "CREATE FUNCTION public.fits(x text) RETURNS boolean LANGUAGE sql AS "
                "$f$ SELECT public.regain({how}) IS NOT NULL $f$"
            ),
            "CREATE DOMAIN public.checked AS text CHECK (public.fits(VALUE))",
            (
                "CREATE FUNCTION public.added(smallint, text) RETURNS text LANGUAGE sql AS "
                "$f$ SELECT public.regain({how}) $f$"
            ),
            (
                "CREATE OPERATOR public.+ (FUNCTION = public.added, LEFTARG = smallint, "
                "RIGHTARG = text)"
            ),
            (
                "CREATE FUNCTION public.stable_one() RETURNS text LANGUAGE plpgsql IMMUTABLE AS "
                "$f$ BEGIN RETURN public.regain({how}); END $f$"
            ),
        ):
            admin.execute(sql.SQL(text).format(how=how) if "{how}" in text else sql.SQL(text))
    return str(request.param)


@pytest.mark.parametrize("statement", PLANTED.values(), ids=list(PLANTED))
@pytest.mark.parametrize("room", [pytest.param(None, marks=pytest.mark.slow), 2**20])
def test_a_planted_function_gets_no_superuser_s_rights(
    room: int | None, statement: str, planted: str, postgres_url: str
) -> None:
    """A statement may call it in any way. The store continues to serve."""
    engine = open_to_read(postgres_url)
    how = "'" + planted.replace("'", "''") + "'"
    with pytest.raises(SqlRefused, match=r"permission denied|within security-definer|one reading"):
        ask(engine, statement.format(how=how), room=room)
    assert ask(engine, "SELECT 1 AS n", room=room).rows == [(1,)]
    engine.dispose()


@pytest.fixture
def role(postgres_url: str) -> Iterator[str]:
    """The name of a role that may read all, and log in."""
    name = f"reader_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE pg_read_all_data")
        yield name
        admin.execute(f"DROP OWNED BY {name}")
        admin.execute(f"DROP ROLE {name}")


def as_role(url: str, role: str) -> Engine:
    named = sa.make_url(url).set(username=role, password="x")
    return open_to_read(named.render_as_string(hide_password=False))


def test_a_role_that_may_only_read_is_answered(role: str, postgres_url: str, tiny: Path) -> None:
    """With parameters, too; a file of the server's it does not get."""
    store = make_engine(postgres_url)
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(tiny))
    store.dispose()
    engine = as_role(postgres_url, role)
    for room in (None, 2**20):
        asked = ask(engine, "SELECT count(*) AS n FROM results WHERE clients = :n", {"n": "4"})
        assert (asked.columns, asked.rows) == (["n"], [(6,)])
        with pytest.raises(SqlRefused, match="permission denied"):
            ask(engine, "SELECT pg_read_file('/etc/passwd')", room=room)
        with pytest.raises(SqlRefused, match="permission denied"):
            ask(engine, "WITH d AS (DELETE FROM trials RETURNING id) SELECT * FROM d", room=room)
    engine.dispose()


def test_a_role_that_may_become_a_superuser_is_refused(role: str, postgres_url: str) -> None:
    """In a sentence, with the remedy: what a statement calls may change the role."""
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"GRANT pg_execute_server_program TO {role}")
    engine = as_role(postgres_url, role)
    with pytest.raises(SqlRefused, match=r"may become a superuser.*CREATE ROLE reader LOGIN"):
        ask(engine, "SELECT 1")
    engine.dispose()


SETTINGS = (
    "SELECT current_setting('jit') AS jit, current_setting('hash_mem_multiplier') AS hash, "
    "current_setting('work_mem') AS memory, current_setting('temp_file_limit') AS files, "
    "current_setting('max_parallel_workers_per_gather') AS workers, "
    "current_setting('search_path') AS path, "
    "current_setting('transaction_read_only') AS read_only"
)


@pytest.mark.parametrize("superuser", [True, False])
def test_a_statement_has_bounds_that_its_server_allows(
    superuser: bool, role: str, postgres_url: str
) -> None:
    """No compilation, which nothing interrupts; memory once, not once a worker and a table; and
    only functions of the server's own and of our schema without their schema's name.
    """
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        name = sa.make_url(postgres_url).database
        admin.execute(f"ALTER DATABASE {name} SET work_mem = '4GB'")
        admin.execute(f"ALTER DATABASE {name} SET hash_mem_multiplier = 100")
        admin.execute("CREATE SCHEMA other")
        admin.execute(f"ALTER DATABASE {name} SET search_path = public, other")
    engine = open_to_read(postgres_url) if superuser else as_role(postgres_url, role)
    answer = ask(engine, SETTINGS)
    path = "pg_catalog, public, pg_temp"
    files = "1GB" if superuser else "-1"
    assert answer.rows == [("off", "1", "64MB", files, "0", path, "on")]
    engine.dispose()


@pytest.mark.parametrize("superuser", [True, False])
def test_columns_rows_and_values_are_the_same_for_every_role(
    superuser: bool, role: str, postgres_url: str
) -> None:
    """Names twice, no rows, and what is not JSON."""
    engine = open_to_read(postgres_url) if superuser else as_role(postgres_url, role)
    twice = ask(engine, "SELECT 1 AS a, 0.1::float8 AS a, 'x' AS b, NULL::int AS c", room=10**6)
    assert twice.columns == ["a", "a", "b", "c"]
    assert twice.rows == [(1, 0.1, "x", None)]
    none = ask(engine, "SELECT trial_id, seed FROM results WHERE seed < 0", room=10**6)
    assert (none.columns, none.rows) == (["trial_id", "seed"], [])
    many = ask(engine, "SELECT i FROM generate_series(1, 5000) AS t(i)", limit=4000)
    assert many.rows == [(i,) for i in range(1, 4001)]
    assert many.cut
    numbers = "SELECT 12::numeric AS w, 1.5::numeric AS h, date '2026-01-02' AS d"
    assert ask(engine, numbers).rows == [(12, 1.5, "2026-01-02")]
    engine.dispose()
