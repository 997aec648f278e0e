"""Connections that ask for nothing go again: without a token, too, anybody may open one."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 10.0
"""Seconds for which a connection may ask for nothing, or be at its question."""

MOST = 1_000
"""Connections at once; as many files must be allowed to be open, and some more."""

SPARE = 200
"""Files for all else: the database, what is sent."""


class Connection(H11Protocol):
    """One browser's, which asks in time, and reads what it is sent, or goes."""

    patience = PATIENCE
    most = MOST

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take it, where there is room."""
        super().connection_made(transport)
        self._before: Any = None
        self._unread = 0
        self._timer = self.loop.call_later(self.patience, self._look)
        if len(self.connections) > self.most:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is waited for any more."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread and unread >= self._unread > 0:  # it reads nothing of what it was sent
            self.transport.abort()
            return
        answering = self.cycle is not None and not self.cycle.response_complete
        if not answering and self.cycle is self._before:
            self.transport.close()
        self._before, self._unread = self.cycle, unread
        self._timer = self.loop.call_later(self.patience, self._look)


def room(wanted: int = MOST, spare: int = SPARE) -> int:
    """How many connections there can be; this process is allowed as many files as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = wanted + spare
    if soft != resource.RLIM_INFINITY and soft < enough:
        soft = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, min(wanted, soft - spare))
    return wanted
