"""One deadline over everything that an answer needs, whichever step hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

GRACE = 0.5
"""Seconds after a deadline until the work is stopped from outside: it may end by itself first."""


class Deadline:
    """A moment on the monotonic clock, which all processes of a machine share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Return the seconds until the deadline, 0 after it."""
        return max(0.0, self.at - time.monotonic())

    def milliseconds(self) -> int:
        """Return the milliseconds that a server's timeout may have.

        Raises:
            TimeoutError: the deadline is over. A timeout of 0 would mean none.

        """
        left = int(1000 * self.left)
        if left < 1:
            raise TimeoutError
        return left


def within(deadline: Deadline, work: Callable[[], T], stop: Callable[[], object]) -> T:
    """Return what `work` returns; after the deadline, or at Ctrl-C, call `stop` and leave it.

    The work runs in a thread: a call that nothing can interrupt holds up nobody but itself.

    Raises:
        TimeoutError: the work took too long.

    """
    results: list[Any] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # raised below, in the thread that waits
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="fedsweep-answer", daemon=True).start()
    _stops[ended] = stop
    try:
        in_time = ended.wait(deadline.left + GRACE)
    except BaseException:
        stop()
        raise
    finally:
        del _stops[ended]
    if not in_time:
        stop()
        raise TimeoutError
    if errors:
        raise errors[0]
    answer: T = results[0]
    return answer


_stops: dict[threading.Event, Callable[[], object]] = {}
"""What stops each work that is waited for."""


def stop_all() -> None:
    """Stop all work that is waited for: the process is about to end."""
    for stop in list(_stops.values()):
        stop()
