"""The web application: the screen of each address, and the pages that report errors."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
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
from fedsweep.serve import choice, compare, metrics, overview, screen, sql, sweep, trials
from fedsweep.serve.csv_table import CsvTable, csv_response
from fedsweep.serve.guard import Guard
from fedsweep.serve.read_cache import UNAVAILABLE, ReadCache
from fedsweep.serve.screen import Screen
from fedsweep.serve.stream import MAX_STREAMS, ScreenState, Stream
from fedsweep.store import live

SCREENS: dict[
    str, tuple[str, Callable[[ReadCache, Mapping[str, str]], Screen], tuple[str, ...]]
] = {
    "overview": ("/", overview.overview, ()),
    "queue": ("/queue", overview.queue, ()),
    "failures": ("/failures", overview.failures, ("kind",)),
    "trials": ("/trials", trials.trials, trials.PARAMETERS),
    "trial": ("/trials/{trial}", trials.trial, trials.TRIAL_PARAMETERS),
    "compare": ("/compare", compare.compare, compare.PARAMETERS),
    "sweep": ("/sweeps/{sweep:path}", sweep.sweep, sweep.PARAMETERS),
    "sql": ("/sql", sql.sql, ("q",)),
}
"""By the name of a screen: its path, the function that builds it, its query parameters."""

REPEATED = {"compare": compare.REPEATED, "sweep": choice.REPEATED}
"""The query parameters that may occur several times, by screen."""

TABLES: dict[str, Mapping[str, Callable[[ReadCache, Mapping[str, str]], CsvTable]]] = {
    "compare": compare.TABLES,
    "sweep": sweep.TABLES,
    "trial": trials.TABLES,
}
"""The data of the figures of each screen."""

PING = 15
"""Seconds between two pings of an event stream on which nothing changes."""

HEALTH_SECONDS = 5.0
"""Seconds for which `/healthz` waits for the database."""

_HEALTH_CHECKS = threading.BoundedSemaphore(8)
"""Limits the health checks at once. Each keeps a thread until the database answers."""

UNAVAILABLE_TEXT = "The database does not answer. This page comes back by itself when it does."


def application(cache: ReadCache, token: str, port: int, hosts: Iterable[str] = ()) -> Guard:
    """Return the application, protected by a token. `Guard` uses `port` and `hosts`."""
    routes: list[BaseRoute] = [Route(path, _page(name)) for name, (path, _, _) in SCREENS.items()]
    routes += [
        Route("/events", _events),
        Route("/csv/{screen}/{figure}", _csv),
        Route("/metrics", _metrics),
        Route("/healthz", _health),
        Route("/static/plotly.min.js", _plotly),
        Mount("/static", StaticFiles(packages=[("fedsweep.serve", "static")])),
    ]
    handlers: dict[Any, Any] = {HTTPException: _http_error, RequestError: _request_error}
    handlers |= dict.fromkeys(UNAVAILABLE, _unavailable)
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.cache = cache
    return Guard(app, token, port, hosts)


def _query(name: str, parameters: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the parameters that a screen knows.

    The values of a repeated parameter are joined. Such a parameter stays if it has no value: the
    user has chosen nothing. Other parameters without a value are left out.
    """
    query: dict[str, str] = {}
    repeated = REPEATED.get(name, ())
    for key, text in parameters:
        value = text.replace("\0", "\ufffd")  # Postgres refuses a text that contains NUL
        if key in repeated:
            values = [query.get(key, ""), value.replace(screen.SEPARATOR, " ")]
            query[key] = screen.SEPARATOR.join(filter(None, values))
        elif key in SCREENS[name][2]:
            query[key] = value
    return {key: value for key, value in query.items() if value or key in repeated}


def screen_state(cache: ReadCache, name: str, query: Mapping[str, str]) -> ScreenState:
    """Return a screen as it is now, computed once per tick for all its viewers."""

    def compute() -> ScreenState:
        content = SCREENS[name][1](cache, query)
        states = cache.read(live.states)
        return content, screen.title(content, states), screen.status_line(states)

    if name == "sql":  # a statement runs once per request, and is not cached
        return compute()
    return cache.get((name, *sorted(query.items())), compute)


def _page(name: str) -> Callable[[Request], Response]:
    def show(request: Request) -> Response:
        path = request.path_params
        query = _query(name, [*request.query_params.multi_items(), *path.items()])
        content, title, status = screen_state(request.app.state.cache, name, query)
        fixed = {"screen": name} | {key: query[key] for key in path if key in query}
        chosen = {key: value for key, value in query.items() if key not in path}
        stream = screen.StreamAddress(
            f"events?{urlencode(fixed)}",
            urlencode(screen.pairs(chosen)) if name != "sql" else "",
        )
        text = screen.page(content, title, status, stream, _address(request))
        return HTMLResponse(text, content.status)

    return show


async def _events(request: Request) -> Response:
    name = request.query_params.get("screen", "overview")
    if name not in SCREENS:
        raise NotFound(f"there is no screen {name!r}: there are {', '.join(SCREENS)}")
    cache, query = request.app.state.cache, _query(name, request.query_params.multi_items())
    if cache.open_streams >= MAX_STREAMS:
        return PlainTextResponse(f"{MAX_STREAMS} pages are open already: close some\n", 503)
    query = {} if name == "sql" else query  # a tick does not run a statement again
    last_event_id = request.headers.get("last-event-id", "")
    stream = Stream(cache, lambda: screen_state(cache, name, query), last_event_id)
    stream.ready = await run_in_threadpool(stream.tick)  # an error is answered at once
    return EventSourceResponse(stream(), ping=PING)


def _csv(request: Request) -> Response:
    name, figure = request.path_params["screen"], request.path_params["figure"]
    tables = TABLES.get(name, {})
    if figure not in tables:
        raise NotFound("there is no such figure: the pages link to the data of theirs")
    query = _query(name, request.query_params.multi_items())
    return csv_response(tables[figure](request.app.state.cache, query))


def _metrics(request: Request) -> Response:
    text = metrics.exposition(request.app.state.cache)
    return Response(text, media_type=metrics.MEDIA_TYPE)


async def _health(request: Request) -> Response:
    """Return if the database answers. The request needs no token and reveals nothing else.

    The check has its own threads and a time limit. So it answers even if other statements are slow
    or the database hangs.
    """
    cache: ReadCache = request.app.state.cache
    try:
        with anyio.fail_after(HEALTH_SECONDS):
            limiter = anyio.CapacityLimiter(1)
            await anyio.to_thread.run_sync(
                _check_health, cache, abandon_on_cancel=True, limiter=limiter
            )
    except (*UNAVAILABLE, TimeoutError):
        return PlainTextResponse("the database does not answer\n", 503)
    return PlainTextResponse("ok\n")


def _check_health(cache: ReadCache) -> None:
    if not _HEALTH_CHECKS.acquire(blocking=False):  # earlier checks still wait for an answer
        raise TimeoutError
    try:
        cache.read(live.running)
    finally:
        _HEALTH_CHECKS.release()


@functools.cache
def plotly_file() -> Path:
    """Return the path of plotly.js in the installed package plotly."""
    import importlib.util

    spec = importlib.util.find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


def _plotly(_request: Request) -> Response:
    return FileResponse(plotly_file(), media_type="text/javascript")


def _http_error(request: Request, error: HTTPException) -> Response:
    message = "There is no such page." if error.status_code == 404 else str(error.detail)
    return _message(request, message, error.status_code)


def _request_error(request: Request, error: RequestError) -> Response:
    return _message(request, str(error), 404 if isinstance(error, NotFound) else 400)


def _unavailable(request: Request, _error: Exception) -> Response:
    return _message(request, UNAVAILABLE_TEXT, 503)


def _message(request: Request, message: str, status: int) -> Response:
    if "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse(f"{message}\n", status)
    parts = [screen.part("wrong", "wrong.html", live=False, message=message)]
    heading = "Not found" if status < 500 else "Not available"
    content = Screen("", heading, parts, status=status)
    stream = screen.StreamAddress("" if status < 500 else "events?screen=overview")
    return HTMLResponse(screen.page(content, "fedsweep", "", stream, _address(request)), status)


def _address(request: Request) -> screen.PageAddress:
    # A path that begins with two slashes would be the address of another server.
    path = "/" + request.scope["raw_path"].decode("latin-1").lstrip("/\\")
    query = request.scope["query_string"].decode("latin-1")
    root = request.scope.get("root_path", "")
    return screen.PageAddress(f"{root}/", f"{path}?{query}" if query else path)
