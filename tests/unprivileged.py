"""Root without its power to write everywhere, so that read-only files are read-only."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CAPABILITIES = 0x20080522
"""Version 3 of Linux's structure: three words for the low capabilities, three for the high."""
OVERRIDE = 1
"""The bit of CAP_DAC_OVERRIDE."""


@contextmanager
def unprivileged() -> Iterator[None]:
    """Take CAP_DAC_OVERRIDE from this thread for a while. Without root there is nothing to take."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
    words = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, words) == 0
    before = words[0]
    words[0] = before & ~(1 << OVERRIDE)
    assert libc.capset(header, words) == 0
    try:
        yield
    finally:
        words[0] = before
        assert libc.capset(header, words) == 0


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder and its content read-only, also for root."""
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        with unprivileged():
            yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
