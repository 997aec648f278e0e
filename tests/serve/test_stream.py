"""What a page is sent while one looks at it."""

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
from fedsweep.plan import read_plan
from fedsweep.serve.app import MAX_STREAMS, screen_state
from fedsweep.serve.read_cache import ReadCache
from fedsweep.serve.stream import Stream
from fedsweep.store import planning, round_rows
from fedsweep.store.tables import trials
from fedsweep.store.transactions import transaction
from tests.serve.pages import claimed, one_round

pytestmark = pytest.mark.quick_on("sqlite")


def stream(read_cache: ReadCache, screen: str, known: str = "", **asked: str) -> Stream:
    return Stream(read_cache, lambda: screen_state(read_cache, screen, asked), known)


def sent(stream: Stream) -> dict[str, Any]:
    """The events of one tick, by name."""
    return {str(event.event): json.loads(event.data) for event in stream.tick()}


@pytest.fixture
def planned(store: Engine, tiny: Path) -> Engine:
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(tiny))
    return store


def test_what_has_not_changed_is_not_sent_again(read_cache: ReadCache, planned: Engine) -> None:
    """At first all; then nothing; then the parts that another claim changed."""
    page = stream(read_cache, "queue")
    assert set(sent(page)["page"]["parts"]) == {"counts", "next", "waits"}
    assert sent(page) == {}
    claimed(planned, 0)
    changed = sent(page)["page"]
    assert "next" in changed["parts"]
    assert changed["title"] == "1 running · Queue · fedsweep"
    assert changed["said"] == "1 running"


def test_a_trial_s_rounds_are_sent_as_they_come(read_cache: ReadCache, planned: Engine) -> None:
    """Each once."""
    claim = claimed(planned, 2)
    page = stream(read_cache, "trial", trial=claim.trial_id)
    first = sent(page)["rounds"]
    assert (first["anew"], [row[:2] for row in first["rounds"]]) == (True, [[1, 0.25], [2, 0.5]])
    assert "rounds" not in sent(page)
    with transaction(planned) as connection:
        assert round_rows.add_rounds(connection, claim, [one_round(3, 0.75)]) is None
    more = sent(page)["rounds"]
    assert (more["anew"], [row[:2] for row in more["rounds"]]) == (False, [[3, 0.75]])


def test_a_browser_that_comes_back_is_sent_what_it_has_not(
    read_cache: ReadCache, planned: Engine
) -> None:
    """By the id of the last event that it had; one that no server gave says nothing."""
    claim = claimed(planned, 2)
    (event,) = [
        e for e in stream(read_cache, "trial", trial=claim.trial_id).tick() if e.event == "rounds"
    ]
    assert event.id == ":2"
    with transaction(planned) as connection:
        assert round_rows.add_rounds(connection, claim, [one_round(3, 0.75)]) is None
    back = sent(stream(read_cache, "trial", event.id, trial=claim.trial_id))["rounds"]
    assert (back["anew"], [row[0] for row in back["rounds"]]) == (False, [3])
    for nonsense in ("x", ":x", ":-1", f":{'9' * 30}", "other:2"):
        again = sent(stream(read_cache, "trial", nonsense, trial=claim.trial_id))["rounds"]
        assert (again["anew"], len(again["rounds"])) == (True, 3)


def test_rounds_computed_anew_replace_those_before(read_cache: ReadCache, planned: Engine) -> None:
    """Under other numerics."""
    claim = claimed(planned, 2)
    page = stream(read_cache, "trial", trial=claim.trial_id)
    sent(page)
    with transaction(planned) as connection:
        mine = sa.update(trials).where(trials.c.id == claim.trial)
        connection.execute(mine.values(numerics_id="other", final_round=1))
    assert sent(page)["rounds"]["anew"]


def test_a_sweep_s_curves_are_means_over_seeds(read_cache: ReadCache, planned: Engine) -> None:
    """Of finished trials: 25, 50 and 75 % in three rounds."""
    claim = claimed(planned, 3)
    with transaction(planned) as connection:
        queue.finish(connection, claim)
    figure = sent(stream(read_cache, "sweep", sweep="tiny"))["figure"]
    (trace,) = figure["traces"]
    assert (trace["name"], trace["n"]) == ("BN", 1)
    assert (trace["x"], trace["y"], trace["std"]) == ([1, 2, 3], [25, 50, 75], [0, 0, 0])


def test_a_page_is_told_once_that_the_store_is_away_and_once_that_it_is_back(
    read_cache: ReadCache, planned: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes on from where it was."""
    page = stream(read_cache, "queue")
    sent(page)
    with monkeypatch.context() as broken:

        def away(*_: object, **__: object) -> None:
            raise StoreUnreachable

        broken.setattr(read_cache, "read", away)
        assert sent(page) == {"away": {}}
        assert sent(page) == {}
    assert sent(page) == {"back": {}}


def counting(reads: list[int]) -> Callable[[Connection], int]:
    def read(connection: Connection) -> int:
        reads.append(1)
        return len(reads)

    return read


def test_all_who_look_within_a_tick_share_one_read(read_cache: ReadCache, planned: Engine) -> None:
    """Eight at once; another tick is another read."""
    time = [0.0]
    shared = ReadCache(read_cache.engine, tick=1.0, clock=lambda: time[0])
    reads: list[int] = []
    read, found, start = counting(reads), [], threading.Barrier(8)

    def ask() -> None:
        start.wait()
        found.append(shared.read(read))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, len(reads)) == ([1] * 8, 1)
    time[0] = 1.5
    assert shared.read(read) == 2


def test_what_takes_long_is_made_less_often(read_cache: ReadCache) -> None:
    """Four times as long as it took, it is good."""
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


def test_what_is_due_together_is_made_in_one_tick_after_another(read_cache: ReadCache) -> None:
    """An update waits for one of them; all are there at once where none was made before; nothing
    is put off for more than three ticks.
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


def test_an_error_is_told_to_all_and_forgotten(read_cache: ReadCache) -> None:
    """A server that does not answer is not asked by each page in turn."""
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


def test_what_nobody_asks_for_any_more_is_forgotten(read_cache: ReadCache) -> None:
    """A server that runs for weeks does not grow."""
    time = [0.0]
    shared = ReadCache(read_cache.engine, tick=1.0, clock=lambda: time[0])
    for number in range(1000):
        time[0] += 0.1
        shared.get(number, lambda: "made")
    assert len(shared._entries) < 300


def test_a_stream_ends_with_the_server(read_cache: ReadCache, planned: Engine) -> None:
    """Its place is free again."""
    looked = stream(read_cache, "overview")
    looked.ready = looked.tick()

    async def read() -> list[int]:
        places = []
        async for _ in looked():
            places.append(read_cache.open_streams)
            read_cache.closing = True
        return places

    places = anyio.run(read)
    assert set(places) == {1}
    assert read_cache.open_streams == 0


def test_pages_beyond_the_most_are_not_kept_up(
    read_cache: ReadCache, client: TestClient, planned: Engine
) -> None:
    """A browser asks again later."""
    read_cache.open_streams = MAX_STREAMS
    answer = client.get("/events?screen=overview")
    assert answer.status_code == 503
    assert answer.text == "100 pages are open already: close some\n"


def test_of_pages_that_come_at_once_no_more_are_kept_up(
    read_cache: ReadCache, planned: Engine
) -> None:
    """All may have been let in before the first began: it ends, and its browser asks again."""
    late = stream(read_cache, "overview")
    late.ready = late.tick()
    read_cache.open_streams = MAX_STREAMS

    async def read() -> int:
        return len([event async for event in late()])

    assert anyio.run(read) == 0
    assert read_cache.open_streams == MAX_STREAMS
