"""Server-sent events: what has changed on the page that one looks at, once a tick."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from sse_starlette.event import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from fedsweep.serve.look import AWAY, Look
from fedsweep.serve.screen import Rounds, Screen, finite
from fedsweep.store import browse

MOST = 100
"""Pages that are kept as the database is, at once: each asks it something each tick."""

Shown = tuple[Screen, str, str]
"""A screen, its title, and what a screen reader is told of it."""


class Stream:
    """One page's events.

    `page` has the changed parts, the title and the sentence for screen readers; `figure` the
    traces to draw; `rounds` a trial's new rounds, its id being what a browser that reconnects
    has; `away` and `back` say whether the database answers.
    """

    def __init__(self, look: Look, show: Callable[[], Shown], known: str = "") -> None:
        self.look, self.show = look, show
        self.ready: list[ServerSentEvent] = []
        self.sent: dict[str, Any] = {}
        self.away = False
        self.numerics, self.last = _place(known)

    async def __call__(self) -> AsyncIterator[ServerSentEvent]:
        """Events, for as long as somebody listens."""
        self.look.streams += 1
        try:
            if self.look.streams > MOST:  # others came meanwhile: it asks again
                return
            while True:
                for event in self.ready:
                    yield event
                await anyio.sleep(self.look.tick)
                if self.look.ended:
                    return
                self.ready = await run_in_threadpool(self.tick)
        finally:
            self.look.streams -= 1

    def tick(self) -> list[ServerSentEvent]:
        """What is new."""
        try:
            screen, title, said = self.show()
            events = self._changes(screen, title, said)
            events += self._rounds(screen.rounds) if screen.rounds else []
        except AWAY:
            events = [] if self.away else [_event("away", {})]
            self.away = True
            return events
        if self.away:
            events.insert(0, _event("back", {}))
            self.away = False
        return events

    def _changes(self, screen: Screen, title: str, said: str) -> list[ServerSentEvent]:
        live = {part.id: str(part.html) for part in screen.parts if part.live}
        parts = {id: html for id, html in live.items() if self._is_new(id, html)}
        page: dict[str, Any] = {"parts": parts} if parts else {}
        page |= {"title": title} if self._is_new("title", title) else {}
        page |= {"said": said} if self._is_new("said", said) else {}
        events = [_event("page", page)] if page else []
        if screen.figure is not None and self._is_new("figure", screen.figure):
            events.append(_event("figure", screen.figure))
        return events

    def _is_new(self, name: str, value: Any) -> bool:
        if self.sent.get(name) == value:
            return False
        self.sent[name] = value
        return True

    def _rounds(self, now: Rounds) -> list[ServerSentEvent]:
        """The rounds behind the last one sent; all of them, where they were computed anew."""
        anew = now.numerics != self.numerics or now.last < self.last
        after = 0 if anew else self.last
        rows = self.look.read(browse.rounds_after, now.trial, after) if now.last > after else []
        if not rows and not (anew and self.last):
            return []
        self.numerics, self.last = now.numerics, rows[-1][0] if rows else 0
        place = f"{self.numerics}:{self.last}"
        return [_event("rounds", {"anew": after == 0, "rounds": rows}, place)]


def _place(known: str) -> tuple[str, int]:
    """What a browser had before its connection broke."""
    numerics, _, last = known.rpartition(":")
    return (numerics, int(last)) if last.isdecimal() and len(last) < 19 else ("", 0)


def _event(name: str, data: Any, id: str | None = None) -> ServerSentEvent:
    return ServerSentEvent(finite(data), event=name, id=id)
