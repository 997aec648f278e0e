"""The work of each process in the claiming benchmarks, with our own code."""

from __future__ import annotations

from typing import Any

from fedsweep import queue
from fedsweep.plans import Round
from fedsweep.store import round_rows
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.schema import open_store
from fedsweep.store.transactions import reading, transaction
from tests.benchmarks.crowd import Limit, shift

ROUND = Round(1, "explore", 1.0, 1.0, 0.5, None, None, 1, 1, 0.1)


def drain(
    url: str, limit: Limit, sweep: str | None, measured: bool, barrier: Any, out: Any
) -> None:
    """Claim and finish as a worker does, in two transactions.

    A trial that is not `measured` before stores its one round with its end.
    """
    store = open_store(url)
    worker = queue.Claimant("bench", "cpu")

    def claim() -> Claim | None:
        with transaction(store) as c:
            return queue.claim(c, worker, read_clock(c), sweep=sweep)

    def finish(held: Claim) -> int:
        with transaction(store) as c:
            if not measured:
                known = queue.renew(c, held, read_clock(c))
                assert round_rows.add_rounds(c, held, [ROUND], known.final_round) is None
            queue.finish(c, held)
        return held.trial

    def left() -> bool:
        with reading(store) as c:
            return queue.outstanding(c, sweep)

    out.put(shift(claim, finish, limit, barrier, left))
    store.dispose()
