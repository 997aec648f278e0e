"""Names of clients: their order, and those without test images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from trainers.data.errors import counted, listed, shown


def untested(names: Sequence[str], tested: Collection[int]) -> tuple[str, ...]:
    """Return the sentence on clients without test images, if there are any."""
    without = sorted(set(range(len(names))) - set(tested))
    if not without:
        return ()
    listing = listed(shown(names[i]) for i in without)
    count = counted(len(without), "client")
    return (f"{count} without test images, whose own accuracy is not measured: {listing}",)


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of clients in order: numbers by value, if all are numbers."""
    distinct = set(names)
    if all(name.isascii() and name.isdigit() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)
