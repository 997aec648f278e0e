"""Every difference between the databases is in one place, with the same names for each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

import fedsweep
from fedsweep.store.dialects import DIALECTS, dialect_of, dialect_of_text, sqlite_file
from fedsweep.store.dialects.base import Dialect, Lock
from fedsweep.store.prepared import Prepared, Steps
from fedsweep.store.transactions import transaction

PACKAGE = Path(fedsweep.__file__).parent
EACH = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))


def names(dialect: Dialect) -> set[str]:
    """Return the names of the queries in the dialect's SQL file."""
    text = (PACKAGE / "store" / "dialects" / dialect.sql).read_text("utf-8")
    return set(re.findall(r"^-- name: (\w+)$", text, re.MULTILINE))


def test_no_module_outside_of_the_dialects_names_a_dialect() -> None:
    """A difference is a method of the dialect, or a query in its SQL file."""
    named = re.compile(r"""["'](sqlite|postgresql)["']""")
    files = [
        file.relative_to(PACKAGE)
        for file in PACKAGE.rglob("*.py")
        if named.search(file.read_text("utf-8"))
    ]
    inside = [file for file in files if file.is_relative_to("store/dialects")]
    assert inside
    assert {f for f in files if f not in inside and f.parts[0] != "migrations"} == set()


def test_both_files_have_the_same_queries() -> None:
    """Only SQLite has `note_claim`: on Postgres, the claim itself inserts its attempt."""
    sqlite, postgres = names(DIALECTS["sqlite"]), names(DIALECTS["postgresql"])
    assert sqlite - postgres == {"note_claim"}
    assert postgres <= sqlite


@EACH
def test_a_query_has_no_comment_and_no_unfilled_part(dialect: Dialect) -> None:
    """A colon or a brace in a comment would be read as a parameter or a part."""
    conditions = ("claimable", "backing_off", "ahead", "wanted", "final", "sharing", "waiting")
    parts = dict.fromkeys((*conditions, "columns", "values"), "1 = 1")
    for name in names(dialect):
        for text in dialect.statements(name, parts | {"first": "{first_of_all}"}):
            assert text.strip()
            assert not re.search(r"--|[{};]", text)


def test_the_numbers_of_the_locks_never_change() -> None:
    """Workers of other versions use them too."""
    assert {lock.name: lock.to_bytes(8, "big").strip(b"\0") for lock in Lock} == {
        "SCHEMA": b"fedsweep",
        "PLAN": b"plan",
        "NOTICE": b"notice",
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sqlite:///x.db", "sqlite"),
        ("postgres://h/n", "postgresql"),
        ("postgresql+psycopg://h/n", "postgresql"),
        ("sqlite+aiosqlite:///x.db", None),
        ("postgresql", None),
        ("mysql://h/n", None),
    ],
)
def test_the_scheme_of_a_url_selects_the_dialect(text: str, name: str | None) -> None:
    """A text without `://` is not a URL."""
    dialect = dialect_of_text(text)
    assert (dialect and dialect.name) == name


def test_another_program_s_database_on_a_server_has_no_file() -> None:
    """MLflow may keep its runs in MySQL."""
    assert sqlite_file(sa.make_url("mysql://h/n")) is None


def test_the_steps_of_a_query_end_at_the_first_without_a_row(store: Engine) -> None:
    """A trial that cannot finish does not end its attempt."""
    finish, at = Steps("finish", {"final": "test_loss"}), {"of_trial": 1, "of_fence": 1}
    ended = {"ended_at": 0.0, "outcome": "x", "failure": None, "error": None, "traceback": None}
    with transaction(store) as connection:
        assert finish(connection, **at, **ended).rowcount == 0
        steps = len(finish.steps(connection))
    assert steps == (1 if dialect_of(store).first_in_one_trip else 2)


def test_a_bound_value_is_used_in_each_execution(store: Engine) -> None:
    """Conditions of a claim have such values."""
    with transaction(store) as connection:
        assert Prepared.named("any_shared", sweep="none")(connection).first() is None
