"""The other trials that train in the same process, as an attempt sees them."""

from __future__ import annotations

from typing import Protocol


class Others(Protocol):
    """The trials that train in this process at the same time as an attempt's own."""

    def exist(self) -> bool:
        """Return whether other trials train now."""

    def took_memory(self) -> bool:
        """Return whether a trial that found no memory is given back, because others hold some."""

    def may_have_broken_device(self) -> bool:
        """Return whether another trial may have caused the first fault of the device."""

    def note_round(self, images: int, seconds: float) -> None:
        """Note a round of the attempt: the images of its local steps, and its wall time."""


class Nobody:
    """A process that trains one trial at a time."""

    def exist(self) -> bool:
        """Return False."""
        return False

    def took_memory(self) -> bool:
        """Return False."""
        return False

    def may_have_broken_device(self) -> bool:
        """Return False."""
        return False

    def note_round(self, images: int, seconds: float) -> None:
        """Ignore a round."""


NOBODY: Others = Nobody()
