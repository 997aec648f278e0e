"""A worker in a child process that ends with its parent.

The parent holds the other end of this process's standard input. When the parent ends, for example
after SIGKILL, the system closes it. The worker then finishes its round and gives its trials back,
as after SIGTERM. A worker that does not end in time is killed with its slots.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

MARGIN = 15.0
"""Seconds that a worker has after its grace, to save and to give back."""


def main() -> None:
    """Run `fedsweep` with the arguments of this process, as long as the parent lives."""
    threading.Thread(target=_end_with_parent, args=[_grace(sys.argv)], daemon=True).start()
    from fedsweep.__main__ import main as run

    run()


def _grace(arguments: list[str]) -> float:
    return float(arguments[arguments.index("--grace") + 1])


def _end_with_parent(grace: float) -> None:
    while os.read(0, 1024):  # the parent writes nothing
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace + MARGIN)
    os.killpg(os.getpgid(0), signal.SIGKILL)
