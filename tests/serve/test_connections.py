"""Connections that ask for nothing, on a real server."""

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


class Patient(connections.Connection):
    """Waits a second, not ten."""

    idle_seconds = 1.0
    gone = threading.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.gone.set()


class Few(connections.Connection):
    """Waits long; two at once."""

    idle_seconds = 600.0
    max_connections = 2


class Slow:
    """An application that answers when it is told to."""

    def __init__(self) -> None:
        self.body = b"here it is"
        self.asked, self.answer = threading.Event(), threading.Event()

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.asked.set()
        await asyncio.get_running_loop().run_in_executor(None, self.answer.wait, 60)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.body})


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def kind() -> type[connections.Connection]:
    """Of the server's connections."""
    return Patient


@pytest.fixture
def port(slow: Slow, kind: type[connections.Connection]) -> Iterator[int]:
    """A server."""
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


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: loc"], ids=["nothing", "half"])
def test_who_does_not_ask_is_sent_away(port: int, said: bytes) -> None:
    """Nothing, or half a question."""
    with connect(port) as idle:
        idle.sendall(said)
        assert idle.recv(1) == b""


def test_who_waits_for_an_answer_may_wait(port: int, slow: Slow) -> None:
    """Longer than others may be silent: two of those are sent away meanwhile."""
    with connect(port) as waiting:
        waiting.sendall(ASK)
        assert slow.asked.wait(60)
        for _ in range(2):
            with connect(port) as idle:
                assert idle.recv(1) == b""
        slow.answer.set()
        assert waiting.recv(12) == b"HTTP/1.1 200"


def test_who_reads_nothing_is_sent_away(port: int, slow: Slow) -> None:
    """Its answer has begun, and stays in the server's hands."""
    Patient.gone.clear()
    slow.body = b"x" * 2**26
    slow.answer.set()
    with connect(port) as deaf:
        deaf.sendall(ASK)
        assert Patient.gone.wait(60)


@pytest.mark.parametrize("kind", [Few])
def test_beyond_the_most_nobody_is_let_in(port: int, slow: Slow) -> None:
    """The others are served."""
    with connect(port) as first, connect(port) as second:
        first.sendall(ASK)
        assert slow.asked.wait(60)
        slow.asked.clear()
        second.sendall(ASK)
        assert slow.asked.wait(60)
        with connect(port) as third:
            assert is_refused(third)
        slow.answer.set()
        assert first.recv(12) == second.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize(
    ("limits", "set_to", "there_is"),
    [
        ((256, 4096), (1200, 4096), 1000),
        ((256, 600), (600, 600), 400),
        ((100, 100), (100, 100), 1),
        ((2048, 4096), None, 1000),
        ((256, resource.RLIM_INFINITY), (1200, resource.RLIM_INFINITY), 1000),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, 1000),
    ],
)
def test_there_is_room_for_as_many_as_files_may_be_open(
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    set_to: tuple[int, int] | None,
    there_is: int,
) -> None:
    """The soft limit is raised as far as it must be, and may be."""
    done: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: done.append(pair))
    assert connections.connection_limit() == there_is
    assert done == ([set_to] if set_to else [])
