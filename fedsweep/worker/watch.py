"""The watch: the process that starts the slots, renews their leases and ends stalled trainers."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import statistics
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import connection as pipes
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep import children, interrupt, machine, queue, shared, stderr_tail
from fedsweep.errors import (
    FedsweepError,
    LeaseLost,
    MachineError,
    SchemaNew,
    StoreBusy,
    StoreError,
    StoreForeign,
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
    file_places,
    identity,
    schema,
    stops,
    sweep_rows,
    trust,
)
from fedsweep.store.artifacts import folder_of
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.engine import close_idle
from fedsweep.store.moment import Moment
from fedsweep.store.outage import OUTAGE
from fedsweep.store.progress import SweepProgress, failed_trials, sweep_progress
from fedsweep.store.stops import Lack
from fedsweep.store.transactions import reading, transaction
from fedsweep.worker.messages import Ask, Broken, Ended, Lacking, Options, machine_faults, sentence
from fedsweep.worker.slot import kind_of, run_slot, worn_out

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
class Snapshot:
    """A moment of the work, to be shown."""

    slots: list[Slot]
    progress: list[SweepProgress]
    tally: Tally
    ended: Ended | None = None
    """Set when this view is about an attempt's end."""


Show = Callable[[Snapshot], None]


def work(options: Options, show: Show) -> Tally:
    """Claim and run trials until told to stop, or until nothing is left.

    Raises:
        FedsweepError: the store cannot be used, or no slot can be started.

    """
    try:
        machine.settle_temporary()
        machine.allow_files(options.slots)
        with machine_faults():
            watch = _Watch(options, show)
            with watch.boxes:
                try:
                    return watch.run()
                except SQLAlchemyError as error:
                    raise StoreError(sentence(error)) from error
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
            target=run_slot,
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
            self.announcer.update(self.progress)

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

    def view(self, ended: Ended | None = None) -> Snapshot:
        return Snapshot(self.slots, self.progress, self.tally, ended)


UNFINISHED = "its worker stopped before the round was over"
"""Why a killed slot's trial is given back."""


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
