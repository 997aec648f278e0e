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
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import FrameType

import uvicorn
from sqlalchemy.engine import Engine
from sse_starlette.sse import AppStatus

from fedsweep.errors import RequestError
from fedsweep.serve import connections
from fedsweep.serve.app import application
from fedsweep.serve.look import Look
from fedsweep.store import deadline

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
    look = Look(engine)
    app = application(look, options.token, port, (options.host, *options.hosts))
    connections.Connection.most = connections.room()
    # No access log: addresses could hold the token.
    config = uvicorn.Config(
        app,
        http=connections.Connection,
        access_log=False,
        log_level="warning",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        ws="none",
    )
    AppStatus.enable_automatic_graceful_drain = False  # it cuts streams
    server = _Server(config, look)
    address = f"http://{_in_address(options.host)}:{port}/?token={options.token}"
    gc.freeze()  # what is imported by now stays: to look through it each time would hold pages up
    told(address)
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
