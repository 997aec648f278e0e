"""Faults of the store: a write is retried, or the worker gives its trial back uncharged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from rich.console import Console
from sqlalchemy import exc
from sqlalchemy.engine import Engine

from fedsweep import cli, queue, worker
from fedsweep.cli import console
from fedsweep.errors import (
    LeaseLost,
    RequestError,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreStandby,
    StoreUnreachable,
)
from fedsweep.execution.attempt import execute
from fedsweep.execution.place import Place
from fedsweep.plans import read_plan
from fedsweep.states import Outcome
from fedsweep.store import clock, outage, planning, round_rows, transactions
from fedsweep.store.claim import Claim
from fedsweep.store.outage import OUTAGE_SECONDS
from fedsweep.store.tables import attempts, trials
from fedsweep.worker.watch import _Watch
from tests.builders import WORKER
from tests.slots import slot_loop

FAULTS = [
    psycopg.errors.UndefinedTable("relation does not exist"),
    psycopg.errors.NumericValueOutOfRange("too large"),
    psycopg.DataError("text fields cannot contain NUL"),
    exc.InvalidRequestError("a transaction is begun already"),
    exc.IntegrityError("INSERT", {}, Exception("a duplicate")),
    UnicodeEncodeError("latin-1", "⋆", 0, 1, "ordinal not in range"),
]
OUTAGES = [
    psycopg.errors.AdminShutdown("fast shutdown"),
    psycopg.errors.TooManyConnections("no slot"),
    psycopg.OperationalError("the connection is lost"),
    exc.PendingRollbackError("rolled back"),
    psycopg.errors.DuplicatePreparedStatement("_pg3_0"),
]


@pytest.fixture
def planned(store: Engine, tiny: Path) -> Engine:
    with transactions.transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny).alone())
    return store


def claim(store: Engine) -> Claim:
    with transactions.transaction(store) as c:
        claimed = queue.claim(c, WORKER, clock.read_clock(c))
    assert claimed is not None
    return claimed


def charged(store: Engine) -> tuple[int, int, int]:
    """Return the failures and losses of all trials, and the number of their failed attempts."""
    with transactions.reading(store) as c:
        sums = sa.select(sa.func.sum(trials.c.failures), sa.func.sum(trials.c.losses))
        failures, losses = c.execute(sums).one()
        failed = sa.select(sa.func.count()).where(attempts.c.outcome == Outcome.FAILED.value)
        return failures, losses, c.execute(failed).scalar_one()


def test_no_error_of_the_store_fails_a_trial(
    planned: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every error of the driver ends the worker with one sentence. The trial is not charged."""
    for fault in FAULTS:

        def refused(*_: object, fault: Exception = fault) -> None:
            raise fault

        claimed = claim(planned)
        with monkeypatch.context() as patched:
            patched.setattr(round_rows, "add_rounds", refused)
            with pytest.raises(StoreError) as caught:
                execute(planned, claimed, Place(), lambda: True, lambda _: None)
        assert len(str(caught.value).splitlines()) == 1
        with transactions.transaction(planned) as c:
            queue.release(c, claimed)
    assert charged(planned) == (0, 0, 0)


def test_a_trial_outlives_an_outage(planned: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of outage occurs once, and the trial finishes in its first attempt."""
    kinds = OUTAGES if planned.dialect.name == "postgresql" else OUTAGES[:-1]
    add, left = round_rows.add_rounds, list(kinds)
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def troubled(*arguments: Any) -> Any:
        if left:
            raise left.pop()
        return add(*arguments)

    monkeypatch.setattr(round_rows, "add_rounds", troubled)
    claimed = claim(planned)
    end = execute(planned, claimed, Place(), lambda: False, lambda _: None)
    assert end is not None
    assert (end.outcome, left) == (Outcome.FINISHED, [])
    assert charged(planned) == (0, 0, 0)


def test_a_worker_whose_store_failed_gives_its_trial_back(planned: Engine, store_url: str) -> None:
    """The watch releases the trial of a slot that the store has ended. It is not charged."""
    claimed = claim(planned)
    watch = _Watch(worker.WorkOptions(store_url), lambda _: None)
    (slot,) = watch.slots
    slot.claim, slot.pipe = claimed, watch.context.Pipe()[0]
    slot.process.handle = SimpleNamespace(join=lambda: None, exitcode=1)  # type: ignore[assignment]  # ended
    watch.note(slot, worker.Broken("the database is away", blameless=True))
    watch.reap(slot.process)
    watch.engine.dispose()
    watch.boxes.cleanup()
    assert (slot.closed, watch.tally.broken) == (True, "the database is away")
    assert (watch.tally.released, watch.tally.lost) == (1, 0)
    assert charged(planned) == (0, 0, 0)
    assert claim(planned).trial == claimed.trial


def test_after_an_outage_the_holder_may_renew_an_expired_lease(planned: Engine) -> None:
    """Other workers take the trial over only after one more lease."""
    with transactions.transaction(planned) as c:
        c.execute(sa.update(trials).where(trials.c.id > 1).values(held="pause"))
    held = claim(planned)
    over = sa.update(trials).where(trials.c.id == held.trial).values(lease_until=0.0)
    with transactions.transaction(planned) as c:
        c.execute(over)
        now = clock.read_clock(c)
        assert queue.claim(c, WORKER, now, rescuing=False) is None
        queue.renew(c, held, now)
        c.execute(over)
    taken = claim(planned)
    assert (taken.trial, taken.fence > held.fence) == (held.trial, True)
    with pytest.raises(LeaseLost), transactions.transaction(planned) as c:
        queue.renew(c, held, clock.read_clock(c))


def test_the_time_limit_of_an_outage_begins_with_the_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long trial before it does not count. After the limit the error is raised."""
    loop = slot_loop(sa.create_engine("sqlite://"))
    monkeypatch.setattr("fedsweep.worker.slot.OUTAGE_SECONDS", 1000.0)
    with loop.through_outages():
        raise StoreUnreachable
    loop.reached -= 1001.0
    with pytest.raises(StoreUnreachable), loop.through_outages():
        raise StoreUnreachable


def test_a_standby_is_waited_for_up_to_the_limit(
    planned: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker reads between its claims. A successful read does not end the outage."""
    slot = slot_loop(planned)
    slot.reached -= OUTAGE_SECONDS + 1

    def refused(_engine: Engine) -> Any:
        raise StoreStandby

    with monkeypatch.context() as patched:
        patched.setattr("fedsweep.worker.slot.transaction", refused)
        assert not slot.empty()
        with pytest.raises(StoreStandby):
            slot.take()
    assert slot.take() is not None
    with monkeypatch.context() as patched:
        patched.setattr("fedsweep.worker.slot.transaction", refused)
        assert slot.take() is None


def test_a_watched_status_outlives_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last status stays on the screen with the reason. Other errors end the command."""
    looks = ["one", StoreUnreachable("the server is away"), "two", RequestError("gone")]
    screen = Console(record=True, width=100, force_terminal=True)
    monkeypatch.setattr(console, "console", lambda: screen)
    monkeypatch.setattr(console, "WATCH_SECONDS", 0.0)

    def look() -> str:
        status = looks.pop(0)
        if isinstance(status, Exception):
            raise status
        return status

    with pytest.raises(RequestError, match="gone"):
        console.keep_showing(look)
    text = screen.export_text()
    assert "the server is away (trying again)" in text
    assert "two" in text


def test_a_claim_without_an_answer_is_claimed_again(planned: Engine) -> None:
    """The worker gets the trial that it holds already. The lease is renewed, without a charge."""
    held = claim(planned)
    with transactions.transaction(planned) as c:
        now = clock.read_clock(c)
        assert queue.reclaim(c, "another", now) is None
        c.execute(sa.update(trials).where(trials.c.id == held.trial).values(lease_until=0.0))
        assert queue.reclaim(c, WORKER.name, now) == held
        queue.release(c, held)
        assert queue.reclaim(c, WORKER.name, now) is None
    assert charged(planned) == (0, 0, 0)


def test_an_unreported_claim_of_a_killed_slot_is_given_back(
    planned: Engine, store_url: str
) -> None:
    """The watch finds the claim by the slot's name. The trial is not charged."""
    held = claim(planned)
    watch = _Watch(worker.WorkOptions(store_url), lambda _: None)
    (slot,) = watch.slots
    slot.name = "another"
    watch.leases.give_up(slot, why="its trainer died (SIGKILL)")
    with transactions.reading(planned) as c:
        running = sa.select(trials.c.id).where(trials.c.state == "running")
        assert c.execute(running).scalars().all() == [held.trial]
    slot.name = WORKER.name
    watch.leases.give_up(slot, why="its trainer died (SIGKILL)")
    watch.engine.dispose()
    watch.boxes.cleanup()
    assert (watch.tally.released, watch.tally.lost) == (1, 0)
    assert charged(planned) == (0, 0, 0)
    assert claim(planned).trial == held.trial


def taken_over(store: Engine, held: Claim) -> None:
    """Let a lease expire while its worker is stopped, so that another worker takes the trial."""
    over = sa.update(trials).where(trials.c.id == held.trial).values(lease_until=0.0)
    with transactions.transaction(store) as c:
        c.execute(over)
        assert queue.rescue(c, clock.read_clock(c)) == 1
    assert charged(store) == (0, 1, 0)


def test_a_trial_is_not_charged_for_a_worker_that_comes_back(
    planned: Engine, store_url: str
) -> None:
    """The watch notices the loss at the next heartbeat or from the slot, and reports it once."""
    watch = _Watch(worker.WorkOptions(store_url, lease=0.0), lambda _: None)
    (slot,) = watch.slots
    slot.process.handle = watch.context.Process()  # type: ignore[assignment]  # never started
    held = claim(planned)
    taken_over(planned, held)
    slot.claim = held
    watch.leases.renew(watch.slots)
    assert slot.unwanted is not None
    assert charged(planned) == (0, 0, 0)
    again = claim(planned)
    assert again.trial == held.trial
    taken_over(planned, again)
    assert execute(planned, again, Place(), lambda: True, lambda _: None) is None
    watch.note(slot, worker.Ended(0, again, None, None, 0.0))
    assert charged(planned) == (0, 0, 0)
    with transactions.transaction(planned) as c:
        c.execute(sa.update(trials).where(trials.c.id == held.trial).values(losses=2))
    watch.note(slot, worker.Ended(0, again, None, None, 0.0))
    assert charged(planned) == (0, 2, 0)
    watch.engine.dispose()
    watch.boxes.cleanup()


def test_an_outage_resets_the_time_of_service(
    planned: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of outage ends a process's time of service. Its next write begins a new one."""
    moment = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    monkeypatch.setattr(outage, "_served_since", None)
    for fault in (StoreUnreachable, StoreBusy, StoreFull):
        with transactions.reading(planned):
            assert outage.seconds_served() == 0.0
        with transactions.transaction(planned):
            pass
        moment[0] += 7.0
        assert outage.seconds_served() == 7.0
        with transactions.transaction(planned):
            pass
        assert outage.seconds_served() == 7.0
        with pytest.raises(fault), transactions.transaction(planned):
            raise fault("away")
        assert outage.seconds_served() == 0.0


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_slot_keeps_or_releases_a_claim_without_an_answer(
    planned: Engine, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    """The commit succeeds, but its answer is lost. The slot claims that trial, or releases it."""
    slot = slot_loop(planned)

    @contextmanager
    def unanswered(engine: Engine) -> Iterator[sa.Connection]:
        with transactions.transaction(engine) as c:
            yield c
        raise StoreUnreachable

    with monkeypatch.context() as patched:
        patched.setattr("fedsweep.worker.slot.transaction", unanswered)
        assert slot.take() is None
    running = sa.select(trials.c.id).where(trials.c.state == "running")
    with transactions.reading(planned) as c:
        (held,) = c.execute(running).scalars()
    if goes_on:
        taken = slot.take()
        assert taken is not None
        assert (taken.trial, slot.in_doubt) == (held, False)
    slot.give_back()
    with transactions.reading(planned) as c:
        assert list(c.execute(running).scalars()) == ([held] if goes_on else [])
    assert charged(planned) == (0, 0, 0)


@pytest.mark.parametrize("fault", FAULTS[:3])
def test_a_command_ends_with_a_sentence_for_an_error_of_the_database(
    fault: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2, and there is no traceback, for every unknown SQLSTATE."""

    def refused(**_: object) -> None:
        raise fault

    monkeypatch.setattr("fedsweep.cli.app.app", refused)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"the database refused a statement ({fault})" in sentence
