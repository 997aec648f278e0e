"""Text files that users hand us: UTF-8, with or without a byte-order mark."""

from __future__ import annotations

import codecs

BYTE_ORDER_MARK = "\ufeff"

_OTHERS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # it begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
"""The byte-order marks of encodings that are refused."""


class NotUtf8(ValueError):
    """The content is not UTF-8 text. The message says why and in which line."""


def decode(content: bytes) -> str:
    """Return the text of a file, without its byte-order mark, each line ended by a line feed.

    Raises:
        NotUtf8: it has another encoding.

    """
    for mark, encoding in _OTHERS:
        if content.startswith(mark):
            raise NotUtf8(f"it is {encoding} from line 1 on: save it as UTF-8")
    content = content.removeprefix(codecs.BOM_UTF8)
    if b"\0" in content:
        line = _line(content, content.index(b"\0"))
        raise NotUtf8(f"it is not UTF-8 text, line {line} has a zero byte: save it as UTF-8")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = _line(content, error.start)
        raise NotUtf8(
            f"it is not UTF-8 text, line {line} has the byte 0x{content[error.start]:02x}: "
            "save it as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _line(content: bytes, place: int) -> int:
    """Return the number of the line that a byte is in."""
    before = content[:place].replace(b"\r\n", b"\n")
    return 1 + before.count(b"\n") + before.count(b"\r")
