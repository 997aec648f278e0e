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
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from multiprocessing import connection as pipes
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import psutil
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep import children, interrupt, machine, output, queue, shared, stderr_tail
from fedsweep.errors import (
    DataMissing,
    DeviceError,
    FedsweepError,
    LeaseLost,
    MachineError,
    MachineLacks,
    SchemaNew,
    StoreBusy,
    StoreError,
    StoreForeign,
    StoreMissing,
    StoreReplaced,
    visible,
)
from fedsweep.notify.announcer import Announcer
from fedsweep.notify.webhook import DRAIN_SECONDS
from fedsweep.plan import Round
from fedsweep.shared import Shared
from fedsweep.states import FailureKind, Outcome
from fedsweep.store import (
    arms,
    attempt_rows,
    driver_errors,
    file_places,
    identity,
    schema,
    stops,
    sweep_rows,
    trust,
)
from fedsweep.store.artifacts import folder_of
from fedsweep.store.claim import Claim
from fedsweep.store.clock import Moment, read_clock
from fedsweep.store.engine import close_idle
from fedsweep.store.identity import Identity
from fedsweep.store.outage import OUTAGE, OUTAGE_SECONDS, seconds_served, seconds_since_outage
from fedsweep.store.progress import SweepProgress, failed_trials, sweep_progress
from fedsweep.store.stops import Lack
from fedsweep.store.transactions import reading, through_an_outage, transaction
from fedsweep.store.wakeup import Wakeup

LONGEST_REST = 30.0
"""An idle slot that is rung for looks again after that, or when the next lease ends."""
SHORT_REST = 2.0
"""The same, where it is to stop when all is done: nobody rings for that."""
STALL_SECONDS = 300.0
STALL_ROUNDS = 10
"""A trainer has stalled after ten times its median round, and at least five minutes, without a step
and without processor time. Rounds with and without an evaluation have medians of their own, of
which the longer counts."""
SILENT_SECONDS = 3600.0
"""A trainer that takes no step has stalled after that, however much processor time it uses: waiting
for a GPU that hangs uses a whole core."""
BUSY_SECONDS = 0.05
"""Processor time that shows a trainer at work in a step that takes long."""
WATCH_SECONDS = 1.0
"""How often the watch looks whether the trainers make progress."""
LONGEST_LOOK = 10.0
"""Seconds without progress that one look can add: a watch that did not run for longer (a suspended
machine, a store that does not answer) cannot tell what the trainers did."""
QUICK_SECONDS = 0.05
"""A standing that is read faster than that is read after every trial."""
LOOK_SECONDS = 1.0
"""How often a slot that finds trials looks whether a search of more priority wants some first."""
PATIENCE = 3
"""Attempts in a row that end before their first round, after which a slot claims nothing more. So
do deaths of its process without a claim. They count until a round is stored. On a device that has
trained, trials of the same kind count once: they may be the reason."""
KIND = ("dataset", "model", "normalizer")
"""The fields that trials of one kind share. After an attempt that ended before its first round, a
slot prefers trials of other kinds until it has stored a round."""


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
    artifacts: tuple[str, ...] = ()
    """Places for files that the user has approved for this worker."""
    identity: Identity | None = None
    """The store that the watching process has opened: its slots open no other one."""
    notify: tuple[str, ...] = field(default=(), repr=False)
    """Webhooks that are told of ends, failures and stalls: secrets."""


@dataclass
class Slot:
    """What the watching process knows of one slot."""

    number: int
    device: str
    name: str = ""
    """Under which its process claims; a new one for each process."""
    process: SpawnProcess | None = None
    pipe: Any = None
    claim: Claim | None = None
    vouched: Claim | None = None
    """The last claim that it lost while it lived."""
    last: Round | None = None
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=20))
    """Seconds of the latest rounds."""
    round_seconds: dict[bool, deque[float]] = field(default_factory=dict)
    """Seconds of the latest rounds without (False) and with (True) an evaluation."""
    shared: Shared = field(default_factory=Shared)
    """The memory that its process writes its steps to."""
    steps: int = 0
    """The trainer's steps at the last look."""
    silent: float = 0.0
    """Seconds since the trainer took a step."""
    idle: float = 0.0
    """Seconds since the trainer took a step or used the processor."""
    busy: float = 0.0
    """Processor seconds when it last used the processor."""
    renewed: float = 0.0
    granted: bool = False
    """Whether it may claim one of --max-trials."""
    deaths: list[Lack | None] = field(default_factory=list)
    """The kinds of the trials under which its processes died since it stored a round; None for no
    trial."""
    stalled: tuple[Lack, str] | None = None
    """The kind of the trial for which its process was killed, and why, until it is buried."""
    closed: bool = False
    broken: str | None = None
    """Why its process ends for good."""
    blameless: bool = False
    """The store or the machine failed it: its trial is given back, and nothing is charged."""
    unwanted: float | None = None
    """Since when its trial is to be given back, or is no longer its own; on the monotonic clock."""
    box: Path = Path()
    """Where its process leaves its last words."""

    def rate(self) -> float | None:
        """Rounds a second, from the latest rounds."""
        return len(self.recent) / total if (total := sum(self.recent)) > 0 else None

    def usual_round(self) -> float:
        """Return the median seconds of a round, of the kind that takes longer; 0 before any."""
        return max(map(statistics.median, self.round_seconds.values()), default=0.0)

    def progressed(self) -> None:
        """Note that the trainer shows progress, or cannot be blamed for showing none."""
        self.silent = self.idle = 0.0


@dataclass(frozen=True)
class Broken:
    """Why a slot's process ends for good, in one sentence."""

    why: str
    blameless: bool
    """True if the store or the machine is at fault. The trial that it held is then given back."""
    replaced: bool = False
    """True if the store is no longer the one that was opened: nothing else can be said."""


@dataclass(frozen=True)
class Lacking:
    """Trials that a slot passes over, because its machine lacks what they need."""

    why: str
    lack: Lack


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
    progress: list[SweepProgress]
    tally: Tally
    ended: Ended | None = None
    """Set when this view is about an attempt's end."""


Show = Callable[[View], None]


def work(options: Options, show: Show) -> Tally:
    """Claim and run trials until told to stop, or until nothing is left.

    Raises:
        FedsweepError: the store cannot be used, or no slot can be started.

    """
    try:
        machine.settle_temporary()
        machine.allow_files(options.slots)
        with _machine_faults():
            watch = _Watch(options, show)
            with watch.boxes:
                try:
                    return watch.run()
                except SQLAlchemyError as error:
                    raise StoreError(_sentence(error)) from error
    except MachineError as error:
        note_stop(options.url, ", ".join(options.devices), str(error))
        raise


def note_stop(url: str, device: str, why: str) -> None:
    """Store why a worker that has not begun will not claim; a store that fails is left alone."""
    with suppress(FedsweepError, SQLAlchemyError, OSError, RuntimeError):
        engine = schema.open_to_write(url)
        try:
            _note_stop(engine, device, why)
        finally:
            engine.dispose()


def _note_stop(engine: Engine, device: str, why: str, lack: Lack | None = None) -> None:
    with transaction(engine) as connection:
        host, pid = platform.node(), os.getpid()
        stops.note(connection, host=host, pid=pid, device=device, reason=why, lack=lack)


@contextmanager
def _machine_faults() -> Iterator[None]:
    """Turn an error that a setting of this machine caused into one sentence."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if (sentence := machine.fault(error)) is None:
            raise
        raise MachineError(sentence) from error


class _Watch:
    """The watching process."""

    def __init__(self, options: Options, show: Show) -> None:
        self.options = options
        self.show = show
        self.engine = schema.open_to_write(options.url)
        self.options = replace(options, identity=identity.of(self.engine))
        self.context = multiprocessing.get_context("spawn")
        self.stop = False
        self.budget = options.max_trials
        self.announcer = Announcer(self.engine, options.notify) if options.notify else None
        self.boxes = TemporaryDirectory(prefix="fedsweep-", ignore_cleanup_errors=True)
        self.memory = Path(self.boxes.name) / "shared"
        try:
            memory = shared.create(self.memory, options.slots)
        except OSError as error:
            raise MachineError(
                f"{self.boxes.name} cannot hold the files of a worker "
                f"({error.strerror or error}): name another folder in TMPDIR"
            ) from error
        self.slots = [
            Slot(
                i,
                options.devices[i % len(options.devices)],
                shared=part,
                box=Path(self.boxes.name) / f"slot-{i}",
            )
            for i, part in enumerate(memory)
        ]
        hours = options.max_hours
        self.stop_at = None if hours is None else time.monotonic() + 3600 * hours
        self.tally = Tally()
        self.asked_to_stop: float | None = None
        self.looked = time.monotonic()
        self.hurry = False
        self.progress: list[SweepProgress] = []
        self.progress_due = self.progress_cost = 0.0
        self.proven: set[str] = set()
        """The devices on which a round was stored in this run."""
        self.lacks: set[tuple[str, Lack]] = set()
        """What was told to be lacking, by device."""
        self.ended: list[Ended] = []
        """Attempts' ends that are not shown yet: the standing is read less often than they come."""

    def run(self) -> Tally:
        if self.options.sweep is not None:
            with reading(self.engine) as connection:
                sweep_rows.require_sweep(connection, self.options.sweep)
        self.warn_of_places()
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
        try:
            with reading(self.engine) as connection:
                self.progress = sweep_progress(connection, self.options.sweep)
                self.tally.failed_in_scope = failed_trials(connection, self.options.sweep)
            self.announce()
        except OUTAGE:
            self.progress = []  # of an earlier moment
        self.show_ended()
        self.show(self.view())
        if self.announcer is not None:
            self.announcer.close(0.0 if self.hurry else DRAIN_SECONDS)
        return self.tally

    def warn_of_places(self) -> None:
        """Say where files of open trials lie that this worker neither writes nor reads."""
        trust.allow(self.options.artifacts)
        with reading(self.engine) as connection:
            homes = file_places.homes(connection, self.options.sweep)
        for home, names in homes.items():
            if (refusal := folder_of(self.engine.url, home).refusal) is not None:
                said = f"no snapshots of sweep {', '.join(names)} here, which costs rounds"
                print(visible(f"fedsweep: {said}: {refusal}"), file=sys.stderr)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C stop after the round; a second one drops the round.

        A terminal that hangs up stops after the round too, unless `nohup` ignores its signal.
        """

        def asked(_signal: int, _frame: object) -> None:
            self.hurry = self.asked_to_stop is not None
            self.asked_to_stop = self.asked_to_stop or time.monotonic()

        def hung_up(_signal: int, _frame: object) -> None:  # kernel and shell may both send it
            self.asked_to_stop = self.asked_to_stop or time.monotonic()

        before = {s: signal.signal(s, asked) for s in (signal.SIGTERM, signal.SIGINT)}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, hung_up)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self, slot: Slot) -> None:
        mine, theirs = self.context.Pipe()
        stderr_tail.trim(slot.box)
        slot.name = f"{platform.node()}-{os.getpid()}-{slot.number}-{uuid.uuid4().hex[:6]}"
        slot.process = self.context.Process(
            target=_slot,
            args=(
                *(replace(self.options, notify=()), slot.number, slot.device, slot.name, theirs),
                *(slot.box, self.memory),
                *(tuple(filter(None, slot.deaths)), slot.device in self.proven),
            ),
            name=f"fedsweep-slot-{slot.number}",
        )
        # A Ctrl-C or a hang-up reaches the whole terminal group: the child must not meet it before
        # it can say what it does with it.
        with children.safe_path():  # `block` may start a process, too
            before = interrupt.block(signal.SIGINT, signal.SIGHUP)
            try:
                slot.process.start()
            finally:
                interrupt.restore(before)
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
            self.stop_slots()
            self.tally.stopped = True
            if self.hurry or time.monotonic() - self.asked_to_stop > self.options.grace:
                for slot in open_slots:
                    self.kill(slot)
                    self.hear_last_words(slot)
                    self.drop(slot, why=UNFINISHED, release=True)
                    slot.closed = True
        self.look()
        self.heartbeat()
        self.take_back()
        self.refresh()
        self.show(self.view())

    def stop_slots(self) -> None:
        """Ask every slot to stop after its round."""
        self.stop = True
        for slot in self.slots:
            slot.shared.stop = 1

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
        slot.progressed()
        if isinstance(said, Ask):
            self.answer(slot, said)
        elif isinstance(said, Claim):
            slot.claim, slot.last, slot.granted = said, None, False
            slot.unwanted, slot.shared.give_back = None, 0
            slot.recent.clear()
            slot.round_seconds.clear()
            slot.renewed = time.monotonic()
        elif isinstance(said, Round):
            slot.last = said
            slot.recent.append(said.seconds)
            evaluated = said.test_accuracy is not None
            slot.round_seconds.setdefault(evaluated, deque(maxlen=100)).append(said.seconds)
            stderr_tail.trim(slot.box, most=stderr_tail.BYTES)
        elif isinstance(said, Ended):
            slot.claim = slot.last = slot.unwanted = None
            if said.last is not None and said.outcome is not None:
                self.stored(slot)
            self.tally.count(said.outcome)
            if said.outcome is None:
                self.vouch(slot, said.claim)
            self.ended.append(said)
            self.refresh(now=True)
        elif isinstance(said, Lacking):
            self.tell_lack(slot, said)
        elif isinstance(said, Broken):
            if said.replaced:
                raise StoreReplaced(said.why)
            self.tally.broken = slot.broken = said.why
            slot.blameless = said.blameless

    def stored(self, slot: Slot) -> None:
        """A slot has stored a round: its device can train."""
        self.proven.add(slot.device)
        slot.deaths.clear()

    def tell_lack(self, slot: Slot, said: Lacking) -> None:
        """Say once for each device which trials are passed over, and why."""
        if (slot.device, said.lack) in self.lacks:
            return
        self.lacks.add((slot.device, said.lack))
        print(f"fedsweep: passing over trials: {visible(said.why)}", file=sys.stderr)
        with suppress(FedsweepError, SQLAlchemyError):
            _note_stop(self.engine, slot.device, said.why, said.lack)

    def vouch(self, slot: Slot, claim: Claim) -> None:
        """Say once that the worker of a lost trial lives."""
        if slot.vouched == claim:
            return
        slot.vouched = claim
        with (
            suppress(StoreError, StoreBusy, SQLAlchemyError),
            transaction(self.engine) as connection,
        ):
            queue.come_back(connection, claim)

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
        code, claim = slot.process.exitcode, slot.claim
        if slot.granted:
            self.answer(slot, Ask.BACK)
        if code == 0:  # it has given back what it held
            slot.name = ""
        words = [] if slot.broken else stderr_tail.last_words(slot.box)
        if code is not None and code < 0:  # Python had no time to say why
            for word in words:
                print(visible(word), file=sys.stderr)
        gist = f": {told}" if (told := stderr_tail.gist(words)) else ""
        died = f"{stderr_tail.death(code)}{gist}"
        why = slot.broken or f"its trainer died ({stderr_tail.death(code)}){gist}"
        if self.drop(slot, why=why, release=slot.blameless):
            self.stored(slot)
        if code == 0 or self.stop:
            slot.closed = True
            return
        kind, died = slot.stalled or (None if claim is None else kind_of(claim), died)
        slot.stalled = None
        slot.deaths.append(kind)
        if slot.broken or worn_out(slot.deaths, proven=slot.device in self.proven):
            when = "before a trial's first round" if kind else "before a claim"
            why = slot.broken or f"slot {slot.number} keeps dying {when} ({died})"
            self.tally.broken = self.tally.broken or why
            slot.closed = True
            with suppress(FedsweepError, SQLAlchemyError):
                _note_stop(self.engine, slot.device, why)
            return
        self.start(slot)

    def drop(self, slot: Slot, *, why: str = "", release: bool = False) -> bool:
        """Give up the claim of a slot whose process is gone; returns whether it stored a round.

        A claim that it had no time to tell is given back: its training had not begun.
        """
        name, slot.name = slot.name, ""
        claim, slot.claim, slot.last, slot.unwanted = slot.claim, None, None, None
        stored = False
        if claim is None and not name:
            return stored
        try:
            with transaction(self.engine) as connection:
                if claim is None:
                    claim = queue.reclaim(connection, name, read_clock(connection))
                    release = True
                if claim is None:
                    return stored
                if release:
                    queue.release(connection, claim, why or None)
                else:
                    self.store_last_words(connection, slot, claim)
                    proven = slot.device in self.proven
                    stored = queue.lose(connection, claim, why, charged=proven)
            self.tally.count(Outcome.RELEASED if release else None)
        except (LeaseLost, StoreError, StoreBusy, SQLAlchemyError):
            pass  # then its lease ends by itself
        return stored

    def look(self) -> None:
        """End the trainers that have stalled."""
        now = time.monotonic()
        passed = min(now - self.looked, LONGEST_LOOK)
        if passed < WATCH_SECONDS:
            return
        self.looked = now
        for slot in self.slots:
            if slot.claim is not None and not slot.closed and self.stalled(slot, passed):
                self.end_stalled(slot)

    def heartbeat(self) -> None:
        """Renew each lease after a third of it, as long as its trainer lives and progresses."""
        now, beaten = time.monotonic(), False
        for slot in self.slots:
            if slot.claim is None or slot.closed or now - slot.renewed < self.options.lease / 3:
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
                self.vouch(slot, slot.claim)
                slot.unwanted = slot.unwanted or now
                slot.renewed = now
            except OUTAGE:
                slot.progressed()  # it may wait for the store too; the next beat tries again
            else:
                slot.renewed = now
                if held.give_back:
                    slot.shared.give_back = slot.claim.trial
                    slot.unwanted = slot.unwanted or now
        if beaten:
            close_idle(self.engine)

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
                self.drop(slot, why=UNFINISHED, release=True)
                slot.deaths.clear()  # no fault of its own
                slot.unwanted = None

    def stalled(self, slot: Slot, passed: float) -> bool:
        """Return whether the trainer has made no progress for too long, `passed` seconds more."""
        if slot.shared.steps != slot.steps:
            slot.steps = slot.shared.steps
            slot.progressed()
            return False
        slot.silent += passed
        slot.idle += passed
        # A single step, an import or a look at all files may take minutes.
        busy = _cpu_seconds(slot)
        if busy >= slot.busy + BUSY_SECONDS:
            slot.busy, slot.idle = busy, 0.0
        rounds = STALL_ROUNDS * slot.usual_round()
        return slot.idle > max(STALL_SECONDS, rounds) or slot.silent > max(SILENT_SECONDS, rounds)

    def end_stalled(self, slot: Slot) -> None:
        claim, slot.claim = slot.claim, None
        silent, idle = slot.silent, slot.idle
        assert claim is not None
        slot.stalled = kind_of(claim), f"the trainer made no step for {silent:.0f} s"
        if slot.process is not None and slot.process.pid is not None and not _is_stopped(slot):
            stderr_tail.ask(slot.process.pid, slot.box)
        self.kill(slot)
        most = self.options.max_attempts
        try:
            with transaction(self.engine) as connection:
                now = self.store_last_words(connection, slot, claim)
                said = f"the trainer made no step for {silent:.0f} s"
                said += f" and used no processor time for {idle:.0f} s" if idle > 1 else ""
                if charged := slot.device in self.proven or slot.last is not None:
                    kind = FailureKind.STALLED
                    queue.fail(connection, claim, now, kind, said, max_attempts=most)
                else:
                    queue.lose(connection, claim, said, charged=False)
            self.tally.count(Outcome.FAILED if charged else None)
        except (LeaseLost, *OUTAGE):
            pass

    def store_last_words(self, connection: Connection, slot: Slot, claim: Claim) -> Moment:
        """What a slot's dead process said, behind the proof that its trial is still its own."""
        now = read_clock(connection)
        queue.renew(connection, claim, now, lease=self.options.lease)
        attempt_rows.add_last_words(connection, claim, stderr_tail.last_words(slot.box))
        return now

    def kill(self, slot: Slot) -> None:
        if slot.process is not None and slot.process.is_alive():
            slot.process.kill()
            slot.process.join()

    def end_all(self) -> None:
        """Whatever happened, no slot outlives its watch, and no claim is left behind."""
        self.stop_slots()
        for slot in self.slots:
            self.kill(slot)
        for slot in self.slots:
            self.hear_last_words(slot)
            self.drop(slot, why=UNFINISHED, release=True)

    def refresh(self, *, now: bool = False) -> None:
        """Read the sweep's standing, every second at most, and less often where that takes long."""
        quick = self.progress_cost < QUICK_SECONDS
        if time.monotonic() < self.progress_due and not (now and quick):
            return
        began = time.monotonic()
        try:
            with reading(self.engine) as connection:
                self.progress = sweep_progress(connection, self.options.sweep)
            self.show_ended()
            self.announce()
            self.check_schema()
            self.hold_overspent()
            self.give_up_losers()
            close_idle(self.engine)
        except OUTAGE:
            pass
        self.progress_cost = time.monotonic() - began
        self.progress_due = time.monotonic() + max(1.0, 20 * self.progress_cost)

    def show_ended(self) -> None:
        """Show the attempts that have ended, now that the standing that was read counts them."""
        ended, self.ended = self.ended, []
        for one in ended:
            self.show(self.view(ended=one))

    def announce(self) -> None:
        """Whoever works sees to it that those are told who are not looking."""
        if self.announcer is not None:
            self.announcer.look(self.progress)

    def check_schema(self) -> None:
        """Whoever upgraded the database meanwhile has changed it under us: claim nothing more."""
        identity.require_file(self.engine)
        with reading(self.engine) as connection:
            identity.require_store(connection)
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
        from fedsweep.search.planner import prune

        prune(self.engine)

    def view(self, ended: Ended | None = None) -> View:
        return View(self.slots, self.progress, self.tally, ended)


UNFINISHED = "its worker stopped before the round was over"
"""Why a killed slot's trial is given back."""


def kind_of(claim: Claim) -> Lack:
    """Return the kind of a trial: see `KIND`."""
    return tuple((name, claim.config.get(name)) for name in KIND)


def worn_out(failed: Sequence[Lack | None], *, proven: bool) -> bool:
    """Return whether a slot has failed too often since a round was stored: see `PATIENCE`."""
    if not proven:
        return len(failed) >= PATIENCE
    return len({kind for kind in failed if kind}) + failed.count(None) >= PATIENCE


def _is_stopped(slot: Slot) -> bool:
    """Whether the trainer is frozen (SIGSTOP, a debugger): it makes no progress."""
    assert slot.process is not None
    try:
        return psutil.Process(slot.process.pid).status() in (
            psutil.STATUS_STOPPED,
            psutil.STATUS_ZOMBIE,
        )
    except UNREADABLE:
        return not slot.process.is_alive()


def _cpu_seconds(slot: Slot) -> float:
    """Return the processor seconds that a slot's process has used; 0 if nothing tells."""
    assert slot.process is not None
    try:
        used = psutil.Process(slot.process.pid).cpu_times()
        return float(used.user + used.system)
    except UNREADABLE:
        return 0.0


UNREADABLE = (psutil.Error, OSError, ValueError)
"""Errors of psutil for a process that has ended, or where /proc is missing or hides it."""


def _slot(
    options: Options,
    number: int,
    device: str,
    name: str,
    pipe: Any,
    box: Path,
    memory: Path,
    failed: tuple[Lack, ...],
    proven: bool,
) -> None:
    """A slot's process: claim, train, claim the next."""
    children.forget_safe_path()
    asked = threading.Event()
    interrupt.ignore(signal.SIGINT, signal.SIGHUP)
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    output.prepare(returns=True)
    output.in_background()
    try:
        with _machine_faults(), stderr_tail.recording(box):
            trust.allow(options.artifacts)
            engine = through_an_outage(lambda: schema.open_store(options.url))
            identity.require(engine, options.identity)
            worker = queue.Claimant(name=name, device=device)
            loop = _SlotLoop(options, number, engine, worker, pipe, asked, box, memory)
            loop.failed, loop.proven = failed, proven
            try:
                loop.run()
            finally:
                loop.give_back()
    except (FedsweepError, SQLAlchemyError) as error:
        blameless = isinstance(
            error, (StoreError, StoreBusy, SQLAlchemyError, MachineError, MachineLacks, DeviceError)
        )
        replaced = isinstance(error, (StoreReplaced, StoreMissing))
        pipe.send(Broken(_sentence(error), blameless, replaced))
        raise SystemExit(1) from error


def _sentence(error: FedsweepError | SQLAlchemyError) -> str:
    if isinstance(error, FedsweepError):
        return str(error)
    return driver_errors.refusal(error)


class _SlotLoop:
    failed: tuple[Lack, ...] = ()
    """The kinds of trials that failed here before their first round, since one was stored."""
    proven: bool = False
    """Whether a round was stored on this device in this run."""
    lacks: Mapping[Lack, str] = MappingProxyType({})
    """What this machine lacks, and why its trials are passed over."""

    def __init__(
        self,
        options: Options,
        number: int,
        engine: Engine,
        worker: queue.Claimant,
        pipe: Any,
        asked: threading.Event,
        box: Path,
        memory: Path,
    ) -> None:
        self.box = box
        self.shared = shared.attach(memory, number)
        self.doorbell = Wakeup(engine, queue.CHANNEL)
        self.options, self.number, self.engine, self.worker = options, number, engine, worker
        self.pipe, self.asked = pipe, asked
        self.spent = False
        """Whether --max-trials is used up."""
        self.reached = time.monotonic()
        """When the store last took a write: a standby answers, but only to reads."""
        self.parent = multiprocessing.parent_process()
        self.in_doubt = False
        """True if a claim may have been committed without an answer."""
        self.look_due = 0.0
        """When to look again whether a search comes before what may be claimed."""

    def run(self) -> None:
        from fedsweep.execution.attempt import count_steps_in, execute
        from fedsweep.execution.device import try_machine
        from fedsweep.execution.place import Place

        count_steps_in(self.shared)
        options = self.options
        at = Place(
            self.worker.device, options.threads, options.data, options.lease, options.max_attempts
        )
        try_machine(self.worker.device, options.threads)
        self.look_for_needs()
        while not self.stopping():
            claim = self.claim()
            if claim is None:
                if self.spent or (options.until_empty and self.empty()):
                    return
                self.rest()
                continue
            self.doorbell.close()
            stderr_tail.trim(self.box)  # what was said before is not about this trial
            began = time.monotonic()
            self.last: Round | None = None
            self.say(claim)
            wanted, place = partial(self.stopping, claim), replace(at, proven=self.proven)
            try:
                end = execute(self.engine, claim, place, wanted, self.watch)
            except MachineLacks as missing:
                seconds, why = time.monotonic() - began, str(missing)
                self.say(Ended(self.number, claim, Outcome.RELEASED, None, seconds, why))
                self.pass_over(missing, claim)
                self.unspend()
                continue
            self.reached = time.monotonic()  # the attempt's end is stored
            seconds = time.monotonic() - began
            if end is None:
                self.say(Ended(self.number, claim, None, self.last, seconds))
                continue
            error = f"{end.failure}: {end.error.splitlines()[0]}" if end.error else None
            self.say(Ended(self.number, claim, end.outcome, self.last, seconds, error, end.again))
            if end.outcome is Outcome.RELEASED and end.failure is not None:
                self.unspend()
            self.judge(claim, end.failure, error)

    def unspend(self) -> None:
        """Do not count a trial that was given back as one of --max-trials."""
        if self.options.max_trials is not None:
            self.say(Ask.BACK)

    def look_for_needs(self) -> None:
        """Find out what this machine lacks of all that open trials in scope need."""
        from fedsweep.execution.needs import lacking

        needs: list[dict[str, str | None]] = []
        with self.through_outages(), reading(self.engine) as connection:
            needs = queue.needs(connection, self.options.sweep)
        close_idle(self.engine)
        for missing in lacking(needs, self.options.data, self.worker.device):
            self.pass_over(missing)

    def pass_over(self, missing: MachineLacks, claim: Claim | None = None) -> None:
        """Claim no trial that needs what this machine lacks, and say so.

        Data that no machine seems to have are no reason: their trials fail, for a person to look.
        """
        lack = missing.lack
        if lack is None:
            assert claim is not None
            lack = kind_of(claim)
        if isinstance(missing, DataMissing):
            nowhere = False
            with self.through_outages(), reading(self.engine) as connection:
                nowhere = stops.nowhere(connection, lack, self.worker.host)
            if nowhere:
                return
        if lack not in self.lacks:
            self.lacks = {**self.lacks, lack: str(missing)}
            self.say(Lacking(str(missing), lack))

    def judge(self, claim: Claim, failure: FailureKind | None, error: str | None) -> None:
        """Take an attempt's end as a sign for or against this machine.

        Raises:
            MachineError: too many attempts in a row failed before their first round.

        """
        if self.last is not None:
            self.proven = True
            self.failed = ()
        elif failure in (FailureKind.ERROR, FailureKind.OUT_OF_MEMORY):
            self.failed = (*self.failed, kind_of(claim))
            if worn_out(self.failed, proven=self.proven):
                raise MachineError(
                    f"{len(self.failed)} attempts in a row failed on {self.worker.device} before "
                    f"their first round, the last with {error}: mend the machine or the plan"
                )

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
        if claimed is None and self.lacks:
            self.require_work()
        return claimed

    def require_work(self) -> None:
        """Stop if this machine can train nothing that is open in scope.

        A worker that has trained, and is not to stop when all is done, waits for other trials.

        Raises:
            MachineLacks: says what it lacks.

        """
        if self.proven and not self.options.until_empty:
            return
        scope, hopeless = self.options.sweep, False
        with self.through_outages(), reading(self.engine) as connection:
            hopeless = queue.outstanding(connection, scope) and not queue.may_come(
                connection, scope, self.lacks
            )
        if hopeless:
            why = "; ".join(self.lacks.values())
            raise MachineLacks(f"nothing that is left in scope can be trained here: {why}")

    def take(self) -> Claim | None:
        """Claim what may run: of another kind than what failed here, if there is such."""
        lacks = frozenset(self.lacks)
        claimed = self.take_but(lacks | set(self.failed)) if self.failed else None
        return claimed or self.take_but(lacks)

    def take_but(self, passed_over: frozenset[Lack]) -> Claim | None:
        """Claim what may run and needs none of this."""
        scope = self.options.sweep
        lease = self.options.lease
        with self.through_outages():
            with transaction(self.engine) as connection:
                now, claimed = read_clock(connection), None
                if self.in_doubt:
                    claimed = queue.reclaim(connection, self.worker.name, now, lease=lease)
                self.in_doubt = True
                if claimed is None:
                    # Leases that ended during an outage are first renewed by those who hold them.
                    claimed = queue.claim(
                        *(connection, self.worker, now),
                        lease=lease,
                        sweep=scope,
                        rescuing=seconds_since_outage() > lease,
                        served=seconds_served(),
                        passed_over=passed_over,
                    )
            self.in_doubt = False
            self.reached = time.monotonic()
            return claimed
        return None

    def give_back(self) -> None:
        """Release the trial of a claim whose answer was lost, before the process ends."""
        if not self.in_doubt:
            return
        with suppress(FedsweepError, SQLAlchemyError), transaction(self.engine) as connection:
            claim = queue.reclaim(connection, self.worker.name, read_clock(connection))
            if claim is not None:
                queue.release(connection, claim, "the answer of its claim was lost")

    def propose(self, *, first: bool = False) -> bool:
        """Let a search choose what to try next; whether it did."""
        with self.through_outages():
            with reading(self.engine) as connection:
                if not arms.any_open(connection):
                    return False
            from fedsweep.search.planner import tend

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
        except OUTAGE:
            if time.monotonic() - self.reached > OUTAGE_SECONDS:
                raise

    def rest(self) -> None:
        """Until someone rings, the next lease ends, or a trial has backed off."""
        longest = SHORT_REST if self.options.until_empty else LONGEST_REST
        due = None
        with self.through_outages(), reading(self.engine) as connection:
            due = queue.next_change(connection, read_clock(connection))
        close_idle(self.engine)
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
        wanted_back = claim is not None and self.shared.give_back == claim.trial
        return orphaned or wanted_back or self.asked.is_set() or bool(self.shared.stop)

    def say(self, what: object) -> None:
        try:
            self.pipe.send(what)
        except OSError:  # the watching process is gone: finish the round, save, give back
            self.asked.set()
