"""One claimed trial, from its claim to its outcome. The only door to `trainers`.

An engine of `trainers.engines` trains the trial. This module imports nothing else that needs torch,
because `fedsweep plan` asks it about data. Other slow imports are inside functions.
"""

from __future__ import annotations

import logging
import math
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep import blackbox, machine, measures, queue
from fedsweep.errors import (
    DataMissing,
    DeviceError,
    FedsweepError,
    LeaseLost,
    MachineError,
    MachineLacks,
    PackageMissing,
    PlanError,
    StoreBusy,
    StoreError,
    TrialFailed,
    hide_secrets,
    legible,
)
from fedsweep.logbook import Line, Logbook
from fedsweep.plan import (
    Holdings,
    Round,
    SweepSpec,
    TrainConfig,
    Trials,
    check_recipe,
    content_hash,
    pinned,
)
from fedsweep.provenance import provenance
from fedsweep.redaction import clipped
from fedsweep.states import FailureKind, Outcome
from fedsweep.store import artifacts, driver_errors, garbage, reads, stops, trunks, writes
from fedsweep.store.claim import Claim
from fedsweep.store.engine import let_go, patiently, read_clock, reading, transaction
from trainers import engines
from trainers.engines import Diverged, Unfit, Unreadable, engine_of
from trainers.progress import Counter, progress

if TYPE_CHECKING:
    from trainers import precheck

log = logging.getLogger("fedsweep")

SNAPSHOT_SECONDS = 1.0
"""Rounds are stored, and a snapshot taken, when this has passed since the last time: every round
where a round takes longer, else once a second. A kill loses no more than that, or the rounds since
the last snapshot where the trial says how often to take one."""

COPIES = 3
"""Numbers for each parameter of a model, at least: the parameter, its gradient and its momentum."""

ERROR_LENGTH = 4_000
"""Characters of an attempt's error that are stored: one line of a page and of a terminal."""
TRACE_LENGTH = 100_000
"""Characters of an attempt's traceback that are stored."""

IDLE_SECONDS = 0.5
"""A trainer that has not needed the store for so long will not need it soon: it lets go of it."""


@dataclass(frozen=True)
class Place:
    """Where a trial runs: a device, torch's threads, and the folder of the data."""

    device: str = "cpu"
    threads: int = 1
    data: Path | None = None
    lease: float = queue.LEASE_SECONDS
    max_attempts: int = queue.MAX_ATTEMPTS
    proven: bool = True
    """True if a trial was trained here before. Otherwise an attempt that fails before its first
    round is not charged to its trial: the machine may be at fault."""


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
    with Logbook() as book:
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
        missing = _not_imported(attempt.claim.config, error)
        attempt.give_back(str(missing))
        raise missing from error
    except Exception as error:  # a trainer's bug must cost its trial, not the worker
        said = _one_line(error)
        if limit := _limit(error):
            attempt.give_back(limit)
            raise MachineError(
                f"trial {attempt.claim.trial_id} cannot run here: {limit}"
            ) from error
        if attempt.trainer.is_broken_device(error):
            attempt.lose(said)
            raise DeviceError(f"{attempt.place.device} is out of service: {said}") from error
        kind = _kind_of(error, attempt.trainer)
        if attempt.place.proven or attempt.measured:
            return attempt.fail(kind, said, traceback.format_exc())
        attempt.give_back(f"{kind}: {said}", traceback.format_exc())
        return End(Outcome.RELEASED, kind, said)


class _Attempt:
    """The claim, and the rounds that are measured but not stored yet."""

    def __init__(self, engine: Engine, claim: Claim, place: Place, book: Logbook) -> None:
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
        self.names = set(writes.file_names(claim))
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
        ran_with = _provenance(config, self.place, computed_under)
        self.say_where(computed_under)
        self.trainer.begin_memory(self.place.device)

        def begin(connection: Connection) -> tuple[reads.Home, list[trunks.Origin], list[str]]:
            self.renew(connection)
            dropped = writes.start_attempt(
                connection,
                self.claim,
                numerics_id=self.numerics_id,
                numerics=computed_under,
                data_fingerprint=dataset.fingerprint,
                provenance=ran_with,
            )
            home = reads.home(connection, self.claim.trial)
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
                row = _row(measured)
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
                    let_go(self.engine)
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
        dataset = _sound_data(config, self.place.data, before)
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
            self.begin_again(_one_line(error.__cause__ or error))
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
            writes.expect_fork(connection, self.claim, self.fork)
            self.names.add(writes.fork_name(self.claim, self.fork))

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
            replaced = writes.add_snapshot(connection, self.claim, kept) if kept else []
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

    def snapshot(self, state: engines.State) -> writes.Snapshot | None:
        """Write the state to a file. Where that cannot be done, rounds may be lost, not trials."""
        if self.files.refusal is not None:
            self.go_without(self.files.refusal)
            return None
        content = self.trainer.pack(state)
        progress.step()  # an artifacts folder may take minutes for one file
        one, other = writes.snapshot_names(self.claim)
        name = other if self.latest == one else one
        if state.round == self.fork:
            name = writes.fork_name(self.claim, state.round)
        self.written.add(name)
        try:
            total = self.files.write(name, content)
        except OSError as error:
            self.go_without(error)
            return None
        finally:
            progress.step()
        return writes.Snapshot(state.round, self.numerics_id, name, len(content), total)

    def go_without(self, error: OSError) -> None:
        """Say once why there is no snapshot."""
        if not self.warned:
            said = "no snapshot of trial %s, which goes on without: %s"
            log.warning(said, self.claim.trial_id, hide_secrets(str(error)))
        self.warned = True

    def end_files(self, connection: Connection) -> None:
        """Take the names off the index that were never written to; the attempt ends."""
        writes.forget_files(connection, self.names - self.written)

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
                writes.forget_files(connection, gone)

    def clear_up(self) -> None:
        """Delete what was written, and then not referred to: the attempt failed, or lost its trial.
        Who reads the index must find it still: the names stay on it.
        """
        unsure = self.written - {self.latest}
        if self.over or not unsure:
            return
        with suppress(StoreError, StoreBusy, SQLAlchemyError, OSError):
            with reading(self.engine) as connection:
                unused = reads.unreferenced(connection, self.claim.trial, unsure)
            for name in unused:
                self.files.remove(name)

    def finish(self, last: engines.Round | None) -> Outcome:
        """Store the pending rounds, and the weights of the last round where they are to be kept."""
        kept = self.keep(last) if last is not None else None

        def end(connection: Connection) -> tuple[set[str], dict[str, reads.Home]]:
            self.store_pending(connection)
            self.get_on(connection, self.claim.fork_round)
            queue.finish(connection, self.claim)
            if kept is not None:
                writes.add_weights(connection, self.claim, kept)
            self.end_files(connection)
            spare: dict[str, reads.Home] = {}
            if self.claim.trunk is not None:
                spare = trunks.drop_unneeded(connection, self.claim.trunk)
            gone = {*writes.drop_latest(connection, self.claim.trial), *self.written}
            return set(reads.unreferenced(connection, self.claim.trial, gone)), spare

        unused, spare = patiently(self.engine, end)
        self.over = True
        self.discard(unused)
        garbage.delete(self.engine, spare)
        return Outcome.FINISHED

    def keep(self, last: engines.Round) -> writes.Weights:
        """Write the final weights to a file.

        Where that cannot be done the trial fails. Finished is for good: its weights would be lost,
        though they were asked for. A failed trial is tried again, from its latest snapshot.
        """
        content = self.trainer.pack_weights(last.weights())
        name = writes.weights_name(self.claim)
        progress.step()
        self.written.add(name)
        try:
            return writes.Weights(name, len(content), self.files.write(name, content))
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
        differs = writes.add_rounds(connection, self.claim, self.pending, held.final_round, memory)
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
        writes.add_logs(connection, self.claim, self.said)
        return held


def require_packages(trial_id: str, config: Mapping[str, Any]) -> None:
    """See to it that this machine has what a trial's model and normalizer need.

    Raises:
        PackageMissing: says which it lacks, and how to get it.

    """
    if (missing := _missing_package(config)) is not None:
        raise PackageMissing(f"trial {trial_id} cannot run here: {missing}", missing.lack)


def lacking(
    needs: Iterable[Mapping[str, Any]], root: Path | None, device: str
) -> list[MachineLacks]:
    """Return what this machine lacks of the packages, memory and data that trials need, each once.

    A need has the fields `queue.NEEDS`. The content of files is left to the first trial.
    """
    looks: dict[stops.Lack, Callable[[], MachineLacks | None]] = {}
    for need in needs:
        looks[("model", need["model"]),] = partial(_missing_for_model, need, device)
        looks[("normalizer", need["normalizer"]),] = partial(_missing_package, need)
        looks[data_of(need)] = partial(_missing_data, need, root)
    return [missing for look in looks.values() if (missing := look()) is not None]


def _missing_for_model(need: Mapping[str, Any], device: str) -> MachineLacks | None:
    model = need["model"]
    if (said := _missing_module(model)) is not None:
        return PackageMissing(said, (("model", model),))
    return too_small(model, device)


def _missing_package(need: Mapping[str, Any]) -> PackageMissing | None:
    for field, look in (("model", _missing_module), ("normalizer", _missing_normalizer)):
        if (said := look(need[field])) is not None:
            return PackageMissing(said, ((field, need[field]),))
    return None


def _missing_module(model: str) -> str | None:
    """Return a sentence if a module that a model needs cannot be imported here."""
    modules = engine_of().MODEL_MODULES.get(model, ())
    if not all(map(find_spec, modules)):
        package = "'fedsweep[segmentation]'" if model == "deeplabv3plus" else modules[0]
        return f"{model} needs packages: pip install {package}"
    for module in modules:
        if (said := _import_error(module)) is not None:
            return f"{model} needs {module}, {said}"
    return None


def _missing_normalizer(name: str) -> str | None:
    """Return a sentence if a normalizer of another package cannot be imported here."""
    from trainers.config import NORMALIZERS, normalizer_names

    if name in NORMALIZERS:
        return None
    if name not in normalizer_names():
        return f"normalizer {name} is offered by no package: install its own"
    try:
        engine_of().load_normalizer(name)
    except ValueError:  # the same on every machine: its trials say it
        return None
    except (Exception, SystemExit) as error:  # noqa: BLE001  # code of another package
        said = f"normalizer {name} cannot be imported ({_one_line(error)})"
        return f"{said}: mend the installation of its package"
    return None


def _import_error(module: str) -> str | None:
    """Import a module; returns the end of a sentence if that fails."""
    try:
        import_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a broken installation has many faces
        return f"which cannot be imported here ({_one_line(error)}): mend its installation"
    return None


def _not_imported(config: Mapping[str, Any], error: ImportError) -> PackageMissing:
    """Return what a trial lacks that met a failed import."""
    from trainers.config import NORMALIZERS

    said = f"a package cannot be imported here ({_one_line(error)}): mend its installation"
    fields = ("model", "dataset") if config["normalizer"] in NORMALIZERS else ("normalizer",)
    return PackageMissing(said, tuple((name, config[name]) for name in fields))


def _missing_data(need: Mapping[str, Any], root: Path | None) -> DataMissing | None:
    from trainers.config import DOWNLOADED, ON_DISK
    from trainers.folder import BadData, MachineLimit, Missing, list_files, shown

    dataset, lack = need["dataset"], data_of(need)
    if dataset not in ON_DISK:
        if dataset == "digits" or root is None or root.is_dir():
            return None
        return DataMissing(f"{dataset}: there is no folder {shown(root)}: change --data", lack)
    if root is None and dataset in DOWNLOADED:
        return None
    try:
        list_files(dataset, root)
    except MachineLimit as error:
        raise MachineError(str(error)) from error
    except BadData as error:
        if isinstance(error, Missing) or need["fingerprint"] is not None:
            return DataMissing(str(error), lack)
    return None


def data_of(need: Mapping[str, Any]) -> stops.Lack:
    """Return the fields that name a trial's data."""
    return ("dataset", need["dataset"]), ("fingerprint", need.get("fingerprint"))


def numerics_of(config: TrainConfig, place: Place) -> dict[str, str]:
    """What a trial's results are bitwise equal under, here; this process's arithmetic is set so."""
    return engine_of(vars(config)).numerics_of(config, place.device, place.threads)


def _provenance(
    config: TrainConfig, place: Place, computed_under: Mapping[str, str]
) -> dict[str, Any]:
    trainer, processor = engine_of(vars(config)), computed_under["processor"]
    memory, more = trainer.total_memory(place.device), trainer.packages(config)
    return provenance(processor, place.device, memory, more)


def train_again(config: TrainConfig, place: Place, fingerprint: str) -> Iterator[Round]:
    """A trial's rounds from the first, on the data of this fingerprint; nothing is stored.

    Raises:
        TrialFailed: it diverged, or cannot be trained.

    """
    trainer = engine_of(vars(config))
    try:
        dataset = _sound_data(config, place.data, fingerprint)
        yield from map(_row, trainer.run(config, dataset, device=place.device))
    except Diverged as error:
        raise TrialFailed(FailureKind.DIVERGED, str(error)) from error
    except DataMissing as error:
        raise TrialFailed(FailureKind.BAD_DATA, str(error)) from error
    except FedsweepError:
        raise
    except Exception as error:
        if limit := _limit(error):
            raise MachineError(f"the trial cannot run here: {limit}") from error
        raise TrialFailed(_kind_of(error, trainer), _one_line(error)) from error


def _sound_data(config: TrainConfig, root: Path | None, before: str | None) -> engines.Data:
    """A trial's data, if they can be split as it wants, and are those that it was begun on.

    Raises:
        DataMissing: they are not here.
        TrialFailed: no machine can train on them.

    """
    from trainers.folder import BadData, Missing

    try:
        dataset = engine_of(vars(config)).load(config, root)
    except Missing as error:
        raise DataMissing(str(error), data_of(config.model_dump())) from error
    except (BadData, ValueError) as error:
        raise TrialFailed(FailureKind.BAD_DATA, str(error)) from error
    if before and before != dataset.fingerprint:
        raise DataMissing(
            f"the data here (fingerprint {dataset.fingerprint}) are not those of the stored "
            f"rounds ({before}): point --data at the same data on every machine",
            data_of(config.model_dump()),
        )
    return dataset


def _row(measured: engines.Round) -> Round:
    """As it is stored. A diagnostic that is not finite says nothing, and is left out."""
    values = {field.name: getattr(measured, field.name) for field in fields(Round)}
    values |= {name: _finite(values[name]) for name in measures.DIAGNOSTICS}
    return Round(**values)


def _finite(value: float | Mapping[str, float] | None) -> float | dict[str, float] | None:
    if isinstance(value, Mapping):
        return {layer: number for layer, number in value.items() if math.isfinite(number)}
    return value if value is not None and math.isfinite(value) else None


def _limit(error: Exception) -> str | None:
    """Return the sentence for an error that a setting of this machine caused, None otherwise."""
    from trainers.folder import MachineLimit

    return str(error) if isinstance(error, MachineLimit) else machine.fault(error)


def _kind_of(error: Exception, trainer: engines.Engine) -> FailureKind:
    full = isinstance(error, MemoryError) or trainer.is_out_of_memory(error)
    return FailureKind.OUT_OF_MEMORY if full else FailureKind.ERROR


def _one_line(error: BaseException) -> str:
    text = clipped(hide_secrets(legible(" ".join(str(error).split()))), ERROR_LENGTH)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def try_machine(device: str, threads: int = 1) -> None:
    """Import what every trial needs, and train one made-up step, before any trial is claimed.

    Raises:
        MachineError: something cannot be imported, or a setting of the machine forbids it.
        DeviceError: the device is broken, computes wrong numbers, or its memory is full.

    """
    trainer = engine_of()
    for module in trainer.MODULES:
        if said := _import_error(module):
            raise MachineError(f"a trial needs {module}, {said}")
    try:
        trainer.rehearse(device, threads)
    except Exception as error:
        if limit := _limit(error):
            raise MachineError(limit) from error
        raise DeviceError(f"{device} is out of service: {_one_line(error)}") from error


def too_small(model: str, device: str) -> MachineLacks | None:
    """Return a refusal if the device has too little free memory for a model; None if it is enough.

    Enough for the model alone: how much a trial takes shows in its first round.
    """
    from trainers.config import STATE_ELEMENTS

    elements = COPIES * STATE_ELEMENTS[model]
    try:
        engine_of().reserve(elements, device)
    except RuntimeError as error:
        said = f"{device} has too little free memory for {model} ({_one_line(error)})"
        return MachineLacks(f"{said}: free some, or use another device", (("model", model),))
    return None


def devices(asked: str) -> list[str]:
    """The devices that --device names, one or several; `auto` takes every GPU, else the CPU.

    Raises:
        DeviceError: there is no such device here.
        MachineError: torch cannot be imported, so that nobody can tell.

    """
    if asked == "cpu":
        return ["cpu"]
    if asked not in ("auto", "cuda") and not asked.startswith("cuda:"):
        raise DeviceError(f"--device {asked} is none of auto, cpu, cuda, cuda:N")
    there = [f"cuda:{i}" for i in range(_count_gpus())]
    if asked == "auto":
        return there or ["cpu"]
    if asked == "cuda" and there:
        return there
    if asked in there:
        return [asked]
    found = f"only {', '.join(there)}" if there else "no CUDA device"
    raise DeviceError(f"--device {asked}: there is {found} here; choose --device auto or cpu")


COUNT_GPUS = """
import sys
sys.path.append(sys.argv[1])
from trainers.engines import engine_of
print("GPUs:", engine_of().count_gpus())
"""
"""The program that counts GPUs. Its argument is the folder of our packages, in a checkout too."""


def _count_gpus() -> int:
    """Count this machine's GPUs in a process of its own: a broken torch may take it down."""
    trainer = engine_of()
    if sys.modules.keys() >= {*trainer.MODULES}:
        return trainer.count_gpus()
    home = Path(engines.__file__).resolve().parent.parent
    command = [sys.executable, "-P", "-c", COUNT_GPUS, str(home)]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False
    )  # our own program
    for line in done.stdout.splitlines():
        if line.startswith("GPUs: ") and done.returncode == 0:
            return int(line.removeprefix("GPUs: "))
    said = blackbox.gist(done.stderr.splitlines())
    end = blackbox.death(done.returncode)
    raise MachineError(
        f"a trial needs torch, which cannot be imported here ({said or end}): mend its installation"
    )


def look_at_data(
    sweep: SweepSpec,
    root: Path | None,
    file: Path | None = None,
    tell: Callable[[str], object] = log.info,
) -> tuple[SweepSpec, bool]:
    """The sweep with the content of its data sets on disk in its identity, as far as they are at
    hand; and whether something could not be looked at. `file` is the plan's, for messages. `tell`
    gets sentences on what was found.

    Raises:
        PlanError: the folder is missing or empty, or the samples cannot be split as planned.

    """
    from trainers import precheck
    from trainers.config import DOWNLOADED, ON_DISK
    from trainers.folder import BadData, MachineLimit, check_decoded, list_files

    unseen = False
    stocks: dict[str, precheck.Stock] = {}
    trials = Trials.of(sweep.trials)
    configs = [*trials.distinct("dataset", "fingerprint"), *(arm.config for arm in sweep.arms)]
    for dataset in dict.fromkeys(config.dataset for config in configs):
        stock = precheck.released(dataset)
        if dataset in ON_DISK and root is None:
            # Also where they were downloaded meanwhile: the same plan is the same trials. What is
            # downloaded is one content, checked by its sum.
            unseen |= dataset not in DOWNLOADED and any(
                c.fingerprint is None for c in configs if c.dataset == dataset
            )
        elif dataset in ON_DISK:
            try:
                files = list_files(dataset, root)
                for config in configs:
                    if config.dataset == dataset == "imagefolder" and config.image_size:
                        sides = (config.image_size, config.image_size)
                        check_decoded(files.root, len(files.train) + len(files.test), *sides, 3)
                content = files.content()
                content.check()
            except (BadData, MachineLimit, ValueError) as error:
                raise PlanError(str(error)) from error
            sweep = pinned(sweep, dataset, content.fingerprint)
            for line in (*files.found, *content.notes):
                tell(f"{dataset}: {line}")
            stock = precheck.on_disk(files)
        if stock is not None:
            stocks[dataset] = stock
    _check_partitions(sweep, stocks, file)
    return sweep, unseen


def _check_partitions(
    sweep: SweepSpec, stocks: Mapping[str, precheck.Stock], file: Path | None
) -> None:
    """Refuse a sweep with a trial whose samples cannot be split as planned.

    Raises:
        PlanError: names the plan's file, the keys and the remedy.

    """
    from trainers import precheck

    checks = precheck.Precheck()
    try:
        for arm in sweep.arms:
            if stock := stocks.get(arm.config.dataset):
                checks.check(arm.config, stock, arm.all_seeds)
        for config in Trials.of(sweep.trials).distinct("dataset", *precheck.FIELDS, "seed"):
            if stock := stocks.get(config.dataset):
                checks.check(config, stock, [config.seed])
    except ValueError as error:
        raise PlanError(f"{file}: {error}" if file else str(error)) from error


def holdings(configs: Sequence[TrainConfig], root: Path | None) -> list[Holdings]:
    """Who holds what under each of these configurations.

    Raises:
        PlanError: the data are not at hand, or cannot be split so.

    """
    from trainers.config import SEGMENTATION
    from trainers.folder import BadData, MachineLimit

    try:
        counts = [engine_of(vars(config)).class_counts(config, root) for config in configs]
    except (BadData, MachineLimit, ValueError) as error:
        raise PlanError(str(error)) from error
    return [
        Holdings(
            config,
            tuple(map(tuple, count)),
            "pixels" if config.dataset in SEGMENTATION else "samples",
        )
        for config, count in zip(configs, counts, strict=True)
    ]


def snapshot_bytes(configs: Iterable[TrainConfig]) -> int:
    """The largest snapshot of these trials, bytes, as far as a plan can tell."""
    return max((_model_bytes(c) * (1 + _velocities(c)) for c in configs), default=0)


def weights_bytes(configs: Iterable[TrainConfig]) -> int:
    """All the final weights that these trials are to keep, bytes, about."""
    return sum(_model_bytes(config) for config in configs if config.keep_weights)


def _model_bytes(config: TrainConfig) -> int:
    from trainers.config import STATE_ELEMENTS

    return STATE_ELEMENTS[config.model] * (8 if config.dtype == "float64" else 4)


def _velocities(config: TrainConfig) -> int:
    """Vectors as long as the model: each registered client's, or the averaged one; the server's."""
    clients = 1 if config.centralized else config.clients or 1  # natural ones are not known yet
    kept = {"local": clients, "global": 1}.get(config.momentum, 0)
    return kept + (config.server_momentum > 0)
