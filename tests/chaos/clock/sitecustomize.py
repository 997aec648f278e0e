"""The wall clock of the workers: the harness writes the seconds to add into a file.

Python imports this module by its name at each start, from PYTHONPATH. Only the clock that a person
can set is moved. Monotonic clocks and the time since boot do not change.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def _faked(name: str) -> None:
    file = os.open(name, os.O_RDONLY)
    seconds, nanoseconds, clock = time.time, time.time_ns, time.clock_gettime

    def offset() -> int:
        return int(os.pread(file, 32, 0) or b"0")

    def clock_gettime(which: int, /) -> float:
        return clock(which) + (offset() if which == time.CLOCK_REALTIME else 0)

    faked: dict[str, Callable[..., float]] = {
        "time": lambda: seconds() + offset(),
        "time_ns": lambda: nanoseconds() + offset() * 10**9,
        "clock_gettime": clock_gettime,
    }
    for function, moved in faked.items():
        setattr(time, function, moved)


if _name := os.environ.get("CHAOS_CLOCK"):
    _faked(_name)
