"""One deadline for all steps of an answer."""

from __future__ import annotations

import socket
import threading

import pytest
import sqlalchemy as sa

from fedsweep.errors import SqlRefused
from fedsweep.store.deadline import Deadline, within
from fedsweep.store.dialects import postgres_engine
from fedsweep.store.engine import make_engine
from fedsweep.store.sql import ask


def test_work_that_ends_returns_its_result_or_raises_its_error() -> None:
    assert within(Deadline(60), lambda: 1, lambda: None) == 1
    with pytest.raises(ZeroDivisionError):
        within(Deadline(60), lambda: 1 // 0, lambda: None)


def test_work_that_does_not_end_is_stopped_and_abandoned() -> None:
    stop = threading.Event()
    with pytest.raises(TimeoutError):
        within(Deadline(0), stop.wait, stop.set)
    assert stop.is_set()


def test_a_timeout_is_never_zero() -> None:
    """A server would take 0 as no timeout."""
    with pytest.raises(TimeoutError):
        Deadline(0.0005).milliseconds()
    assert 59_000 < Deadline(60).milliseconds() <= 60_000


def test_a_server_that_does_not_answer_is_abandoned_in_time() -> None:
    """It accepts the connection, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        engine = postgres_engine.engine_of(
            sa.make_url(f"postgresql+psycopg://u@127.0.0.1:{port}/x")
        )
        with pytest.raises(SqlRefused, match=r"took longer than 0.2 s"):
            ask.ask(engine, "SELECT 1", seconds=0.2)
        engine.dispose()


@pytest.mark.parametrize("room", [None, 2**20])
def test_a_call_that_cannot_be_interrupted_is_abandoned_in_time(
    room: int | None, sqlite_url: str
) -> None:
    """SQLite searches a long text at each position of a longer one, in one step."""
    store = make_engine(sqlite_url)
    statement = "SELECT instr(hex(zeroblob(200000)), hex(zeroblob(100000)) || '1') AS x"
    with pytest.raises(SqlRefused, match=r"took longer than 0.2 s"):
        ask.ask(store, statement, seconds=0.2, room=room)
    store.dispose()
