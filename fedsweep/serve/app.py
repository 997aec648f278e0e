"""The application: addresses to screens, and what is said where something is wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

import anyio
import anyio.to_thread
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from fedsweep.errors import NotFound, RequestError
from fedsweep.serve import metrics, overview, screen, sql, sweep, trials
from fedsweep.serve.guard import Guard
from fedsweep.serve.look import AWAY, Look
from fedsweep.serve.screen import Screen
from fedsweep.serve.stream import MOST, Shown, Stream
from fedsweep.store import live

SCREENS: dict[str, tuple[str, Callable[[Look, Mapping[str, str]], Screen], tuple[str, ...]]] = {
    "overview": ("/", overview.overview, ()),
    "queue": ("/queue", overview.queue, ()),
    "failures": ("/failures", overview.failures, ("kind",)),
    "trials": ("/trials", trials.trials, trials.ASKED),
    "trial": ("/trials/{trial}", trials.trial, ("trial",)),
    "sweep": ("/sweeps/{sweep:path}", sweep.sweep, ("sweep", "panel")),
    "sql": ("/sql", sql.sql, ("q",)),
}
"""Each screen: where it is, what makes it, and what an address may ask of it."""

PING = 15
"""Seconds between signs of life, where nothing changes."""

HEALTH_SECONDS = 5.0
"""How long a question for the health of the store may take."""

_ASKING = threading.BoundedSemaphore(8)
"""Such questions at once: each keeps a thread until the database answers."""

GONE = "The database does not answer. This page comes back by itself when it does."


def application(look: Look, token: str, port: int, hosts: Iterable[str] = ()) -> Guard:
    """The page on a store, behind a token; `port` and `hosts` as `Guard` takes them."""
    routes: list[BaseRoute] = [Route(path, _page(name)) for name, (path, _, _) in SCREENS.items()]
    routes += [
        Route("/events", _events),
        Route("/metrics", _metrics),
        Route("/healthz", _health),
        Route("/static/plotly.min.js", _plotly),
        Mount("/static", StaticFiles(packages=[("fedsweep.serve", "static")])),
    ]
    handlers = {HTTPException: _refused, RequestError: _wrong}
    app = Starlette(routes=routes, exception_handlers=handlers | dict.fromkeys(AWAY, _away))  # type: ignore[arg-type]  # handlers of narrower errors
    app.state.look = look
    return Guard(app, token, port, hosts)


def _asked(name: str, values: Mapping[str, str]) -> dict[str, str]:
    # Postgres knows no text with a NUL in it.
    known = (key for key in SCREENS[name][2] if values.get(key))
    return {key: values[key].replace("\0", "\ufffd") for key in known}


def shown(look: Look, name: str, asked: Mapping[str, str]) -> Shown:
    """A screen as it is now; made once a tick for all who look at it."""

    def make() -> Shown:
        made = SCREENS[name][1](look, asked)
        states = look.read(live.states)
        return made, screen.title(made, states), screen.said(states)

    if name == "sql":  # asked for by a person, not by the clock
        return make()
    return look.once((name, *sorted(asked.items())), make)


def _page(name: str) -> Callable[[Request], Response]:
    def show(request: Request) -> Response:
        asked = _asked(name, {**request.query_params, **request.path_params})
        made, title, said = shown(request.app.state.look, name, asked)
        parameters = {"screen": name} | asked if name != "sql" else {"screen": name}
        text = screen.page(made, title, said, f"events?{urlencode(parameters)}", _place(request))
        return HTMLResponse(text, made.status)

    return show


async def _events(request: Request) -> Response:
    name = request.query_params.get("screen", "overview")
    if name not in SCREENS:
        raise NotFound(f"there is no screen {name!r}: there are {', '.join(SCREENS)}")
    look, asked = request.app.state.look, _asked(name, request.query_params)
    if look.streams >= MOST:
        return PlainTextResponse(f"{MOST} pages are open already: close some\n", 503)
    asked = {} if name == "sql" else asked  # a statement is not asked again by the clock
    known = request.headers.get("last-event-id", "")
    stream = Stream(look, lambda: shown(look, name, asked), known)
    stream.ready = await run_in_threadpool(stream.tick)  # what is wrong is said at once
    return EventSourceResponse(stream(), ping=PING)


def _metrics(request: Request) -> Response:
    text = metrics.exposition(request.app.state.look)
    return Response(text, media_type=metrics.MEDIA_TYPE)


async def _health(request: Request) -> Response:
    """Whether the store answers, and nothing else: it needs no token.

    It has threads of its own and waits for a bounded time, so that neither slow statements nor a
    database that hangs keep it from answering.
    """
    look: Look = request.app.state.look
    try:
        with anyio.fail_after(HEALTH_SECONDS):
            limiter = anyio.CapacityLimiter(1)
            await anyio.to_thread.run_sync(_ask, look, abandon_on_cancel=True, limiter=limiter)
    except (*AWAY, TimeoutError):
        return PlainTextResponse("the database does not answer\n", 503)
    return PlainTextResponse("ok\n")


def _ask(look: Look) -> None:
    if not _ASKING.acquire(blocking=False):  # those before have no answer yet
        raise TimeoutError
    try:
        look.read(live.running)
    finally:
        _ASKING.release()


@cache
def plotly_file() -> Path:
    """plotly.js, as plotly's own package has it."""
    import importlib.util

    found = importlib.util.find_spec("plotly")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "package_data" / "plotly.min.js"


def _plotly(_request: Request) -> Response:
    return FileResponse(plotly_file(), media_type="text/javascript")


def _refused(request: Request, error: HTTPException) -> Response:
    what = "There is no such page." if error.status_code == 404 else str(error.detail)
    return _said(request, what, error.status_code)


def _wrong(request: Request, error: RequestError) -> Response:
    return _said(request, str(error), 404 if isinstance(error, NotFound) else 400)


def _away(request: Request, _error: Exception) -> Response:
    return _said(request, GONE, 503)


def _said(request: Request, what: str, status: int) -> Response:
    if "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse(f"{what}\n", status)
    parts = [screen.part("wrong", "wrong.html", live=False, what=what)]
    made = Screen("", "Not there" if status < 500 else "Away", parts, status=status)
    events = "" if status < 500 else "events?screen=overview"
    return HTMLResponse(screen.page(made, "fedsweep", "", events, _place(request)), status)


def _place(request: Request) -> screen.Place:
    # More than one slash at the front would be another server's address.
    path = "/" + request.scope["raw_path"].decode("latin-1").lstrip("/\\")
    query = request.scope["query_string"].decode("latin-1")
    root = request.scope.get("root_path", "")
    return screen.Place(f"{root}/", f"{path}?{query}" if query else path)
