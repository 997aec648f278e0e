"""Leases of the slots' trials: renew them, and give up the claims of dead processes."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep import queue, stderr_tail
from fedsweep.errors import LeaseLost, StoreBusy, StoreError
from fedsweep.states import FailureKind, Outcome
from fedsweep.store import attempt_rows
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.engine import close_idle
from fedsweep.store.moment import Moment
from fedsweep.store.outage import OUTAGE
from fedsweep.store.transactions import transaction
from fedsweep.worker.messages import WorkOptions
from fedsweep.worker.slot_state import Slot
from fedsweep.worker.stalls import is_stopped
from fedsweep.worker.status import Tally


class Leases:
    """The claims of a watch's slots, in the store.

    An outage of the store is ignored. The next heartbeat retries, or the lease expires.
    """

    def __init__(
        self, engine: Engine, options: WorkOptions, tally: Tally, proven: Collection[str]
    ) -> None:
        self.engine = engine
        self.options = options
        self.tally = tally
        """The counts of the run, to which the ends of claims are added."""
        self.proven = proven
        """The devices on which a round was stored. The watch adds to them."""

    def vouch(self, slot: Slot, claim: Claim) -> None:
        """Tell the queue, once per claim, that the worker of a lost trial is alive."""
        if slot.vouched == claim:
            return
        slot.vouched = claim
        with (
            suppress(StoreError, StoreBusy, SQLAlchemyError),
            transaction(self.engine) as connection,
        ):
            queue.come_back(connection, claim)

    def give_up(self, slot: Slot, *, why: str = "", release: bool = False) -> bool:
        """Give up the claim of a slot whose process is gone. Return whether it stored a round.

        If the process claimed a trial without reporting it, the trial is given back. Its training
        had not begun.
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
                    self._store_last_words(connection, slot, claim)
                    proven = slot.device in self.proven
                    stored = queue.lose(connection, claim, why, charged=proven)
            self.tally.count(Outcome.RELEASED if release else None)
        except (LeaseLost, StoreError, StoreBusy, SQLAlchemyError):
            pass  # its lease expires
        return stored

    def renew(self, slots: Sequence[Slot]) -> None:
        """Renew each lease after a third of its time, unless its process is stopped."""
        now, renewed = time.monotonic(), False
        for slot in slots:
            if slot.claim is None or slot.closed or now - slot.renewed < self.options.lease / 3:
                continue
            if is_stopped(slot.process):
                continue
            renewed = True
            try:
                with transaction(self.engine) as connection:
                    moment = read_clock(connection)
                    held = queue.renew(connection, slot.claim, moment, lease=self.options.lease)
            except LeaseLost:
                # The attempt notices the loss itself, at its next write.
                self.vouch(slot, slot.claim)
                slot.unwanted = slot.unwanted or now
                slot.renewed = now
            except OUTAGE:
                slot.progressed()  # it may wait for the store too; the next heartbeat retries
            else:
                slot.renewed = now
                if held.give_back:
                    slot.shared.give_back = slot.claim.trial
                    slot.unwanted = slot.unwanted or now
        if renewed:
            close_idle(self.engine)

    def _store_last_words(self, connection: Connection, slot: Slot, claim: Claim) -> Moment:
        """Renew the claim of a slot's dead process, and store the last words of the process.

        Returns the time of the renewal.

        Raises:
            LeaseLost: the claim does not hold the trial anymore.

        """
        now = read_clock(connection)
        queue.renew(connection, claim, now, lease=self.options.lease)
        attempt_rows.add_last_words(connection, claim, stderr_tail.last_words(slot.process.box))
        return now

    def fail_stalled(self, slot: Slot, claim: Claim, message: str) -> None:
        """Fail the trial of a stalled trainer whose process was killed.

        The trial is not charged if neither its device nor this attempt has stored a round.
        """
        most = self.options.max_attempts
        try:
            with transaction(self.engine) as connection:
                now = self._store_last_words(connection, slot, claim)
                if charged := slot.device in self.proven or slot.last is not None:
                    kind = FailureKind.STALLED
                    queue.fail(connection, claim, now, kind, message, max_attempts=most)
                else:
                    queue.lose(connection, claim, message, charged=False)
            self.tally.count(Outcome.FAILED if charged else None)
        except (LeaseLost, *OUTAGE):
            pass
