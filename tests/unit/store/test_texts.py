"""Texts that a database cannot hold as they are."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine, make_url

from fedsweep import queue
from fedsweep.log_handler import Line
from fedsweep.plans import SweepSpec, read_plan
from fedsweep.states import FailureKind
from fedsweep.store import attempt_rows, planning, schema, sweep_rows, trial_rows
from fedsweep.store.clock import read_clock
from fedsweep.store.dialects.postgres import Postgres
from fedsweep.store.texts import codec_of, storable
from fedsweep.store.transactions import reading, transaction

AWKWARD = "T⋆ café ĳ\udcff 😀 " + "x" * 2_000_000
"""Outside of Latin 1, half of a character, and long."""


@pytest.fixture
def latin1_url(postgres_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a store in Latin 1, as earlier versions made it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    url = make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
        with monkeypatch.context() as earlier:
            earlier.setattr(Postgres, "require_every_text", lambda *_: None)
            schema.open_store(url).dispose()
        yield url
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgres", pytest.param("latin1", marks=pytest.mark.process)])
def any_store(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A store, on each database and in another encoding."""
    store = schema.open_store(request.getfixturevalue(f"{request.param}_url"))
    yield store
    store.dispose()


@pytest.mark.parametrize("client_encoding", ["", "LATIN1"])
def test_every_text_can_be_stored_and_found(
    client_encoding: str, any_store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, plans, errors, tracebacks, logs, hosts, devices and provenance."""
    if client_encoding:
        monkeypatch.setenv("PGCLIENTENCODING", client_encoding)
    plan = read_plan(tiny)
    sweep = SweepSpec("T⋆\udcff", f"# {AWKWARD}", plan.trials)
    worker = queue.Claimant("w\udcff", "Gerät⋆\udcff", "host⋆\udcff", 1)
    with transaction(any_store) as connection:
        planning.add_sweep(connection, sweep)
        claim = queue.claim(connection, worker, read_clock(connection), sweep="T⋆\udcff")
        assert claim is not None
        attempt_rows.add_logs(connection, claim, [Line(1, 0.0, "info", f"⋆\0{AWKWARD}"[:90])])
        kind = FailureKind.BAD_DATA
        queue.fail(connection, claim, read_clock(connection), kind, AWKWARD, AWKWARD)
    with reading(any_store) as connection:
        assert sweep_rows.require_sweep(connection, "T⋆\udcff")
        (attempt,) = trial_rows.trial_attempts(connection, claim.trial)
        row = connection.execute(sa.text("SELECT error FROM trials WHERE failure = 'bad_data'"))
        assert row.scalar_one() == attempt["error"]
    assert attempt["outcome"] == "failed"
    assert "café" in attempt["error"]
    assert "\\udcff" in attempt["error"]
    assert attempt["error"].endswith("x" * 1_000_000)
    assert attempt["traceback"] == attempt["error"]


def test_postgres_stores_nul_characters_as_escapes(postgres_url: str) -> None:
    """Its texts cannot hold them."""
    store = schema.open_store(postgres_url)
    with transaction(store) as connection:
        asked = sa.select(sa.literal("a\0b", sa.Text()))
        assert connection.execute(asked).scalar_one() == "a\\x00b"
    store.dispose()


@pytest.mark.parametrize(
    ("encoding", "text", "stored"),
    [
        ("UTF8", "é⋆😀", "é⋆😀"),
        ("LATIN1", "é⋆", "é\\u22c6"),
        ("WIN1252", "€⋆", "€\\u22c6"),
        ("KOI8R", "я⋆", "я\\u22c6"),
        ("SQL_ASCII", "é", "\\xe9"),
        ("EUC_TW", "é", "\\xe9"),
        ("UTF8", "\udcff\0", "\\udcff\\x00"),
    ],
)
def test_only_what_an_encoding_lacks_is_escaped(encoding: str, text: str, stored: str) -> None:
    """An encoding that Python does not know keeps ASCII alone."""
    assert storable(text, codec_of(encoding)) == stored
