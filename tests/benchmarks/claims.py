"""What each process of the claiming benchmark does."""

from __future__ import annotations

import time
from typing import Any


def drain(url: str, seconds: float, barrier: Any, out: Any) -> None:
    """Claim and finish for a while; count, and keep each claim's time."""
    from fedsweep import queue
    from fedsweep.spec import Round
    from fedsweep.store import writes
    from fedsweep.store.engine import read_clock, transaction
    from fedsweep.store.schema import open_store

    store = open_store(url)
    worker = queue.Worker("bench", "cpu")
    row = Round(1, "explore", 1.0, 1.0, 0.5, None, None, 1, 1, 0.1)
    barrier.wait()
    until, times = time.perf_counter() + seconds, []
    while time.perf_counter() < until:
        began = time.perf_counter()
        with transaction(store) as c:
            claim = queue.claim(c, worker, read_clock(c))
        times.append(time.perf_counter() - began)
        if claim is None:
            break
        with transaction(store) as c:
            queue.renew(c, claim, read_clock(c))
            writes.add_rounds(c, claim, [row])
            queue.finish(c, claim)
    out.put(times)
