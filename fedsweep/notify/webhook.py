"""Posting to a webhook, from a thread of its own: nobody waits for it, and nothing fails by it.

A webhook's address is a secret: what may be said of it is its scheme and host.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urlsplit

from fedsweep.errors import RequestError

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
"""Of one try."""
PAUSES = (1.0, 4.0)
"""Seconds between the tries."""
DRAIN_SECONDS = 3 * TIMEOUT_SECONDS + sum(PAUSES)
"""How long an end waits for what is still to be sent."""


class Webhook:
    """One address, and what is still to be sent there."""

    def __init__(self, url: str, *, pauses: tuple[float, ...] = PAUSES) -> None:
        self._url = checked(url)
        self._pauses = pauses
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fedsweep-webhook", daemon=True)
        self._thread.start()

    def post(self, content: Mapping[str, Any]) -> None:
        """Send this as JSON, soon."""
        self._waiting.put(json.dumps(content).encode())

    def close(self, seconds: float = DRAIN_SECONDS) -> None:
        """Send what waits, as far as that goes in so many seconds, and nothing more."""
        self._waiting.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (body := self._waiting.get()) is not None:
            said = _send(self._url, body, self._pauses)
            if said is not None:
                logger.warning("a notice could not be sent to %s: %s", shown(self._url), said)


def checked(url: str) -> SplitResult:
    """The parts of a webhook's address.

    Raises:
        RequestError: it is none of http or https; it is not repeated.

    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        usable = usable and parts.port != 0 and all(33 <= ord(letter) < 127 for letter in url)
    except ValueError:
        usable = False
    if not usable:
        raise RequestError(
            "--notify (or $FEDSWEEP_NOTIFY) is no web address: write https://host/path"
        )
    return parts


def shown(url: SplitResult) -> str:
    """An address without what is secret in it: user, path and query."""
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{url.hostname}{port}/…"


def _send(url: SplitResult, body: bytes, pauses: tuple[float, ...]) -> str | None:
    """Try until it is taken, or will never be; returns why it was not, None where it was."""
    said: str | None = None
    for pause in (*pauses, None):
        said, again = _try(url, body)
        if said is None or not again or pause is None:
            break
        time.sleep(pause)
    return said


def _try(url: SplitResult, body: bytes) -> tuple[str | None, bool]:
    """Why it was not taken, None where it was; and whether that may pass. No error's own text is
    passed on: it may hold the address.
    """
    try:
        with _OPENER.open(_request(url, body), timeout=TIMEOUT_SECONDS):
            return None, False
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code}", error.code >= 500 or error.code in (408, 429)
    except urllib.error.URLError as error:
        return _reason(error.reason), True
    except (OSError, http.client.HTTPException) as error:
        return _reason(error), True
    except Exception as error:  # noqa: BLE001  # whatever a proxy's or an address's oddity raises
        return _reason(error), False


def _reason(error: object) -> str:
    said = error.strerror if isinstance(error, OSError) else None
    return said or type(error).__name__


def _request(url: SplitResult, body: bytes) -> urllib.request.Request:
    """A POST; a user and password become a header, as a server expects them."""
    headers = {"Content-Type": "application/json", "User-Agent": "fedsweep"}
    host = url.netloc.rpartition("@")[2]
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    address = url._replace(netloc=host, fragment="").geturl()
    return urllib.request.Request(address, body, headers, method="POST")  # noqa: S310  # checked


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A webhook that has moved is not followed: its content would go where nobody sent it."""

    def redirect_request(
        self,
        req: urllib.request.Request,  # noqa: ARG002  # the base class's signature
        fp: IO[bytes],  # noqa: ARG002
        code: int,  # noqa: ARG002
        msg: str,  # noqa: ARG002
        headers: Message,  # noqa: ARG002
        newurl: str,  # noqa: ARG002
    ) -> None:
        """None, so that the answer is an error."""
        return


_OPENER = urllib.request.build_opener(_NoRedirect)
