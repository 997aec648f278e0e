"""Names of the files that an attempt writes: snapshots and weights."""

from __future__ import annotations

from collections.abc import Iterator

from fedsweep.store.claim import Claim


def snapshot_names(claim: Claim) -> tuple[str, str]:
    """The two files that an attempt writes its snapshots to, by turns: what the index points at is
    never overwritten. They carry the fence, so that no two attempts write the same file.
    """
    return _file_name(claim, "a"), _file_name(claim, "b")


def _file_name(claim: Claim, what: str | int) -> str:
    """Return a name that no other attempt of any store gives to a file.

    `artifacts` reads and deletes files of such names only.
    """
    store = f"-{claim.store}" if claim.store else ""
    return f"{claim.trial_id}-{claim.fence}{store}-{what}.safetensors"


def fork_name(claim: Claim, round: int) -> str:
    """The file that an attempt writes its state after a round to, at which a sibling forks."""
    return _file_name(claim, round)


def is_of_fork(name: str, round: int) -> bool:
    """Return whether a file has the name of a fork's snapshot after this round."""
    return name.endswith(f"-{round}.safetensors")


def weights_name(claim: Claim) -> str:
    """The file that an attempt writes the final weights to."""
    return _file_name(claim, "weights")


def brought_names(store: str, trial_id: str, fence: int) -> Iterator[str]:
    """Yield names for weights that come from another database, the first one first."""
    for number in range(1, MOST_BROUGHT + 1):
        what = "weights" if number == 1 else f"weights{number}"
        yield f"{trial_id}-{fence}-{store}-{what}.safetensors"


MOST_BROUGHT = 99
"""Names that `brought_names` yields: some may be taken by files that no row names."""


def file_names(claim: Claim) -> list[str]:
    """All files that an attempt may write."""
    kept = [weights_name(claim)] if claim.config.get("keep_weights") else []
    return [*snapshot_names(claim), *kept]
