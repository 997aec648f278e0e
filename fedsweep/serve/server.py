"""The server: its socket, its token, its address."""

from __future__ import annotations

import signal
import socket
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import uvicorn
from sqlalchemy.engine import Engine

from fedsweep.errors import RequestError
from fedsweep.serve.app import application
from fedsweep.serve.look import Look

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


def serve(engine: Engine, options: Options, told: Callable[[str], None], *, show: bool) -> None:
    """Serve until Ctrl-C or SIGTERM; `told` is given the address, with its token.

    Raises:
        RequestError: the address is not ours or taken.

    """
    listening = listen(options.host, options.port)
    port = listening.getsockname()[1]
    app = application(Look(engine), options.token, port, (options.host, *options.hosts))
    # No access log: addresses could hold the token.
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        ws="none",
    )
    server = uvicorn.Server(config)
    _end_with(server)
    address = f"http://{_in_address(options.host)}:{port}/?token={options.token}"
    told(address)
    if show:
        webbrowser.open(address)
    with listening:
        server.run(sockets=[listening])


def _end_with(server: uvicorn.Server) -> None:
    """Let Ctrl-C and SIGTERM be a good end: uvicorn raises them again when it has closed all."""

    def stop(_number: int, _frame: object) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; on any free port, where it is 0.

    Raises:
        RequestError: the address is not ours or taken.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or str(error)
        raise RequestError(
            f"nothing can listen on {host}, port {port} ({why}): choose another --port or --host"
        ) from error
    return listening


def _in_address(host: str) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # every interface: this one too
    return f"[{name}]" if ":" in name else name
