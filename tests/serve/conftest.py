"""A store with trials in every state, and the page on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from fedsweep import queue
from fedsweep.logbook import Line
from fedsweep.serve.app import application
from fedsweep.serve.look import Look
from fedsweep.spec import Claim, Round, SweepSpec, read_plan
from fedsweep.states import FailureKind
from fedsweep.store import writes
from fedsweep.store.engine import read_clock, transaction
from fedsweep.store.readonly import open_to_read

TOKEN = "a-token-of-the-tests"
PORT = 8000
HOSTILE = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
WORKER = queue.Worker("host-1-0-abc", "cpu", "host", 1)


def one_round(number: int, accuracy: float | None = 0.5) -> Round:
    return Round(number, "explore", 1.25, 0.75, accuracy, 0.5, 0.25, 1, 1, 0.125)


def claimed(store: Engine, rounds: int) -> Claim:
    """The next trial, with so many rounds stored."""
    with transaction(store) as connection:
        claim = queue.claim(connection, WORKER, read_clock(connection))
        assert claim is not None
        for number in range(1, rounds + 1):
            done = [one_round(number, number / 4)]
            assert writes.add_rounds(connection, claim, done, memory=1_234_000_000) is None
    return claim


def finished(store: Engine) -> Claim:
    claim = claimed(store, 3)
    with transaction(store) as connection:
        queue.finish(connection, claim)
    return claim


def failed(store: Engine, kind: FailureKind, error: str, traceback: str | None = None) -> Claim:
    claim = claimed(store, 0)
    with transaction(store) as connection:
        queue.fail(connection, claim, read_clock(connection), kind, error, traceback)
    return claim


@pytest.fixture
def worked(store: Engine, tiny: Path) -> Engine:
    """Six trials: one finished; one diverged, and its sibling with it; one that met an error and
    backs off; one that runs and has two rounds; one that is next.
    """
    with transaction(store) as connection:
        writes.add_sweep(connection, read_plan(tiny))
    done = finished(store)
    failed(store, FailureKind.DIVERGED, f"loss {HOSTILE}", f"Traceback\n{HOSTILE}")
    failed(store, FailureKind.ERROR, "disk", "Traceback: disk")
    running = claimed(store, 2)
    with transaction(store) as connection:
        line = Line(1, 0.0, "info", f"says {HOSTILE}")
        writes.add_logs(connection, running, [line])
        writes.add_logs(connection, done, [Line(1, 0.0, "info", "ended")])
    return store


@pytest.fixture
def hostile(worked: Engine, tiny: Path) -> Engine:
    """The same, with a sweep whose name and plan are HTML."""
    plan = read_plan(tiny)
    with transaction(worked) as connection:
        writes.add_sweep(connection, SweepSpec(HOSTILE, f"# {HOSTILE}", plan.trials[:2]))
    return worked


@pytest.fixture
def look(store: Engine, store_url: str) -> Iterator[Look]:
    """The store as pages see it, read anew each time."""
    engine = open_to_read(store_url, page=True)
    yield Look(engine, tick=0.0, rest=0.0)
    engine.dispose()


@pytest.fixture
def client(look: Look) -> TestClient:
    """A browser that has the token."""
    client = anybody(look)
    client.headers["authorization"] = f"Bearer {TOKEN}"
    client.headers["accept"] = "text/html"
    return client


def anybody(look: Look) -> TestClient:
    """A browser without a token."""
    app = application(look, TOKEN, PORT, ["sweep.example"])
    return TestClient(app, base_url=f"http://127.0.0.1:{PORT}", follow_redirects=False)
