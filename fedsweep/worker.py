"""`fedsweep work`: one process that watches, and one for each slot that claims and trains.

The watching process renews the slots' leases, so that a busy or blocked trainer cannot starve
them; it stops renewing for a trainer that is dead, stopped, or makes no progress.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from multiprocessing import connection as pipes
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep import blackbox, queue
from fedsweep.announcer import Announcer
from fedsweep.errors import (
    FedsweepError,
    LeaseLost,
    SchemaNew,
    StoreBusy,
    StoreError,
    StoreForeign,
    hide_secrets,
)
from fedsweep.spec import Claim, Round
from fedsweep.states import FailureKind, Outcome
from fedsweep.store import arms, driver_errors, reads, schema, writes
from fedsweep.store.doorbell import Doorbell
from fedsweep.store.engine import (
    OUTAGE,
    OUTAGE_SECONDS,
    Moment,
    let_go,
    read_clock,
    reading,
    seconds_since_outage,
    through_an_outage,
    transaction,
)
from fedsweep.webhook import DRAIN_SECONDS

LONGEST_REST = 30.0
"""An idle slot that is rung for looks again after that, or when the next lease ends."""
SHORT_REST = 2.0
"""The same, where it is to stop when all is done: nobody rings for that."""
STALL_SECONDS = 300.0
STALL_ROUNDS = 10
"""A trainer has stalled after ten times its median round, and at least five minutes."""
BUSY_SECONDS = 0.05
"""Processor time that shows a trainer at work; one that waits for another to decode the data
looks for it often enough to use that much in five minutes."""
QUICK_SECONDS = 0.05
"""A standing that is read faster than that is read after every trial."""
LOOK_SECONDS = 1.0
"""How often a slot that finds trials looks whether a search of more priority wants some first."""
PATIENCE = 3
"""Deaths of a slot's process in a row, without a claim, after which it is not started again."""


@dataclass(frozen=True)
class Options:
    """What `fedsweep work` was asked for."""

    url: str
    devices: tuple[str, ...] = ("cpu",)
    slots: int = 1
    threads: int = 1
    sweep: str | None = None
    until_empty: bool = False
    max_trials: int | None = None
    max_hours: float | None = None
    max_attempts: int = queue.MAX_ATTEMPTS
    data: Path | None = None
    lease: float = queue.LEASE_SECONDS
    grace: float = 20.0
    """Seconds that a stopping slot gets to finish its round."""
    notify: tuple[str, ...] = field(default=(), repr=False)
    """Webhooks that are told of ends, failures and stalls: secrets."""


@dataclass
class Slot:
    """What the watching process knows of one slot."""

    number: int
    device: str
    process: SpawnProcess | None = None
    pipe: Any = None
    claim: Claim | None = None
    last: Round | None = None
    round_seconds: list[float] = field(default_factory=list)
    progressed: float = 0.0
    """When the trainer last showed progress, on the monotonic clock."""
    renewed: float = 0.0
    busy: float = 0.0
    """Processor seconds at which it last did."""
    granted: bool = False
    """Whether it may claim one of --max-trials."""
    deaths: int = 0
    closed: bool = False
    blameless: bool = False
    """The store failed it: its trial is given back, and nothing is charged."""
    unwanted: float | None = None
    """Since when its trial is to be given back, or is no longer its own; on that clock."""
    give_back: Any = None
    """The row of the trial that it is to give back after the round: shared with its process."""
    box: Path = Path()
    """Where its process leaves its last words."""

    def rate(self) -> float | None:
        """Rounds a second, from the latest rounds."""
        recent = self.round_seconds[-20:]
        return len(recent) / total if (total := sum(recent)) > 0 else None


@dataclass(frozen=True)
class Broken:
    """Why a slot's process ends for good, in one sentence."""

    why: str
    by_store: bool


class Ask(Enum):
    """What a slot asks of its watch where --max-trials limits it."""

    TRIAL = 1
    BACK = 2


@dataclass(frozen=True)
class Ended:
    """One attempt's end, as its slot reported it; no outcome where the claim was lost."""

    slot: int
    claim: Claim
    outcome: Outcome | None
    last: Round | None
    seconds: float
    error: str | None = None
    """Why it failed: the kind, and the first line of what was said."""
    again: float | None = None
    """Seconds until a failed trial is tried again, None for never."""


@dataclass
class Tally:
    """What a run of `fedsweep work` did."""

    finished: int = 0
    failed: int = 0
    released: int = 0
    lost: int = 0
    failed_in_scope: int = 0
    """Failed trials of the scope, whoever ran them."""
    stopped: bool = False
    broken: str | None = None

    def count(self, outcome: Outcome | None) -> None:
        """Add an attempt's end."""
        if outcome is Outcome.FINISHED:
            self.finished += 1
        elif outcome is Outcome.FAILED:
            self.failed += 1
        elif outcome is Outcome.RELEASED:
            self.released += 1
        else:
            self.lost += 1


@dataclass(frozen=True)
class View:
    """A moment of the work, to be shown."""

    slots: list[Slot]
    progress: list[reads.Progress]
    tally: Tally
    ended: Ended | None = None
    """Set when this view is about an attempt's end."""


Show = Callable[[View], None]


def work(options: Options, show: Show) -> Tally:
    """Claim and run trials until told to stop, or until nothing is left.

    Raises:
        FedsweepError: the store cannot be used, or no slot can be started.

    """
    watch = _Watch(options, show)
    with watch.boxes:
        try:
            return watch.run()
        except SQLAlchemyError as error:
            raise StoreError(_sentence(error)) from error


class _Watch:
    """The watching process."""

    def __init__(self, options: Options, show: Show) -> None:
        self.options = options
        self.show = show
        self.engine = schema.open_store(options.url)
        self.context = multiprocessing.get_context("spawn")
        # A bare byte, not an Event: setting an Event waits for a sleeper that was killed.
        self.stop = self.context.RawValue("b", 0)
        self.budget = options.max_trials
        self.announcer = Announcer(self.engine, options.notify) if options.notify else None
        self.boxes = TemporaryDirectory(prefix="fedsweep-", ignore_cleanup_errors=True)
        self.slots = [
            Slot(
                i,
                options.devices[i % len(options.devices)],
                give_back=self.context.RawValue("q", 0),
                box=Path(self.boxes.name) / f"slot-{i}",
            )
            for i in range(options.slots)
        ]
        hours = options.max_hours
        self.stop_at = None if hours is None else time.monotonic() + 3600 * hours
        self.tally = Tally()
        self.asked_to_stop: float | None = None
        self.hurry = False
        self.progress: list[reads.Progress] = []
        self.progress_due = self.progress_cost = 0.0

    def run(self) -> Tally:
        if self.options.sweep is not None:
            with reading(self.engine) as connection:
                reads.require_sweep(connection, self.options.sweep)
        if self.announcer is not None:
            self.refresh()  # before anything can have ended
        with self.signals():
            for slot in self.slots:
                self.start(slot)
            try:
                while any(not slot.closed for slot in self.slots):
                    self.step()
            finally:
                self.end_all()
        with suppress(*OUTAGE):
            with reading(self.engine) as connection:
                self.progress = reads.progress(connection, self.options.sweep)
                self.tally.failed_in_scope = reads.failed(connection, self.options.sweep)
            self.announce()
        self.show(self.view())
        if self.announcer is not None:
            self.announcer.close(0.0 if self.hurry else DRAIN_SECONDS)
        return self.tally

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C stop after the round; a second one drops the round."""

        def asked(_signal: int, _frame: object) -> None:
            self.hurry = self.asked_to_stop is not None
            self.asked_to_stop = self.asked_to_stop or time.monotonic()

        before = {s: signal.signal(s, asked) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self, slot: Slot) -> None:
        mine, theirs = self.context.Pipe()
        slot.process = self.context.Process(
            target=_slot,
            args=(
                *(replace(self.options, notify=()), slot.number, slot.device, theirs),
                *(self.stop, slot.give_back, slot.box),
            ),
            name=f"fedsweep-slot-{slot.number}",
        )
        # A Ctrl-C reaches the whole terminal group: the child must not meet it before it can
        # say what it does with it, and it inherits what is ignored here.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            slot.process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        theirs.close()
        slot.pipe, slot.busy = mine, 0.0

    def step(self) -> None:
        """Wait a little for news of the slots, take it in, renew the leases."""
        open_slots = [slot for slot in self.slots if not slot.closed]
        waiting = {slot.pipe: slot for slot in open_slots}
        for ready in pipes.wait(list(waiting), timeout=0.1):
            self.hear(waiting[ready])
        if self.stop_at is not None and time.monotonic() > self.stop_at:
            self.asked_to_stop = self.asked_to_stop or time.monotonic()
        if self.asked_to_stop is not None:
            self.stop.value = 1
            self.tally.stopped = True
            if self.hurry or time.monotonic() - self.asked_to_stop > self.options.grace:
                for slot in open_slots:
                    self.kill(slot)
                    self.hear_last_words(slot)
                    self.drop(slot, release=True)
                    slot.closed = True
        self.heartbeat()
        self.take_back()
        self.refresh()
        self.show(self.view())

    def hear(self, slot: Slot) -> None:
        """Take in all that a slot has said; an end of file is the end of its process."""
        said: list[object] = []
        ended = False
        try:
            while slot.pipe.poll():
                said.append(slot.pipe.recv())
        except (EOFError, OSError):
            ended = True
        for word in said:
            self.note(slot, word)
        if ended:
            self.bury(slot)

    def hear_last_words(self, slot: Slot) -> None:
        """What a killed slot held: it may have claimed a trial since it was last heard."""
        with suppress(EOFError, OSError):
            while slot.pipe is not None and slot.pipe.poll():
                said = slot.pipe.recv()
                if isinstance(said, Claim):
                    slot.claim = said
                elif isinstance(said, Ended):
                    slot.claim = None

    def note(self, slot: Slot, said: object) -> None:
        slot.progressed = time.monotonic()
        if isinstance(said, Ask):
            self.answer(slot, said)
        elif isinstance(said, Claim):
            slot.claim, slot.last, slot.deaths, slot.granted = said, None, 0, False
            slot.unwanted, slot.give_back.value = None, 0
            slot.round_seconds.clear()
            slot.renewed = time.monotonic()
        elif isinstance(said, Round):
            slot.last = said
            slot.round_seconds.append(said.seconds)
            blackbox.trim(slot.box, most=blackbox.BYTES)
        elif isinstance(said, Ended):
            slot.claim = slot.last = slot.unwanted = None
            self.tally.count(said.outcome)
            self.refresh(now=True)
            self.show(self.view(ended=said))
        elif isinstance(said, Broken):
            self.tally.broken, slot.blameless = said.why, said.by_store

    def answer(self, slot: Slot, asked: Ask) -> None:
        """Grant a slot one of --max-trials, or take it back unused."""
        assert self.budget is not None
        if asked is Ask.BACK:
            self.budget, slot.granted = self.budget + 1, False
            return
        slot.granted = self.budget > 0
        self.budget -= slot.granted
        with suppress(OSError):  # its end of file follows
            slot.pipe.send(slot.granted)

    def bury(self, slot: Slot) -> None:
        """A slot's process ended: as it should, or under a trial that another must take over."""
        assert slot.process is not None
        slot.process.join()
        slot.pipe.close()
        code = slot.process.exitcode
        if slot.granted:
            self.answer(slot, Ask.BACK)
        if code is not None and code < 0:  # Python had no time to say why
            for word in blackbox.last_words(slot.box):
                print(word, file=sys.stderr)
        self.drop(slot, why=f"its trainer died ({_death(code)})", release=slot.blameless)
        if code == 0 or self.stop.value:
            slot.closed = True
            return
        slot.deaths += 1
        if slot.deaths >= PATIENCE or self.tally.broken:
            self.tally.broken = (
                self.tally.broken or f"slot {slot.number} keeps dying ({_death(code)})"
            )
            slot.closed = True
            return
        self.start(slot)

    def drop(self, slot: Slot, *, why: str = "", release: bool = False) -> None:
        """Give up the claim of a slot whose process is gone."""
        if slot.claim is None:
            return
        claim, slot.claim, slot.last, slot.unwanted = slot.claim, None, None, None
        try:
            with transaction(self.engine) as connection:
                if release:
                    queue.release(connection, claim)
                else:
                    self.store_last_words(connection, slot, claim)
                    queue.lose(connection, claim, why)
            self.tally.count(Outcome.RELEASED if release else None)
        except (LeaseLost, StoreError, StoreBusy, SQLAlchemyError):
            pass  # then its lease ends by itself

    def heartbeat(self) -> None:
        """Renew each lease after a third of it, as long as its trainer lives and progresses."""
        now, beaten = time.monotonic(), False
        for slot in self.slots:
            if slot.claim is None or slot.closed or now - slot.renewed < self.options.lease / 3:
                continue
            if self.stalled(slot, now):
                self.end_stalled(slot)
                continue
            if _is_stopped(slot):
                continue
            beaten = True
            try:
                with transaction(self.engine) as connection:
                    moment = read_clock(connection)
                    held = queue.renew(connection, slot.claim, moment, lease=self.options.lease)
            except LeaseLost:
                # The trainer finds out itself, at its next write.
                slot.unwanted = slot.unwanted or now
                slot.renewed = now
            except OUTAGE:
                pass  # the next beat tries again
            else:
                slot.renewed = now
                if held.give_back:
                    slot.give_back.value = slot.claim.trial
                    slot.unwanted = slot.unwanted or now
        if beaten:
            let_go(self.engine)

    def take_back(self) -> None:
        """A trial that is paused, cancelled or lost leaves its slot after the round, or when that
        takes too long.
        """
        for slot in self.slots:
            if slot.unwanted is None or slot.closed:
                continue
            if time.monotonic() - slot.unwanted > self.options.grace:
                self.kill(slot)
                self.hear_last_words(slot)
                self.drop(slot, release=True)
                slot.deaths = 0  # no fault of its own
                slot.unwanted = None

    def stalled(self, slot: Slot, now: float) -> bool:
        if not slot.round_seconds:
            # A first round may take long, and so may the data: as long as the trainer works.
            busy = _cpu_seconds(slot)
            if busy >= slot.busy + BUSY_SECONDS:
                slot.busy, slot.progressed = busy, now
            return now - slot.progressed > STALL_SECONDS
        usual = statistics.median(slot.round_seconds)
        return now - slot.progressed > max(STALL_SECONDS, STALL_ROUNDS * usual)

    def end_stalled(self, slot: Slot) -> None:
        claim, slot.claim = slot.claim, None
        assert claim is not None
        if slot.process is not None and slot.process.pid is not None and not _is_stopped(slot):
            blackbox.ask(slot.process.pid, slot.box)
        self.kill(slot)
        most = self.options.max_attempts
        try:
            with transaction(self.engine) as connection:
                now = self.store_last_words(connection, slot, claim)
                said, kind = "the trainer made no step", FailureKind.STALLED
                queue.fail(connection, claim, now, kind, said, max_attempts=most)
            self.tally.count(Outcome.FAILED)
        except (LeaseLost, *OUTAGE):
            pass

    def store_last_words(self, connection: Connection, slot: Slot, claim: Claim) -> Moment:
        """What a slot's dead process said, behind the proof that its trial is still its own."""
        now = read_clock(connection)
        queue.renew(connection, claim, now, lease=self.options.lease)
        writes.add_last_words(connection, claim, blackbox.last_words(slot.box))
        return now

    def kill(self, slot: Slot) -> None:
        if slot.process is not None and slot.process.is_alive():
            slot.process.kill()
            slot.process.join()

    def end_all(self) -> None:
        """Whatever happened, no slot outlives its watch, and no claim is left behind."""
        self.stop.value = 1
        for slot in self.slots:
            self.kill(slot)
        for slot in self.slots:
            self.hear_last_words(slot)
            self.drop(slot, release=True)

    def refresh(self, *, now: bool = False) -> None:
        """Read the sweep's standing, every second at most, and less often where that takes long."""
        quick = self.progress_cost < QUICK_SECONDS
        if time.monotonic() < self.progress_due and not (now and quick):
            return
        began = time.monotonic()
        try:
            with reading(self.engine) as connection:
                self.progress = reads.progress(connection, self.options.sweep)
            self.announce()
            self.check_schema()
            self.hold_overspent()
            self.give_up_losers()
            let_go(self.engine)
        except OUTAGE:
            pass
        self.progress_cost = time.monotonic() - began
        self.progress_due = time.monotonic() + max(1.0, 20 * self.progress_cost)

    def announce(self) -> None:
        """Whoever works sees to it that those are told who are not looking."""
        if self.announcer is not None:
            self.announcer.look(self.progress)

    def check_schema(self) -> None:
        """Whoever upgraded the database meanwhile has changed it under us: claim nothing more."""
        with reading(self.engine) as connection:
            try:
                schema.check(connection)
            except (SchemaNew, StoreForeign) as error:
                self.tally.broken = str(error)
                self.asked_to_stop = self.asked_to_stop or time.monotonic()

    def hold_overspent(self) -> None:
        """Whoever works sees to it that a sweep's budget is kept."""
        with reading(self.engine) as connection:
            over = queue.overspent(connection)
        if over:
            with transaction(self.engine) as connection:
                queue.spend(connection)

    def give_up_losers(self) -> None:
        """Whoever works sees to it that searches spend nothing on what cannot win."""
        with reading(self.engine) as connection:
            if not arms.any_open(connection) or not arms.pruning(connection):
                return
        from fedsweep.search.ask import prune

        prune(self.engine)

    def view(self, ended: Ended | None = None) -> View:
        return View(self.slots, self.progress, self.tally, ended)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit {code}"


def _is_stopped(slot: Slot) -> bool:
    """Whether the trainer is frozen (SIGSTOP, a debugger): it makes no progress."""
    try:
        assert slot.process is not None
        assert slot.process.pid is not None
        return psutil.Process(slot.process.pid).status() in (
            psutil.STATUS_STOPPED,
            psutil.STATUS_ZOMBIE,
        )
    except psutil.NoSuchProcess:
        return True


def _cpu_seconds(slot: Slot) -> float:
    """The processor time that a slot's process has used."""
    try:
        assert slot.process is not None
        used = psutil.Process(slot.process.pid).cpu_times()
        return float(used.user + used.system)
    except psutil.NoSuchProcess:
        return 0.0


def _slot(
    options: Options, number: int, device: str, pipe: Any, stop: Any, give_back: Any, box: Path
) -> None:
    """A slot's process: claim, train, claim the next."""
    asked = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        engine = through_an_outage(lambda: schema.open_store(options.url))
        worker = queue.Worker(
            name=f"{platform.node()}-{os.getppid()}-{number}-{uuid.uuid4().hex[:6]}", device=device
        )
        with blackbox.recording(box):
            _SlotLoop(options, number, engine, worker, pipe, stop, give_back, asked).run(box)
    except (FedsweepError, SQLAlchemyError) as error:
        by_store = isinstance(error, (StoreError, StoreBusy, SQLAlchemyError))
        pipe.send(Broken(_sentence(error), by_store))
        raise SystemExit(1) from error


def _sentence(error: FedsweepError | SQLAlchemyError) -> str:
    if isinstance(error, FedsweepError):
        return str(error)
    said = hide_secrets(driver_errors.first_line(error))
    return f"the database refused a statement of the worker ({said}): run `fedsweep db check`"


class _SlotLoop:
    def __init__(
        self,
        options: Options,
        number: int,
        engine: Engine,
        worker: queue.Worker,
        pipe: Any,
        stop: Any,
        give_back: Any,
        asked: threading.Event,
    ) -> None:
        self.give_back = give_back
        self.doorbell = Doorbell(engine, queue.CHANNEL)
        self.options, self.number, self.engine, self.worker = options, number, engine, worker
        self.pipe, self.stop, self.asked = pipe, stop, asked
        self.spent = False
        """Whether --max-trials is used up."""
        self.reached = time.monotonic()
        """When the store last answered."""
        self.parent = multiprocessing.parent_process()
        self.look_due = 0.0
        """When to look again whether a search comes before what may be claimed."""

    def run(self, box: Path) -> None:
        from fedsweep.executor import Place, execute, try_device

        options = self.options
        place = Place(
            self.worker.device, options.threads, options.data, options.lease, options.max_attempts
        )
        try_device(self.worker.device)
        while not self.stopping():
            claim = self.claim()
            if claim is None:
                if self.spent or (options.until_empty and self.empty()):
                    return
                self.rest()
                continue
            self.doorbell.close()
            blackbox.trim(box)  # what was said before is not about this trial
            began = time.monotonic()
            self.last: Round | None = None
            self.say(claim)
            wanted = partial(self.stopping, claim)
            end = execute(self.engine, claim, place, wanted, self.watch)
            self.reached = time.monotonic()  # the attempt's end is stored
            seconds = time.monotonic() - began
            if end is None:
                self.say(Ended(self.number, claim, None, self.last, seconds))
                continue
            error = f"{end.failure}: {end.error.splitlines()[0]}" if end.error else None
            self.say(Ended(self.number, claim, end.outcome, self.last, seconds, error, end.again))

    def claim(self) -> Claim | None:
        """Claim, within --max-trials, which all slots share: the watch grants each."""
        limited = self.options.max_trials is not None
        if limited and not self.granted():
            self.spent = True
            return None
        if time.monotonic() >= self.look_due:
            self.propose(first=True)
            self.look_due = time.monotonic() + LOOK_SECONDS
        claimed = self.take()
        while claimed is None and self.propose():
            claimed = self.take()
        if claimed is None and limited:
            self.say(Ask.BACK)
        return claimed

    def take(self) -> Claim | None:
        """Claim what may run."""
        scope = self.options.sweep
        with self.through_outages(), transaction(self.engine) as connection:
            now = read_clock(connection)
            # Leases that ended during an outage are first renewed by those who hold them.
            rescue = seconds_since_outage() > self.options.lease
            return queue.claim(
                *(connection, self.worker, now),
                lease=self.options.lease,
                sweep=scope,
                rescuing=rescue,
            )
        return None

    def propose(self, *, first: bool = False) -> bool:
        """Let a search choose what to try next; whether it did."""
        with self.through_outages():
            with reading(self.engine) as connection:
                if not arms.any_open(connection):
                    return False
            from fedsweep.search.ask import tend

            return tend(self.engine, self.options.sweep, first=first) and not self.stopping()
        return False

    def granted(self) -> bool:
        self.say(Ask.TRIAL)
        try:
            return bool(self.pipe.recv())
        except (EOFError, OSError):
            return False

    def empty(self) -> bool:
        left = True
        with self.through_outages(), reading(self.engine) as connection:
            left = queue.outstanding(connection, self.options.sweep)
        return not left

    @contextmanager
    def through_outages(self) -> Iterator[None]:
        """Let a store that does not answer pass for one without trials, for a while."""
        try:
            yield
            self.reached = time.monotonic()
        except OUTAGE:
            if time.monotonic() - self.reached > OUTAGE_SECONDS:
                raise

    def rest(self) -> None:
        """Until someone rings, the next lease ends, or a trial has backed off."""
        longest = SHORT_REST if self.options.until_empty else LONGEST_REST
        due = None
        with self.through_outages(), reading(self.engine) as connection:
            due = queue.next_change(connection, read_clock(connection))
        let_go(self.engine)
        self.doorbell.wait(longest if due is None else min(due, longest), self.stopping)

    def watch(self, row: Round) -> None:
        # The watch shows a round: what it does not show need not cross the pipe.
        self.last = replace(row, clients=(), statistics_mismatch_layers=None)
        self.say(self.last)

    def stopping(self, claim: Claim | None = None) -> bool:
        """Asked to, or left alone: without its watch nobody renews the slot's lease. Of a claim:
        also where that trial alone is to be given back.
        """
        orphaned = self.parent is not None and os.getppid() != self.parent.pid
        wanted_back = claim is not None and self.give_back.value == claim.trial
        return orphaned or wanted_back or self.asked.is_set() or bool(self.stop.value)

    def say(self, what: object) -> None:
        try:
            self.pipe.send(what)
        except OSError:  # the watching process is gone: finish the round, save, give back
            self.asked.set()
