"""Idle workers are woken when there is something to claim, and never wait for what cannot come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fedsweep import queue
from fedsweep.plans import read_plan
from fedsweep.states import FailureKind, Hold
from fedsweep.store import planning
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.schema import open_store
from fedsweep.store.tables import trials
from fedsweep.store.transactions import transaction
from fedsweep.store.wakeup import Wakeup
from tests.acceptance.command import eventually
from tests.builders import WORKER

LONG, DEADLINE = 3600.0, 60.0
"""Seconds: no wait lasts as long as the first. No notification takes longer than the second."""


@pytest.fixture
def store(postgres_url: str) -> Iterator[Engine]:
    engine = open_store(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
def bell(store: Engine) -> Iterator[Wakeup]:
    """One that listens already."""
    made = Wakeup(store, queue.CHANNEL)
    began = time.monotonic()
    made.wait(LONG, never)
    assert made.listening is not None
    assert time.monotonic() - began < DEADLINE
    yield made
    made.close()


def never() -> bool:
    return False


@contextmanager
def waiting(bell: Wakeup, stopping: Callable[[], bool] = never) -> Iterator[None]:
    """Somebody waits at the bell, and is woken before the end of this block's deadline."""
    entered = threading.Event()

    def asked() -> bool:
        entered.set()
        return stopping()

    waiter = threading.Thread(target=bell.wait, args=(LONG, asked), daemon=True)
    waiter.start()
    assert entered.wait(DEADLINE)
    yield
    waiter.join(DEADLINE)
    assert not waiter.is_alive(), "it was not rung for"


def claimed(c: Connection) -> Claim:
    claim = queue.claim(c, WORKER, read_clock(c))
    assert claim is not None
    return claim


def plan(c: Connection, tiny: Path) -> None:
    sweep = read_plan(tiny)
    planning.add_sweep(c, sweep)
    queue.planned(c, sweep.name, sweep.budget)


def hold_alone(c: Connection, tiny: Path) -> None:
    plan(c, tiny)
    queue.hold_sweep(c, "tiny", Hold.PAUSE)


def fail_one(c: Connection, tiny: Path) -> None:
    plan(c, tiny)
    queue.fail(c, claimed(c), read_clock(c), FailureKind.BAD_DATA, "none")


def wear_out_a_budget(c: Connection, tiny: Path) -> None:
    plan(c, tiny)
    queue.budget(c, "tiny", rounds=1, hours=None)


def claim_one(c: Connection, tiny: Path) -> None:
    plan(c, tiny)
    assert claimed(c).trial == c.execute(sa.select(sa.func.min(trials.c.id))).scalar_one()


def first(c: Connection) -> Claim:
    """Return the claim of `claim_one`, so that the caller can end it."""
    row = c.execute(sa.select(trials).where(trials.c.state == "running")).one()
    return Claim(row.id, row.trial_id, row.fence, {}, None, None, 0)


def failed(c: Connection) -> list[int]:
    return list(c.execute(sa.select(trials.c.id).where(trials.c.state == "failed")).scalars())


def backed_off(c: Connection, tiny: Path) -> None:
    claim_one(c, tiny)
    queue.fail(c, first(c), read_clock(c), FailureKind.ERROR, "boom")
    c.execute(sa.update(trials).where(trials.c.not_before.is_not(None)).values(clock="old"))


RINGS: dict[str, tuple[Callable[[Connection, Path], None], Callable[[Connection], object]]] = {
    "a trial is given back": (claim_one, lambda c: queue.release(c, first(c))),
    "a trainer died": (claim_one, lambda c: queue.lose(c, first(c), "killed")),
    "a wait is over": (backed_off, lambda c: queue.rescue(c, read_clock(c))),
    "a trial is retried": (fail_one, lambda c: queue.retry(c, failed(c))),
    "a sweep is resumed": (hold_alone, lambda c: queue.hold_sweep(c, "tiny", None)),
    "a budget is raised": (
        wear_out_a_budget,
        lambda c: queue.budget(c, "tiny", rounds=None, hours=None),
    ),
}


@pytest.mark.parametrize("what", RINGS)
def test_a_waiting_worker_is_rung_for_when(
    what: str, store: Engine, bell: Wakeup, tiny: Path
) -> None:
    """By the commit, long before it would look by itself."""
    arrange, act = RINGS[what]
    with transaction(store) as c:
        arrange(c, tiny)
    heard(bell)
    with waiting(bell), transaction(store) as c:
        act(c)


def heard(bell: Wakeup) -> None:
    """Take in what has been rung so far."""
    assert bell.listening is not None
    list(bell.listening.notifies(timeout=0))


def test_a_waiting_worker_is_rung_for_when_something_is_planned(
    store: Engine, bell: Wakeup, tiny: Path
) -> None:
    """A new sweep; and one that is planned again with more of it."""
    for extra in ([], ["seed=7"]):
        with waiting(bell), transaction(store) as c:
            sweep = read_plan(tiny, extra)
            planning.add_sweep(c, sweep)
            queue.planned(c, sweep.name, sweep.budget)


def test_nobody_is_rung_for_what_was_not_committed(store: Engine, bell: Wakeup, tiny: Path) -> None:
    """A planning that breaks off makes no sound; the next one does."""
    with pytest.raises(KeyError), transaction(store) as c:  # noqa: PT012
        plan(c, tiny)
        raise KeyError
    assert bell.listening is not None
    assert list(bell.listening.notifies(timeout=0.2)) == []
    with waiting(bell), transaction(store) as c:
        plan(c, tiny)


def test_a_worker_that_begins_to_listen_looks_once_more_first(store: Engine) -> None:
    """No notification came for a plan between its look and its LISTEN."""
    bell = Wakeup(store, queue.CHANNEL)
    began = time.monotonic()
    bell.wait(LONG, never)
    assert time.monotonic() - began < DEADLINE
    assert bell.listening is not None
    bell.close()
    assert bell.listening is None


def test_an_idle_worker_takes_one_connection_and_none_when_it_has_a_trial(store: Engine) -> None:
    """So that the server has room for those that work."""
    count = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    bell = Wakeup(store, queue.CHANNEL)
    bell.wait(LONG, never)
    store.dispose()
    with store.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        eventually(lambda: c.execute(count).scalar_one() == 2)
        bell.close()
        eventually(lambda: c.execute(count).scalar_one() == 1)


def test_a_worker_that_is_to_stop_does_not_wait(bell: Wakeup) -> None:
    """It looks up between slices of the wait."""
    stop = threading.Event()
    with waiting(bell, stop.is_set):
        stop.set()


def test_a_wait_ends_by_itself_when_something_is_due(bell: Wakeup) -> None:
    """A lease's end rings no bell; what is overdue is not waited for."""
    began = time.monotonic()
    bell.wait(0.3, never)
    assert 0.3 <= time.monotonic() - began < DEADLINE
    bell.wait(-100.0, never)
    assert time.monotonic() - began < DEADLINE


def test_a_lost_connection_ends_the_wait_without_an_error(
    bell: Wakeup, store: Engine, postgres_server: str
) -> None:
    """As when the server stops; the worker looks, and listens again when it can."""
    listening = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' AND datname = %s"
    with (
        waiting(bell),
        psycopg.connect(postgres_server, autocommit=True) as admin,
    ):
        (pid,) = admin.execute(listening, (store.url.database,)).fetchone() or (None,)
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    assert bell.listening is None
    bell.wait(LONG, never)
    assert bell.listening is not None


def test_a_server_that_is_gone_is_polled_for(unreachable: Engine) -> None:
    """Neither an error nor a wait for its ring."""
    bell = Wakeup(unreachable, queue.CHANNEL)
    began = time.monotonic()
    bell.wait(LONG, never)
    assert time.monotonic() - began < DEADLINE
    assert bell.listening is None


@pytest.fixture
def unreachable() -> Engine:
    """A server that nobody runs."""
    return sa.create_engine("postgresql+psycopg://u@127.0.0.1:1/n")


def test_on_sqlite_a_wait_is_a_short_sleep(sqlite_url: str) -> None:
    """Another process may plan at any moment, so the sleep is short. It ends if the worker must
    stop.
    """
    store = open_store(sqlite_url)
    bell = Wakeup(store, queue.CHANNEL)
    began = time.monotonic()
    bell.wait(LONG, never)
    assert time.monotonic() - began < DEADLINE
    bell.wait(LONG, lambda: True)
    assert bell.listening is None
    bell.close()
    store.dispose()
