"""Whoever works tells what is worth telling: each notice by one of the workers, once."""

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
    Attempt,
    Event,
    Notice,
    Standing,
    decide,
)
from fedsweep.notify.webhook import Webhook
from fedsweep.states import Hold, TrialState
from fedsweep.store.progress import SweepProgress
from fedsweep.store.transactions import reading, transaction

BLIND_SECONDS = 300.0
"""Who has not looked for so long cannot tell whether anything got on meanwhile."""

ASK_SECONDS = 10.0
"""How often the ends of attempts are read where the standing is as before: it may hide a failure
behind the next claim."""


@dataclass
class _Seen:
    """A sweep at the last look, on the monotonic clock."""

    progress: SweepProgress
    moved: float
    looked: float
    asked: float
    told: dict[Event, float] = field(default_factory=dict)
    """When it was last told, by whomever."""


class Announcer:
    """Looks at sweeps, as their standing is read anyway, and posts what there is to tell.

    Only of sweeps that it has seen unfinished: who starts later does not tell old news.
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
        self._seen: dict[str, _Seen] = {}

    def look(self, progress: Sequence[SweepProgress]) -> None:
        """Tell what has come about since the last look.

        Raises:
            StoreError, StoreBusy: as any other read and write.

        """
        for standing in progress:
            before = self._seen.get(standing.sweep)
            if before is not None:
                self._follow(before, standing)
            elif not _over(standing):
                now = self._clock()
                self._seen[standing.sweep] = _Seen(standing, now, now, now)

    def close(self, seconds: float) -> None:
        """Wait until all is sent, for so many seconds at most."""
        deadline = self._clock() + seconds
        for webhook in self._webhooks:
            webhook.close(max(0.0, deadline - self._clock()))

    def _follow(self, seen: _Seen, progress: SweepProgress) -> None:
        now, before = self._clock(), seen.progress
        moved = (progress.rounds_done, progress.done) != (before.rounds_done, before.done)
        if moved or progress.held is not None or now - seen.looked > BLIND_SECONDS:
            seen.moved = now
            seen.told.pop(Event.STALLED, None)
        seen.progress, seen.looked = progress, now
        if progress != before or now - seen.asked >= ASK_SECONDS:
            self._tell(seen)
            seen.asked = now
        if _over(progress):
            del self._seen[progress.sweep]

    def _tell(self, seen: _Seen) -> None:
        name = seen.progress.sweep
        with reading(self._engine) as connection:
            ended = deduplicate.latest_ends(connection, name)
            free = deduplicate.anything_free(connection, name)
            # Below that, no stall is told, so that the length of a round does not matter.
            idle = seen.looked - seen.moved >= STALL_SECONDS
            longest = deduplicate.longest_usual_round(connection, name) if idle else None
        standing = _standing(seen, ended, free=free, round_seconds=longest)
        for notice in decide(standing, time.time()):
            if seen.looked - seen.told.get(notice.event, -math.inf) < SILENCE_SECONDS:
                continue
            seen.told[notice.event] = seen.looked
            if self._is_mine(notice, ended):
                self._post(notice)

    def _is_mine(self, notice: Notice, ended: Sequence[Attempt]) -> bool:
        """Whether this worker is to tell it. Before any attempt has ended, nothing says who."""
        if not ended:
            return notice.event is Event.STALLED
        with transaction(self._engine) as connection:
            return deduplicate.tell(connection, notice, ended)

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


def _over(progress: SweepProgress) -> bool:
    return progress.done == progress.trials and not progress.searching


def _standing(
    seen: _Seen, ended: Sequence[Attempt], *, free: bool, round_seconds: float | None
) -> Standing:
    progress = seen.progress
    return Standing(
        sweep=progress.sweep,
        counts={state.value: getattr(progress, state.value) for state in TrialState},
        ended=ended,
        over=_over(progress) and progress.trials > 0 and progress.held != Hold.CANCEL,
        free=free and progress.held is None,
        idle=seen.looked - seen.moved,
        round_seconds=round_seconds,
    )
