"""Server-sent events: the changes of an open page, once per tick."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from sse_starlette.event import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from fedsweep.serve.read_cache import UNAVAILABLE, ReadCache
from fedsweep.serve.screen import Rounds, Screen, strict_json
from fedsweep.store import browse

MAX_STREAMS = 100
"""Event streams that may be open at once. Each reads from the database in every tick."""

ScreenState = tuple[Screen, str, str]
"""A screen, its title, and the sentence for screen readers."""


class Stream:
    """The event stream of one open page.

    - `page`: the changed parts, the title, and the sentence for screen readers.
    - `figure`: the lines and axes of one figure, with the id of its element.
    - `rounds`: new rounds of a trial. The event's id says which rounds the browser has. A browser
      that reconnects sends it back.
    - `away` and `back`: the database stopped answering, or answers again.
    """

    def __init__(
        self, cache: ReadCache, current: Callable[[], ScreenState], last_event_id: str = ""
    ) -> None:
        self.cache, self.current = cache, current
        self.ready: list[ServerSentEvent] = []
        self.sent: dict[str, Any] = {}
        self.away = False
        self.numerics, self.last = _parse_event_id(last_event_id)

    async def __call__(self) -> AsyncIterator[ServerSentEvent]:
        """Yield events until the browser or the server closes the stream."""
        self.cache.open_streams += 1
        try:
            # Several streams may have passed the check at once. The browser reconnects later.
            if self.cache.open_streams > MAX_STREAMS:
                return
            while True:
                for event in self.ready:
                    yield event
                await anyio.sleep(self.cache.tick)
                if self.cache.closing:
                    return
                self.ready = await run_in_threadpool(self.tick)
        finally:
            self.cache.open_streams -= 1

    def tick(self) -> list[ServerSentEvent]:
        """Return the events for all changes since the last tick."""
        try:
            screen, title, status = self.current()
            events = self._changes(screen, title, status)
            events += self._rounds(screen.rounds) if screen.rounds else []
        except UNAVAILABLE:
            events = [] if self.away else [_event("away", {})]
            self.away = True
            return events
        if self.away:
            events.insert(0, _event("back", {}))
            self.away = False
        return events

    def _changes(self, screen: Screen, title: str, status: str) -> list[ServerSentEvent]:
        live = {part.id: str(part.html) for part in screen.parts if part.live}
        parts = {id: html for id, html in live.items() if self._is_new(id, html)}
        page: dict[str, Any] = {"parts": parts} if parts else {}
        page |= {"title": title} if self._is_new("title", title) else {}
        page |= {"said": status} if self._is_new("said", status) else {}
        events = [_event("page", page)] if page else []
        for id, figure in screen.figures.items():
            if self._is_new(f"figure {id}", figure):
                events.append(_event("figure", {"id": id, **figure}))
        return events

    def _is_new(self, name: str, value: Any) -> bool:
        if self.sent.get(name) == value:
            return False
        self.sent[name] = value
        return True

    def _rounds(self, now: Rounds) -> list[ServerSentEvent]:
        """Return an event with the rounds after the last one sent, if there are new ones.

        If the numerics have changed or the trial is at an earlier round, its rounds were trained
        again. The event then has all rounds, and the browser replaces its own.
        """
        is_retrained = now.numerics != self.numerics or now.last < self.last
        after = 0 if is_retrained else self.last
        rows = self.cache.read(browse.rounds_after, now.trial, after) if now.last > after else []
        if not rows and not (is_retrained and self.last):
            return []
        self.numerics, self.last = now.numerics, rows[-1][0] if rows else 0
        event_id = f"{self.numerics}:{self.last}"
        return [_event("rounds", {"replace": after == 0, "rounds": rows}, event_id)]


def _parse_event_id(text: str) -> tuple[str, int]:
    """Return the numerics id and the last round that a reconnecting browser has."""
    numerics, _, last = text.rpartition(":")
    return (numerics, int(last)) if last.isdecimal() and len(last) < 19 else ("", 0)


def _event(name: str, data: Any, id: str | None = None) -> ServerSentEvent:
    return ServerSentEvent(strict_json(data), event=name, id=id)
