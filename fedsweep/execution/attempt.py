"""One attempt at a trial: from its claim to its outcome."""

from __future__ import annotations

import logging
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep import queue
from fedsweep.errors import (
    DataMissing,
    DeviceError,
    FedsweepError,
    LeaseLost,
    MachineError,
    PackageMissing,
    StoreBusy,
    StoreError,
    TrialFailed,
    hide_secrets,
    legible,
)
from fedsweep.log_handler import Line, LogHandler
from fedsweep.plan import (
    Round,
    TrainConfig,
    check_recipe,
    content_hash,
)
from fedsweep.redaction import clipped
from fedsweep.states import FailureKind, Outcome
from fedsweep.store import (
    artifacts,
    attempt_rows,
    driver_errors,
    file_index,
    file_names,
    file_places,
    garbage_collection,
    round_rows,
    spare_files,
    stops,
    trunks,
)
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.engine import close_idle
from fedsweep.store.transactions import patiently, reading, transaction
from trainers import engines
from trainers.engines import Diverged, Unfit, Unreadable, engine_of
from trainers.progress import Counter, progress

if TYPE_CHECKING:
    pass
from fedsweep.execution.data import sound_data
from fedsweep.execution.faults import ERROR_LENGTH, failure_kind, machine_limit, one_line
from fedsweep.execution.packages import not_imported, require_packages
from fedsweep.execution.place import Place
from fedsweep.execution.training import numerics_of, provenance_of, stored_round

log = logging.getLogger("fedsweep")


SNAPSHOT_SECONDS = 1.0
"""Rounds are stored, and a snapshot taken, when this has passed since the last time: every round
where a round takes longer, else once a second. A kill loses no more than that, or the rounds since
the last snapshot where the trial says how often to take one."""


TRACE_LENGTH = 100_000
"""Characters of an attempt's traceback that are stored."""


IDLE_SECONDS = 0.5
"""A trainer that has not needed the store for so long will not need it soon: it lets go of it."""


@dataclass(frozen=True)
class End:
    """How an attempt ended."""

    outcome: Outcome
    failure: FailureKind | None = None
    error: str | None = None
    again: float | None = None
    """Seconds until a failed trial is tried again, None for never."""


def count_steps_in(counter: Counter) -> None:
    """Let this process's trainer count its steps in an object that its watch reads."""
    progress.counter = counter


Watch = Callable[[Round], None]


Stop = Callable[[], bool]


def execute(engine: Engine, claim: Claim, place: Place, stop: Stop, watch: Watch) -> End | None:
    """Run a claimed trial to its outcome, and say it; None where the claim was lost meanwhile.

    `stop` is asked after each round: True saves the state and gives the trial back. `watch` sees
    each round as it is measured.
    """
    with LogHandler() as book:
        attempt = _Attempt(engine, claim, place, book)
        try:
            return _to_its_end(attempt, stop, watch)
        except LeaseLost:
            return None
        except SQLAlchemyError as error:  # the store's fault costs the worker, never the trial
            raise StoreError(_STORE_REFUSED.format(driver_errors.first_line(error))) from error
        finally:
            attempt.clear_up()


_STORE_REFUSED = (
    "the database refused a write of a trial, which is given back uncharged ({}): "
    "run `fedsweep db check`"
)


def _to_its_end(attempt: _Attempt, stop: Stop, watch: Watch) -> End:
    try:
        attempt.require_packages()
        return End(attempt.run(stop, watch))
    except DataMissing as error:
        if not attempt.leave(error):
            raise
        return attempt.fail(FailureKind.BAD_DATA, f"{error} (as on another machine)", None)
    except (LeaseLost, StoreError, StoreBusy, MachineError, PackageMissing, SQLAlchemyError):
        raise  # no fault of the trial
    except TrialFailed as failure:
        return attempt.fail(FailureKind(failure.kind), str(failure), None)
    except ImportError as error:
        missing = not_imported(attempt.claim.config, error)
        attempt.give_back(str(missing))
        raise missing from error
    except Exception as error:  # a trainer's bug must cost its trial, not the worker
        said = one_line(error)
        if limit := machine_limit(error):
            attempt.give_back(limit)
            raise MachineError(
                f"trial {attempt.claim.trial_id} cannot run here: {limit}"
            ) from error
        if attempt.trainer.is_broken_device(error):
            attempt.lose(said)
            raise DeviceError(f"{attempt.place.device} is out of service: {said}") from error
        kind = failure_kind(error, attempt.trainer)
        if attempt.place.proven or attempt.measured:
            return attempt.fail(kind, said, traceback.format_exc())
        attempt.give_back(f"{kind}: {said}", traceback.format_exc())
        return End(Outcome.RELEASED, kind, said)


class _Attempt:
    """The claim, and the rounds that are measured but not stored yet."""

    def __init__(self, engine: Engine, claim: Claim, place: Place, book: LogHandler) -> None:
        self.engine = engine
        self.claim = claim
        self.trainer = engine_of(claim.config)
        self.place = place
        self.book = book
        self.said: Sequence[Line] = ()
        """What the last transaction stored of the book."""
        self.folder: artifacts.Folder | None = None
        self.latest: str | None = None
        """The file of its own that the trial's snapshot is in."""
        self.written: set[str] = set()
        """The files of its own that there are, as far as it knows."""
        self.fork: int | None = None
        """The next round of its trunk at which a trial forks."""
        self.names = set(file_names.file_names(claim))
        """The files that it may write, as the index has them."""
        self.over = False
        self.measured = False
        """Whether the trainer gave a round."""
        self.warned = False
        self.pending: list[Round] = []
        self.numerics_id = ""

    def require_packages(self) -> None:
        """Give the trial back if this machine lacks what its model or normalizer needs.

        Raises:
            PackageMissing: says which, and how to get it.

        """
        try:
            require_packages(self.claim.trial_id, self.claim.config)
        except PackageMissing as error:
            self.give_back(str(error))
            raise

    def give_back(self, why: str, trace: str | None = None) -> None:
        """Release the trial at no cost, because this machine cannot run it."""
        why, trace = hide_secrets(legible(why)), trace and hide_secrets(legible(trace))
        self.book.note("error", why)

        def give_back(connection: Connection) -> None:
            self.renew(connection)
            queue.release(connection, self.claim, why, trace)

        patiently(self.engine, give_back)

    def leave(self, missing: DataMissing) -> bool:
        """Leave the trial to a machine that has its data; returns whether none seems to have them.

        Then the claim stays.
        """
        lack, host = missing.lack, platform.node()

        def look(connection: Connection) -> bool:
            self.renew(connection)
            return lack is not None and stops.nowhere(connection, lack, host)

        if patiently(self.engine, look):
            return True
        self.give_back(str(missing))
        return False

    def run(self, stop: Stop, watch: Watch) -> Outcome:
        config = TrainConfig(**self.claim.config)
        try:
            check_recipe(self.claim.trial_id, config)
        except ValueError as error:
            raise TrialFailed(FailureKind.BAD_DATA, str(error)) from error
        said = "attempt %d: %d of %d rounds are stored"
        log.info(said, self.claim.fence, self.claim.final_round, config.rounds)
        dataset = self.load(config)
        computed_under = numerics_of(config, self.place)
        self.numerics_id = content_hash(computed_under)
        ran_with = provenance_of(config, self.place, computed_under)
        self.say_where(computed_under)
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
        self.folder = artifacts.folder_of(self.engine.url, home)
        self.require_place(config)
        self.discard(dropped)
        if self.is_twin():
            return self.finish(None)
        every, saved = config.snapshot_every, time.monotonic()
        state = self.resume(origins)
        self.look_ahead(state.round if state else 0)
        log.info(f"goes on after round {state.round}" if state else "begins with round 1")
        try:
            for measured in self.train(config, dataset, state):
                row = stored_round(measured)
                self.measured = True
                self.pending.append(row)
                watch(row)
                if row.round == config.rounds:
                    return self.finish(measured if config.keep_weights else None)
                stopping, since = stop(), time.monotonic() - saved
                long = since >= SNAPSHOT_SECONDS
                due = stopping or (long if every is None else row.round % every == 0)
                due |= row.round == self.fork
                if not due and not long:
                    continue
                if self.save(measured, snapshot=due, release=stopping):
                    return Outcome.RELEASED
                if since >= IDLE_SECONDS:
                    close_idle(self.engine)
                saved = time.monotonic()
        except Diverged as error:
            raise TrialFailed(FailureKind.DIVERGED, str(error)) from error
        raise FedsweepError("the trainer stopped before the last round")

    def require_place(self, config: TrainConfig) -> None:
        """Give the trial back if its weights are to be kept at a place that is not used here.

        Raises:
            MachineError: it says which place, and what to do. Without weights, no snapshot is
                written or read, which costs rounds.

        """
        if (refusal := self.files.refusal) is None or not config.keep_weights:
            return
        why = f"its final weights cannot be kept: {refusal}"
        self.give_back(why)
        raise MachineError(f"trial {self.claim.trial_id} cannot run here: {why}")

    def train(
        self, config: TrainConfig, dataset: engines.Data, state: engines.State | None
    ) -> Iterator[engines.Round]:
        """Train the trial from a state; from the start if the state does not belong to it."""
        device = self.place.device
        try:
            yield from self.trainer.run(config, dataset, state, device=device)
        except Unfit as error:
            self.begin_again(f"no state of this trial: {error}")
            yield from self.trainer.run(config, dataset, device=device)

    def say_where(self, computed_under: Mapping[str, str]) -> None:
        """Say what it trains on, and which stored rounds that does away with."""
        processor, threads = computed_under["processor"], computed_under["threads"]
        log.info("on %s (%s), threads: %s", self.place.device, processor, threads)
        before = self.claim.numerics_id
        if self.claim.final_round and before and before != self.numerics_id:
            said = "the stored rounds were computed under other numerics (%s, here %s): lost"
            log.info(said, before, self.numerics_id)

    def load(self, config: TrainConfig) -> engines.Data:
        before = self.claim.data_fingerprint if self.claim.final_round else None
        began = time.monotonic()
        dataset = sound_data(config, self.place.data, before)
        for line in dataset.found:
            log.info("%s: %s", config.dataset, line)
        log.info("%s loaded in %.1f s", config.dataset, time.monotonic() - began)
        return dataset

    def resume(self, origins: Sequence[trunks.Origin]) -> engines.State | None:
        """The state to go on from, of the furthest snapshot that is sound, with the rounds before
        it; None for the start.
        """
        for origin in origins:
            state = self.read(origin)
            if state is not None and self.has_rounds(origin):
                return state
        return None

    def read(self, origin: trunks.Origin) -> engines.State | None:
        """A snapshot's state, None where it is of no use."""
        snapshot = origin.snapshot
        stored = self.claim.final_round if origin.trial == self.claim.trial else snapshot.round
        if not 0 < snapshot.round <= min(stored, self.claim.config["rounds"] - 1):
            self.begin_again(f"of round {snapshot.round}, of {self.claim.final_round} stored")
            return None
        files = artifacts.folder_of(self.engine.url, origin.home)
        content = files.read(snapshot)
        progress.step()
        if content is None:
            why = f"missing, damaged or out of reach in {files}"
            self.begin_again(why if files.refusal is None else f"not read: {files.refusal}")
            return None
        try:
            return self.trainer.unpack(snapshot.round, content)
        except Unreadable as error:
            self.begin_again(one_line(error.__cause__ or error))
            return None

    def has_rounds(self, origin: trunks.Origin) -> bool:
        """Whether the rounds up to a snapshot are stored; a sibling's are inherited."""
        if origin.trial == self.claim.trial:
            return True
        return self.inherit(origin.trial, origin.snapshot.round)

    def inherit(self, sibling: int, to: int) -> bool:
        """Take over the trunk's rounds that a sibling has stored; whether they are all there."""

        def take(connection: Connection) -> int:
            self.renew(connection)
            return trunks.inherit(connection, self.claim, sibling, to, self.numerics_id)

        shared = patiently(self.engine, take) >= to
        if shared:
            log.info("shares its trunk's rounds up to %d", to)
        return shared

    def is_twin(self) -> bool:
        """Whether a finished sibling's rounds are this trial's, to the last."""
        config = self.claim.config
        if self.claim.trunk is None or self.claim.fork_round < config["rounds"]:
            return False
        if config.get("keep_weights"):  # which are in no snapshot
            return False
        with reading(self.engine) as connection:
            sibling = trunks.twin(connection, self.claim, self.numerics_id)
        return sibling is not None and self.inherit(sibling, config["rounds"])

    def look_ahead(self, round: int) -> None:
        """Know the next fork of the trunk, and let those begin who fork before."""
        if self.claim.trunk is None:
            return

        def look(connection: Connection) -> None:
            self.renew(connection)
            self.get_on(connection, round)

        patiently(self.engine, look)

    def get_on(self, connection: Connection, round: int) -> None:
        """Say how far the trunk is, and index the next fork's file."""
        self.fork = queue.reach_round(connection, self.claim, round)
        if self.fork is not None:
            file_index.expect_fork(connection, self.claim, self.fork)
            self.names.add(file_names.fork_name(self.claim, self.fork))

    def begin_again(self, why: str) -> None:
        """Say that a snapshot is of no use."""
        log.warning("trial %s begins again, its snapshot is %s", self.claim.trial_id, why)

    @property
    def files(self) -> artifacts.Folder:
        """Where its files lie, as the store said when it began."""
        assert self.folder is not None
        return self.folder

    def save(self, measured: engines.Round, *, snapshot: bool, release: bool) -> bool:
        """Store the pending rounds, and a snapshot where one is due, in one commit.

        Where this worker wants to `release` the trial, or somebody wants it back, it is given back
        with its snapshot; returns whether it was.
        """
        kept = self.snapshot(measured.state()) if snapshot else None

        def store(connection: Connection) -> tuple[bool, bool, list[str]]:
            wanted_back = self.store_pending(connection).give_back
            replaced = file_index.add_snapshot(connection, self.claim, kept) if kept else []
            if snapshot:
                self.get_on(connection, measured.round)
            over = release or (wanted_back and snapshot)
            if over:
                self.end_files(connection)
                queue.release(connection, self.claim)
            return over, wanted_back, replaced

        self.over, wanted_back, replaced = patiently(self.engine, store)
        self.pending.clear()
        self.book.forget(self.said)
        self.latest = kept.name if kept else self.latest
        self.discard(replaced)
        if wanted_back and not self.over:  # the snapshot must be there before the commit
            return self.save(measured, snapshot=True, release=True)
        return self.over

    def snapshot(self, state: engines.State) -> file_index.Snapshot | None:
        """Write the state to a file. Where that cannot be done, rounds may be lost, not trials."""
        if self.files.refusal is not None:
            self.go_without(self.files.refusal)
            return None
        content = self.trainer.pack(state)
        progress.step()  # an artifacts folder may take minutes for one file
        one, other = file_names.snapshot_names(self.claim)
        name = other if self.latest == one else one
        if state.round == self.fork:
            name = file_names.fork_name(self.claim, state.round)
        self.written.add(name)
        try:
            total = self.files.write(name, content)
        except OSError as error:
            self.go_without(error)
            return None
        finally:
            progress.step()
        return file_index.Snapshot(state.round, self.numerics_id, name, len(content), total)

    def go_without(self, error: OSError) -> None:
        """Say once why there is no snapshot."""
        if not self.warned:
            said = "no snapshot of trial %s, which goes on without: %s"
            log.warning(said, self.claim.trial_id, hide_secrets(str(error)))
        self.warned = True

    def end_files(self, connection: Connection) -> None:
        """Take the names off the index that were never written to; the attempt ends."""
        file_index.forget_files(connection, self.names - self.written)

    def discard(self, names: Iterable[str]) -> None:
        """Delete files that nothing refers to any more, and take them off the index, where their
        attempt is over. What does not work out is left to `fedsweep db gc`.
        """
        gone = []
        for name in names:
            progress.step()
            with suppress(OSError):
                found = self.files.remove(name) is not None
                self.written.discard(name)
                if name in self.names:
                    gone += [name] if self.over else []
                elif found or self.files.shared:
                    gone.append(name)
        if gone:
            with (
                suppress(StoreError, StoreBusy, SQLAlchemyError),
                transaction(self.engine) as connection,
            ):
                file_index.forget_files(connection, gone)

    def clear_up(self) -> None:
        """Delete what was written, and then not referred to: the attempt failed, or lost its trial.
        Who reads the index must find it still: the names stay on it.
        """
        unsure = self.written - {self.latest}
        if self.over or not unsure:
            return
        with suppress(StoreError, StoreBusy, SQLAlchemyError, OSError):
            with reading(self.engine) as connection:
                unused = spare_files.unreferenced(connection, self.claim.trial, unsure)
            for name in unused:
                self.files.remove(name)

    def finish(self, last: engines.Round | None) -> Outcome:
        """Store the pending rounds, and the weights of the last round where they are to be kept."""
        kept = self.keep(last) if last is not None else None

        def end(connection: Connection) -> tuple[set[str], dict[str, file_places.Home]]:
            self.store_pending(connection)
            self.get_on(connection, self.claim.fork_round)
            queue.finish(connection, self.claim)
            if kept is not None:
                file_index.add_weights(connection, self.claim, kept)
            self.end_files(connection)
            spare: dict[str, file_places.Home] = {}
            if self.claim.trunk is not None:
                spare = trunks.drop_unneeded(connection, self.claim.trunk)
            gone = {*file_index.drop_latest(connection, self.claim.trial), *self.written}
            return set(spare_files.unreferenced(connection, self.claim.trial, gone)), spare

        unused, spare = patiently(self.engine, end)
        self.over = True
        self.discard(unused)
        garbage_collection.delete(self.engine, spare)
        return Outcome.FINISHED

    def keep(self, last: engines.Round) -> file_index.Weights:
        """Write the final weights to a file.

        Where that cannot be done the trial fails. Finished is for good: its weights would be lost,
        though they were asked for. A failed trial is tried again, from its latest snapshot.
        """
        content = self.trainer.pack_weights(last.weights())
        name = file_names.weights_name(self.claim)
        progress.step()
        self.written.add(name)
        try:
            return file_index.Weights(name, len(content), self.files.write(name, content))
        except OSError as error:
            raise TrialFailed(
                FailureKind.ERROR,
                f"the final weights cannot be written to {self.files} "
                f"({error.strerror or error}): make room there, or plan without keep_weights",
            ) from error

    def fail(self, kind: FailureKind, error: str, trace: str | None) -> End:
        """Store the rounds up to the failure, and say it."""
        error = clipped(hide_secrets(legible(error)), ERROR_LENGTH)
        trace = trace and clipped(hide_secrets(legible(trace)), TRACE_LENGTH)
        self.book.note("error", f"{kind}: {error}")

        def end(connection: Connection) -> float | None:
            with suppress(TrialFailed):  # the rounds may be what failed: the stored ones stay
                self.store_pending(connection)
            self.end_files(connection)
            now, most = read_clock(connection), self.place.max_attempts
            return queue.fail(connection, self.claim, now, kind, error, trace, max_attempts=most)

        return End(Outcome.FAILED, kind, error, patiently(self.engine, end))

    def lose(self, why: str) -> None:
        """Leave the trial to another device."""
        self.book.note("error", why)
        charged = self.place.proven or self.measured

        def end(connection: Connection) -> None:
            self.renew(connection)
            queue.lose(connection, self.claim, why, charged=charged)

        patiently(self.engine, end)

    def store_pending(self, connection: Connection) -> queue.Held:
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
        """Prove that the trial is its own; what was said is stored behind that."""
        now = read_clock(connection)
        held = queue.renew(connection, self.claim, now, lease=self.place.lease)
        self.said = self.book.unstored()
        attempt_rows.add_logs(connection, self.claim, self.said)
        return held
