"""Outages: when this process last failed to reach its database."""

from __future__ import annotations

import time

from fedsweep.errors import (
    StoreBusy,
    StoreFull,
    StoreUnreachable,
)

OUTAGE_SECONDS = 300.0
"""Limit of the time that a worker waits for a database that does not answer."""


OUTAGE = (StoreBusy, StoreFull, StoreUnreachable)
"""Errors that pass with time or after a repair. A worker waits for their end."""


def note_served() -> None:
    """Remember that a write has succeeded, if none did since the last outage."""
    global _served_since  # noqa: PLW0603
    _served_since = _served_since or time.monotonic()


def note_outage(error: Exception | None) -> None:
    """Remember when this process last failed to reach its store: a process has one."""
    global _served_since, _latest_outage  # noqa: PLW0603
    if isinstance(error, OUTAGE):
        _served_since = None
    if isinstance(error, StoreUnreachable):
        _latest_outage = time.monotonic()


_latest_outage = float("-inf")


_served_since: float | None = None
"""The time of the first committed write after the latest outage of any kind, or None."""


def seconds_since_outage() -> float:
    """Return the seconds since this process last failed to reach a store."""
    return time.monotonic() - _latest_outage


def seconds_served() -> float:
    """Return for how many seconds the store has taken this process's writes without a break."""
    since = _served_since  # another thread may change it
    return 0.0 if since is None else time.monotonic() - since
