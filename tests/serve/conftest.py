"""A store with trials in every state, and the page on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from fedsweep.log_handler import Line
from fedsweep.plan import SweepSpec, read_plan
from fedsweep.serve.look import Look
from fedsweep.states import FailureKind
from fedsweep.store import attempt_rows, planning
from fedsweep.store.readonly import open_to_read
from fedsweep.store.transactions import transaction
from tests.serve.pages import HOSTILE, TOKEN, anybody, claimed, failed, finished


@pytest.fixture
def worked(store: Engine, tiny: Path) -> Engine:
    """Six trials: one finished; one diverged, and its sibling with it; one that met an error and
    backs off; one that runs and has two rounds; one that is next.
    """
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(tiny))
    done = finished(store)
    failed(store, FailureKind.DIVERGED, f"loss {HOSTILE}", f"Traceback\n{HOSTILE}")
    failed(store, FailureKind.ERROR, "disk", "Traceback: disk")
    running = claimed(store, 2)
    with transaction(store) as connection:
        line = Line(1, 0.0, "info", f"says {HOSTILE}")
        attempt_rows.add_logs(connection, running, [line])
        attempt_rows.add_logs(connection, done, [Line(1, 0.0, "info", "ended")])
    return store


@pytest.fixture
def hostile(worked: Engine, tiny: Path) -> Engine:
    """The same, with a sweep whose name and plan are HTML."""
    plan = read_plan(tiny)
    with transaction(worked) as connection:
        planning.add_sweep(connection, SweepSpec(HOSTILE, f"# {HOSTILE}", plan.trials[:2]))
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
