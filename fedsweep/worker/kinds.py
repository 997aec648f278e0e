"""Kinds of trials, and when failures of several kinds show that a machine is at fault."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from fedsweep.store.claim import Claim
from fedsweep.store.stops import Lack

KIND = ("dataset", "model", "normalizer")
"""The fields that trials of one kind have in common.

After an attempt that ended before its first round, a slot prefers trials of other kinds until it
has stored a round.
"""


FAILURES_IN_A_ROW = 3
"""Attempts in a row that end before their first round, after which a slot claims nothing more.

Deaths of its process without a claim count too. The count begins again when a round is stored. On a
device that has trained, trials of the same kind count once, because they may be the reason.
"""


def kind_of(claim: Claim) -> Lack:
    """Return the kind of a trial: see `KIND`."""
    return tuple((name, claim.config.get(name)) for name in KIND)


def worn_out(failed: Sequence[Lack | None], *, proven: bool) -> bool:
    """Return whether a slot has failed too often since a round was stored.

    See `FAILURES_IN_A_ROW`.
    """
    if not proven:
        return len(failed) >= FAILURES_IN_A_ROW
    return len({kind for kind in failed if kind}) + failed.count(None) >= FAILURES_IN_A_ROW


class Record:
    """Ends of the attempts of one process, which show whether its machine can train.

    All slots of the process share it, each from its own thread.
    """

    def __init__(self, failed: Sequence[Lack] = (), *, proven: bool = False) -> None:
        self.failed = tuple(failed)
        """The kinds of trials that failed before their first round, since a round was measured."""
        self.proven = proven
        """True if a round was measured on this device in this run."""
        self._lock = threading.Lock()

    def note_round(self) -> None:
        """Note that the device has trained a round."""
        with self._lock:
            self.proven, self.failed = True, ()

    def note_failure(self, kind: Lack) -> int | None:
        """Note that a trial failed before its first round.

        Return the number of failures in a row if they show that the machine is at fault. Return
        None otherwise.
        """
        with self._lock:
            self.failed = (*self.failed, kind)
            return len(self.failed) if worn_out(self.failed, proven=self.proven) else None
