"""Builders of trials in a given state, and clients that read their pages."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from urllib.parse import quote

import uvicorn
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from fedsweep import queue
from fedsweep.plans import Round
from fedsweep.serve import server
from fedsweep.serve.app import SCREENS, application
from fedsweep.serve.read_cache import ReadCache
from fedsweep.states import FailureKind
from fedsweep.store import round_rows
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.readonly import open_to_read
from fedsweep.store.transactions import transaction
from tests.acceptance.command import query, start

TOKEN = "a-token-of-the-tests"


PORT = 8000


TICK = 0.1
"""Seconds between two updates of the pages of tests. Users get them once per second."""


HOSTILE = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"


WORKER = queue.Claimant("host-1-0-abc", "cpu", "host", 1)


def one_round(number: int, accuracy: float | None = 0.5) -> Round:
    return Round(number, "explore", 1.25, 0.75, accuracy, 0.5, 0.25, 1, 1, 0.125)


def claimed(store: Engine, rounds: int) -> Claim:
    """Claim the next trial, and store `rounds` rounds of it."""
    with transaction(store) as connection:
        claim = queue.claim(connection, WORKER, read_clock(connection))
        assert claim is not None
        for number in range(1, rounds + 1):
            done = [one_round(number, number / 4)]
            assert round_rows.add_rounds(connection, claim, done, memory=1_234_000_000) is None
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


def anonymous(read_cache: ReadCache) -> TestClient:
    """Return a client without a token."""
    app = application(read_cache, TOKEN, PORT, ["sweep.example"])
    return TestClient(app, base_url=f"http://127.0.0.1:{PORT}", follow_redirects=False)


def text(html: str) -> str:
    """Return the text of a page, without tags, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def paths(url: str) -> list[str]:
    trials = [f"/trials/{row[0]}" for row in query(url, "SELECT trial_id FROM results")]
    statement = quote(f"SELECT '{HOSTILE.replace(chr(39), chr(34))}' AS \"<script>\"")
    name = quote(HOSTILE, safe="")
    pair = "&".join(path.replace("/trials/", "trial=") for path in trials[:2])
    return [*(p for p, _, _ in SCREENS.values() if "{" not in p), *trials, f"/sweeps/{name}",
            f"/sql?q={statement}", f"/trials?sweep={name}", f"/trials?id={name}",
            f"/trials?sort={name}", f"/trials/{name}", f"/sweeps/tiny?panel={name}",
            f"/sweeps/tiny?arm={name}&group={name}&smooth={name}",
            f"/compare?trial={name}&trial={name}", "/compare?" + pair]  # fmt: skip


@contextmanager
def served_here(url: str) -> Iterator[str]:
    """Run a server in a thread of this process. Yield its address. Its token is `TOKEN`.

    It starts faster than `served`, which runs the command.
    """
    engine = open_to_read(url, page=True)
    cache = ReadCache(engine, tick=TICK)
    listening = server.listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    app = application(cache, TOKEN, port, ["127.0.0.1"])
    running = uvicorn.Server(server.configured(app))
    thread = Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        cache.closing = running.should_exit = True
        thread.join()
        listening.close()
        engine.dispose()


@contextmanager
def served(url: str, *more: str, **env: str) -> Iterator[tuple[str, str, subprocess.Popen[str]]]:
    """Start a server on a free port. Yield its address, its token and its process."""
    process = start("serve", "--db", url, "--port", "0", *more, **env)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"(http://\S+:\d+)/\?token=(\S+)\n", line)
        assert match, line + process.stdout.read()
        yield match[1], match[2], process
    finally:
        process.kill()
        process.communicate()
