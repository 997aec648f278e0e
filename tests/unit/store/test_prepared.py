"""A prepared statement behaves as one of SQLAlchemy's: transactions, errors, dead connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from fedsweep.errors import StoreUnreachable
from fedsweep.store.engine import make_engine
from fedsweep.store.prepared import Prepared
from fedsweep.store.schema import open_store
from fedsweep.store.tables import sweeps
from fedsweep.store.transactions import reading, transaction

NAME = sa.bindparam("name", type_=sa.Text())
ADD = Prepared(lambda _: sa.insert(sweeps).values(name=NAME, created_at=sa.literal(1.5)))
FIND = Prepared(
    lambda _: sa.select(sweeps.c.name, sweeps.c.created_at).where(sweeps.c.name == NAME)
)
COUNT = Prepared(lambda _: sa.select(sa.func.count().label("n")).select_from(sweeps))
END = Prepared(lambda _: sa.select(sa.func.pg_terminate_backend(sa.bindparam("pid"))))
WHO = Prepared(lambda _: sa.select(sa.func.pg_backend_pid().label("pid")))


def test_rows_have_names_and_fixed_values_their_place(store: Engine) -> None:
    with transaction(store) as c:
        assert ADD(c, name="one").rowcount == 1
        row = FIND(c, name="one").one()
        assert (row.name, row.created_at) == ("one", 1.5)
        assert FIND(c, name="two").first() is None
        with pytest.raises(ValueError, match="unpack"):
            FIND(c, name="two").one()


def test_many_rows_go_in_at_once(store: Engine) -> None:
    with transaction(store) as c:
        before = COUNT(c).one().n
        ADD.many(c, [{"name": f"s{n}"} for n in range(3)])
        assert COUNT(c).one().n == before + 3


def test_a_failed_statement_is_rolled_back_with_its_transaction(store: Engine) -> None:
    with transaction(store) as c:
        ADD(c, name="twice")
    with pytest.raises(IntegrityError) as caught, transaction(store) as c:
        ADD.many(c, [{"name": "once"}, {"name": "twice"}])
    assert not caught.value.connection_invalidated
    with reading(store) as c:
        assert FIND(c, name="once").first() is None


def test_two_looks_of_one_reading_see_one_state(store: Engine) -> None:
    """A first prepared statement begins the transaction, as SQLAlchemy's would."""
    with reading(store) as c:
        before = COUNT(c).one().n
        with transaction(store) as other:
            ADD(other, name="meanwhile")
        assert COUNT(c).one().n == before
    with reading(store) as c:
        assert COUNT(c).one().n == before + 1


def test_a_connection_that_the_server_ended_is_replaced(postgres_url: str) -> None:
    store, other = open_store(postgres_url), open_store(postgres_url)
    try:
        with transaction(store) as c:
            pid = WHO(c).one().pid
        with transaction(other) as c:
            END(c, pid=pid)
        with pytest.raises(StoreUnreachable), transaction(store) as c:
            ADD(c, name="lost")
        with transaction(store) as c:
            assert WHO(c).one().pid != pid
            assert FIND(c, name="lost").first() is None
    finally:
        store.dispose()
        other.dispose()


def test_an_unknown_column_is_the_drivers_error_and_does_no_harm(store: Engine) -> None:
    with pytest.raises(DBAPIError), transaction(store) as c:
        Prepared(lambda _: sa.text("SELECT no_such_column"))(c)
    with transaction(store) as c:
        assert COUNT(c).one().n >= 0


@pytest.fixture
def unnamed(store: Engine) -> Iterator[Engine]:
    """The same database, opened by an engine that looks at nothing when a transaction begins."""
    engine = make_engine(store.url.render_as_string(hide_password=False))
    yield engine
    engine.dispose()


def test_a_statement_with_its_begin_is_part_of_the_transaction(unnamed: Engine) -> None:
    with suppress(ZeroDivisionError), transaction(unnamed) as c:
        assert ADD.with_begin(c, name="first").rowcount == 1
        assert FIND(c, name="first").one().created_at == 1.5
        raise ZeroDivisionError
    with reading(unnamed) as c:
        assert FIND(c, name="first").first() is None
    with transaction(unnamed) as c:
        ADD.with_begin(c, name="first")
    with reading(unnamed) as c:
        assert FIND(c, name="first").one().name == "first"


def test_an_error_with_its_begin_is_the_drivers_error(unnamed: Engine) -> None:
    with pytest.raises(DBAPIError), transaction(unnamed) as c:
        Prepared(lambda _: sa.text("SELECT no_such_column")).with_begin(c)
    with transaction(unnamed) as c:
        assert COUNT.with_begin(c).one().n >= 0
