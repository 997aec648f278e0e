"""The watch: the process that starts the slots, renews their leases and ends stalled trainers."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import connection as pipes
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep import children, interrupt, machine, shared, stderr_tail
from fedsweep.errors import (
    FedsweepError,
    MachineError,
    StoreError,
    StoreReplaced,
    visible,
)
from fedsweep.notify.announcer import Announcer
from fedsweep.notify.webhook import DRAIN_SECONDS
from fedsweep.plans import Round
from fedsweep.shared import Shared
from fedsweep.store import (
    file_places,
    identity,
    schema,
    stops,
    sweep_rows,
    trust,
)
from fedsweep.store.artifacts import folder_of
from fedsweep.store.claim import Claim
from fedsweep.store.outage import OUTAGE
from fedsweep.store.progress import SweepProgress, failed_trials, sweep_progress
from fedsweep.store.stops import Lack
from fedsweep.store.transactions import reading, transaction
from fedsweep.store.varying import varying_fields
from fedsweep.worker.deaths import Death, death_of
from fedsweep.worker.kinds import kind_of, worn_out
from fedsweep.worker.leases import Leases
from fedsweep.worker.messages import (
    Ask,
    Broken,
    Decided,
    Ended,
    Lacking,
    WorkOptions,
    machine_faults,
    sentence,
)
from fedsweep.worker.process import Member, Orders, run_slots
from fedsweep.worker.slot_state import Slot, SlotProcess
from fedsweep.worker.stalls import (
    LONGEST_CHECK,
    STALL_CHECK_SECONDS,
    has_stalled,
    is_stopped,
    stalled_together,
)
from fedsweep.worker.status import Show, Tally, WorkStatus
from fedsweep.worker.upkeep import Upkeep, hold_overspent, prune_arms, schema_refusal


def work(options: WorkOptions, show: Show) -> Tally:
    """Claim and run trials until the user stops the run, or until nothing is left.

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
                finally:
                    watch.engine.dispose()
    except MachineError as error:
        note_stop(options.url, ", ".join(options.devices), str(error))
        raise


def note_stop(url: str, device: str, why: str) -> None:
    """Store the reason why a worker stops before its first claim. Ignore a store that fails."""
    with suppress(FedsweepError, SQLAlchemyError, OSError, RuntimeError):
        engine = schema.open_to_write(url)
        try:
            _store_stop(engine, device, why)
        finally:
            engine.dispose()


def _store_stop(engine: Engine, device: str, why: str, lack: Lack | None = None) -> None:
    with transaction(engine) as connection:
        host, pid = platform.node(), os.getpid()
        stops.note(connection, host=host, pid=pid, device=device, reason=why, lack=lack)


UNWANTED_ROUNDS = 2
"""The number of its usual rounds for which a paused, cancelled or lost trial may go on at least, if
other trials of its process train.
"""

UNFINISHED = "its worker stopped before the round was over"
"""The reason stored for the trials of a killed process."""


class _Watch:
    """The watching process: its slots, their claims, and the upkeep of the sweeps."""

    def __init__(self, options: WorkOptions, show: Show) -> None:
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
        self.processes = _processes(options, memory, Path(self.boxes.name))
        self.slots = [slot for process in self.processes for slot in process.slots]
        hours = options.max_hours
        self.stop_at = None if hours is None else time.monotonic() + 3600 * hours
        self.tally = Tally()
        self.asked_to_stop: float | None = None
        self.checked = time.monotonic()
        self.hurry = False
        self.progress: list[SweepProgress] = []
        self.begun: set[str] = set()
        """The sweeps that have had work since the run began."""
        self.varying: tuple[str, ...] = ()
        self.has_read = False
        """True from the first reading of the progress on."""
        self.upkeep = Upkeep(
            self.engine,
            [
                self.read_progress,
                self.show_ended,
                self.announce,
                self.check_schema,
                partial(hold_overspent, self.engine),
                partial(prune_arms, self.engine),
            ],
        )
        self.proven: set[str] = set()
        """The devices on which a round was stored in this run."""
        self.leases = Leases(self.engine, self.options, self.tally, self.proven)
        self.lacks: set[tuple[str, Lack]] = set()
        """The lacks that were reported, with their devices."""
        self.unshown: list[Ended] = []
        """Ends of attempts that are not shown yet. The progress is read less often than they
        come."""

    def run(self) -> Tally:
        """Start the slots, and watch them until each is closed."""
        if self.options.sweep is not None:
            with reading(self.engine) as connection:
                sweep_rows.require_sweep(connection, self.options.sweep)
        self.warn_of_places()
        if self.announcer is not None:
            self.upkeep.run()  # before anything can have ended
        with self.signals():
            for process in self.processes:
                self.start(process)
            try:
                while any(not process.closed for process in self.processes):
                    self.step()
            finally:
                self.end_all()
        try:
            self.read_progress()
            with reading(self.engine) as connection:
                self.tally.failed_in_scope = failed_trials(connection, self.options.sweep)
            self.announce()
        except OUTAGE:
            self.progress = []  # it is out of date
        self.show_ended()
        self.show(self.view())
        if self.announcer is not None:
            self.announcer.close(0.0 if self.hurry else DRAIN_SECONDS)
        return self.tally

    def warn_of_places(self) -> None:
        """Print the places of files that this worker may not use, with their sweeps."""
        trust.allow(self.options.artifacts)
        with reading(self.engine) as connection:
            homes = file_places.homes(connection, self.options.sweep)
        for home, names in homes.items():
            if (refusal := folder_of(self.engine.url, home).refusal) is not None:
                message = f"no snapshots of sweep {', '.join(names)} here, which costs rounds"
                print(visible(f"fedsweep: {message}: {refusal}"), file=sys.stderr)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Stop after the round at SIGTERM or Ctrl-C. The second signal drops the round.

        A terminal that hangs up also stops the run after the round, unless `nohup` ignores its
        signal. Python lets only the main thread handle signals: in another one, none is handled.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(_signal: int, _frame: object) -> None:
            self.hurry = self.asked_to_stop is not None
            self.ask_to_stop()

        def hung_up(_signal: int, _frame: object) -> None:  # kernel and shell may both send it
            self.ask_to_stop()

        before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, hung_up)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self, process: SlotProcess) -> None:
        """Start a process of slots."""
        members = []
        for slot in process.slots:
            slot.pipe, slot_end = self.context.Pipe()
            slot.name = f"{platform.node()}-{os.getpid()}-{slot.number}-{uuid.uuid4().hex[:6]}"
            slot.busy = 0.0
            members.append(Member(slot.number, slot.name, slot_end))
        stderr_tail.trim(process.box)
        orders = Orders(
            replace(self.options, notify=()),
            process.device,
            tuple(members),
            process.box,
            self.memory,
            tuple(filter(None, process.deaths)),
            process.device in self.proven,
            process.alone,
        )
        name = f"fedsweep-slot-{process.slots[0].number}"
        process.handle = self.context.Process(target=run_slots, args=(orders,), name=name)
        # Ctrl-C and a hang-up reach the whole process group of the terminal. The child must not
        # get the signal before it has set its handlers.
        with children.safe_path(), children.without_main():  # `block` may start a process, too
            before = interrupt.block(signal.SIGINT, signal.SIGHUP)
            try:
                process.handle.start()
            finally:
                interrupt.restore(before)
        for member in members:
            member.pipe.close()

    def step(self) -> None:
        """Wait briefly for messages of the slots, handle them, and do what is due."""
        open_slots = [slot for slot in self.slots if not slot.closed]
        waiting = {slot.pipe: slot for slot in open_slots}
        for ready in pipes.wait(list(waiting), timeout=0.1):
            self.receive(waiting[ready])
        if self.stop_at is not None and time.monotonic() > self.stop_at:
            self.ask_to_stop()
        if self.asked_to_stop is not None:
            self.stop_slots()
            self.tally.stopped = True
            if self.hurry or time.monotonic() - self.asked_to_stop > self.options.grace:
                for process in self.processes:
                    if not process.closed:
                        self.evict(process)
                        process.closed = True
        self.check_stalls()
        self.leases.renew(self.slots)
        self.take_back()
        self.upkeep.run()
        self.show(self.view())

    def ask_to_stop(self) -> None:
        """Note the time of the first request to stop."""
        self.asked_to_stop = self.asked_to_stop or time.monotonic()

    def stop_slots(self) -> None:
        """Ask every slot to stop after its round."""
        self.stop = True
        for slot in self.slots:
            slot.shared.stop = 1

    def receive(self, slot: Slot) -> None:
        """Handle all messages of a slot, and the end of its process."""
        if not slot.closed and self.read(slot):
            self.reap(slot.process)

    def read(self, slot: Slot) -> bool:
        """Handle all messages of a slot. Return whether its process has closed the pipe."""
        messages: list[object] = []
        ended = False
        try:
            while slot.pipe is not None and slot.pipe.poll():
                messages.append(slot.pipe.recv())
        except (EOFError, OSError):
            ended = True
        for message in messages:
            self.note(slot, message)
        return ended

    def receive_claim(self, slot: Slot) -> None:
        """Find out which trial a killed slot holds: its last messages are not read yet."""
        with suppress(EOFError, OSError):
            while slot.pipe is not None and slot.pipe.poll():
                message = slot.pipe.recv()
                if isinstance(message, Claim):
                    slot.claim = message
                elif isinstance(message, Ended):
                    slot.claim = None

    def note(self, slot: Slot, message: object) -> None:
        """Handle one message of a slot.

        Raises:
            StoreReplaced: the slot found another database at the same address.

        """
        slot.progressed()
        if isinstance(message, Ask):
            self.grant(slot, message)
        elif isinstance(message, Claim):
            slot.begin(message)
        elif isinstance(message, Round):
            slot.add_round(message)
            stderr_tail.trim(slot.process.box, most=stderr_tail.LAST_BYTES)
        elif isinstance(message, Ended):
            slot.claim = slot.last = slot.unwanted = None
            slot.shared.give_back = 0  # the slot may claim the same trial again
            if message.last is not None and message.outcome is not None:
                self.stored(slot)
            self.tally.count(message.outcome)
            slot.process.alone = max(0, slot.process.alone - 1)
            if message.outcome is None:
                self.leases.vouch(slot, message.claim)
            self.unshown.append(message)
            self.upkeep.run(now=True)
        elif isinstance(message, Lacking | Decided):
            self.tell(slot, message)
        elif isinstance(message, Broken):
            if message.replaced:
                raise StoreReplaced(message.why)
            # Errors of other threads follow from the first one.
            process = slot.process
            process.broken = process.broken or message.why
            process.blameless = process.blameless or message.blameless
            self.tally.broken = self.tally.broken or message.why

    def stored(self, slot: Slot) -> None:
        """Note that a slot has stored a round, so that its device can train."""
        self.proven.add(slot.device)
        slot.process.deaths.clear()

    def tell(self, slot: Slot, message: Lacking | Decided) -> None:
        """Print how many trials a GPU trains, or why trials are passed over."""
        if isinstance(message, Decided):
            print(f"fedsweep: {slot.device}: {visible(message.decision)}", file=sys.stderr)
        else:
            self.report_lack(slot, message)

    def report_lack(self, slot: Slot, lacking: Lacking) -> None:
        """Print and store, once per device, why trials are passed over."""
        if (slot.device, lacking.lack) in self.lacks:
            return
        self.lacks.add((slot.device, lacking.lack))
        print(f"fedsweep: passing over trials: {visible(lacking.why)}", file=sys.stderr)
        with suppress(FedsweepError, SQLAlchemyError):
            _store_stop(self.engine, slot.device, lacking.why, lacking.lack)

    def grant(self, slot: Slot, request: Ask) -> None:
        """Grant a slot one of --max-trials, or take it back unused."""
        assert self.budget is not None
        if request is Ask.BACK:
            self.budget, slot.granted = self.budget + 1, False
            return
        slot.granted = self.budget > 0
        self.budget -= slot.granted
        with suppress(OSError):  # its end of file follows
            slot.pipe.send(slot.granted)

    def reap(self, process: SlotProcess) -> None:
        """Handle the end of a process: give up its claims, and start it again.

        It is closed instead if it ended as planned, or after too many deaths. If it died with
        several trials, none of them is charged, and each trains alone after that.
        """
        self.read_last(process)
        death = death_of(process)
        if death.killed:  # Python could not print the reason
            for word in death.words:
                print(visible(word), file=sys.stderr)
        measured = any(slot.last for slot in process.claiming())
        if death.together and measured:
            self.stored(process.slots[0])
        self.give_up(process, death)
        if death.planned or self.stop:
            process.closed = True
            return
        if not (death.together and measured):
            process.deaths.append(process.stalled[0] if process.stalled else death.kind)
        if process.broken or worn_out(process.deaths, proven=process.device in self.proven):
            self.close(process, death)
        else:
            process.stalled = None
            self.start(process)

    def read_last(self, process: SlotProcess) -> None:
        """Handle the last messages of a process that ends, and close its pipes."""
        assert process.handle is not None
        process.handle.join()
        for slot in process.slots:
            self.read(slot)
            slot.pipe.close()
            if slot.granted:
                self.grant(slot, Ask.BACK)

    def give_up(self, process: SlotProcess, death: Death) -> None:
        """Give up the claims of a process that has ended."""
        if death.together:
            process.alone = death.trials
        elif death.trials:
            process.alone = max(0, process.alone - 1)
        for slot in process.slots:
            if death.planned:  # the process has given its trials back
                slot.name = ""
            if death.together:
                self.release(slot, death.why)
            elif self.leases.give_up(slot, why=death.why, release=process.blameless):
                self.stored(slot)

    def release(self, slot: Slot, why: str) -> None:
        """Give the trial of a killed process back, which is not at fault.

        It does not count as one of --max-trials, unless it is wanted back.
        """
        if self.budget is not None and slot.claim is not None and slot.unwanted is None:
            self.budget += 1
        self.leases.give_up(slot, why=why, release=True)

    def close(self, process: SlotProcess, death: Death) -> None:
        """Start a process no more, and store the reason."""
        kind, died = process.stalled or (death.kind, death.died)
        when = "before a trial's first round" if kind or death.together else "before a claim"
        number = process.slots[0].number
        why = process.broken or f"slot {number} keeps dying {when} ({died})"
        self.tally.broken = self.tally.broken or why
        process.closed = True
        with suppress(FedsweepError, SQLAlchemyError):
            _store_stop(self.engine, process.device, why)

    def check_stalls(self) -> None:
        """End the trainers that have stalled."""
        now = time.monotonic()
        passed = min(now - self.checked, LONGEST_CHECK)
        if passed < STALL_CHECK_SECONDS:
            return
        self.checked = now
        busy = [slot for slot in self.slots if slot.claim is not None and not slot.closed]
        # The silence of all trials of a process is compared, so that no slot may lag behind.
        for slot in [slot for slot in busy if has_stalled(slot, passed)]:
            if slot.claim is not None:
                self.end_stalled(slot)

    def take_back(self) -> None:
        """Evict the trials that are paused, cancelled or lost and whose round takes too long.

        Other trials of the process would lose their rounds, too. They get the time of some rounds.
        """
        for slot in self.slots:
            if slot.unwanted is None or slot.closed:
                continue
            patience = self.options.grace
            if any(other.unwanted is None for other in slot.process.claiming()):
                patience = max(patience, UNWANTED_ROUNDS * slot.usual_round())
            if time.monotonic() - slot.unwanted > patience:
                self.evict(slot.process)
                slot.process.deaths.clear()  # the process is not at fault
                slot.unwanted = None

    def evict(self, process: SlotProcess) -> None:
        """Kill a process, and give its trials back."""
        self.kill(process)
        for slot in process.slots:
            self.read(slot)
        for slot in process.slots:
            self.release(slot, UNFINISHED)

    def end_stalled(self, slot: Slot) -> None:
        """Kill the process of a stalled trial, and fail the trial. Give its other trials back.

        If several of its trials have been silent for long, none of them is charged, and they train
        alone after that.
        """
        process, suspects = slot.process, stalled_together(slot)
        message = f"the trainer made no step for {slot.silent:.0f} s"
        if slot.idle > 1:
            message += f" and used no processor time for {slot.idle:.0f} s"
        pid = None if process.handle is None else process.handle.pid
        if pid is not None and not is_stopped(process):
            stderr_tail.ask(pid, process.box)
        self.kill(process)
        for each in process.slots:
            self.read(each)
        claim = slot.claim
        if any(each.last for each in process.claiming() if each is not slot):
            self.proven.add(slot.device)
        if len(suspects) > 1:
            process.alone = len(suspects)
            message += f", nor did {len(suspects) - 1} more of its process"
            process.stalled = None, message
        elif claim is not None:
            slot.claim = None
            process.alone = max(0, process.alone - 1)
            process.stalled = kind_of(claim), message
            self.leases.fail_stalled(slot, claim, message)
        for each in process.slots:
            why = message if each in suspects else UNFINISHED
            self.release(each, why)

    def kill(self, process: SlotProcess) -> None:
        """Kill a process if it is alive."""
        if process.handle is not None and process.is_alive():
            process.handle.kill()
            process.handle.join()

    def end_all(self) -> None:
        """Kill all processes and give up their claims, because the watch ends."""
        self.stop_slots()
        for process in self.processes:
            self.kill(process)
        for slot in self.slots:
            self.receive_claim(slot)
            self.leases.give_up(slot, why=UNFINISHED, release=True)

    def read_progress(self) -> None:
        """Read the progress of the sweeps in scope."""
        before = {sweep.sweep: sweep for sweep in self.progress}
        with reading(self.engine) as connection:
            progress = sweep_progress(connection, self.options.sweep)
            trials = {sweep.sweep: sweep.trials for sweep in progress}
            varying = self.varying
            if trials != {name: sweep.trials for name, sweep in before.items()}:
                varying = varying_fields(connection, self.options.sweep)
        for sweep in progress:
            known = before.get(sweep.sweep)
            # A short sweep may be planned and end between two readings.
            has_advanced = known is None or known.done < sweep.done
            if sweep.done < sweep.trials or sweep.searching or (self.has_read and has_advanced):
                self.begun.add(sweep.sweep)
        self.progress, self.varying, self.has_read = progress, varying, True

    def show_ended(self) -> None:
        """Show the attempts that have ended, after the progress that counts them was read."""
        unshown, self.unshown = self.unshown, []
        for ended in unshown:
            self.show(self.view(ended))

    def announce(self) -> None:
        """Send the notices that are due to the webhooks."""
        if self.announcer is not None:
            self.announcer.update(self.progress)

    def check_schema(self) -> None:
        """Stop if someone upgraded the database in the meantime."""
        if (refusal := schema_refusal(self.engine)) is not None:
            self.tally.broken = refusal
            self.ask_to_stop()

    def view(self, ended: Ended | None = None) -> WorkStatus:
        """Return this moment of the work, to be shown."""
        shown = [slot for process in self.processes for slot in process.shown()]
        progress = [sweep for sweep in self.progress if sweep.sweep in self.begun]
        return WorkStatus(shown, progress, self.tally, ended, self.varying)


def _processes(options: WorkOptions, memory: Sequence[Shared], folder: Path) -> list[SlotProcess]:
    """Return the processes of a run, with their slots. `folder` is for their last words."""
    together = options.slots // len(options.devices) if options.packed else 1
    processes = []
    for first in range(0, options.slots, together):
        device = options.devices[first // together % len(options.devices)]
        process = SlotProcess(device, folder / f"slot-{first}")
        numbers = range(first, first + together)
        process.slots = [Slot(n, process, shared=memory[n]) for n in numbers]
        processes.append(process)
    return processes
