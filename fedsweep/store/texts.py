"""Every text can be stored: characters that a database cannot hold are stored as escapes.

The texts of errors, logs, host names and plans come from elsewhere. They may have NUL characters,
lone surrogates (file names that are not UTF-8), or characters outside a server's encoding.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

_CODECS = {"KOI8R": "koi8_r", "KOI8U": "koi8_u", "SQL_ASCII": "ascii"}
"""Python's names of server encodings, if they differ by more than a prefix."""


def storable(text: str, codec: str = "utf-8") -> str:
    r"""Return the text with `\x00`, `\udc80` or `\u22c6` for characters that cannot be stored."""
    return text.encode(codec, "backslashreplace").decode(codec).replace("\0", "\\x00")


def codec_of(encoding: str) -> str:
    """Return Python's codec for the encoding of a Postgres server."""
    try:
        return codecs.lookup(_CODECS.get(encoding, encoding.replace("WIN", "cp"))).name
    except LookupError:
        return "ascii"


def escaped(values: Any) -> Any:
    """Return the parameters of a statement with every text as it can be stored."""
    if isinstance(values, Mapping):
        return {name: _escaped(value) for name, value in values.items()}
    return tuple(map(_escaped, values))


def _escaped(value: Any) -> Any:
    return storable(value) if isinstance(value, str) else value
