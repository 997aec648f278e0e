"""The announcer of a worker. Each notice is sent once, by one of the workers."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy.engine import Engine

from fedsweep.notify import deduplicate
from fedsweep.notify.decide import (
    SILENCE_SECONDS,
    STALL_SECONDS,
    EndedAttempt,
    Event,
    Notice,
    SweepStatus,
    decide,
)
from fedsweep.notify.webhook import Webhook
from fedsweep.states import Hold, TrialState
from fedsweep.store.progress import SweepProgress
from fedsweep.store.transactions import reading, transaction

BLIND_SECONDS = 300.0
"""If a worker has not read a sweep for so long, it starts to measure its idle time again."""

READ_SECONDS = 10.0
"""Seconds after which the ends of attempts are read even if the progress has not changed.

The counts of states can hide a failure, because the trial may be claimed again at once.
"""


@dataclass
class _Observed:
    """A sweep as the announcer last saw it. All times are on the monotonic clock."""

    progress: SweepProgress
    progressed_at: float
    updated_at: float
    decided_at: float
    noticed_at: dict[Event, float] = field(default_factory=dict)
    """When each event was last decided on, whether or not another worker sent the notice."""


class Announcer:
    """Follows the progress of sweeps and posts notices.

    It reports only sweeps that it has seen unfinished, so that a new worker reports no old events.
    """

    def __init__(
        self,
        engine: Engine,
        urls: Sequence[str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._webhooks = [Webhook(url) for url in urls]
        self._clock = clock
        self._observed: dict[str, _Observed] = {}

    def update(self, progress: Sequence[SweepProgress]) -> None:
        """Send the notices that the progress of the sweeps calls for.

        Raises:
            StoreError, StoreBusy: the store cannot be read or written.

        """
        for sweep in progress:
            observed = self._observed.get(sweep.sweep)
            if observed is not None:
                self._follow(observed, sweep)
            elif not _is_over(sweep):
                now = self._clock()
                self._observed[sweep.sweep] = _Observed(sweep, now, now, now)

    def close(self, seconds: float) -> None:
        """Wait at most `seconds` until all notices are sent."""
        deadline = self._clock() + seconds
        for webhook in self._webhooks:
            webhook.close(max(0.0, deadline - self._clock()))

    def _follow(self, observed: _Observed, progress: SweepProgress) -> None:
        now, before = self._clock(), observed.progress
        progressed = (progress.rounds_done, progress.done) != (before.rounds_done, before.done)
        is_blind = now - observed.updated_at > BLIND_SECONDS
        if progressed or progress.held is not None or is_blind:
            observed.progressed_at = now
            observed.noticed_at.pop(Event.STALLED, None)
        observed.progress, observed.updated_at = progress, now
        if progress != before or now - observed.decided_at >= READ_SECONDS:
            self._notify(observed)
            observed.decided_at = now
        if _is_over(progress):
            del self._observed[progress.sweep]

    def _notify(self, observed: _Observed) -> None:
        name, now = observed.progress.sweep, observed.updated_at
        with reading(self._engine) as connection:
            ended = deduplicate.latest_ends(connection, name)
            free = deduplicate.has_free_trial(connection, name)
            # A shorter idle time is not a stall, so that the length of a round does not matter.
            is_idle = now - observed.progressed_at >= STALL_SECONDS
            longest = deduplicate.longest_usual_round(connection, name) if is_idle else None
        status = _status(observed, ended, free=free, round_seconds=longest)
        for notice in decide(status, time.time()):
            if now - observed.noticed_at.get(notice.event, -math.inf) < SILENCE_SECONDS:
                continue
            observed.noticed_at[notice.event] = now
            if self._record(notice, ended):
                self._post(notice)

    def _record(self, notice: Notice, ended: Sequence[EndedAttempt]) -> bool:
        """Record a notice. Return False if another worker has recorded it.

        Before any attempt has ended, there is no log for the record. Then each worker reports a
        stall, and no other event.
        """
        if not ended:
            return notice.event is Event.STALLED
        with transaction(self._engine) as connection:
            return deduplicate.record(connection, notice, ended)

    def _post(self, notice: Notice) -> None:
        content = {
            "event": notice.event.value,
            "sweep": notice.sweep,
            "text": notice.text,
            "counts": dict(notice.counts),
            "host": platform.node(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        for webhook in self._webhooks:
            webhook.post(content)


def _is_over(progress: SweepProgress) -> bool:
    return progress.done == progress.trials and not progress.searching


def _status(
    observed: _Observed, ended: Sequence[EndedAttempt], *, free: bool, round_seconds: float | None
) -> SweepStatus:
    progress = observed.progress
    return SweepStatus(
        sweep=progress.sweep,
        counts={state.value: getattr(progress, state.value) for state in TrialState},
        ended=ended,
        over=_is_over(progress) and progress.trials > 0 and progress.held != Hold.CANCEL,
        free=free and progress.held is None,
        idle=observed.updated_at - observed.progressed_at,
        round_seconds=round_seconds,
    )
