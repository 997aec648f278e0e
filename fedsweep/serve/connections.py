"""Limits on connections: idle ones are closed, because anybody may open one without a token."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_SECONDS = 10.0
"""Seconds after which a connection is closed if it has sent no complete request.

The same limit holds for a client that does not read its answer.
"""

MAX_CONNECTIONS = 1_000
"""Connections that may be open at once. Each needs a file descriptor."""

RESERVED_FILES = 200
"""File descriptors that are kept for the database and for files that are sent."""


class Connection(H11Protocol):
    """A connection that is closed if its client sends no request or reads no answer."""

    idle_seconds = IDLE_SECONDS
    max_connections = MAX_CONNECTIONS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Accept the connection, or abort it if too many are open."""
        super().connection_made(transport)
        self._last_cycle: Any = None
        self._unread = 0
        self._timer = self.loop.call_later(self.idle_seconds, self._check)
        if len(self.connections) > self.max_connections:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer of a closed connection."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _check(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread and unread >= self._unread > 0:  # nothing was read since the last check
            self.transport.abort()
            return
        answering = self.cycle is not None and not self.cycle.response_complete
        if not answering and self.cycle is self._last_cycle:
            self.transport.close()
        self._last_cycle, self._unread = self.cycle, unread
        self._timer = self.loop.call_later(self.idle_seconds, self._check)


def connection_limit(most: int = MAX_CONNECTIONS, reserved: int = RESERVED_FILES) -> int:
    """Return how many connections the process may open, `most` at most.

    The soft limit on open files is raised if necessary, as far as the hard limit permits.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = most + reserved
    if soft != resource.RLIM_INFINITY and soft < enough:
        soft = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, min(most, soft - reserved))
    return most
