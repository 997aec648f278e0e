"""Names of the files that an attempt writes: snapshots and weights."""

from __future__ import annotations

from collections.abc import Iterator

from fedsweep.store.claim import Claim


def snapshot_names(claim: Claim) -> tuple[str, str]:
    """Return the names of the two files to which an attempt writes its snapshots alternately.

    The file that the index refers to is never overwritten. The names contain the fence, so that
    two attempts never write the same file.
    """
    return _file_name(claim, "a"), _file_name(claim, "b")


def _file_name(claim: Claim, kind: str | int) -> str:
    """Return a name that no other attempt of any store gives to a file.

    `artifacts` reads and deletes only files with such names.
    """
    store = f"-{claim.store}" if claim.store else ""
    return f"{claim.trial_id}-{claim.fence}{store}-{kind}.safetensors"


def fork_name(claim: Claim, round: int) -> str:
    """Return the name of the snapshot after a round at which a sibling forks."""
    return _file_name(claim, round)


def is_of_fork(name: str, round: int) -> bool:
    """Return whether a file has the name of a fork's snapshot after this round."""
    return name.endswith(f"-{round}.safetensors")


def weights_name(claim: Claim) -> str:
    """Return the name of the file with an attempt's final weights."""
    return _file_name(claim, "weights")


def brought_names(store: str, trial_id: str, fence: int) -> Iterator[str]:
    """Yield names for weights that are copied from another database, in the order of preference."""
    for number in range(1, MOST_BROUGHT + 1):
        kind = "weights" if number == 1 else f"weights{number}"
        yield f"{trial_id}-{fence}-{store}-{kind}.safetensors"


MOST_BROUGHT = 99
"""Number of names that `brought_names` yields, because files without a row may have some."""


def file_names(claim: Claim) -> list[str]:
    """Return the names of the files that an attempt may write, without forks' snapshots."""
    kept = [weights_name(claim)] if claim.config.get("keep_weights") else []
    return [*snapshot_names(claim), *kept]
