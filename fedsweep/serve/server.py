"""The server process: its socket, its address, and how it starts and ends."""

from __future__ import annotations

import gc
import signal
import socket
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from html import escape
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import FrameType
from typing import Any

import uvicorn
from sqlalchemy.engine import Engine
from sse_starlette.sse import AppStatus
from starlette.types import ASGIApp

from fedsweep.errors import RequestError
from fedsweep.serve import connections
from fedsweep.serve.app import application
from fedsweep.serve.read_cache import ReadCache
from fedsweep.store import deadline

HEAD_BYTES = 64 * 1024
"""Bytes that the first line and the headers of a request may have together."""

GRACE = 2
"""Seconds for which the server waits for open pages when it ends."""


@dataclass(frozen=True)
class ServeOptions:
    """The address to listen on, the token, and the accepted host names."""

    host: str
    port: int
    token: str
    hosts: Sequence[str] = ()
    """More names by which browsers may address the server."""


def serve(
    engine: Engine,
    options: ServeOptions,
    announce: Callable[[str, str | None], None],
    *,
    show: bool,
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    `announce` gets the address with its token, and a sentence if other machines can reach it. With
    `show`, the address is opened in a browser.

    Raises:
        RequestError: the address is in use or does not belong to this machine.

    """
    listening = listen(options.host, options.port)
    bound, port = listening.getsockname()[:2]
    cache = ReadCache(engine)
    host = _in_address(options.host, bound)
    app = application(cache, options.token, port, (host, *options.hosts))
    server = _Server(configured(app), cache)
    address = f"http://{host}:{port}/?token={options.token}"
    gc.freeze()  # imported objects stay: checking them in each collection would delay pages
    announce(address, reach(bound))
    with listening, _shown(address) if show else nullcontext():
        server.run(sockets=[listening])


def configured(app: ASGIApp) -> uvicorn.Config:
    """Return the settings under which uvicorn serves an application."""
    connections.Connection.max_connections = connections.connection_limit()
    AppStatus.enable_automatic_graceful_drain = False  # it would cut streams within an event
    # No access log, because addresses may contain the token.
    return uvicorn.Config(
        app,
        http=connections.Connection,
        h11_max_incomplete_event_size=HEAD_BYTES,
        access_log=False,
        log_level="warning",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        ws="none",
    )


@contextmanager
def _shown(address: str) -> Iterator[None]:
    """Open the address in a browser, through a file that only this user can read.

    All users of the host can see the arguments of a browser process, so these must not contain the
    token.
    """
    page = (
        '<!doctype html><meta charset="utf-8">'
        f'<meta http-equiv="refresh" content="0; url={escape(address)}">'
        f'<title>fedsweep</title><a href="{escape(address)}">fedsweep</a>\n'
    )
    with ExitStack() as stack:
        with suppress(OSError):  # without such a file the address is only printed
            file = stack.enter_context(
                NamedTemporaryFile("w", prefix="fedsweep-", suffix=".html")  # mode 0600
            )
            file.write(page)
            file.flush()
            webbrowser.open(Path(file.name).as_uri())
        yield


class _Server(uvicorn.Server):
    """A server that ends regularly, with exit code 0, on Ctrl-C and SIGTERM.

    uvicorn raises the signal again after it has closed all connections. The handlers that are set
    here then receive it.
    """

    def __init__(self, config: uvicorn.Config, cache: ReadCache) -> None:
        super().__init__(config)
        self.cache = cache
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ask each stream to end at its next tick, after a whole event."""
        self.cache.closing = True
        deadline.stop_all()
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address. Port 0 means any free port.

    Raises:
        RequestError: the host is empty, or the address is in use or does not belong to this
            machine.

    """
    host = host.strip().strip("[]")
    if not host:
        raise RequestError(
            "--host is empty, which would be every address of this machine: write 127.0.0.1, or "
            "0.0.0.0 if other machines are to reach it"
        )
    try:
        family, address = _resolved(host, port)
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
    except (OSError, OverflowError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such address"
        raise RequestError(
            f"nothing can listen on {host}, port {port} ({reason}): choose another --port or --host"
        ) from error
    return listening


def _resolved(host: str, port: int) -> tuple[int, Any]:
    """Return the address of a host to bind to, IPv4 before IPv6."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    entries.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return entries[0][0], entries[0][4]


def reach(bound: str) -> str | None:
    """Return a warning if other machines can reach an address; None if only this one can."""
    address = ip_address(bound.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_loopback:
        return None
    every = f" ({bound} is every address of this one)" if address.is_unspecified else ""
    return f"Other machines can reach this server{every}, and HTTP is not encrypted."


def _in_address(host: str, bound: str) -> str:
    """Return a host as a URL contains it. "0.0.0.0" and "::" become the loopback address."""
    address = ip_address(bound.partition("%")[0])
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    name = host.strip().strip("[]")
    return f"[{name.replace('%', '%25')}]" if ":" in name else name
