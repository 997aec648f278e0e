"""`fedsweep serve`: serve web pages that show the sweeps."""

from __future__ import annotations

import importlib.util
import re
import secrets
from typing import Annotated

import typer

from fedsweep import output
from fedsweep.cli.arguments import Db, url
from fedsweep.errors import PackageMissing, RequestError
from fedsweep.settings import TOKEN

PACKAGES = ("starlette", "uvicorn", "sse_starlette", "plotly")

SHORTEST = 16
"""The fewest characters of a token that a user chooses, so that it cannot be guessed."""


def serve(
    db: Db = None,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; with 0.0.0.0 or ::, other machines can reach it."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free port.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN,
            help="Token that the pages require. Default: a new one.",
            show_default=False,
            show_envvar=True,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Accept this further name of the server; repeatable.",
            show_default=False,
        ),
    ] = None,
    show: Annotated[
        bool,
        typer.Option("--open", help="Open the page in the browser, if the browser can read /tmp."),
    ] = False,
) -> None:
    """Serve web pages with trials, curves and SQL. They change nothing.

    A browser needs the token to see them. Ctrl-C ends the server.
    """
    require()
    token = (token or "").strip()  # a file of the environment often has a line end
    token = checked(token) if token else secrets.token_urlsafe(24)
    from fedsweep.serve.server import ServeOptions
    from fedsweep.serve.server import serve as run
    from fedsweep.store.readonly import open_to_read

    options = ServeOptions(host, port, token, tuple(allow_host or ()))
    output.in_background()
    run(open_to_read(url(db), page=True), options, _print_address, show=show)


def _print_address(address: str, reach: str | None) -> None:
    print("\n".join(filter(None, [address, reach, "Ctrl-C ends it"])), flush=True)


def require() -> None:
    """Refuse to serve if a package of the extra is missing.

    Raises:
        PackageMissing: A package is missing. The message says how to install it.

    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PackageMissing(
            f"`fedsweep serve` needs {', '.join(missing)}: pip install 'fedsweep[serve]'"
        )


def checked(token: str) -> str:
    """Return a token that a user chose, if it can be used.

    Raises:
        RequestError: It is short, or has characters that a cookie or an address cannot hold.

    """
    if len(token) < SHORTEST or not re.fullmatch(r"[A-Za-z0-9_.~-]+", token):
        raise RequestError(
            f"the token must be at least {SHORTEST} letters, digits, or _ . ~ -: "
            "leave it out for a fresh one"
        )
    return token
