"""Who may look: a token, always; a Host that is ours; nothing but GET and HEAD."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from html import escape
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = frozenset({"/healthz"})
"""Paths that need no token: they tell nothing."""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer. `data:` pictures are plotly's own cursors."""

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


class Guard:
    """An ASGI application behind a token.

    `port` names the cookie, so that two servers on one host do not take each other's.
    """

    def __init__(self, app: ASGIApp, token: str, port: int, hosts: Iterable[str] = ()) -> None:
        self.app, self.token = app, token
        self.cookie = f"fedsweep-{port}"
        self.hosts = {name.lower().strip("[]") for name in (*LOOPBACK, *hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = self._refuse(scope, Headers(scope=scope))
        await (refused or self.app)(scope, receive, _with_headers(send))

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        if _name(headers.get("host", "")) not in self.hosts:
            return PlainTextResponse(
                "fedsweep serve is not known by this name: start it with --allow-host NAME\n", 400
            )
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse(
                "this page only shows: nothing can be sent to it\n", 405, {"allow": "GET, HEAD"}
            )
        if scope["path"] in OPEN:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if any(map(self._is_token, given)):
            return self._enter(scope, [(n, v) for n, v in query if n != "token"])
        if given or not self._known(headers):
            return HTMLResponse(HOW, 401, {"www-authenticate": "Bearer"})
        return None

    def _enter(self, scope: Scope, rest: list[tuple[str, str]]) -> Response:
        """Keep the token in a cookie, and go where its address did not say it."""
        # More than one slash at the front would be another server's address.
        there = "/" + scope["raw_path"].decode("latin-1").lstrip("/\\")
        there = f"{there}?{urlencode(rest)}" if rest else there
        answer = HTMLResponse(ENTER.format(there=escape(there)))
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
        return answer

    def _known(self, headers: Headers) -> bool:
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._is_token(value.strip())
        # Other programs of this host have cookies of odd shapes: they must not shut ours out.
        return self._is_token(cookie_parser(headers.get("cookie", "")).get(self.cookie, ""))

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def _name(host: str) -> str:
    """A Host header's name without its port: `[::1]:8000` is ::1."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await send(message)

    return sending
