"""Kinds of trials, and when failures of several kinds show that a machine is at fault."""

from __future__ import annotations

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
