"""A reading of a clock that has a name."""

from __future__ import annotations

import platform
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Moment:
    """A reading of the database's clock: seconds, on a clock that has a name.

    A time read on another clock (another boot of the machine) says nothing but that it is over.
    On Postgres `seconds` may be None: the server's own time of the statement that uses it.
    """

    seconds: float | None
    clock: str


def boot_moment() -> Moment:
    """Return the seconds since boot, on a clock that no user can set.

    A container may have an offset of its own. It is subtracted.
    """
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return Moment(time.clock_gettime(clock) - boot_offset(), boot_id())


@cache
def boot_offset() -> float:
    """Return the seconds that this process's time namespace adds to the boot clock."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/timens_offsets").read_text(encoding="ascii").splitlines():
            clock, seconds, nanoseconds = line.split()
            if clock == "boottime":
                return int(seconds) + int(nanoseconds) / 1e9
    return 0.0


@cache
def boot_id() -> str:
    """Return a name for this boot of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import psutil

    try:
        return f"{platform.node()}-{uuid.getnode():x}-{int(psutil.boot_time())}"
    except (OSError, RuntimeError, psutil.Error):  # no /proc at all
        return platform.node()
