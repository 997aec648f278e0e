"""`fedsweep serve`: a page to watch."""

from __future__ import annotations

import importlib.util
import re
import secrets
from typing import Annotated

import typer

from fedsweep import output
from fedsweep.cli.arguments import Db, url
from fedsweep.errors import PackageMissing, RequestError

PACKAGES = ("starlette", "uvicorn", "sse_starlette", "plotly")

SHORTEST = 16
"""Characters of a token that a person chose."""


def serve(
    db: Db = None,
    host: Annotated[
        str,
        typer.Option(help="Where to listen; with 0.0.0.0 or ::, other machines can reach it."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="FEDSWEEP_TOKEN",
            help="What pages are asked for; else a fresh one.",
            show_default=False,
            show_envvar=True,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A further name of this server; may be repeated.",
            show_default=False,
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--open", help="Open it in the browser, if that can read /tmp.")
    ] = False,
) -> None:
    """Serve a page to watch: what runs, waits and fails, curves, SQL. It changes nothing.

    Only who has the token sees it. Ctrl-C ends it.
    """  # fmt: skip
    require()
    token = (token or "").strip()  # a file of the environment often has a line end
    token = checked(token) if token else secrets.token_urlsafe(24)
    from fedsweep.serve.server import Options
    from fedsweep.serve.server import serve as run
    from fedsweep.store.readonly import open_to_read

    options = Options(host, port, token, tuple(allow_host or ()))
    output.in_background()
    run(open_to_read(url(db), page=True), options, _told, show=show)


def _told(address: str, reach: str | None) -> None:
    print("\n".join(filter(None, [address, reach, "Ctrl-C ends it"])), flush=True)


def require() -> None:
    """Refuse where a package of the extra is missing.

    Raises:
        PackageMissing: one is; says how to install it.

    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PackageMissing(
            f"`fedsweep serve` needs {', '.join(missing)}: pip install 'fedsweep[serve]'"
        )


def checked(token: str) -> str:
    """A token that a person chose.

    Raises:
        RequestError: it is short, or has characters that a cookie or an address cannot hold.

    """
    if len(token) < SHORTEST or not re.fullmatch(r"[A-Za-z0-9_.~-]+", token):
        raise RequestError(
            f"the token must be at least {SHORTEST} letters, digits, or _ . ~ -: "
            "leave it out for a fresh one"
        )
    return token
