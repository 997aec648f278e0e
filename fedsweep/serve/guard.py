"""Who may look: a token, always; a Host that is ours; nothing but GET and HEAD.

A browser sends a cookie to every port of its host, so also to servers of other users. But it sends
a cookie only below the path that the cookie names. So each server has a path that nobody else
knows: its pages and its cookie are below it. The cookie is not the token, and without the path it
is worth nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from functools import lru_cache
from html import escape
from ipaddress import IPv6Address, ip_address
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = frozenset({"/healthz"})
"""Paths that need no token: they tell nothing."""

LONGEST = 8_000
"""Bytes of the path and query of a request: filters and names of sweeps fit into it."""
LONGEST_OF = {"/sql": 60_000}
"""The same, of paths whose query is more than a filter."""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'self'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer. `data:` images are plotly's own cursors."""

HOW = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>fedsweep: token needed</title></head>
<body>
<main>
<h1>This page needs its token</h1>
<p>Open the address that <code>fedsweep serve</code> printed when it started: it ends in
<code>/?token=…</code>. A browser needs it once; it then keeps a cookie until it is closed.</p>
<p>Scripts send the token in a header: <code>Authorization: Bearer TOKEN</code>.</p>
</main>
</body>
</html>
"""

ENTER = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={there}">
<link rel="icon" href="data:,"><title>fedsweep</title></head>
<body><p><a href="{there}">Go on to fedsweep</a></p></body>
</html>
"""
"""A page and not a redirection: after one, a browser that came from elsewhere keeps the cookie
back."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@lru_cache(maxsize=8)
def _derived(token: str, port: int, use: str) -> str:
    """Return a secret of one server, from which nobody can compute its token.

    A server that is started again with the same token and port has the same: its pages go on. A
    person may have chosen the token, so guessing it is made slow.
    """
    made = hashlib.pbkdf2_hmac("sha256", token.encode(), f"{use} of {port}".encode(), 200_000)
    return made.hex()[:32]


class Guard:
    """An ASGI application behind a token.

    A request has the token in its header, or it is for the path of this server and has its cookie.
    """

    def __init__(self, app: ASGIApp, token: str, port: int, hosts: Iterable[str] = ()) -> None:
        self.app, self.token = app, token
        self.root = f"/{_derived(token, port, 'path')}"
        self.cookie, self.session = f"fedsweep-{port}", _derived(token, port, "session")
        self.hosts = {_canonical(name) for name in (*LOOPBACK, *hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        inside = self._is_inside(scope["path"])
        if inside:
            scope = {**scope, "root_path": self.root}
        path = scope["path"].removeprefix(self.root) if inside else scope["path"]
        headers = Headers(scope=scope)
        refused = self._misfit(scope, headers, path)
        if refused is None and path not in OPEN:
            refused = self._unknown(scope, headers, inside=inside)
        await (refused or self.app)(scope, receive, _with_headers(send))

    def _is_inside(self, path: str) -> bool:
        return _is_equal("/" + path[1:].partition("/")[0], self.root)

    def _misfit(self, scope: Scope, headers: Headers, path: str) -> Response | None:
        """Return the refusal of a request that no token makes right."""
        if not self._is_ours(headers.get("host", ""), scope):
            return PlainTextResponse(
                "fedsweep serve is not known by this name: start it with --allow-host NAME\n", 400
            )
        if scope["method"] not in ("GET", "HEAD"):
            return _closing(
                "this page only shows: nothing can be sent to it\n", 405, {"allow": "GET, HEAD"}
            )
        if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
            return _closing("nothing can be sent to this page: leave out the body\n", 413)
        if len(scope["raw_path"]) + len(scope["query_string"]) > LONGEST_OF.get(path, LONGEST):
            return _closing("this address is too long\n", 414)
        return None

    def _unknown(self, scope: Scope, headers: Headers, *, inside: bool) -> Response | None:
        """Return the refusal of a request without the token; with it in its address, the way in."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if any(_is_equal(value, self.token) for value in given):
            return self._enter(scope, [(n, v) for n, v in query if n != "token"], inside=inside)
        if given or not (self._has_token(headers) or (inside and self._has_session(headers))):
            return HTMLResponse(HOW, 401, {"www-authenticate": "Bearer"})
        return None

    def _is_ours(self, host: str, scope: Scope) -> bool:
        """Return if a Host header names this server, or the address that the request came to.

        A page elsewhere can lead its own name to us, but no address.
        """
        server = scope.get("server")
        address = _canonical(server[0]) if server and server[1] is not None else None
        name = _name(host)
        return name is not None and (name in self.hosts or (name == address and _is_ip(name)))

    def _enter(self, scope: Scope, rest: list[tuple[str, str]], *, inside: bool) -> Response:
        """Keep the session in a cookie, and go where its address does not say the token."""
        # More than one slash at the front would be another server's address.
        path = "/" + scope["raw_path"].decode("latin-1").lstrip("/\\")
        there = path if inside else self.root + path
        there = f"{there}?{urlencode(rest)}" if rest else there
        answer = HTMLResponse(ENTER.format(there=escape(there)))
        answer.set_cookie(
            self.cookie, self.session, path=f"{self.root}/", httponly=True, samesite="strict"
        )
        return answer

    def _has_token(self, headers: Headers) -> bool:
        kind, _, value = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and _is_equal(value.strip(), self.token)

    def _has_session(self, headers: Headers) -> bool:
        # Other programs of this host have cookies of odd shapes, and of our name: they must not
        # shut ours out.
        pairs = [part.partition("=") for part in headers.get("cookie", "").split(";")]
        values = [value.strip() for name, _, value in pairs if name.strip() == self.cookie]
        return any(_is_equal(value, self.session) for value in values)


def _is_equal(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), secret.encode())


_HOST = re.compile(r"(\[[0-9a-f:.]{2,64}\]|[^\s:\[\]/@]{1,255})(?::\d{0,5})?", re.IGNORECASE)


def _name(host: str) -> str | None:
    """Return a Host header's name without its port, ::1 for `[::1]:8000`; None if it is none."""
    match = _HOST.fullmatch(host)
    return _canonical(match[1]) if match else None


def _canonical(name: str) -> str:
    """Return a name or address as all that name it are compared: `[0::1]` is ::1."""
    name = name.lower().strip("[]").partition("%")[0]
    try:
        address = ip_address(name)
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _is_ip(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdecimal()


def _closing(what: str, status: int, headers: dict[str, str] | None = None) -> PlainTextResponse:
    """Return an answer after which the connection ends, so that nobody reads the request's rest."""
    return PlainTextResponse(what, status, {**(headers or {}), "connection": "close"})


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await send(message)

    return sending
