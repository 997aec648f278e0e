"""The events of an open page, and the cache behind them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from starlette.testclient import TestClient

from fedsweep import queue
from fedsweep.errors import StoreUnreachable
from fedsweep.plans import read_plan
from fedsweep.serve.app import MAX_STREAMS, screen_state
from fedsweep.serve.read_cache import ReadCache
from fedsweep.serve.stream import Stream
from fedsweep.store import planning, round_rows
from fedsweep.store.tables import trials
from fedsweep.store.transactions import transaction
from tests.unit.serve.pages import claimed, one_round

pytestmark = pytest.mark.quick_on("sqlite")


def stream(read_cache: ReadCache, screen: str, known: str = "", **asked: str) -> Stream:
    return Stream(read_cache, lambda: screen_state(read_cache, screen, asked), known)


def sent(stream: Stream) -> dict[str, Any]:
    """Return the events of one tick, by name. A figure's name is its id."""
    events = [(str(event.event), json.loads(event.data)) for event in stream.tick()]
    return {data["id"] if name == "figure" else name: data for name, data in events}


@pytest.fixture
def planned(store: Engine, tiny: Path) -> Engine:
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(tiny))
    return store


def test_unchanged_parts_are_not_sent_again(read_cache: ReadCache, planned: Engine) -> None:
    """The first tick sends all parts. Later ticks send those that another claim changed."""
    page = stream(read_cache, "queue")
    assert set(sent(page)["page"]["parts"]) == {"counts", "next", "waits"}
    assert sent(page) == {}
    claimed(planned, 0)
    changed = sent(page)["page"]
    assert "next" in changed["parts"]
    assert changed["title"] == "1 running · Queue · fedsweep"
    assert changed["said"] == "1 running"


def test_new_rounds_of_a_trial_are_sent(read_cache: ReadCache, planned: Engine) -> None:
    """Each round is sent once."""
    claim = claimed(planned, 2)
    page = stream(read_cache, "trial", trial=claim.trial_id)
    first = sent(page)["rounds"]
    assert (first["replace"], [row[:2] for row in first["rounds"]]) == (True, [[1, 0.25], [2, 0.5]])
    assert "rounds" not in sent(page)
    with transaction(planned) as connection:
        assert round_rows.add_rounds(connection, claim, [one_round(3, 0.75)]) is None
    more = sent(page)["rounds"]
    assert (more["replace"], [row[:2] for row in more["rounds"]]) == (False, [[3, 0.75]])


def test_a_browser_that_reconnects_gets_only_new_rounds(
    read_cache: ReadCache, planned: Engine
) -> None:
    """The id of its last event says which rounds it has. An invalid id is ignored."""
    claim = claimed(planned, 2)
    (event,) = [
        e for e in stream(read_cache, "trial", trial=claim.trial_id).tick() if e.event == "rounds"
    ]
    assert event.id == ":2"
    with transaction(planned) as connection:
        assert round_rows.add_rounds(connection, claim, [one_round(3, 0.75)]) is None
    back = sent(stream(read_cache, "trial", event.id, trial=claim.trial_id))["rounds"]
    assert (back["replace"], [row[0] for row in back["rounds"]]) == (False, [3])
    for nonsense in ("x", ":x", ":-1", f":{'9' * 30}", "other:2"):
        again = sent(stream(read_cache, "trial", nonsense, trial=claim.trial_id))["rounds"]
        assert (again["replace"], len(again["rounds"])) == (True, 3)


def test_rounds_with_other_numerics_replace_earlier_ones(
    read_cache: ReadCache, planned: Engine
) -> None:
    """The event says that all rounds are sent again."""
    claim = claimed(planned, 2)
    page = stream(read_cache, "trial", trial=claim.trial_id)
    sent(page)
    with transaction(planned) as connection:
        update = sa.update(trials).where(trials.c.id == claim.trial)
        connection.execute(update.values(numerics_id="other", final_round=1))
    assert sent(page)["rounds"]["replace"]


def test_the_curves_of_a_sweep_are_means_over_seeds(read_cache: ReadCache, planned: Engine) -> None:
    """A finished trial with 25, 50 and 75 % gives a curve with these points."""
    claim = claimed(planned, 3)
    with transaction(planned) as connection:
        queue.finish(connection, claim)
    figure = sent(stream(read_cache, "sweep", sweep="tiny"))["arms"]
    (trace,) = figure["traces"]
    assert (trace["name"], trace["n"]) == ("BN", 1)
    assert (trace["x"], trace["y"], trace["std"]) == ([1, 2, 3], [25, 50, 75], [0, 0, 0])


def test_an_outage_and_its_end_are_each_sent_once(
    read_cache: ReadCache, planned: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the outage, unchanged parts are not sent again."""
    page = stream(read_cache, "queue")
    sent(page)
    with monkeypatch.context() as broken:

        def fail(*_: object, **__: object) -> None:
            raise StoreUnreachable

        broken.setattr(read_cache, "read", fail)
        assert sent(page) == {"away": {}}
        assert sent(page) == {}
    assert sent(page) == {"back": {}}


def counting(reads: list[int]) -> Callable[[Connection], int]:
    def read(connection: Connection) -> int:
        reads.append(1)
        return len(reads)

    return read


def test_all_pages_share_one_read_per_tick(read_cache: ReadCache, planned: Engine) -> None:
    """Eight threads read at once. The next tick reads again."""
    time = [0.0]
    shared = ReadCache(read_cache.engine, tick=1.0, clock=lambda: time[0])
    reads: list[int] = []
    read, results, start = counting(reads), [], threading.Barrier(8)

    def read_once() -> None:
        start.wait()
        results.append(shared.read(read))

    threads = [threading.Thread(target=read_once) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results, len(reads)) == ([1] * 8, 1)
    time[0] = 1.5
    assert shared.read(read) == 2


def test_a_slow_entry_is_computed_less_often(read_cache: ReadCache) -> None:
    """An entry is valid for four times as long as its computation took."""
    time, made = [0.0], []
    slow = ReadCache(read_cache.engine, tick=1.0, clock=lambda: time[0])

    def make() -> int:
        time[0] += 10.0
        made.append(1)
        return len(made)

    assert slow.get("it", make) == 1
    time[0] = 49.0
    assert slow.get("it", make) == 1
    time[0] = 51.0
    assert slow.get("it", make) == 2


def test_entries_that_expire_together_are_computed_in_different_ticks(
    read_cache: ReadCache,
) -> None:
    """An update waits for one slow entry only.

    The first update computes all of them. An entry is put off by three ticks at most.
    """
    time = [0.0]
    shared = ReadCache(read_cache.engine, tick=1.0, rest=0.0, clock=lambda: time[0])
    made = {"table": 0, "curves": 0, "search": 0}

    def seen(now: float) -> list[int]:
        time[0] = now
        return [shared.get(name, partial(make, name), 2) for name in made]

    def make(name: str) -> int:
        time[0] += 0.1
        made[name] += 1
        return made[name]

    assert seen(0.0) == [1, 1, 1]
    assert seen(4.0) == [2, 1, 1]
    assert seen(5.0) == [2, 2, 1]  # the third is late by more than two ticks
    assert seen(5.5) == [2, 2, 2]
    assert seen(20.0) == [3, 3, 3]


def test_an_error_is_cached_for_one_tick(read_cache: ReadCache) -> None:
    """A database that does not answer is asked once per tick, not once per page."""
    time, tries = [0.0], []
    shared = ReadCache(read_cache.engine, tick=1.0, clock=lambda: time[0])

    def fail() -> int:
        tries.append(1)
        raise StoreUnreachable

    for _ in range(3):
        with pytest.raises(StoreUnreachable):
            shared.get("it", fail)
    assert len(tries) == 1
    time[0] = 2.0
    assert shared.get("it", lambda: 7) == 7


def test_expired_entries_are_removed(read_cache: ReadCache) -> None:
    """So the memory of a server that runs for weeks does not grow."""
    time = [0.0]
    shared = ReadCache(read_cache.engine, tick=1.0, clock=lambda: time[0])
    for number in range(1000):
        time[0] += 0.1
        shared.get(number, lambda: "made")
    assert len(shared._entries) < 300


def test_a_stream_ends_with_its_server(read_cache: ReadCache, planned: Engine) -> None:
    """It no longer counts as open."""
    page = stream(read_cache, "overview")
    page.ready = page.tick()

    async def read() -> list[int]:
        counts = []
        async for _ in page():
            counts.append(read_cache.open_streams)
            read_cache.closing = True
        return counts

    counts = anyio.run(read)
    assert set(counts) == {1}
    assert read_cache.open_streams == 0


def test_a_stream_beyond_the_limit_is_refused(
    read_cache: ReadCache, client: TestClient, planned: Engine
) -> None:
    """The browser connects again later."""
    read_cache.open_streams = MAX_STREAMS
    answer = client.get("/events?screen=overview")
    assert answer.status_code == 503
    assert answer.text == "100 pages are open already: close some\n"


def test_a_stream_that_starts_beyond_the_limit_ends(read_cache: ReadCache, planned: Engine) -> None:
    """Several may pass the first check at once. The browser then connects again."""
    late = stream(read_cache, "overview")
    late.ready = late.tick()
    read_cache.open_streams = MAX_STREAMS

    async def read() -> int:
        return len([event async for event in late()])

    assert anyio.run(read) == 0
    assert read_cache.open_streams == MAX_STREAMS
