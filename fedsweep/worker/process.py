"""The process of one slot, or of several slots that train on one GPU at the same time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from fedsweep import children, interrupt, output, queue, shared, stderr_tail
from fedsweep.errors import (
    DeviceError,
    FedsweepError,
    MachineError,
    MachineLacks,
    StoreBusy,
    StoreError,
    StoreMissing,
    StoreReplaced,
)
from fedsweep.shared import Shared
from fedsweep.store import identity, schema, trust
from fedsweep.store.stops import Lack
from fedsweep.store.transactions import through_an_outage
from fedsweep.worker.company import Company, Solo
from fedsweep.worker.kinds import Record
from fedsweep.worker.messages import Broken, Decided, WorkOptions, machine_faults, sentence
from fedsweep.worker.slot import SlotLoop, is_orphan


@dataclass(frozen=True)
class Member:
    """A slot of a process."""

    number: int
    name: str
    """The name under which it claims."""
    pipe: Any
    """Its connection to the watch."""


@dataclass(frozen=True)
class Orders:
    """Everything that the process of a slot needs to begin."""

    options: WorkOptions
    device: str
    members: tuple[Member, ...]
    box: Path
    """The file that its last words are written to."""
    memory: Path
    """The file that is shared with the watch."""
    failed: tuple[Lack, ...]
    """The kinds of trials under which processes died, since a round was stored."""
    proven: bool
    """True if a round was stored on the device in this run."""
    alone: int = 0
    """Attempts that train alone, because earlier ones died together."""


def run_slots(orders: Orders) -> None:
    """Run the process of one slot, or of several slots in threads of their own."""
    children.forget_safe_path()
    stop_requested = threading.Event()
    interrupt.ignore(signal.SIGINT, signal.SIGHUP)
    signal.signal(signal.SIGTERM, lambda *_: stop_requested.set())
    output.prepare(returns=True)
    output.in_background()
    if len(orders.members) > 1:
        _Threads(orders, stop_requested).run()
        return
    (member,) = orders.members
    with _reporting(member), stderr_tail.recording(orders.box):
        trust.allow(orders.options.artifacts)
        memory = shared.attach(orders.memory, member.number)
        count_steps_in(memory)
        _test_machine(orders)
        record = Record(orders.failed, proven=orders.proven)
        _work(orders, member, memory, Solo(), record, stop_requested)


def _test_machine(orders: Orders) -> None:
    """Test the machine, before any trial is claimed.

    Raises:
        MachineError: something cannot be imported, or a setting of the machine forbids it.
        DeviceError: the device is broken.

    """
    from fedsweep.execution.device import try_machine

    try_machine(orders.device, orders.options.threads)


def count_steps_in(memory: Shared) -> None:
    """Count the steps of all threads of this process in the memory of its only slot."""
    from fedsweep.execution import attempt

    attempt.count_steps_in(memory)


@contextmanager
def _reporting(member: Member) -> Iterator[None]:
    """Report an error that ends the slot's process for good to the watch.

    Raises:
        SystemExit: the error was reported.

    """
    try:
        with machine_faults():
            yield
    except (FedsweepError, SQLAlchemyError) as error:
        blameless = isinstance(
            error, (StoreError, StoreBusy, SQLAlchemyError, MachineError, MachineLacks, DeviceError)
        )
        replaced = isinstance(error, (StoreReplaced, StoreMissing))
        member.pipe.send(Broken(sentence(error), blameless, replaced))
        raise SystemExit(1) from error


def _work(
    orders: Orders,
    member: Member,
    memory: Shared,
    company: Company | Solo,
    record: Record,
    stop_requested: threading.Event,
) -> None:
    """Run the loop of a slot that may look for its first trial."""
    engine = through_an_outage(lambda: schema.open_store(orders.options.url))
    identity.require(engine, orders.options.identity)
    loop = SlotLoop(
        orders.options,
        member.number,
        engine,
        queue.Claimant(name=member.name, device=orders.device),
        member.pipe,
        stop_requested,
        orders.box,
        memory,
        company,
        record,
    )
    try:
        loop.prepare()
        loop.run(entered=True)
    finally:
        loop.give_back()


class _Threads:
    """The slots of a process, each in a thread of its own. They train on one GPU.

    If one of them ends with an error, the others give their trials back after their rounds.
    """

    def __init__(self, orders: Orders, stop_requested: threading.Event) -> None:
        self.orders = orders
        self.stop_requested = stop_requested
        self.errors: list[BaseException] = []
        """The errors of threads, in the order in which they came."""
        self.pipes = threading.local()
        """The current thread's connection to the watch. Two threads must not use one."""
        self.record = Record(orders.failed, proven=orders.proven)

    def run(self) -> None:
        """Run all slots until they are to stop.

        Raises:
            BaseException: the first error of a slot.

        """
        orders = self.orders
        with _reporting(orders.members[0]), stderr_tail.recording(orders.box):
            trust.allow(orders.options.artifacts)
            company = self.company()
            threads = [
                threading.Thread(target=self.slot, args=(member, company), name=member.name)
                for member in orders.members
            ]
            self.start(threads)
            for thread in threads:
                thread.join()
            if self.errors:
                raise self.errors[0]

    def start(self, threads: Sequence[threading.Thread]) -> None:
        """Start all slots. If the machine refuses a thread, those that run are to stop."""
        try:
            for thread in threads:
                thread.start()
        except BaseException:
            self.stop_requested.set()
            raise

    def company(self) -> Company:
        """Test the machine, and return the company of all slots."""
        from fedsweep.execution.device import DeviceMemory, uses_generator

        _test_machine(self.orders)
        memory = DeviceMemory(self.orders.device)
        memory.free()  # a trial that reuses the test's memory would look smaller
        return Company(memory, uses_generator, self.report, alone=self.orders.alone)

    def report(self, decision: str) -> None:
        """Send a decision on the number of trials to the watch."""
        with suppress(OSError):  # the watch is gone
            self.pipes.own.send(Decided(decision))

    def slot(self, member: Member, company: Company) -> None:
        """Run a slot in the current thread, from the time when the company needs it."""
        from fedsweep.execution.attempt import counting_thread_in

        self.pipes.own = member.pipe
        memory = shared.attach(self.orders.memory, member.number)
        memory.thread = threading.get_native_id()
        try:
            with _reporting(member), counting_thread_in(memory):
                if company.begin(partial(self.stopping, memory)):
                    _work(self.orders, member, memory, company, self.record, self.stop_requested)
        except BaseException as error:  # noqa: BLE001  # the main thread raises it
            self.errors.append(error)
            self.stop_requested.set()
        finally:
            # The watch may still count its trial as running. The other threads work on for it.
            memory.thread = 0

    def stopping(self, memory: Shared) -> bool:
        """Return whether a slot without a store is to stop."""
        return self.stop_requested.is_set() or bool(memory.stop) or is_orphan()
