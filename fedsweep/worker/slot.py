"""The loop of a slot: claim a trial, train it, claim the next."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep import queue, stderr_tail
from fedsweep.errors import DataMissing, FedsweepError, LeaseLost, MachineError, MachineLacks
from fedsweep.plans import Round
from fedsweep.shared import Shared
from fedsweep.states import FailureKind, Outcome
from fedsweep.store import arms, stops
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.engine import close_idle
from fedsweep.store.outage import OUTAGE, OUTAGE_SECONDS, seconds_served, seconds_since_outage
from fedsweep.store.stops import Lack
from fedsweep.store.transactions import patiently, reading, transaction
from fedsweep.store.wakeup import Wakeup
from fedsweep.worker.company import Company, Solo
from fedsweep.worker.kinds import Record, kind_of
from fedsweep.worker.messages import Ask, Ended, Lacking, WorkOptions

LONGEST_REST = 30.0
"""Seconds after which an idle slot tries to claim again, at most.

It also tries when it is notified, and when the next lease expires.
"""


SHORT_REST = 2.0
"""The same with --until-empty, because no notification says that all trials are done."""


SEARCH_SECONDS = 1.0
"""Seconds between two checks whether a search of higher priority proposes trials first."""


class SlotLoop:
    """The claims of one slot, one after another, and its judgment of its machine."""

    def __init__(
        self,
        options: WorkOptions,
        number: int,
        engine: Engine,
        claimant: queue.Claimant,
        pipe: Any,
        stop_requested: threading.Event,
        box: Path,
        memory: Shared,
        company: Company | Solo,
        record: Record,
    ) -> None:
        self.options = options
        self.number = number
        self.engine = engine
        self.claimant = claimant
        self.pipe = pipe
        self.stop_requested = stop_requested
        self.box = box
        self.shared = memory
        self.company = company
        """The slots of the process."""
        self.others = company.others_of(number)
        self.record = record
        """The ends of attempts of all slots of the process."""
        self.lacks: Mapping[Lack, str] = {}
        """The lacks of this machine, and the reasons why their trials are passed over."""
        self.doorbell = Wakeup(engine, queue.CHANNEL)
        self.last: Round | None = None
        """The last round of the current attempt."""
        self.spent = False
        """True if --max-trials is used up."""
        self.reached = time.monotonic()
        """Time of the last successful write to the store. A standby answers only reads."""
        self.in_doubt = False
        """True if a claim may have been committed without an answer."""
        self.search_due = 0.0
        """Time of the next check whether a search proposes trials first, monotonic."""

    def prepare(self) -> None:
        """Find out which needs of the open trials in scope this machine lacks."""
        from fedsweep.execution.needs import lacking

        needs: list[dict[str, str | None]] = []
        with self.through_outages(), reading(self.engine) as connection:
            needs = queue.needs(connection, self.options.sweep)
        close_idle(self.engine)
        for missing in lacking(needs, self.options.data, self.claimant.device):
            self.pass_over(missing)

    def run(self, *, entered: bool = False) -> None:
        """Claim and train trials until the slot is to stop.

        `entered` is True if the company already lets the slot look for its first trial.

        Raises:
            MachineError: a setting or a fault of this machine prevents training.
            DeviceError: the device is broken.
            MachineLacks: this machine lacks the needs of every open trial.

        """
        while (entered and not self.stopping()) or self.company.enter(self.stopping):
            entered = False
            try:
                claim = self.company.claim(self.number, self.look, self.stopping)
                if claim is not None:
                    self.work_on(claim)
                elif self.spent or (self.options.until_empty and self.empty()):
                    self.company.close()
                    return
                else:
                    self.rest()
            finally:
                self.company.leave()

    def work_on(self, claim: Claim) -> None:
        """Train a claimed trial, and free its slot."""
        try:
            if self.company.excludes(self.number):
                self.release(claim, "another trial of this process uses its random generator")
                self.unspend()
                return
            self.train(claim)
        finally:
            self.company.end(self.number)

    def train(self, claim: Claim) -> None:
        """Train a claimed trial, and report its end.

        Raises:
            MachineError: too many attempts in a row failed before their first round.
            DeviceError: the device is broken.

        """
        from fedsweep.execution.attempt import execute
        from fedsweep.execution.place import Place

        options = self.options
        at = Place(
            self.claimant.device,
            options.threads,
            options.data,
            options.engine,
            options.lease,
            options.max_attempts,
            self.record.proven,
            options.packed,
        )
        self.doorbell.close()
        if not self.others.exist():
            stderr_tail.trim(self.box)  # earlier lines are not about this trial
        began = time.monotonic()
        self.last = None
        self.send(claim)
        stop = partial(self.stopping, claim)
        try:
            end = execute(self.engine, claim, at, stop, self.report_round, self.others)
        except MachineLacks as missing:
            seconds, why = time.monotonic() - began, str(missing)
            self.send(Ended(self.number, claim, Outcome.RELEASED, None, seconds, why))
            self.pass_over(missing, claim)
            self.unspend()
            return
        self.reached = time.monotonic()  # the attempt's end is stored
        seconds = time.monotonic() - began
        if end is None:
            self.send(Ended(self.number, claim, None, self.last, seconds))
            return
        error = f"{end.failure}: {end.error.splitlines()[0]}" if end.error else None
        self.send(Ended(self.number, claim, end.outcome, self.last, seconds, error, end.again))
        if end.outcome is Outcome.RELEASED and end.failure is not None:
            self.unspend()
        if not end.crowded:
            self.judge(claim, end.failure, error)

    def release(self, claim: Claim, why: str) -> None:
        """Give a trial back that this slot does not train."""

        def release(connection: Connection) -> None:
            queue.release(connection, claim, why)

        with suppress(LeaseLost):
            patiently(self.engine, release)

    def unspend(self) -> None:
        """Do not count a trial that was given back as one of --max-trials."""
        if self.options.max_trials is not None:
            self.send(Ask.BACK)

    def pass_over(self, missing: MachineLacks, claim: Claim | None = None) -> None:
        """Pass over the trials that need something that this machine lacks, and report it.

        Data that no machine seems to have are not passed over. Their trials fail, so that a person
        looks at them.
        """
        lack = missing.lack
        if lack is None:
            assert claim is not None
            lack = kind_of(claim)
        if isinstance(missing, DataMissing):
            nowhere = False
            with self.through_outages(), reading(self.engine) as connection:
                nowhere = stops.nowhere(connection, lack, self.claimant.host)
            if nowhere:
                return
        if lack not in self.lacks:
            self.lacks = {**self.lacks, lack: str(missing)}
            self.send(Lacking(str(missing), lack))

    def judge(self, claim: Claim, failure: FailureKind | None, error: str | None) -> None:
        """Judge this machine by the end of an attempt.

        Raises:
            MachineError: too many attempts in a row failed before their first round.

        """
        if self.last is not None:
            self.record.note_round()
        elif failure in (FailureKind.ERROR, FailureKind.OUT_OF_MEMORY):
            number = self.record.note_failure(kind_of(claim))
            if number is not None:
                raise MachineError(
                    f"{number} attempts in a row failed on {self.claimant.device} before "
                    f"their first round, the last with {error}: mend the machine or the plan"
                )

    def look(self, passed_over: frozenset[Lack] = frozenset()) -> Claim | None:
        """Claim a trial of no kind in `passed_over`.

        With --max-trials, which all slots share, ask the watch first.
        """
        limited = self.options.max_trials is not None
        if limited and not self.granted():
            self.spent = True
            return None
        if time.monotonic() >= self.search_due:
            self.propose(first=True)
            self.search_due = time.monotonic() + SEARCH_SECONDS
        claimed = self.take(passed_over)
        while claimed is None and self.propose():
            claimed = self.take(passed_over)
        if claimed is None and limited:
            self.send(Ask.BACK)
        if claimed is None and self.lacks:
            self.require_work()
        return claimed

    def require_work(self) -> None:
        """Stop if this machine can train nothing that is open in scope.

        Without --until-empty, a worker that has trained waits for other trials instead.

        Raises:
            MachineLacks: this machine lacks a need of every open trial; the message lists them.

        """
        if self.record.proven and not self.options.until_empty:
            return
        scope, hopeless = self.options.sweep, False
        with self.through_outages(), reading(self.engine) as connection:
            hopeless = queue.outstanding(connection, scope) and not queue.may_come(
                connection, scope, self.lacks
            )
        if hopeless:
            why = "; ".join(self.lacks.values())
            raise MachineLacks(f"nothing that is left in scope can be trained here: {why}")

    def take(self, passed_over: frozenset[Lack] = frozenset()) -> Claim | None:
        """Claim a trial of no kind in `passed_over`, if possible of no kind that failed here."""
        lacks, failed = passed_over | frozenset(self.lacks), self.record.failed
        claimed = self.take_but(lacks | set(failed)) if failed else None
        return claimed or self.take_but(lacks)

    def take_but(self, passed_over: frozenset[Lack]) -> Claim | None:
        """Claim a trial that is of no kind in `passed_over` and needs nothing in it."""
        scope = self.options.sweep
        lease = self.options.lease
        with self.through_outages():
            with transaction(self.engine) as connection:
                now, claimed = read_clock(connection), None
                if self.in_doubt:
                    claimed = queue.reclaim(connection, self.claimant.name, now, lease=lease)
                self.in_doubt = True
                if claimed is None:
                    # After an outage, the holders of expired leases get time to renew them.
                    claimed = queue.claim(
                        connection,
                        self.claimant,
                        now,
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
        """Release the trial of a claim without an answer, because the process ends."""
        if not self.in_doubt:
            return
        with suppress(FedsweepError, SQLAlchemyError), transaction(self.engine) as connection:
            claim = queue.reclaim(connection, self.claimant.name, read_clock(connection))
            if claim is not None:
                queue.release(connection, claim, "the answer of its claim was lost")

    def propose(self, *, first: bool = False) -> bool:
        """Let a search propose trials. Return whether it proposed any."""
        with self.through_outages():
            with reading(self.engine) as connection:
                if not arms.any_open(connection):
                    return False
            from fedsweep.search.planner import plan_next

            return plan_next(self.engine, self.options.sweep, first=first) and not self.stopping()
        return False

    def granted(self) -> bool:
        """Ask the watch for one of --max-trials. Return whether it was granted."""
        self.send(Ask.TRIAL)
        try:
            return bool(self.pipe.recv())
        except (EOFError, OSError):
            return False

    def empty(self) -> bool:
        """Return whether no trial is outstanding in scope. Return False during an outage."""
        left = True
        with self.through_outages(), reading(self.engine) as connection:
            left = queue.outstanding(connection, self.options.sweep)
        return not left

    @contextmanager
    def through_outages(self) -> Iterator[None]:
        """Ignore an outage of the store for OUTAGE_SECONDS, as if it had no trials."""
        try:
            yield
        except OUTAGE:
            if time.monotonic() - self.reached > OUTAGE_SECONDS:
                raise

    def rest(self) -> None:
        """Wait for a notification, the end of the next lease, or the end of a trial's backoff."""
        longest = SHORT_REST if self.options.until_empty else LONGEST_REST
        due = None
        with self.through_outages(), reading(self.engine) as connection:
            due = queue.next_change(connection, read_clock(connection))
        close_idle(self.engine)
        self.doorbell.wait(longest if due is None else min(due, longest), self.stopping)

    def report_round(self, row: Round) -> None:
        """Send a round to the watch, without the fields that the watch does not show."""
        if self.last is None:
            self.record.note_round()
        self.last = replace(row, clients=(), statistics_mismatch_layers=None)
        self.send(self.last)

    def stopping(self, claim: Claim | None = None) -> bool:
        """Return whether the slot is to stop, or to give back the trial of `claim`.

        It also stops if its watch has died, because then its lease is not renewed.
        """
        wanted_back = claim is not None and self.shared.give_back == claim.trial
        return wanted_back or self.stop_requested.is_set() or bool(self.shared.stop) or is_orphan()

    def send(self, message: object) -> None:
        """Send a message to the watch."""
        try:
            self.pipe.send(message)
        except OSError:  # the watch is gone: finish the round, save, give back
            self.stop_requested.set()


def is_orphan() -> bool:
    """Return whether the watch of this process has died."""
    parent = multiprocessing.parent_process()
    return parent is not None and os.getppid() != parent.pid
