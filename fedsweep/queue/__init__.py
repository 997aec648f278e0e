"""The queue: the only code that changes a trial's state.

Every function works inside the caller's write transaction (`store.transactions.transaction`). An
attempt's last rounds and its end are therefore one commit. `now` is an argument. A lease is a claim
limited in time. The fence makes it exclusive: each claim raises the fence, and each write carries
it.

The statements that every trial goes through are `Prepared`. The queue is a partial index of the
trials that can be claimed at once. A claim therefore costs the same if many trials wait, are held
or back off.
"""

from fedsweep.queue.claims import LEASE_SECONDS, Claimant, Held, claim, reclaim, renew
from fedsweep.queue.control import (
    budget,
    cancel,
    hold,
    hold_sweep,
    overspent,
    planned,
    prioritize,
    retry,
    spend,
    update_sweep_holds,
)
from fedsweep.queue.ends import MAX_ATTEMPTS, fail, finish, reach_round, release, retry_delay
from fedsweep.queue.losses import (
    LEASE_ENDED,
    MAX_DOUBTS,
    MAX_LOSSES,
    RESCUE_BATCH,
    RESTARTED,
    UNWATCHED,
    come_back,
    lose,
    rescue,
)
from fedsweep.queue.statements import CHANNEL, DUE, END_ATTEMPT, update_holds, wake
from fedsweep.queue.waiting import may_come, needs, next_change, outstanding

__all__ = [
    "CHANNEL",
    "DUE",
    "END_ATTEMPT",
    "LEASE_ENDED",
    "LEASE_SECONDS",
    "MAX_ATTEMPTS",
    "MAX_DOUBTS",
    "MAX_LOSSES",
    "RESCUE_BATCH",
    "RESTARTED",
    "UNWATCHED",
    "Claimant",
    "Held",
    "budget",
    "cancel",
    "claim",
    "come_back",
    "fail",
    "finish",
    "hold",
    "hold_sweep",
    "lose",
    "may_come",
    "needs",
    "next_change",
    "outstanding",
    "overspent",
    "planned",
    "prioritize",
    "reach_round",
    "reclaim",
    "release",
    "renew",
    "rescue",
    "retry",
    "retry_delay",
    "spend",
    "update_holds",
    "update_sweep_holds",
    "wake",
]
