"""Files of one attempt: its snapshots and its final weights."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep.errors import StoreBusy, StoreError, TrialFailed, hide_secrets
from fedsweep.execution.faults import one_line
from fedsweep.states import FailureKind
from fedsweep.store import (
    artifacts,
    file_index,
    file_names,
    file_places,
    garbage_collection,
    spare_files,
    trunks,
)
from fedsweep.store.claim import Claim
from fedsweep.store.transactions import reading, transaction
from trainers import engines
from trainers.engines import Unreadable
from trainers.progress import progress

log = logging.getLogger("fedsweep")


@dataclass(frozen=True)
class Unneeded:
    """Files that nothing refers to after an attempt has finished its trial."""

    own: frozenset[str]
    """Names of files of this trial."""
    of_siblings: dict[str, file_places.Home]
    """Names of snapshots of the shared trunk, and the places where they lie."""


class AttemptFiles:
    """The only owner of two facts: indexed but never written, and written but not referred to.

    A file's name is in the index before the file is written. A commit then refers to the file.
    If the attempt ends between the two, `clear_up` deletes the file.
    """

    def __init__(self, engine: Engine, claim: Claim, trainer: engines.Engine) -> None:
        self._engine = engine
        self._claim = claim
        self._trainer = trainer
        self._folder: artifacts.Folder | None = None
        self._indexed = set(file_names.file_names(claim))
        """Names that the index reserves for this attempt."""
        self._written: set[str] = set()
        """Names of this attempt's files that exist, as far as it knows."""
        self._latest: str | None = None
        """The name of the file that the trial's latest snapshot is in."""
        self._closed = False
        """True after the commit that ended the attempt and gave up its unwritten names."""
        self._warned = False
        self.next_fork: int | None = None
        """The next round of the shared trunk after which a trial forks."""

    def open(self, home: file_places.Home) -> None:
        """Use the place that the store names for this trial's files."""
        self._folder = artifacts.folder_of(self._engine.url, home)

    @property
    def folder(self) -> artifacts.Folder:
        """The place of this attempt's files."""
        assert self._folder is not None
        return self._folder

    def read_state(self, origin: trunks.Origin) -> engines.State | None:
        """Return the state in a snapshot. Return None, and log why, if it cannot be used."""
        claim, snapshot = self._claim, origin.snapshot
        stored = claim.final_round if origin.trial == claim.trial else snapshot.round
        if not 0 < snapshot.round <= min(stored, claim.config["rounds"] - 1):
            warn_unusable(claim, f"of round {snapshot.round}, of {claim.final_round} stored")
            return None
        folder = artifacts.folder_of(self._engine.url, origin.home)
        content = folder.read(snapshot)
        progress.step()
        if content is None:
            refusal = folder.refusal
            why = f"missing, damaged or out of reach in {folder}"
            warn_unusable(claim, why if refusal is None else f"not read: {refusal}")
            return None
        try:
            return self._trainer.unpack(snapshot.round, content)
        except Unreadable as error:
            warn_unusable(claim, one_line(error.__cause__ or error))
            return None

    def expect_fork(self, connection: Connection, round: int | None) -> None:
        """Note the next fork of the shared trunk, and index the file of its snapshot."""
        self.next_fork = round
        if round is not None:
            file_index.expect_fork(connection, self._claim, round)
            self._indexed.add(file_names.fork_name(self._claim, round))

    def write_snapshot(self, state: engines.State, numerics_id: str) -> file_index.Snapshot | None:
        """Write a state to a file, and return the row for the index.

        If the file cannot be written, log the reason and return None. The trial then goes on
        without a snapshot, which may cost rounds.
        """
        if self.folder.refusal is not None:
            self._warn_unwritten(self.folder.refusal)
            return None
        content = self._trainer.pack(state)
        progress.step()  # an artifacts folder may take minutes for one file
        first, second = file_names.snapshot_names(self._claim)
        name = second if self._latest == first else first
        if state.round == self.next_fork:
            name = file_names.fork_name(self._claim, state.round)
        self._written.add(name)
        try:
            checksum = self.folder.write(name, content)
        except OSError as error:
            self._warn_unwritten(error)
            return None
        finally:
            progress.step()
        return file_index.Snapshot(state.round, numerics_id, name, len(content), checksum)

    def _warn_unwritten(self, error: OSError) -> None:
        """Log once why there is no snapshot."""
        if not self._warned:
            message = "no snapshot of trial %s, which goes on without: %s"
            log.warning(message, self._claim.trial_id, hide_secrets(str(error)))
        self._warned = True

    def write_weights(self, weights: object) -> file_index.Weights:
        """Write the final weights to a file, and return the row for the index.

        Raises:
            TrialFailed: the file cannot be written. A finished trial stays finished, so that its
                weights would be lost. A failed trial is tried again from its latest snapshot.

        """
        content = self._trainer.pack_weights(weights)
        name = file_names.weights_name(self._claim)
        progress.step()
        self._written.add(name)
        try:
            return file_index.Weights(name, len(content), self.folder.write(name, content))
        except OSError as error:
            raise TrialFailed(
                FailureKind.ERROR,
                f"the final weights cannot be written to {self.folder} "
                f"({error.strerror or error}): make room there, or plan without keep_weights",
            ) from error

    def index_snapshot(
        self, connection: Connection, snapshot: file_index.Snapshot | None
    ) -> list[str]:
        """Make a snapshot the trial's latest. Return the names of the files that it replaces."""
        return file_index.add_snapshot(connection, self._claim, snapshot) if snapshot else []

    def forget_unwritten(self, connection: Connection) -> None:
        """Remove the names that were never written from the index, because the attempt ends."""
        file_index.forget_files(connection, self._indexed - self._written)

    def committed(
        self, snapshot: file_index.Snapshot | None, replaced: Iterable[str], *, closed: bool
    ) -> None:
        """Note the commit of a snapshot, and delete the files that it replaced.

        `closed` is True if the same commit ended the attempt.
        """
        self._closed = closed
        self._latest = snapshot.name if snapshot else self._latest
        self.delete(replaced)

    def index_finished(
        self, connection: Connection, weights: file_index.Weights | None
    ) -> Unneeded:
        """Index a finished trial's weights, and return the files that are not needed after it."""
        claim = self._claim
        if weights is not None:
            file_index.add_weights(connection, claim, weights)
        self.forget_unwritten(connection)
        of_siblings: dict[str, file_places.Home] = {}
        if claim.trunk is not None:
            of_siblings = trunks.drop_unneeded(connection, claim.trunk)
        names = {*file_index.drop_latest(connection, claim.trial), *self._written}
        own = frozenset(spare_files.unreferenced(connection, claim.trial, names))
        return Unneeded(own, of_siblings)

    def finished(self, unneeded: Unneeded) -> None:
        """Note the commit that finished the trial, and delete the files that are not needed."""
        self._closed = True
        self.delete(sorted(unneeded.own))
        garbage_collection.delete(self._engine, unneeded.of_siblings)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files that nothing refers to, and remove their names from the index.

        Names that are reserved for this attempt stay in the index until the attempt has ended.
        A file that cannot be deleted is left to `fedsweep db gc`.
        """
        forgotten = []
        for name in names:
            progress.step()
            with suppress(OSError):
                was_present = self.folder.remove(name) is not None
                self._written.discard(name)
                if name in self._indexed:
                    forgotten += [name] if self._closed else []
                elif was_present or self.folder.shared:
                    forgotten.append(name)
        if forgotten:
            with (
                suppress(StoreError, StoreBusy, SQLAlchemyError),
                transaction(self._engine) as connection,
            ):
                file_index.forget_files(connection, forgotten)

    def clear_up(self) -> None:
        """Delete the files that were written and are not referred to.

        The attempt has failed, or has lost its trial. The names stay in the index, so that a
        reader of the index still finds them.
        """
        unsure = self._written - {self._latest}
        if self._closed or not unsure:
            return
        with suppress(StoreError, StoreBusy, SQLAlchemyError, OSError):
            with reading(self._engine) as connection:
                unreferenced = spare_files.unreferenced(connection, self._claim.trial, unsure)
            for name in unreferenced:
                self.folder.remove(name)


def warn_unusable(claim: Claim, why: str) -> None:
    """Log why a snapshot cannot be used."""
    log.warning("trial %s begins again, its snapshot is %s", claim.trial_id, why)
