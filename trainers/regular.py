"""Regular files of a data folder, read with a limit on their size.

A data folder may come from another person. A pipe in it blocks a reader forever, a device has no
end, and a sparse file may be larger than the memory. Links are followed to a regular file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

MOST_BYTES = 2**29
"""Bytes of one file, at most. An uncompressed image of the most pixels takes fewer."""

MOST_LIST_BYTES = 2**26
"""Bytes of one list of labels, at most. Tiny-ImageNet's has 2**19."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


@contextmanager
def opened(path: Path, most: int = MOST_BYTES) -> Iterator[IO[bytes]]:
    """Open a regular file for reading.

    Raises:
        OSError: it is none, it is larger than `most`, or it cannot be read.

    """
    _require(path, path.stat(), most)  # to open a device may change it
    descriptor = os.open(path, _FLAGS)
    try:
        file = os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
    with file:
        _require(path, os.fstat(file.fileno()), most)
        yield file


def read(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: it is none, it is larger than `most`, or it cannot be read.

    """
    with opened(path, most) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1)
    if len(content) > size:
        raise OSError(errno.EINVAL, "it grows while it is read", str(path))
    return content


def _require(path: Path, found: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a special file")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
    if found.st_size > most:
        message = f"it has {shown_bytes(found.st_size)}, and a file may have {shown_bytes(most)}"
        raise OSError(errno.EFBIG, message, str(path))


def shown_bytes(count: int) -> str:
    """Return a number of bytes for people: 1.5 GB."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB", "EB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count:,} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
