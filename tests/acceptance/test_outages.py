"""Real workers through failovers and connection poolers: every trial in one attempt."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from fedsweep import queue
from tests import servers
from tests.acceptance.command import at_once, eventually, fedsweep, query, start
from tests.servers import Server

pytestmark = pytest.mark.slow

LONG = ["--set", "rounds=300", "--set", "snapshot_every=50"]
OUTCOMES = "SELECT outcome, count(*) FROM attempts GROUP BY outcome"
CHARGED = "SELECT sum(failures), sum(losses) FROM trials"
WORK = ["work", "--device", "cpu", "--slots", "2", "--until-empty"]


@pytest.fixture(scope="module")
def primary() -> Iterator[Server]:
    with servers.server() as made:
        yield made


def assert_all_in_one_attempt(url: str) -> None:
    assert query(url, OUTCOMES) == [("finished", 6)]
    assert query(url, CHARGED) == [(0, 0)]


def trained(url: str, rounds: int) -> bool:
    return bool(query(url, "SELECT count(*) FROM rounds")[0][0] >= rounds)


def happened(url: str, rows: str) -> bool:
    return bool(query(url, f"SELECT count(*) {rows}")[0][0])


@pytest.mark.timeout(600)
def test_workers_outlive_a_primary_that_is_a_standby_for_a_while(
    primary: Server, tiny: Path
) -> None:
    """It lasts longer than a lease. Commands that write are refused with one sentence."""
    url = primary.create("demoted")
    at_once("plan", str(tiny), "--db", url, *LONG)
    worker = start(*WORK, "--lease", "3", FEDSWEEP_DB=url)
    eventually(lambda: trained(url, 60))
    primary.demote()
    changes = (["plan", str(tiny), *LONG, "--set", "seed=9"], ["sweep", "pause", "tiny"])
    others = (["db", "gc"], ["sweep", "budget", "tiny", "--none"], WORK)
    for command in (*changes, *others):
        done = fedsweep(*command, "--db", url, code=2)
        (sentence,) = done.stderr.splitlines()
        assert "is a standby, which only reads: name the primary" in sentence
    assert "tiny" in at_once("status", "--db", url).stdout
    primary.promote()
    output = worker.communicate(timeout=400)[0]
    assert worker.returncode == 0, output
    assert "6 trials finished, 0 failed" in output
    assert_all_in_one_attempt(url)


ENDLESS = ["--set", "local_steps=1000000", "--set", "seed=0", "--set", "normalizer=bn"]
"""A trial that stores no round during a test."""


@pytest.mark.timeout(300)
def test_a_trial_outlives_outages_that_its_workers_do_not(primary: Server, tiny: Path) -> None:
    """Worker and server end, and come back, more often than a trial may lose its worker."""
    url = primary.create("outlived")
    at_once("plan", str(tiny), "--db", url, *ENDLESS)
    for number in range(1, queue.MAX_LOSSES + 2):
        worker = start("work", "--device", "cpu", "--lease", "3", FEDSWEEP_DB=url)
        try:
            eventually(partial(happened, url, f"FROM attempts WHERE fence = {number}"))
            primary.stop()
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.communicate()
        primary.start()
        late = "FROM trials WHERE lease_until < extract(epoch FROM now())"
        eventually(partial(happened, url, late))
    taken = "SELECT outcome, error, count(*) FROM attempts GROUP BY outcome, error ORDER BY outcome"
    assert query(url, taken) == [("expired", queue.UNWATCHED, queue.MAX_LOSSES), (None, None, 1)]
    assert query(url, CHARGED) == [(0, 0)]


@pytest.mark.timeout(600)
def test_workers_follow_a_failover_to_another_host(tiny: Path) -> None:
    """The primary dies, and its streaming standby is promoted. The URL names both."""
    with servers.server() as first, servers.standby(first) as second:
        alone = first.create("followed")
        url = (
            f"postgresql://postgres@{first.address},{second.address}/followed"
            "?target_session_attrs=read-write"
        )
        at_once("plan", str(tiny), "--db", url, *LONG)
        worker = start(*WORK, FEDSWEEP_DB=url)
        eventually(lambda: trained(alone, 60))
        eventually(lambda: second.has_replayed(first))
        first.stop()
        second.promote()
        output = worker.communicate(timeout=400)[0]
        assert worker.returncode == 0, output
        after = second.url("followed")
        assert query(after, "SELECT count(*) FROM results WHERE state = 'finished'") == [(6,)]
        assert query(after, CHARGED)[0][0] == 0
        first.start()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("transaction", ()),
        ("transaction", ("ignore_startup_parameters = options",)),
        ("session", ()),
        ("session", ("ignore_startup_parameters = options",)),
    ],
)
def test_workers_train_through_pgbouncer(
    mode: str, settings: tuple[str, ...], primary: Server, tiny: Path
) -> None:
    """They use the user's search_path, which the pooler refuses or ignores at the start."""
    name = f"pooled_{mode}_{len(settings)}"
    direct = primary.create(name)
    query_lab = f"{direct}?options=-csearch_path%3Dlab"
    with servers.pgbouncer(primary, mode, *settings) as port:
        with psycopg.connect(direct, autocommit=True) as admin:
            admin.execute("CREATE SCHEMA lab")
        url = f"postgresql://postgres@127.0.0.1:{port}/{name}?options=-csearch_path%3Dlab"
        at_once("plan", str(tiny), "--db", url)
        workers = [start(*WORK, FEDSWEEP_DB=url) for _ in range(2)]
        output = [worker.communicate(timeout=300)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], output
        assert "6" in at_once("sql", "SELECT count(*) FROM results", "--db", url).stdout
        at_once("report", "--db", url)
        at_once("db", "check", "--db", url)
        at_once("sweep", "pause", "tiny", "--db", url)
    assert_all_in_one_attempt(query_lab)


def test_statement_pooling_is_refused_before_a_trial_is_claimed(
    primary: Server, tiny: Path
) -> None:
    """Every command refuses it in one sentence with the remedy."""
    direct = primary.create("statements")
    at_once("plan", str(tiny), "--db", direct)
    with servers.pgbouncer(primary, "statement") as port:
        url = f"postgresql://postgres@127.0.0.1:{port}/statements"
        for command in (["work", "--device", "cpu"], ["status"], ["plan", str(tiny)]):
            done = at_once(*command, "--db", url, code=2)
            (sentence,) = done.stderr.splitlines()
            assert "set its pool_mode to transaction" in sentence
    assert query(direct, "SELECT count(*) FROM attempts") == [(0,)]
