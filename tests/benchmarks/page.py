"""The page on 10,000 trials of 200 rounds: the time to show and to update a screen.

All runs in one process, without a network. The server is started again for each view.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep.serve.app import SCREENS, application, screen_state
from fedsweep.serve.read_cache import ReadCache
from fedsweep.serve.screen import SEPARATOR, pairs
from fedsweep.serve.stream import Stream
from fedsweep.store.readonly import open_to_read
from fedsweep.store.tables import attempts, trials
from fedsweep.store.transactions import transaction
from tests.benchmarks import fill
from tests.benchmarks.figure import Figure, N, timed

LENGTH = 200
"""Rounds of a trial."""
TICKS = 31
"""Updates of a page. They outlast the cache of the parts that change seldom."""
TOKEN = "of-the-benchmark"

ASKED: dict[str, dict[str, str]] = {
    "trials": {"normalizer": "fixbn", "alpha": "0.5", "sort": "test_accuracy", "down": "1"},
    "trial": {"trial": ""},  # the first one
    "compare": {"trial": ""},  # the first two
    "sweep": {"sweep": "page"},
}


def screens(folder: Path, server: str) -> Iterator[Figure]:
    """Measure each screen's first view and its updates."""
    urls = {
        "SQLite": f"sqlite:///{folder}/page.db",
        "Postgres": fill.make_database(server, "page"),
    }
    for database, url in urls.items():
        count = fill.finished(url, "page", LENGTH)
        with fill.opened(url) as store:
            first, second = _spread_out(store)
            fill.settle(store)
        ASKED["trial"]["trial"] = first
        ASKED["compare"]["trial"] = SEPARATOR.join([first, second])
        engine = open_to_read(url, page=True)
        gc.collect()
        gc.freeze()  # as a server does; what the filling left is none of its
        what = f"{count:,} x {LENGTH}, {database}"
        for name in SCREENS:
            view = [timed(partial(_view, engine, name)) for _ in range(N)]
            yield Figure(f"first view of {name}, {what}", "< 1", "s", view)
            update = list(_updates(engine, name))
            yield Figure(f"update of {name}, {what}", "< 0.2", "s", update)
        metrics = [timed(partial(_get, engine, "/metrics")) for _ in range(N)]
        yield Figure(f"/metrics, {what}", "< 1", "s", metrics)
        engine.dispose()


def _spread_out(store: Engine) -> list[str]:
    """Let every fifth trial wait, some fail and some run. Return the ids of two finished trials."""
    c, a = trials.c, attempts.c
    with transaction(store) as connection:
        queued = sa.update(trials).where(c.id % 5 == 0)
        connection.execute(queued.values(state="queued", final_round=None))
        broken = sa.update(trials).where(c.id % 5 == 1, c.id % 7 == 0)
        connection.execute(broken.values(state="failed", failure="error", error="out of luck"))
        of_broken = a.trial.in_(sa.select(c.id).where(c.state == "failed"))
        failure = {"outcome": "failed", "failure": "error", "error": "out of luck"}
        connection.execute(
            sa.update(attempts).where(of_broken).values(**failure, traceback="T\n" * 50)
        )
        at_work = sa.update(trials).where(c.id % 313 == 2)
        connection.execute(at_work.values(state="running", lease_until=0.0, clock="another"))
        done = sa.select(c.trial_id).where(c.state == "finished").limit(2)
        return list(connection.execute(done).scalars())


def _view(engine: Engine, name: str) -> None:
    path = SCREENS[name][0].replace(":path", "").format(**ASKED.get(name, {}))
    query = {key: value for key, value in ASKED.get(name, {}).items() if f"{{{key}" not in path}
    _get(engine, f"{path}?{urlencode(pairs(query))}" if name in ("trials", "compare") else path)


def _get(engine: Engine, path: str) -> None:
    from starlette.testclient import TestClient

    app = application(ReadCache(engine), TOKEN, 8000)
    client = TestClient(app, base_url="http://127.0.0.1:8000")
    answer = client.get(path, headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200, answer.text


def _updates(engine: Engine, name: str) -> Iterator[float]:
    """Yield the seconds of each tick of an open page. The clock advances a second per tick."""
    ahead = [0.0]
    cache = ReadCache(engine, rest=0.0, clock=lambda: ahead[0] + time.perf_counter())
    asked: dict[str, Any] = ASKED.get(name, {})
    stream = Stream(cache, lambda: screen_state(cache, name, asked))
    stream.tick()
    for _ in range(TICKS):
        ahead[0] += 1.0
        yield timed(stream.tick)


def parts(folder: Path, server: str) -> dict[str, Callable[[], Iterator[Figure]]]:
    """Return the measurements of this file by name."""
    return {"page": lambda: screens(folder, server)}
