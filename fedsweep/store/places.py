"""The spelling of a place for a store's files: a folder, or the URL of a bucket.

Any person may have written a place into a database. Only a spelling that `parse` returns is used,
and only protocols of this list reach fsspec. Other protocols run templates, chain further
protocols, or contact any host.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from fedsweep.errors import RequestError, hide_secrets

BUCKETS = frozenset({"s3", "gs", "gcs", "az", "abfs", "abfss"})
"""Protocols by which files are written and read."""

READ_ALONE = frozenset({"http", "https"})
"""Protocols by which files are only read."""

LONGEST = 2000
"""Characters of a place, at most."""

_LOCAL = frozenset({"file", "local"})
_KEY = re.compile(r"(?i)token|secret|pass|pwd|key|sig|credential")
"""A part of the name of a secret in a query."""
_BUCKET = "name a folder, or a bucket (s3://bucket)"


def parse(text: str) -> str:
    """Return --artifacts as it is stored: an absolute path of a folder, or the URL of a bucket.

    Raises:
        RequestError: it holds a secret, or nothing here can write there.

    """
    place = spelled(text)
    if "://" in place:
        _require_package(place.partition("://")[0])
    elif Path(place).exists() and not Path(place).is_dir():
        raise RequestError(f"--artifacts {place} is a file: name a folder")
    return place


def spelled(text: str) -> str:
    """Return a place in its one spelling, without a look at this machine.

    Raises:
        RequestError: it holds a secret, or is not a place that files are written to.

    """
    if len(text) > LONGEST:
        raise RequestError(f"--artifacts is longer than {LONGEST} characters: {_BUCKET}")
    _, _, query = text.partition("?")
    pairs = [pair.partition("=") for pair in re.split("[?&]", query)]
    has_key = any(equals and _KEY.search(name) for name, equals, _ in pairs)
    if has_key or hide_secrets(text) != text:
        raise RequestError(
            "--artifacts has a password or a key in it, which everyone who reads the database "
            "would see: leave it out, and set it in the environment of the workers"
        )
    protocol, is_url, rest = text.partition("://")
    if not rest.strip("/") if is_url else not text.strip():
        raise RequestError(f"--artifacts {text!r} names no folder: write /folder or s3://bucket")
    if not text.isprintable() or "::" in text:
        raise RequestError(f"--artifacts {text!r} is neither a folder nor one URL")
    if is_url and protocol not in _LOCAL:
        _require_protocol(protocol)
        return _one_url(text, rest)
    if is_url and not rest.startswith("/"):
        raise RequestError(f"--artifacts {text} has a host: write {protocol}:///folder")
    return os.path.abspath(Path(rest if is_url else text).expanduser())  # noqa: PTH100  # without its ".."


def is_sound(place: object) -> bool:
    """Return whether a database's place is spelled as `parse` gives it, or can be read by HTTP."""
    if not isinstance(place, str):
        return False
    protocol, is_url, rest = place.partition("://")
    try:
        if is_url and protocol in READ_ALONE:
            plain = place.isprintable() and "::" not in place and len(place) <= LONGEST
            return plain and hide_secrets(place) == place == _one_url(place, rest)
        return spelled(place) == place
    except (RequestError, RuntimeError):  # the latter: no home for a "~"
        return False


def _require_protocol(protocol: str) -> None:
    if protocol in BUCKETS:
        return
    if protocol in READ_ALONE or protocol == "data":
        raise RequestError(f"--artifacts {protocol}:// can only be read: {_BUCKET}")
    from fsspec import available_protocols

    if protocol not in available_protocols():
        raise RequestError(f"fsspec knows no {protocol}://: {_BUCKET}")
    raise RequestError(f"fedsweep keeps no files by {protocol}://: {_BUCKET}")


def _one_url(text: str, rest: str) -> str:
    """Return a URL of a bucket without slashes at its end."""
    if re.search(r"[?#\\\s]", rest) or {".", ".."} & set(rest.split("/")) or not rest.strip("/"):
        raise RequestError(f"--artifacts {text!r} is neither a folder nor one URL")
    return text.rstrip("/")


def _require_package(protocol: str) -> None:
    from fsspec import get_filesystem_class

    try:
        get_filesystem_class(protocol)
    except ImportError as error:
        raise RequestError(
            f"--artifacts {protocol}:// needs a package, here and on the workers: {error}"
        ) from error


def opened(place: str) -> tuple[Any, str]:
    """Return the file system of a URL of a known protocol, and the URL's path on it.

    fsspec finds the class by the protocol only. It never parses a chain of URLs.

    Raises:
        ImportError: its package is not installed.
        ValueError: the protocol is not on the list.

    """
    from fsspec import get_filesystem_class

    protocol = place.partition("://")[0]
    if protocol not in BUCKETS | READ_ALONE:
        raise ValueError(f"{protocol}:// is not used for files")
    kind = get_filesystem_class(protocol)
    return kind(**kind._get_kwargs_from_urls(place)), kind._strip_protocol(place)  # noqa: SLF001  # as fsspec's url_to_fs
