"""A store with trials in several states, and a client of the page on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from fedsweep.log_handler import Line
from fedsweep.plans import SweepSpec, read_plan
from fedsweep.serve.read_cache import ReadCache
from fedsweep.states import FailureKind
from fedsweep.store import attempt_rows, planning
from fedsweep.store.readonly import open_to_read
from fedsweep.store.transactions import transaction
from tests.unit.serve.pages import HOSTILE, TOKEN, anonymous, claimed, failed, finished


@pytest.fixture
def worked(store: Engine, tiny: Path) -> Engine:
    """A store with six trials.

    - One is finished.
    - One has diverged, and its sibling with it.
    - One backs off after an error.
    - One is running and has two rounds.
    - One is next in the queue.
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
    """The same store, with a sweep whose name and plan are HTML."""
    plan = read_plan(tiny)
    with transaction(worked) as connection:
        planning.add_sweep(connection, SweepSpec(HOSTILE, f"# {HOSTILE}", plan.trials[:2]))
    return worked


@pytest.fixture
def read_cache(store: Engine, store_url: str) -> Iterator[ReadCache]:
    """A read-only cache in which each entry expires at once."""
    engine = open_to_read(store_url, page=True)
    yield ReadCache(engine, tick=0.0, rest=0.0)
    engine.dispose()


@pytest.fixture
def client(read_cache: ReadCache) -> TestClient:
    """A client that has the token."""
    client = anonymous(read_cache)
    client.headers["authorization"] = f"Bearer {TOKEN}"
    client.headers["accept"] = "text/html"
    return client
