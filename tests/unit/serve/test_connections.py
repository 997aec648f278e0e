"""Limits on the connections of a real server."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from fedsweep.serve import connections
from fedsweep.serve.server import listen

ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Brief(connections.Connection):
    """A connection that may be idle for one second."""

    idle_seconds = 1.0
    gone = threading.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.gone.set()


class Limited(connections.Connection):
    """A connection of which two may be open, and idle for long."""

    idle_seconds = 600.0
    max_connections = 2


class Slow:
    """An application that answers when the test permits it."""

    def __init__(self) -> None:
        self.body = b"the answer"
        self.requested, self.answer = threading.Event(), threading.Event()

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.requested.set()
        await asyncio.get_running_loop().run_in_executor(None, self.answer.wait, 60)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.body})


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def kind() -> type[connections.Connection]:
    """The class of the server's connections."""
    return Brief


@pytest.fixture
def port(slow: Slow, kind: type[connections.Connection]) -> Iterator[int]:
    """The port of a running server."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(slow, http=kind, log_level="warning", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield listening.getsockname()[1]
    slow.answer.set()
    server.should_exit = True
    thread.join()
    listening.close()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def is_refused(connection: socket.socket) -> bool:
    try:
        connection.sendall(ASK)
        return connection.recv(1) == b""
    except (ConnectionResetError, BrokenPipeError):
        return True


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: loc"], ids=["nothing", "half"])
def test_a_connection_without_a_request_is_closed(port: int, sent: bytes) -> None:
    """The client sends nothing, or half a request."""
    with connect(port) as idle:
        idle.sendall(sent)
        assert idle.recv(1) == b""


def test_a_connection_that_waits_for_an_answer_is_kept(port: int, slow: Slow) -> None:
    """It waits longer than the idle limit: two idle connections are closed in that time."""
    with connect(port) as waiting:
        waiting.sendall(ASK)
        assert slow.requested.wait(60)
        for _ in range(2):
            with connect(port) as idle:
                assert idle.recv(1) == b""
        slow.answer.set()
        assert waiting.recv(12) == b"HTTP/1.1 200"


def test_a_connection_that_reads_nothing_is_closed(port: int, slow: Slow) -> None:
    """Its answer has begun, and fills the server's write buffer."""
    Brief.gone.clear()
    slow.body = b"x" * 2**26
    slow.answer.set()
    with connect(port) as deaf:
        deaf.sendall(ASK)
        assert Brief.gone.wait(60)


@pytest.mark.parametrize("kind", [Limited])
def test_a_connection_beyond_the_limit_is_refused(port: int, slow: Slow) -> None:
    """The others get their answers."""
    with connect(port) as first, connect(port) as second:
        first.sendall(ASK)
        assert slow.requested.wait(60)
        slow.requested.clear()
        second.sendall(ASK)
        assert slow.requested.wait(60)
        with connect(port) as third:
            assert is_refused(third)
        slow.answer.set()
        assert first.recv(12) == second.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize(
    ("limits", "set_to", "limit"),
    [
        ((256, 4096), (1200, 4096), 1000),
        ((256, 600), (600, 600), 400),
        ((100, 100), (100, 100), 1),
        ((2048, 4096), None, 1000),
        ((256, resource.RLIM_INFINITY), (1200, resource.RLIM_INFINITY), 1000),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, 1000),
    ],
)
def test_the_number_of_connections_follows_the_limit_on_open_files(
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    set_to: tuple[int, int] | None,
    limit: int,
) -> None:
    """The soft limit is raised as far as needed and permitted."""
    done: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: done.append(pair))
    assert connections.connection_limit() == limit
    assert done == ([set_to] if set_to else [])
