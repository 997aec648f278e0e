"""Access control: each request needs the token, a known Host header, and the method GET or HEAD.

A browser sends a cookie to every port of its host, so also to servers of other users. But it sends
the cookie only for addresses below the cookie's path. So each server has a secret path, and its
pages and its cookie are below it. The cookie is not the token, and is useless without the path.
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

PUBLIC_PATHS = frozenset({"/healthz"})
"""Paths that need no token, because they reveal nothing."""

MAX_ADDRESS_BYTES = 8_000
"""Bytes that the path and query of a request may have. Filters and sweep names fit into it."""
MAX_ADDRESS_BYTES_BY_PATH = {"/sql": 60_000}
"""The limit for paths whose query may be longer, because it holds a statement."""

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
"""The headers of every answer. plotly's cursors are `data:` images."""

LOGIN_HELP = """\
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

ENTRY_PAGE = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={address}">
<link rel="icon" href="data:,"><title>fedsweep</title></head>
<body><p><a href="{address}">Go on to fedsweep</a></p></body>
</html>
"""
"""A page that forwards to the address without the token.

After an HTTP redirect, a browser that came from another site would not send the cookie.
"""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@lru_cache(maxsize=8)
def _derived(token: str, port: int, use: str) -> str:
    """Return a secret of one server. The token cannot be computed from it.

    A server that is started again with the same token and port has the same secret, so open pages
    stay valid. The derivation is slow on purpose, because a person may have chosen a token
    that is easy to guess.
    """
    derived = hashlib.pbkdf2_hmac("sha256", token.encode(), f"{use} of {port}".encode(), 200_000)
    return derived.hex()[:32]


class Guard:
    """An ASGI application that checks the token of each request.

    A request is accepted if its header has the token. It is also accepted if its address is below
    the secret path of this server and it has the server's cookie.
    """

    def __init__(self, app: ASGIApp, token: str, port: int, hosts: Iterable[str] = ()) -> None:
        self.app, self.token = app, token
        self.root = f"/{_derived(token, port, 'path')}"
        self.cookie, self.session = f"fedsweep-{port}", _derived(token, port, "session")
        self.hosts = {_canonical(name) for name in (*LOOPBACK, *hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it to the application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        inside = self._is_inside(scope["path"])
        if inside:
            scope = {**scope, "root_path": self.root}
        path = scope["path"].removeprefix(self.root) if inside else scope["path"]
        headers = Headers(scope=scope)
        refusal = self._invalid(scope, headers, path)
        if refusal is None and path not in PUBLIC_PATHS:
            refusal = self._unauthorized(scope, headers, inside=inside)
        await (refusal or self.app)(scope, receive, _with_headers(send))

    def _is_inside(self, path: str) -> bool:
        return _is_equal("/" + path[1:].partition("/")[0], self.root)

    def _invalid(self, scope: Scope, headers: Headers, path: str) -> Response | None:
        """Return the refusal of a request that is invalid with any token; None if it is valid."""
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
        limit = MAX_ADDRESS_BYTES_BY_PATH.get(path, MAX_ADDRESS_BYTES)
        if len(scope["raw_path"]) + len(scope["query_string"]) > limit:
            return _closing("this address is too long\n", 414)
        return None

    def _unauthorized(self, scope: Scope, headers: Headers, *, inside: bool) -> Response | None:
        """Return the refusal of a request without the token; None if it is authorized.

        If the address has the token, return the page that sets the cookie.
        """
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if any(_is_equal(value, self.token) for value in given):
            return self._enter(scope, [(n, v) for n, v in query if n != "token"], inside=inside)
        if given or not (self._has_token(headers) or (inside and self._has_session(headers))):
            return HTMLResponse(LOGIN_HELP, 401, {"www-authenticate": "Bearer"})
        return None

    def _is_ours(self, host: str, scope: Scope) -> bool:
        """Return if a Host header names this server, or the address that received the request.

        Another site can make its own name resolve to this server, but not an IP address.
        """
        server = scope.get("server")
        address = _canonical(server[0]) if server and server[1] is not None else None
        name = _name(host)
        return name is not None and (name in self.hosts or (name == address and _is_ip(name)))

    def _enter(self, scope: Scope, rest: list[tuple[str, str]], *, inside: bool) -> Response:
        """Return a page that sets the session cookie and opens the address without the token."""
        # A path that begins with two slashes would be the address of another server.
        path = "/" + scope["raw_path"].decode("latin-1").lstrip("/\\")
        address = path if inside else self.root + path
        address = f"{address}?{urlencode(rest)}" if rest else address
        answer = HTMLResponse(ENTRY_PAGE.format(address=escape(address)))
        answer.set_cookie(
            self.cookie, self.session, path=f"{self.root}/", httponly=True, samesite="strict"
        )
        return answer

    def _has_token(self, headers: Headers) -> bool:
        kind, _, value = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and _is_equal(value.strip(), self.token)

    def _has_session(self, headers: Headers) -> bool:
        # Other programs on this host may set malformed cookies, or cookies of the same name. They
        # must not hide the cookie of this server.
        pairs = [part.partition("=") for part in headers.get("cookie", "").split(";")]
        values = [value.strip() for name, _, value in pairs if name.strip() == self.cookie]
        return any(_is_equal(value, self.session) for value in values)


def _is_equal(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), secret.encode())


_HOST = re.compile(r"(\[[0-9a-f:.]{2,64}\]|[^\s:\[\]/@]{1,255})(?::\d{0,5})?", re.IGNORECASE)


def _name(host: str) -> str | None:
    """Return the name in a Host header without its port; None if the header is invalid.

    "[::1]:8000" gives "::1".
    """
    match = _HOST.fullmatch(host)
    return _canonical(match[1]) if match else None


def _canonical(name: str) -> str:
    """Return the canonical form of a name or address. "[0::1]" and "::1" both give "::1"."""
    name = name.lower().strip("[]").partition("%")[0]
    try:
        address = ip_address(name)
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _is_ip(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdecimal()


def _closing(message: str, status: int, headers: dict[str, str] | None = None) -> PlainTextResponse:
    """Return an answer that closes the connection, so that the rest of the request is not read."""
    return PlainTextResponse(message, status, {**(headers or {}), "connection": "close"})


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await send(message)

    return sending
