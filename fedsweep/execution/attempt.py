"""One attempt at a trial: from its claim to its outcome."""

from __future__ import annotations

import logging
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep import queue
from fedsweep.errors import (
    DataMissing,
    DeviceError,
    FedsweepError,
    LeaseLost,
    MachineError,
    MachineLacks,
    PackageMissing,
    StoreBusy,
    StoreError,
    TrialFailed,
    hide_secrets,
    legible,
)
from fedsweep.execution.data import sound_data
from fedsweep.execution.faults import ERROR_LENGTH, failure_kind, machine_limit, one_line
from fedsweep.execution.files import AttemptFiles, Unneeded, warn_unusable
from fedsweep.execution.others import NOBODY, Others
from fedsweep.execution.packages import not_imported, require_packages
from fedsweep.execution.place import Place
from fedsweep.execution.training import numerics_of, provenance_of, stored_round
from fedsweep.log_handler import Line, LogHandler
from fedsweep.plans import (
    Round,
    TrainConfig,
    check_recipe,
    content_hash,
)
from fedsweep.redaction import clipped
from fedsweep.states import FailureKind, Outcome
from fedsweep.store import (
    attempt_rows,
    driver_errors,
    file_index,
    file_places,
    round_rows,
    stops,
    trunks,
)
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.engine import close_idle
from fedsweep.store.transactions import patiently, reading
from trainers import engines
from trainers.engines import Diverged, Unfit, Unsuitable, engine_of
from trainers.progress import Counter, progress

log = logging.getLogger("fedsweep")


SNAPSHOT_SECONDS = 1.0
"""Seconds between two commits of an attempt.

A commit stores the rounds, and a snapshot unless the trial sets `snapshot_every`. If a round takes
longer, every round is stored. A killed attempt loses the rounds since its latest snapshot.
"""


TRACE_LENGTH = 100_000
"""Characters of an attempt's traceback that are stored, at most."""


IDLE_SECONDS = 0.5
"""If a round takes longer than this, the attempt returns its database connection until the next
write."""


@dataclass(frozen=True)
class End:
    """How an attempt ended."""

    outcome: Outcome
    failure: FailureKind | None = None
    error: str | None = None
    again: float | None = None
    """Seconds until a failed trial is tried again. None: it is not tried again."""
    crowded: bool = False
    """True if it was given back because other trials of its process hold the memory."""


def count_steps_in(counter: Counter) -> None:
    """Count the steps of this process's trainer in an object that its watch reads."""
    progress.counter = counter


def counting_thread_in(counter: Counter) -> AbstractContextManager[None]:
    """Count the steps of the current thread's trainer in an object that the watch reads."""
    return progress.counting_in(counter)


OnRound = Callable[[Round], None]


Stop = Callable[[], bool]


def execute(
    engine: Engine,
    claim: Claim,
    place: Place,
    stop: Stop,
    on_round: OnRound,
    others: Others = NOBODY,
) -> End | None:
    """Run a claimed trial, and return how the attempt ended. Return None if the claim was lost.

    `stop` is called after each round. If it returns True, the state is saved and the trial is
    given back. `on_round` is called with each round when it is measured. `others` are the trials
    that train in this process at the same time.
    """
    with LogHandler() as log_handler:
        attempt = _Attempt(engine, claim, place, log_handler, others)
        try:
            return _to_its_end(attempt, stop, on_round)
        except LeaseLost:
            return None
        except SQLAlchemyError as error:  # the store's fault costs the worker, never the trial
            raise StoreError(_STORE_REFUSED.format(driver_errors.first_line(error))) from error
        finally:
            attempt.files.clear_up()


_STORE_REFUSED = (
    "the database refused a write of a trial, which is given back uncharged ({}): "
    "run `fedsweep db check`"
)


def _to_its_end(attempt: _Attempt, stop: Stop, on_round: OnRound) -> End:
    try:
        attempt.require_packages()
        return End(attempt.run(stop, on_round))
    except DataMissing as error:
        if not attempt.leave(error):
            raise
        return attempt.fail(FailureKind.BAD_DATA, f"{error} (as on another machine)", None)
    except (LeaseLost, StoreError, StoreBusy, MachineError, MachineLacks, SQLAlchemyError):
        raise  # no fault of the trial
    except TrialFailed as failure:
        return attempt.fail(FailureKind(failure.kind), str(failure), None)
    except ImportError as error:
        missing = not_imported(attempt.claim.config, error)
        attempt.give_back(str(missing))
        raise missing from error
    except Exception as error:  # noqa: BLE001  # a trainer's bug must cost its trial, not the worker
        return attempt.end_by(error)


class _Attempt:
    """The claim, its files, and the rounds that are measured but not stored yet."""

    def __init__(
        self,
        engine: Engine,
        claim: Claim,
        place: Place,
        log_handler: LogHandler,
        others: Others,
    ) -> None:
        self.engine = engine
        self.claim = claim
        self.trainer = engine_of()
        self.place = place
        self.files = AttemptFiles(engine, claim, self.trainer)
        self.log_handler = log_handler
        self.others = others
        self.logged: Sequence[Line] = ()
        """The log lines that the last transaction stored."""
        self.measured = False
        """True after the trainer's first round."""
        self.pending: list[Round] = []
        self.numerics_id = ""

    def require_packages(self) -> None:
        """Give the trial back if this machine lacks what its model or normalizer needs.

        Raises:
            PackageMissing: a package is missing; the message names it and the remedy.

        """
        try:
            require_packages(self.claim.trial_id, self.claim.config)
        except PackageMissing as error:
            self.give_back(str(error))
            raise

    def end_by(self, error: Exception) -> End:
        """End the attempt by an error of the trainer, and return how.

        The trial is given back at no cost if other trials of the process may be the reason.

        Raises:
            MachineError: a setting of this machine caused the error. The trial is given back.
            DeviceError: the device is broken. The trial is queued again.

        """
        message = one_line(error)
        if limit := machine_limit(error):
            self.give_back(limit)
            raise MachineError(f"trial {self.claim.trial_id} cannot run here: {limit}") from error
        if self.trainer.is_broken_device(error):
            if self.others.may_have_broken_device():
                self.give_back(message)
            else:
                self.lose(message)
            raise DeviceError(f"{self.place.device} is out of service: {message}") from error
        kind, trace = failure_kind(error, self.trainer), traceback.format_exc()
        if kind is FailureKind.OUT_OF_MEMORY and self.others.took_memory():
            self.give_back(f"{kind}: {message}")
            return End(Outcome.RELEASED, kind, message, crowded=True)
        if self.place.proven or self.measured:
            return self.fail(kind, message, trace)
        self.give_back(f"{kind}: {message}", trace)
        return End(Outcome.RELEASED, kind, message)

    def give_back(self, why: str, trace: str | None = None) -> None:
        """Release the trial at no cost, because this machine cannot run it."""
        why, trace = hide_secrets(legible(why)), trace and hide_secrets(legible(trace))
        self.log_handler.note("error", why)

        def give_back(connection: Connection) -> None:
            self.renew(connection)
            queue.release(connection, self.claim, why, trace)

        patiently(self.engine, give_back)

    def leave(self, missing: DataMissing) -> bool:
        """Give the trial back, so that a machine that has its data claims it.

        If no machine seems to have the data, keep the claim and return True.
        """
        lack, host = missing.lack, platform.node()

        def look(connection: Connection) -> bool:
            self.renew(connection)
            return lack is not None and stops.nowhere(connection, lack, host)

        if patiently(self.engine, look):
            return True
        self.give_back(str(missing))
        return False

    def run(self, stop: Stop, on_round: OnRound) -> Outcome:
        """Train the trial to its last round, or until it is given back."""
        config = TrainConfig(**self.claim.config)
        try:
            check_recipe(self.claim.trial_id, config)
        except ValueError as error:
            raise TrialFailed(FailureKind.BAD_DATA, str(error)) from error
        stored = "attempt %d: %d of %d rounds are stored"
        log.info(stored, self.claim.fence, self.claim.final_round, config.rounds)
        dataset = self.load(config)
        choice = self.choose_engine(config, dataset)
        computed_under = numerics_of(config, self.place, choice.engine)
        self.numerics_id = content_hash(computed_under)
        ran_with = provenance_of(config, self.place, computed_under)
        self.log_numerics(computed_under, choice)
        if not self.others.exist():
            self.trainer.begin_memory(self.place.device)

        def begin(
            connection: Connection,
        ) -> tuple[file_places.Home, list[trunks.Origin], list[str]]:
            self.renew(connection)
            dropped = attempt_rows.start_attempt(
                connection,
                self.claim,
                numerics_id=self.numerics_id,
                numerics=computed_under,
                data_fingerprint=dataset.fingerprint,
                provenance=ran_with,
            )
            home = file_places.home(connection, self.claim.trial)
            return home, trunks.origins(connection, self.claim, self.numerics_id), dropped

        home, origins, dropped = patiently(self.engine, begin)
        self.files.open(home)
        self.require_place(config)
        self.files.delete(dropped)
        if self.is_twin():
            return self.finish(None)
        began = time.monotonic()
        state = self.resume(origins)
        self.start_trunk(state.round if state else 0)
        log.info(f"goes on after round {state.round}" if state else "begins with round 1")
        try:
            rounds = self.train(config, dataset, state)
            return self.store_rounds(config, rounds, began, stop, on_round)
        except Diverged as error:
            raise TrialFailed(FailureKind.DIVERGED, str(error)) from error

    def store_rounds(
        self,
        config: TrainConfig,
        rounds: Iterator[engines.Round],
        began: float,
        stop: Stop,
        on_round: OnRound,
    ) -> Outcome:
        """Store rounds as they are measured, until the last one or until the trial is given back.

        `began` is the time when the training began, on the monotonic clock.

        Raises:
            FedsweepError: the trainer stopped before the last round.

        """
        every, saved = config.snapshot_every, began
        for measured in rounds:
            row = stored_round(measured)
            self.measured = True
            self.pending.append(row)
            on_round(row)
            self.others.note_round(measured.images, row.seconds)
            if row.round == config.rounds:
                return self.finish(measured if config.keep_weights else None)
            stopping, seconds = stop(), time.monotonic() - saved
            is_time = seconds >= SNAPSHOT_SECONDS
            is_due = stopping or (is_time if every is None else row.round % every == 0)
            is_due |= row.round == self.files.next_fork
            if not is_due and not is_time:
                continue
            if self.save(measured, snapshot=is_due, release=stopping):
                return Outcome.RELEASED
            if seconds >= IDLE_SECONDS:
                close_idle(self.engine)
            saved = time.monotonic()
        raise FedsweepError("the trainer stopped before the last round")

    def require_place(self, config: TrainConfig) -> None:
        """Give the trial back if this worker may not use the place of its final weights.

        A trial without weights is trained without snapshots, which may cost rounds.

        Raises:
            MachineError: the place is refused; the message names it and the remedy.

        """
        if (refusal := self.files.folder.refusal) is None or not config.keep_weights:
            return
        why = f"its final weights cannot be kept: {refusal}"
        self.give_back(why)
        raise MachineError(f"trial {self.claim.trial_id} cannot run here: {why}")

    def train(
        self, config: TrainConfig, dataset: engines.Data, state: engines.State | None
    ) -> Iterator[engines.Round]:
        """Train the trial from a state. Begin at round 1 if the state does not fit the trial."""
        device = self.place.device
        try:
            yield from self.trainer.run(config, dataset, state, device=device)
        except Unfit as error:
            warn_unusable(self.claim, f"no state of this trial: {error}")
            yield from self.trainer.run(config, dataset, device=device)

    def log_numerics(self, computed_under: Mapping[str, str], choice: engines.Choice) -> None:
        """Log the device, on a GPU the engine too, and which stored rounds are lost."""
        processor, threads = computed_under["processor"], self.place.threads
        log.info("on %s (%s), threads: %d", self.place.device, processor, threads)
        if self.place.device != "cpu":
            log.info("engine %s: %s", choice.engine, choice.why)
        before = self.claim.numerics_id
        if self.claim.final_round and before and before != self.numerics_id:
            message = "the stored rounds were computed under other numerics (%s, here %s): lost"
            log.info(message, before, self.numerics_id)

    def choose_engine(self, config: TrainConfig, dataset: engines.Data) -> engines.Choice:
        """Choose the trial's engine. Give the trial back if the one asked for cannot train it.

        Raises:
            MachineLacks: the engine that the user asks for cannot train it; the message says why.

        """
        try:
            choice = engines.choose(config, dataset, self.place.device, self.place.engine)
        except Unsuitable as error:
            self.give_back(str(error))
            raise MachineLacks(f"{error}: ask for --engine auto or seq") from error
        self.trainer = engines.find(choice.engine)
        return choice

    def load(self, config: TrainConfig) -> engines.Data:
        """Load the trial's data set, and log its notes and the seconds it took."""
        before = self.claim.data_fingerprint if self.claim.final_round else None
        began = time.monotonic()
        dataset = sound_data(config, self.place.data, before)
        for line in dataset.found:
            log.info("%s: %s", config.dataset, line)
        log.info("%s loaded in %.1f s", config.dataset, time.monotonic() - began)
        return dataset

    def resume(self, origins: Sequence[trunks.Origin]) -> engines.State | None:
        """Return the state to resume from, or None if the trial begins at round 1.

        It comes from the first origin whose snapshot is intact and whose rounds are stored.
        """
        for origin in origins:
            state = self.files.read_state(origin)
            if state is not None and self.has_rounds(origin):
                return state
        return None

    def has_rounds(self, origin: trunks.Origin) -> bool:
        """Return whether the rounds up to a snapshot are stored. Inherit a sibling's rounds."""
        if origin.trial == self.claim.trial:
            return True
        return self.inherit(origin.trial, origin.snapshot.round)

    def inherit(self, sibling: int, to: int) -> bool:
        """Copy a sibling's rounds of the shared trunk. Return whether all up to `to` are stored."""

        def copy(connection: Connection) -> int:
            self.renew(connection)
            return trunks.inherit(connection, self.claim, sibling, to, self.numerics_id)

        shared = patiently(self.engine, copy) >= to
        if shared:
            log.info("shares its trunk's rounds up to %d", to)
        return shared

    def is_twin(self) -> bool:
        """Return whether all rounds of this trial are inherited from a finished sibling."""
        config = self.claim.config
        if self.claim.trunk is None or self.claim.fork_round < config["rounds"]:
            return False
        if config.get("keep_weights"):  # no snapshot contains them
            return False
        with reading(self.engine) as connection:
            sibling = trunks.twin(connection, self.claim, self.numerics_id)
        return sibling is not None and self.inherit(sibling, config["rounds"])

    def start_trunk(self, round: int) -> None:
        """Free the trials that fork from the shared trunk up to `round`. Find the next fork."""
        if self.claim.trunk is None:
            return

        def start(connection: Connection) -> None:
            self.renew(connection)
            self.advance_trunk(connection, round)

        patiently(self.engine, start)

    def advance_trunk(self, connection: Connection, round: int) -> None:
        """Store that the shared trunk is trained up to `round`, and index the next fork's file."""
        self.files.expect_fork(connection, queue.reach_round(connection, self.claim, round))

    def save(self, measured: engines.Round, *, snapshot: bool, release: bool) -> bool:
        """Store the pending rounds, and a snapshot if one is due, in one commit.

        Give the trial back if `release` is set or if someone asked for it. Return whether it was
        given back.
        """
        kept: file_index.Snapshot | None = None
        if snapshot:
            kept = self.files.write_snapshot(measured.state(), self.numerics_id)

        def store(connection: Connection) -> tuple[bool, bool, list[str]]:
            is_requested = self.store_pending(connection).give_back
            replaced = self.files.index_snapshot(connection, kept)
            if snapshot:
                self.advance_trunk(connection, measured.round)
            released = release or (is_requested and snapshot)
            if released:
                self.files.forget_unwritten(connection)
                queue.release(connection, self.claim)
            return released, is_requested, replaced

        released, is_requested, replaced = patiently(self.engine, store)
        self.pending.clear()
        self.log_handler.forget(self.logged)
        self.files.committed(kept, replaced, closed=released)
        if is_requested and not released:  # the snapshot must be written before the commit
            return self.save(measured, snapshot=True, release=True)
        return released

    def finish(self, last: engines.Round | None) -> Outcome:
        """Store the pending rounds, and the weights of `last` unless it is None."""
        kept = self.files.write_weights(last.weights()) if last is not None else None

        def end(connection: Connection) -> Unneeded:
            self.store_pending(connection)
            self.advance_trunk(connection, self.claim.fork_round)
            queue.finish(connection, self.claim)
            return self.files.index_finished(connection, kept)

        self.files.finished(patiently(self.engine, end))
        return Outcome.FINISHED

    def fail(self, kind: FailureKind, error: str, trace: str | None) -> End:
        """Store the rounds up to the failure, and the failure. Return the end of the attempt."""
        error = clipped(hide_secrets(legible(error)), ERROR_LENGTH)
        trace = trace and clipped(hide_secrets(legible(trace)), TRACE_LENGTH)
        self.log_handler.note("error", f"{kind}: {error}")

        def end(connection: Connection) -> float | None:
            with suppress(TrialFailed):  # the rounds may be what failed: the stored ones stay
                self.store_pending(connection)
            self.files.forget_unwritten(connection)
            now, most = read_clock(connection), self.place.max_attempts
            return queue.fail(connection, self.claim, now, kind, error, trace, max_attempts=most)

        return End(Outcome.FAILED, kind, error, patiently(self.engine, end))

    def lose(self, why: str) -> None:
        """Queue the trial again for another device, because this device is broken."""
        self.log_handler.note("error", why)
        charged = self.place.proven or self.measured

        def end(connection: Connection) -> None:
            self.renew(connection)
            queue.lose(connection, self.claim, why, charged=charged)

        patiently(self.engine, end)

    def store_pending(self, connection: Connection) -> queue.Held:
        """Renew the lease, and store the rounds that are measured but not stored.

        Raises:
            TrialFailed: a round was trained before under equal numerics and differs now.

        """
        held = self.renew(connection)
        memory = self.trainer.peak_memory(self.place.device) if self.pending else None
        differs = round_rows.add_rounds(
            connection, self.claim, self.pending, held.final_round, memory
        )
        if differs is not None:
            raise TrialFailed(
                FailureKind.ERROR,
                f"round {differs.round} was trained again and gave {differs.column} = "
                f"{differs.again!r}, not the stored {differs.stored!r}, under equal numerics",
            )
        return held

    def renew(self, connection: Connection) -> queue.Held:
        """Renew the lease, and store the log lines after that.

        Raises:
            LeaseLost: the claim does not hold the trial anymore.

        """
        now = read_clock(connection)
        held = queue.renew(connection, self.claim, now, lease=self.place.lease)
        self.logged = self.log_handler.unstored()
        attempt_rows.add_logs(connection, self.claim, self.logged)
        return held
