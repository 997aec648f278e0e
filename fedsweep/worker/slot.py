"""A slot's process: claim a trial, train it, claim the next."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep import children, interrupt, output, queue, shared, stderr_tail
from fedsweep.errors import (
    DataMissing,
    DeviceError,
    FedsweepError,
    MachineError,
    MachineLacks,
    StoreBusy,
    StoreError,
    StoreMissing,
    StoreReplaced,
)
from fedsweep.plan import Round
from fedsweep.states import FailureKind, Outcome
from fedsweep.store import (
    arms,
    identity,
    schema,
    stops,
    trust,
)
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.engine import close_idle
from fedsweep.store.outage import OUTAGE, OUTAGE_SECONDS, seconds_served, seconds_since_outage
from fedsweep.store.stops import Lack
from fedsweep.store.transactions import reading, through_an_outage, transaction
from fedsweep.store.wakeup import Wakeup
from fedsweep.worker.messages import Ask, Broken, Ended, Lacking, Options, machine_faults, sentence

LONGEST_REST = 30.0
"""An idle slot that is rung for looks again after that, or when the next lease ends."""


SHORT_REST = 2.0
"""The same, where it is to stop when all is done: nobody rings for that."""


KIND = ("dataset", "model", "normalizer")
"""The fields that trials of one kind share. After an attempt that ended before its first round, a
slot prefers trials of other kinds until it has stored a round."""


def kind_of(claim: Claim) -> Lack:
    """Return the kind of a trial: see `KIND`."""
    return tuple((name, claim.config.get(name)) for name in KIND)


def run_slot(
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
        with machine_faults(), stderr_tail.recording(box):
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
        pipe.send(Broken(sentence(error), blameless, replaced))
        raise SystemExit(1) from error


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
            from fedsweep.search.planner import plan_next

            return plan_next(self.engine, self.options.sweep, first=first) and not self.stopping()
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


LOOK_SECONDS = 1.0
"""How often a slot that finds trials looks whether a search of more priority wants some first."""


FAILURES_IN_A_ROW = 3
"""Attempts in a row that end before their first round, after which a slot claims nothing more. So
do deaths of its process without a claim. They count until a round is stored. On a device that has
trained, trials of the same kind count once: they may be the reason."""


def worn_out(failed: Sequence[Lack | None], *, proven: bool) -> bool:
    """Return whether a slot has failed too often since a round was stored: see `PATIENCE`."""
    if not proven:
        return len(failed) >= FAILURES_IN_A_ROW
    return len({kind for kind in failed if kind}) + failed.count(None) >= FAILURES_IN_A_ROW
