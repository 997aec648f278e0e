"""One deadline for all steps of a piece of work, such as the answer to a query."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

GRACE = 0.5
"""Seconds after a deadline until the work is stopped from outside. It can end by itself before."""


class Deadline:
    """A time on the monotonic clock, which all processes of a machine share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Return the seconds until the deadline, 0 after it."""
        return max(0.0, self.at - time.monotonic())

    def milliseconds(self) -> int:
        """Return the milliseconds until the deadline, for a server's timeout.

        Raises:
            TimeoutError: the deadline has passed. A server would take 0 as no timeout.

        """
        left = int(1000 * self.left)
        if left < 1:
            raise TimeoutError
        return left


def within(deadline: Deadline, work: Callable[[], T], stop: Callable[[], object]) -> T:
    """Return the result of `work`. After the deadline, or at Ctrl-C, call `stop` and do not wait.

    The work runs in a thread, so that a call that cannot be interrupted blocks only that thread.

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
"""The function that stops each work that a thread waits for."""


def stop_all() -> None:
    """Stop all work that a thread waits for, because the process is about to end."""
    for stop in list(_stops.values()):
        stop()
