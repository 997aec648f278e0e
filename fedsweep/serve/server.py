"""The server: its socket, its token, its address."""

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

from fedsweep.errors import RequestError
from fedsweep.serve import connections
from fedsweep.serve.app import application
from fedsweep.serve.look import Look
from fedsweep.store import deadline

HEAD_BYTES = 64 * 1024
"""Bytes of a request's first line and headers together."""

GRACE = 2
"""Seconds for which open pages are waited for at the end."""


@dataclass(frozen=True)
class Options:
    """Where to listen, and to whom."""

    host: str
    port: int
    token: str
    hosts: Sequence[str] = ()
    """Further names that browsers may call the server by."""


def serve(
    engine: Engine, options: Options, told: Callable[[str, str | None], None], *, show: bool
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    `told` is given the address, with its token, and a sentence if other machines can reach it.

    Raises:
        RequestError: the address is not ours or taken.

    """
    listening = listen(options.host, options.port)
    bound, port = listening.getsockname()[:2]
    look = Look(engine)
    host = _in_address(options.host, bound)
    app = application(look, options.token, port, (host, *options.hosts))
    connections.Connection.most = connections.room()
    # No access log: addresses could hold the token.
    config = uvicorn.Config(
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
    AppStatus.enable_automatic_graceful_drain = False  # it cuts streams
    server = _Server(config, look)
    address = f"http://{host}:{port}/?token={options.token}"
    gc.freeze()  # what is imported by now stays: to look through it each time would hold pages up
    told(address, reach(bound))
    with listening, _shown(address) if show else nullcontext():
        server.run(sockets=[listening])


@contextmanager
def _shown(address: str) -> Iterator[None]:
    """A browser at the address, by a file that its owner alone can read: everybody on the host
    sees what a browser is started with.
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
    """Ends well with Ctrl-C and SIGTERM: it raises them again when it has closed all."""

    def __init__(self, config: uvicorn.Config, look: Look) -> None:
        super().__init__(config)
        self.look = look
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let streams end with their next tick, each whole."""
        self.look.ended = True
        deadline.stop_all()
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; on any free port, where it is 0.

    Raises:
        RequestError: the host is empty, or the address is not ours or taken.

    """
    host = host.strip().strip("[]")
    if not host:
        raise RequestError(
            "--host is empty, which would be every address of this machine: write 127.0.0.1, or "
            "0.0.0.0 if other machines are to reach it"
        )
    try:
        family, place = _resolved(host, port)
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
    except (OSError, OverflowError, TypeError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no such address"
        raise RequestError(
            f"nothing can listen on {host}, port {port} ({why}): choose another --port or --host"
        ) from error
    return listening


def _resolved(host: str, port: int) -> tuple[int, Any]:
    """Return the address of a host to bind to, IPv4 before IPv6."""
    known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    known.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return known[0][0], known[0][4]


def reach(bound: str) -> str | None:
    """Return a sentence on who can reach an address; None if only this machine can."""
    address = ip_address(bound.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_loopback:
        return None
    every = f" ({bound} is every address of this one)" if address.is_unspecified else ""
    return f"Other machines can reach this server{every}, and HTTP is not encrypted."


def _in_address(host: str, bound: str) -> str:
    """Return a host as a URL has it; an address of this machine for every address."""
    address = ip_address(bound.partition("%")[0])
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    name = host.strip().strip("[]")
    return f"[{name.replace('%', '%25')}]" if ":" in name else name
